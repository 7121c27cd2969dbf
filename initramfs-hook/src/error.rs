//! Errors of the operating system, with what was being done to what.

use std::error::Error;
use std::fmt;
use std::io;

/// The operating system said no.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {what}")]
pub struct IoError {
    doing: &'static str,
    what: String,
    #[source]
    source: io::Error,
}

impl IoError {
    /// Whether the thing wasn't there.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Makes the error for `map_err`: what was done (a verb), and to what.
pub fn cannot<E: Into<io::Error>>(
    doing: &'static str,
    what: impl fmt::Display,
) -> impl FnOnce(E) -> IoError {
    move |source| IoError {
        doing,
        what: what.to_string(),
        source: source.into(),
    }
}

/// An error and all its sources on one line: `a: b: c`.
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        line.push_str(": ");
        line.push_str(&error.to_string());
        source = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_told_once_from_the_outside_in() {
        let error = cannot("mount", "/dev/vda3")(io::Error::other("bad superblock"));
        assert_eq!(chain(&error), "cannot mount /dev/vda3: bad superblock");
    }
}
