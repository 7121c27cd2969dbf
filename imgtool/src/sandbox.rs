//! A place for work that changes mounts, owns files as other users and runs
//! packages' scripts: a process of its own, alone in new mount and process
//! namespaces, and for an ordinary user in a user namespace too (as mkosi does).
//!
//! Whatever ends it, nothing stays: the kernel ends every process with the first
//! one of the namespace, and drops its mounts and the memory-backed work area
//! with the last. It ends by itself when imgtool is gone, because then its
//! standard input is closed.
//!
//! ```text
//! imgtool ── job, answers (JSON lines) ──▶ stdin   imgtool sandboxed TASK
//!         ◀── messages (JSON lines) ─────── stdout  (process 1 of its namespace)
//! ```
//! Keys stay outside: the work asks, and imgtool signs.

use crate::console::{Console, Step};
use crate::error::{Error, Kind, Result};
use crate::interrupt;
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpgid};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Write};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

/// What the work says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Message {
    Begin(String),
    End(String),
    Warning(String),
    Request(String),
    Done(serde_json::Value),
    Failed {
        kind: Kind,
        chain: Vec<String>,
        hint: Option<String>,
    },
}

/// Seconds that each step took, in the order in which they ended.
pub type Times = Vec<(String, f64)>;

/// Runs `task` with `job` in a sandbox; `serve` does what the work asks for.
///
/// # Errors
/// If the sandbox can't be made, the work fails, or a signal comes.
pub fn run<R: DeserializeOwned>(
    task: &str,
    job: &impl Serialize,
    console: &Console,
    mut serve: impl FnMut(&str) -> Result<()>,
) -> Result<(R, Times)> {
    interrupt::watch()?;
    let gone = |e: io::Error| Error::failed("the sandbox ended too early").because(e);
    // Processes of a sandbox that was killed become this one's, to be waited for.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|e| gone(e.into()))?;
    let mut child = spawn(task)?;
    let killed = interrupt::Killed::new(&child);
    let pipes = child.stdin.take().zip(child.stdout.take());
    let (mut stdin, stdout) = pipes.ok_or_else(|| gone(io::ErrorKind::BrokenPipe.into()))?;

    let mut steps: BTreeMap<String, Step> = BTreeMap::new();
    let mut times = Times::new();
    let mut outcome = None;
    let talk = || -> Result<()> {
        send(&mut stdin, job).map_err(gone)?;
        for line in BufReader::new(stdout).lines() {
            match parse(&line.map_err(gone)?)? {
                Message::Begin(name) => {
                    steps.insert(name.clone(), console.step(&name, None));
                }
                Message::End(name) => {
                    if let Some(step) = steps.remove(&name) {
                        times.push((name, step.done().as_secs_f64()));
                    }
                }
                Message::Warning(text) => console.warn(&text),
                Message::Request(what) => {
                    serve(&what)?;
                    send(&mut stdin, &"done").map_err(gone)?;
                }
                Message::Done(value) => outcome = Some(Ok(value)),
                Message::Failed { kind, chain, hint } => {
                    outcome = Some(Err(Error::told(kind, chain, hint)));
                }
            }
        }
        Ok(())
    };
    let talked = talk();
    // Closing its input ends the work, if it hasn't ended.
    drop(stdin);
    let status = child.wait().map_err(gone)?;
    wait_for_orphans(&child);
    drop(killed);
    interrupt::check()?;
    talked?;
    let value = outcome.unwrap_or_else(|| {
        let error = Error::failed(format!("the sandbox ended without a result ({status})"));
        Err(match status.code() {
            // unshare has said why on stderr.
            Some(1) => error.hint(
                "as an ordinary user this needs user namespaces, newuidmap (package uidmap or shadow), \
                 and a range for you in /etc/subuid and /etc/subgid; or run it as root",
            ),
            _ => error,
        })
    })?;
    let result = serde_json::from_value(value)
        .map_err(|e| Error::failed("the sandbox said something unexpected").because(e))?;
    Ok((result, times))
}

/// Whatever the sandbox still does has ended when this returns, so that what it
/// wrote can be removed: the first process of a namespace is the last to go.
fn wait_for_orphans(child: &Child) {
    if let Some(group) = Pid::from_raw(child.id().cast_signed()) {
        while !matches!(waitpgid(group, WaitOptions::empty()), Err(Errno::CHILD)) {}
    }
}

fn parse(line: &str) -> Result<Message> {
    serde_json::from_str(line)
        .map_err(|e| Error::failed("the sandbox said something unexpected").because(e))
}

fn spawn(task: &str) -> Result<Child> {
    let own = std::env::current_exe()
        .map_err(|e| Error::failed("cannot find imgtool's own file").because(e))?;
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-auto", "--map-root-user"]);
    }
    command
        .args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child=KILL",
            "--mount-proc",
        ])
        .args(["--propagation", "private", "--"])
        .arg(own)
        .args(["sandboxed", task])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Ctrl-C must reach imgtool only, which then ends the whole sandbox.
        .process_group(0);
    command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Error::failed("\"unshare\" is not installed").hint("install util-linux")
        }
        _ => Error::failed("cannot start the sandbox").because(error),
    })
}

fn send(pipe: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    pipe.write_all(&line)?;
    pipe.flush()
}

/// The inside's way to talk to the outside.
pub struct Outside {
    answers: mpsc::Receiver<String>,
}

impl Outside {
    fn say(&self, message: &Message) {
        // If nobody listens any more, the closed input is about to end this process.
        let _ = send(&mut io::stdout().lock(), message);
    }

    /// Does one step of the work, and tells of its begin and end.
    ///
    /// # Errors
    /// The step's own.
    pub fn step<T>(&self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        Teller.step(name, work)
    }

    /// Something that can be told from any thread.
    pub fn teller(&self) -> Teller {
        Teller
    }

    /// Asks imgtool to do something outside, and waits for it.
    ///
    /// # Errors
    /// If it didn't.
    pub fn request(&self, what: &str) -> Result<()> {
        self.say(&Message::Request(what.to_owned()));
        match self.answers.recv() {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::failed("imgtool is gone")),
        }
    }
}

/// Tells of steps and warnings.
#[derive(Clone, Copy)]
pub struct Teller;

impl Teller {
    /// As [`Outside::step`].
    ///
    /// # Errors
    /// The step's own.
    pub fn step<T>(self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let say = |message: &Message| drop(send(&mut io::stdout().lock(), message));
        say(&Message::Begin(name.to_owned()));
        let value = work()?;
        say(&Message::End(name.to_owned()));
        Ok(value)
    }

    /// Warns.
    pub fn warn(self, text: String) {
        let _ = send(&mut io::stdout().lock(), &Message::Warning(text));
    }
}

/// The inside: reads the job, does the work, says how it ended.
///
/// # Errors
/// If no job can be read. The work's own errors are told to the outside.
pub fn inside<J: DeserializeOwned, R: Serialize>(
    work: impl FnOnce(J, &Outside) -> Result<R>,
) -> Result<()> {
    let mut first = String::new();
    // An empty line is no job, so the next step says what is wrong.
    let _ = io::stdin().read_line(&mut first);
    let job = serde_json::from_str(&first).map_err(|e| {
        Error::input("this is imgtool's inside, which only imgtool calls").because(e)
    })?;
    let (sender, answers) = mpsc::channel();
    std::thread::spawn(move || {
        for line in io::stdin().lines().map_while(io::Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
        // imgtool is gone or has given up. This is process 1: all others go too.
        std::process::exit(1);
    });
    let outside = Outside { answers };
    let message = match work(job, &outside).and_then(|result| {
        serde_json::to_value(result).map_err(|e| Error::failed("cannot tell the result").because(e))
    }) {
        Ok(value) => Message::Done(value),
        Err(error) => Message::Failed {
            kind: error.kind(),
            chain: error.chain(),
            hint: error.way_out().map(str::to_owned),
        },
    };
    outside.say(&message);
    Ok(())
}
