//! A single setting: what is wrong with one, and how spans of time are written.

pub mod duration;

/// A setting has a value that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct Invalid {
    /// The setting, as `link.keep-alive`.
    pub key: String,
    /// What was expected, and what was found.
    pub reason: String,
}

impl Invalid {
    /// Names the setting and what is wrong.
    pub fn new(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            reason: reason.into(),
        }
    }
}
