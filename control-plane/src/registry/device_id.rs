//! A device's id, and what else may name something.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A device's id: 1 to 64 of `a-z0-9-`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(Arc<str>);

/// This is no device's id.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no device id: expected 1 to 64 of a-z, 0-9 and -")]
pub struct IdError(String);

impl DeviceId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An id from a name that somebody wished for; `None` if nothing of it can be kept.
    pub fn from_wish(wish: &str) -> Option<Self> {
        let mut id = String::new();
        for c in wish.chars().flat_map(char::to_lowercase) {
            match c {
                'a'..='z' | '0'..='9' => id.push(c),
                _ if !id.is_empty() && !id.ends_with('-') => id.push('-'),
                _ => {}
            }
            // Leaves room for a tail that makes it unique.
            if id.len() >= 54 {
                break;
            }
        }
        id.trim_matches('-').parse().ok()
    }

    /// An id for who wished for none.
    pub fn random() -> Self {
        let tail: [u8; 6] = rand::random();
        Self(format!("node-{}", hex::encode(tail)).into())
    }

    /// The same with a random tail.
    #[must_use]
    pub fn with_tail(&self) -> Self {
        let tail: [u8; 4] = rand::random();
        let kept = &self.0[..self.0.len().min(55)];
        Self(format!("{kept}-{}", hex::encode(tail)).into())
    }
}

impl std::str::FromStr for DeviceId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let good = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if good {
            Ok(Self(text.into()))
        } else {
            Err(IdError(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Deref for DeviceId {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for DeviceId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Whether this may name a group, a tag, or a file of evidence: 1 to 64 of `A-Za-z0-9._-`, and not `.` or `..`.
pub fn is_label(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && !matches!(text, "." | "..")
}
