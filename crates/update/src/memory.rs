//! Which releases failed here: by digest, so that another build under the same name is another release, and the same one
//! under another order is not.

use cairn_release::{Digest, Version};
use cairn_wire::report::FailureKind;
use serde::{Deserialize, Serialize};

/// The most that are remembered; the oldest goes first.
pub const MAX: usize = 32;

/// A release that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Digest of its manifest's payload.
    pub digest: Digest,
    /// Its version.
    pub version: Version,
    /// Why, for programs.
    pub kind: FailureKind,
    /// Why, for people.
    pub reason: String,
    /// Name of the evidence.
    pub evidence: Option<String>,
}

/// The releases that failed, the newest failure first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Memory(Vec<Entry>);

impl Memory {
    /// Remembers a failure, in place of an older one of the same release.
    pub fn remember(&mut self, entry: Entry) {
        self.forget(&entry.digest);
        self.0.insert(0, entry);
        self.0.truncate(MAX);
    }

    /// Forgets one; whether there was one.
    pub fn forget(&mut self, digest: &Digest) -> bool {
        let before = self.0.len();
        self.0.retain(|entry| entry.digest != *digest);
        self.0.len() != before
    }

    /// How a release failed, if it did.
    pub fn get(&self, digest: &Digest) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.digest == *digest)
    }

    /// Whether a version of this name failed.
    pub fn names(&self, version: &Version) -> bool {
        self.0.iter().any(|entry| entry.version == *version)
    }

    /// All of them, the newest failure first.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> Entry {
        Entry {
            digest: Digest::of(text.as_bytes()),
            version: "2.0".parse().unwrap(),
            kind: FailureKind::Unhealthy,
            reason: text.into(),
            evidence: None,
        }
    }

    #[test]
    fn the_oldest_goes_and_one_release_has_one_entry() {
        let mut memory = Memory::default();
        (0..40).for_each(|n| memory.remember(entry(&n.to_string())));
        memory.remember(entry("39"));
        assert_eq!(memory.iter().count(), MAX);
        assert!(memory.get(&Digest::of(b"7")).is_none() && memory.get(&Digest::of(b"8")).is_some());
        assert!(memory.forget(&Digest::of(b"8")) && !memory.forget(&Digest::of(b"8")));
    }
}
