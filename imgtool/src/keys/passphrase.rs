//! Passphrases: from a descriptor, a variable, a file, or a prompt on a terminal.

use super::source::{KeySource, read_fd};
use crate::error::{Error, Result};
use rustix::process::{Signal, getpid, kill_process};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;
use std::sync::OnceLock;
use zeroize::Zeroizing;

/// Where the passphrase of a secret key comes from; a terminal is asked without any.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PassphraseArgs {
    /// Read the key's passphrase from this file descriptor, one line
    #[arg(long, value_name = "N", group = "passphrase")]
    pub passphrase_fd: Option<u32>,
    /// Read the key's passphrase from this environment variable
    #[arg(long, value_name = "VAR", group = "passphrase")]
    pub passphrase_env: Option<String>,
    /// Read the key's passphrase from this file, one line
    #[arg(long, value_name = "FILE", group = "passphrase")]
    pub passphrase_file: Option<PathBuf>,
    /// A descriptor can be read once, but several keys may want its line.
    #[arg(skip)]
    given: Given,
}

/// What the options gave, kept so that it is read once.
#[derive(Clone, Default)]
struct Given(OnceLock<Zeroizing<String>>);

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("..")
    }
}

const HINT: &str =
    "give the passphrase with --passphrase-fd, --passphrase-env or --passphrase-file";

impl PassphraseArgs {
    /// As if the options had given this passphrase: for callers without a command line.
    pub fn known(passphrase: Zeroizing<String>) -> Self {
        Self {
            given: Given(OnceLock::from(passphrase)),
            ..Self::default()
        }
    }

    /// The passphrase that opens the key called `what`.
    ///
    /// # Errors
    /// If the options name nothing readable, or there is neither option nor terminal.
    pub fn existing(&self, what: &dyn std::fmt::Display) -> Result<Zeroizing<String>> {
        match self.given()? {
            Some(passphrase) => Ok(passphrase),
            None if can_ask() => ask(&format!("Passphrase of {what}: ")),
            None => Err(Error::input(format!(
                "{what} is encrypted, and there is no terminal to ask for its passphrase"
            ))
            .hint(HINT)),
        }
    }

    /// A passphrase for a new key, asked for twice on a terminal.
    ///
    /// # Errors
    /// As [`PassphraseArgs::existing`]; and if it is empty, or the two differ.
    pub fn new_one(&self, what: &dyn std::fmt::Display) -> Result<Zeroizing<String>> {
        let passphrase = match self.given()? {
            Some(passphrase) => passphrase,
            None if can_ask() => {
                let first = ask(&format!("New passphrase for {what}: "))?;
                if *first != *ask("The same again: ")? {
                    return Err(Error::input("the two passphrases differ"));
                }
                first
            }
            None => {
                return Err(Error::input(format!(
                    "no passphrase for {what}, and there is no terminal to ask for one"
                ))
                .hint(format!("{HINT}, or say --no-passphrase")));
            }
        };
        if passphrase.is_empty() {
            return Err(Error::input(format!("the passphrase for {what} is empty"))
                .hint("say --no-passphrase for a key that lies open on disk"));
        }
        Ok(passphrase)
    }

    fn given(&self) -> Result<Option<Zeroizing<String>>> {
        if let Some(passphrase) = self.given.0.get() {
            return Ok(Some(passphrase.clone()));
        }
        let (name, bytes) = if let Some(number) = self.passphrase_fd {
            (
                format!("file descriptor {number}"),
                Zeroizing::new(read_fd(number)?),
            )
        } else if let Some(name) = &self.passphrase_env {
            let value = std::env::var_os(name)
                .map(std::os::unix::ffi::OsStringExt::into_vec)
                .ok_or_else(|| Error::input(format!("--passphrase-env {name}: not set")))?;
            (name.clone(), Zeroizing::new(value))
        } else if let Some(path) = &self.passphrase_file {
            (
                path.display().to_string(),
                KeySource::File(path.clone()).read()?,
            )
        } else {
            return Ok(None);
        };
        let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
        let text = std::str::from_utf8(line)
            .map_err(|_| Error::input(format!("the passphrase in {name} is not UTF-8 text")))?;
        let passphrase = Zeroizing::new(text.trim_end_matches('\r').to_owned());
        Ok(Some(self.given.0.get_or_init(|| passphrase).clone()))
    }
}

fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Reads a line from the terminal without showing it.
fn ask(prompt: &str) -> Result<Zeroizing<String>> {
    let failed = |e: io::Error| Error::failed("cannot ask for a passphrase").because(e);
    let stdin = io::stdin();
    let before = tcgetattr(&stdin).map_err(|e| failed(e.into()))?;
    let mut quiet = before.clone();
    // Ctrl-C is taken as a byte, so that the terminal is itself again before the
    // signal is sent on.
    quiet.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
    quiet.special_codes[SpecialCodeIndex::VMIN] = 1;
    quiet.special_codes[SpecialCodeIndex::VTIME] = 0;
    let _ = io::stderr().write_all(prompt.as_bytes());
    tcsetattr(&stdin, OptionalActions::Flush, &quiet).map_err(|e| failed(e.into()))?;
    let line = read_line(stdin.lock().bytes());
    tcsetattr(&stdin, OptionalActions::Flush, &before).map_err(|e| failed(e.into()))?;
    let _ = io::stderr().write_all(b"\n");
    match line {
        Ok(line) => String::from_utf8(line.to_vec())
            .map(Zeroizing::new)
            .map_err(|_| Error::input("the passphrase is not UTF-8 text")),
        Err(error) => {
            if error.kind() == io::ErrorKind::Interrupted {
                let _ = kill_process(getpid(), Signal::INT);
            }
            Err(failed(error))
        }
    }
}

fn read_line(bytes: impl Iterator<Item = io::Result<u8>>) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(Vec::with_capacity(1024));
    for byte in bytes {
        match byte? {
            b'\n' | b'\r' => return Ok(line),
            0x03 => return Err(io::ErrorKind::Interrupted.into()),
            0x04 if line.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            0x08 | 0x7f => {
                // The last character may be of several bytes.
                while line.pop().is_some_and(|b| b & 0xc0 == 0x80) {}
            }
            0x15 => line.clear(),
            byte if line.len() < 1024 => line.push(byte),
            _ => {}
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_the_line_like_a_terminal() {
        let read = |text: &str| read_line(text.bytes().map(Ok)).map(|line| line.to_vec());
        assert_eq!(read("sécret\x7f\x7f\n").unwrap(), "sécr".as_bytes());
        assert_eq!(read("é\x7fa\n").unwrap(), b"a");
        assert_eq!(read("abc\x15d\r").unwrap(), b"d");
        assert_eq!(
            read("abc\x03").unwrap_err().kind(),
            io::ErrorKind::Interrupted
        );
        assert!(read("abc").is_err());
    }

    #[test]
    fn a_passphrase_never_prints() {
        let args = PassphraseArgs::known(Zeroizing::new("hunter2".into()));
        assert!(!format!("{args:?}").contains("hunter2"));
        assert_eq!(*args.existing(&"k").unwrap(), "hunter2");
    }
}
