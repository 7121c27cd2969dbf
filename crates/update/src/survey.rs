//! What is on DATA, as whoever looks at it says.

use cairn_release::{Digest, Version};
use serde::{Deserialize, Serialize};

/// A release on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// Its folder's name.
    pub version: Version,
    /// Digest of its manifest's payload, if it can be read.
    pub digest: Option<Digest>,
    /// Bytes that removing it gives back.
    pub bytes: u64,
    /// The time of its `kernel.squashfs` in seconds since 1970: the bootloader's order.
    pub created: i64,
    /// Whether its files are there.
    pub whole: bool,
}

/// What is on DATA.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Bytes that are free.
    pub free: u64,
    /// Releases.
    pub installed: Vec<Installed>,
    /// Bytes of the release to come that are there already.
    pub fetched: u64,
}
