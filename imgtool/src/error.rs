//! The one error of imgtool: what failed, why, what to do, and the exit code.

use std::error::Error as StdError;
use std::fmt;

/// What an exit code means. 0 is success; 130 and 143 are Ctrl-C and SIGTERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// 1: the machine failed: a tool is missing, a disk is full, a program said no.
    Failed = 1,
    /// 2: the input is wrong: an option, a profile, a site file, a damaged file.
    Input = 2,
    /// 3: refused for safety: a signature, a digest, a disk that isn't the one meant.
    Refused = 3,
    /// 129: the terminal is gone (SIGHUP).
    HungUp = 129,
    /// 130: Ctrl-C.
    Interrupted = 130,
    /// 143: SIGTERM.
    Terminated = 143,
}

/// An error with its cause and a hint.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Short for results of imgtool.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
            source: None,
        }
    }

    /// The machine failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// The input is wrong.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Kind::Input, message)
    }

    /// Refused for safety.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(Kind::Refused, message)
    }

    /// A signal came; everything half-made is being removed.
    pub fn interrupted(signal: i32) -> Self {
        use signal_hook::consts::{SIGHUP, SIGTERM};
        match signal {
            SIGTERM => Self::new(
                Kind::Terminated,
                "stopped by SIGTERM; nothing was left behind",
            ),
            SIGHUP => Self::new(Kind::HungUp, "stopped by SIGHUP; nothing was left behind"),
            _ => Self::new(Kind::Interrupted, "interrupted; nothing was left behind"),
        }
    }

    /// An error that another process of imgtool's has met.
    pub fn told(kind: Kind, chain: Vec<String>, hint: Option<String>) -> Self {
        let mut chain = chain.into_iter().rev();
        let innermost = Self::new(kind, chain.next().unwrap_or_else(|| "unknown".into()));
        let mut error = chain.fold(innermost, |cause, message| {
            Self::new(kind, message).because(cause)
        });
        error.hint = hint;
        error
    }

    /// Adds the cause. If the cause is an error of imgtool's, its kind and its
    /// hint stay in force.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let source = source.into();
        if let Some(inner) = source.downcast_ref::<Self>() {
            self.kind = inner.kind;
            self.hint = self.hint.or_else(|| inner.hint.clone());
        }
        self.source = Some(source);
        self
    }

    /// The same error with a path's real name in place of a passing one.
    #[must_use]
    pub fn renamed(self, from: &str, to: &str) -> Self {
        let chain = self.chain();
        if !chain.iter().any(|text| text.contains(from)) {
            return self;
        }
        let chain = chain.iter().map(|text| text.replace(from, to)).collect();
        Self::told(self.kind, chain, self.hint)
    }

    /// Adds a way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What the exit code says.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The way out, if there is one.
    pub fn way_out(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The message and every cause, outermost first.
    pub fn chain(&self) -> Vec<String> {
        let mut chain = vec![self.to_string()];
        let mut next = self.source();
        while let Some(error) = next {
            chain.push(error.to_string());
            next = error.source();
        }
        chain
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inner_kind_and_hint_survive() {
        let inner = Error::refused("not trusted").hint("sign it");
        let outer = Error::failed("cannot flash x").because(inner);
        assert_eq!(outer.kind(), Kind::Refused);
        assert_eq!(outer.way_out(), Some("sign it"));
        assert_eq!(outer.chain(), ["cannot flash x", "not trusted"]);
    }
}
