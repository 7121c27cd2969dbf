//! Running another program. Every call has a time limit, a failure names the
//! whole argv and the end of what the program said, and nothing secret may be
//! passed in argv: secrets go in by [`Command::stdin`].

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How much of a program's stderr is kept for the error, in bytes.
const TAIL: usize = 4096;

/// A program to run.
#[derive(Clone)]
pub struct Command {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    clear_env: bool,
    dir: Option<PathBuf>,
    stdin: Option<Vec<u8>>,
    timeout: Duration,
}

/// What a program that succeeded printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// All of stdout.
    pub stdout: Vec<u8>,
    /// The last few KiB of stderr.
    pub stderr: String,
}

impl Output {
    /// Stdout as text, without the line end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }
}

/// A program that didn't do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no such program.
    #[error("{program:?} is not installed")]
    NotFound {
        /// What was looked for in `PATH`.
        program: String,
    },
    /// It ran and said no.
    #[error("`{command}` failed with {status}{}", indented(.stderr))]
    Failed {
        /// The argv.
        command: String,
        /// Exit status or signal.
        status: ExitStatus,
        /// The end of its stderr.
        stderr: String,
    },
    /// It ran longer than it may, and was killed.
    #[error("`{command}` did not end within {seconds} s and was stopped{}", indented(.stderr))]
    TimedOut {
        /// The argv.
        command: String,
        /// The limit.
        seconds: u64,
        /// The end of its stderr.
        stderr: String,
    },
    /// It couldn't be started or read from.
    #[error("cannot run `{command}`")]
    Io {
        /// The argv.
        command: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn indented(stderr: &str) -> String {
    let lines: Vec<&str> = stderr
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let end = lines.len().saturating_sub(12);
    lines[end..]
        .iter()
        .map(|line| format!("\n    {line}"))
        .collect()
}

impl Command {
    /// A program by name or path, with five minutes to run.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            clear_env: false,
            dir: None,
            stdin: None,
            timeout: Duration::from_secs(300),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts from an environment with nothing in it but what [`Command::env`] sets.
    #[must_use]
    pub fn clear_env(mut self) -> Self {
        self.clear_env = true;
        self
    }

    /// Sets the folder to run in.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// Gives the program these bytes to read; without, it reads nothing.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Sets the time limit.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// If it can't be started, ends with anything but 0, or takes too long.
    pub fn run(&self) -> Result<Output, CommandError> {
        self.run_with(|_| {})
    }

    /// As [`Command::run`], and hands over each line of stderr as it comes.
    ///
    /// # Errors
    /// As there.
    pub fn run_with(&self, on_line: impl FnMut(&str) + Send) -> Result<Output, CommandError> {
        let io_error = |source| CommandError::Io {
            command: self.to_string(),
            source,
        };
        let mut child = self.spawn()?;
        let (input, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        thread::scope(|scope| {
            let writer = scope.spawn(move || {
                if let (Some(mut pipe), Some(bytes)) = (input, &self.stdin) {
                    // A program may end without reading all; its status tells.
                    let _ = pipe.write_all(bytes);
                }
            });
            let reader = scope.spawn(move || {
                let mut bytes = Vec::new();
                stdout
                    .map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut bytes))
                    .map(|_| bytes)
            });
            let tail =
                scope.spawn(move || stderr.map_or_else(String::new, |pipe| tail(pipe, on_line)));

            let in_time = ended_within(&child, self.timeout).map_err(io_error)?;
            if !in_time {
                child.kill().map_err(io_error)?;
            }
            let status = child.wait().map_err(io_error)?;
            let _ = writer.join();
            let stdout = reader
                .join()
                .unwrap_or_else(|_| Ok(Vec::new()))
                .map_err(io_error)?;
            let stderr = tail.join().unwrap_or_default();
            let command = self.to_string();
            if !in_time {
                let seconds = self.timeout.as_secs();
                return Err(CommandError::TimedOut {
                    command,
                    seconds,
                    stderr,
                });
            }
            if !status.success() {
                return Err(CommandError::Failed {
                    command,
                    status,
                    stderr,
                });
            }
            Ok(Output { stdout, stderr })
        })
    }

    fn spawn(&self) -> Result<Child, CommandError> {
        let mut command = std::process::Command::new(&self.program);
        if self.clear_env {
            command.env_clear();
        }
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .stdin(if self.stdin.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command.spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound if self.dir.as_ref().is_none_or(|dir| dir.exists()) => {
                CommandError::NotFound {
                    program: self.program.to_string_lossy().into_owned(),
                }
            }
            _ => CommandError::Io {
                command: self.to_string(),
                source,
            },
        })
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.program.to_string_lossy())?;
        self.args.iter().try_for_each(|arg| {
            let arg = arg.to_string_lossy();
            if arg.is_empty() || arg.contains(char::is_whitespace) {
                write!(f, " '{arg}'")
            } else {
                write!(f, " {arg}")
            }
        })
    }
}

fn ended_within(child: &Child, limit: Duration) -> io::Result<bool> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("the process has no id"))?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    let mut fds = [PollFd::new(&process, PollFlags::IN)];
    loop {
        match poll(&mut fds, Some(&limit)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn tail(pipe: impl Read, mut on_line: impl FnMut(&str)) -> String {
    let mut kept = String::new();
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    while pipe
        .by_ref()
        .take(64 * 1024)
        .read_until(b'\n', &mut line)
        .is_ok_and(|n| n > 0)
    {
        let text = String::from_utf8_lossy(&line);
        on_line(text.trim_end());
        kept.push_str(&text);
        if kept.len() > 2 * TAIL {
            let cut = boundary(&kept, kept.len() - TAIL);
            kept.drain(..cut);
        }
        line.clear();
    }
    kept
}

fn boundary(text: &str, from: usize) -> usize {
    (from..text.len())
        .find(|i| text.is_char_boundary(*i))
        .unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        Command::new("sh").args(["-c", script])
    }

    #[test]
    fn gives_back_what_the_program_printed() {
        let output = sh("cat; echo warned >&2").stdin("hello").run().unwrap();
        assert_eq!(
            (output.text().as_str(), output.stderr.as_str()),
            ("hello", "warned\n")
        );
    }

    #[test]
    fn a_failure_names_the_command_and_the_end_of_its_stderr() {
        let error = sh("echo no space >&2; exit 3").run().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`sh -c 'echo no space >&2; exit 3'` failed with exit status: 3\n    no space"
        );
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let error = Command::new("no-such-program-here").run().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"no-such-program-here\" is not installed"
        );
    }

    #[test]
    fn a_program_that_hangs_is_stopped() {
        let error = Command::new("sleep")
            .arg("1000")
            .timeout(Duration::from_millis(50))
            .run();
        assert!(matches!(error, Err(CommandError::TimedOut { .. })));
    }

    #[test]
    fn keeps_only_the_end_of_a_long_stderr() {
        let output = sh("seq 1 100000 >&2").run().unwrap();
        assert!(output.stderr.len() <= 2 * TAIL + 16 && output.stderr.ends_with("100000\n"));
    }
}
