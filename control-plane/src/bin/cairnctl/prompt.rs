//! Passwords: a line of stdin, or a prompt on a terminal without echo.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use rustix::process::{Signal, getpid, kill_process};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// No password is longer, in bytes.
const LONGEST: usize = 4096;

/// A password that there is already.
///
/// # Errors
/// If there is none to read.
pub fn password(what: &str, from_stdin: bool) -> Result<Zeroizing<String>> {
    if from_stdin {
        return line();
    }
    ask(&format!("{what}: "))
}

/// A new password, asked for twice on a terminal.
///
/// # Errors
/// If there is none to read, or the two differ.
pub fn new_password(what: &str, from_stdin: bool) -> Result<Zeroizing<String>> {
    if from_stdin {
        return line();
    }
    let first = ask(&format!("{what}: "))?;
    if *first != *ask("The same again: ")? {
        return Err(Error::new("the two passwords differ"));
    }
    Ok(first)
}

fn line() -> Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    io::stdin()
        .lock()
        .take(LONGEST as u64)
        .read_line(&mut text)
        .map_err(|error| Error::new("cannot read the password from stdin").because(error))?;
    while text.ends_with(['\n', '\r']) {
        text.pop();
    }
    if text.is_empty() {
        return Err(Error::new("expected a password on stdin, got nothing"));
    }
    Ok(text)
}

/// Puts the terminal back.
struct Quiet(Termios);

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

/// Reads a line from the terminal without showing it.
fn ask(prompt: &str) -> Result<Zeroizing<String>> {
    if !io::stdin().is_terminal() {
        return Err(Error::new("there is no terminal to ask for the password")
            .hint("give it on stdin with --password-stdin"));
    }
    let cannot = |error: io::Error| Error::new("cannot ask for the password").because(error);
    let before = tcgetattr(io::stdin()).map_err(|error| cannot(error.into()))?;
    let mut quiet = before.clone();
    // Ctrl-C is taken as a byte, so that the terminal is itself again before the signal is sent on.
    quiet.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
    quiet.special_codes[SpecialCodeIndex::VMIN] = 1;
    quiet.special_codes[SpecialCodeIndex::VTIME] = 0;
    let _ = io::stderr().write_all(prompt.as_bytes());
    let back = Quiet(before);
    tcsetattr(io::stdin(), OptionalActions::Flush, &quiet).map_err(|error| cannot(error.into()))?;
    let line = typed(io::stdin().lock().bytes());
    drop(back);
    let _ = io::stderr().write_all(b"\n");
    match line {
        Ok(line) => String::from_utf8(line.to_vec())
            .map(Zeroizing::new)
            .map_err(|_| Error::new("the password is not UTF-8 text")),
        Err(error) => {
            if error.kind() == io::ErrorKind::Interrupted {
                let _ = kill_process(getpid(), Signal::INT);
            }
            Err(cannot(error))
        }
    }
}

fn typed(bytes: impl Iterator<Item = io::Result<u8>>) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(Vec::with_capacity(LONGEST));
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
            byte if line.len() < LONGEST => line.push(byte),
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
        let read = |text: &str| typed(text.bytes().map(Ok)).map(|line| line.to_vec());
        assert_eq!(read("sécret\x7f\x7f\n").unwrap(), "sécr".as_bytes());
        assert_eq!(read("abc\x15d\r").unwrap(), b"d");
        assert_eq!(
            read("abc\x03").unwrap_err().kind(),
            io::ErrorKind::Interrupted
        );
        assert!(read("abc").is_err());
    }
}
