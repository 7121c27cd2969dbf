//! Where a secret is read from.

use super::LIMIT;
use crate::error::{Error, Result};
use crate::files;
use std::fmt;
use std::io::Read as _;
use std::path::PathBuf;
use std::str::FromStr;
use zeroize::Zeroizing;

/// A file, an environment variable or an open file descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A file.
    File(PathBuf),
    /// `env:VAR`: the variable holds the key itself.
    Env(String),
    /// `fd:N`: the caller left the descriptor open.
    Fd(u32),
}

impl FromStr for KeySource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(name) = text.strip_prefix("env:") {
            Ok(Self::Env(name.to_owned()))
        } else if let Some(number) = text.strip_prefix("fd:") {
            number
                .parse()
                .map(Self::Fd)
                .map_err(|_| format!("expected fd:⟨number⟩, got {text:?}"))
        } else {
            Ok(Self::File(text.into()))
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Env(name) => write!(f, "env:{name}"),
            Self::Fd(number) => write!(f, "fd:{number}"),
        }
    }
}

impl KeySource {
    /// Reads it whole.
    ///
    /// # Errors
    /// If it isn't there, may not be read, or is empty.
    pub fn read(&self) -> Result<Zeroizing<Vec<u8>>> {
        let bytes = Zeroizing::new(match self {
            Self::File(path) => files::read(path, LIMIT)?,
            Self::Env(name) => std::env::var_os(name)
                .map(std::os::unix::ffi::OsStringExt::into_vec)
                .ok_or_else(|| Error::input(format!("{self}: the variable is not set")))?,
            Self::Fd(number) => read_fd(*number)?,
        });
        if bytes.is_empty() {
            return Err(Error::input(format!("{self}: expected a key, got 0 bytes")));
        }
        Ok(bytes)
    }
}

/// Reads a descriptor that the caller left open to its end.
pub(super) fn read_fd(number: u32) -> Result<Vec<u8>> {
    let path = PathBuf::from(format!("/proc/self/fd/{number}"));
    let mut bytes = Vec::with_capacity(LIMIT as usize);
    std::fs::File::open(&path)
        .and_then(|file| file.take(LIMIT).read_to_end(&mut bytes))
        .map_err(|e| Error::input(format!("cannot read file descriptor {number}")).because(e))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_own_notation() {
        for text in ["keys/a.pem", "env:KEY", "fd:7"] {
            assert_eq!(text.parse::<KeySource>().unwrap().to_string(), text);
        }
        assert!("fd:x".parse::<KeySource>().is_err());
    }
}
