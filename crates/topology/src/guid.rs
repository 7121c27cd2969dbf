//! Ids of what we make. They are derived, so that it is known again on whatever node it is seen.

use std::fmt;
use std::str::FromStr;

use cairn_release::Digest;
use cairn_wire::disk::Name;
use serde::{Deserialize, Serialize};

/// A UUID, its bytes in the order in which it is written as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Guid([u8; 16]);

/// Type of a partition with a file system of Linux (UEFI's registry, Discoverable Partitions Specification).
pub const LINUX: Guid = Guid([
    0x0f, 0xc6, 0x3d, 0xaf, 0x84, 0x83, 0x47, 0x72, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4,
]);

/// Type of a partition of ours that has no whole file system yet: the mark. Nobody else knows this type.
pub const UNFINISHED: Guid = Guid([
    0xca, 0x19, 0x00, 0x00, 0x64, 0x69, 0x4b, 0x6b, 0x9d, 0x6f, 0x75, 0x6e, 0x66, 0x69, 0x6e, 0x00,
]);

impl Guid {
    /// Of a text; version 8 of RFC 9562, by SHA-256.
    pub fn derive(words: &[&str]) -> Self {
        let digest = Digest::of(words.join("\0").as_bytes()).0;
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// Of a disk with this serial number, laid out under this name.
    pub fn disk(serial: Option<&str>, name: &Name) -> Self {
        let serial = serial.unwrap_or_default();
        Self::derive(&["cairn disk", serial, name.as_str()])
    }

    /// Of a partition of this disk.
    pub fn partition(self, name: &Name) -> Self {
        Self::derive(&["cairn partition", &self.to_string(), name.as_str()])
    }

    /// Of the file system in this partition.
    pub fn file_system(self) -> Self {
        Self::derive(&["cairn file system", &self.to_string()])
    }

    /// As a GPT holds it: the first three groups are little-endian.
    pub fn to_gpt(self) -> [u8; 16] {
        swapped(self.0)
    }

    /// From a GPT.
    pub fn from_gpt(bytes: [u8; 16]) -> Self {
        Self(swapped(bytes))
    }
}

fn swapped(mut bytes: [u8; 16]) -> [u8; 16] {
    bytes[0..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let dash = if matches!(at, 4 | 6 | 8 | 10) {
                "-"
            } else {
                ""
            };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for Guid {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected a UUID in small letters, got {text:?}");
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let number = u128::from_str_radix(&digits, 16).map_err(|_| wrong())?;
        let guid = Self(number.to_be_bytes());
        Some(guid)
            .filter(|guid| guid.to_string() == text)
            .ok_or_else(wrong)
    }
}

impl TryFrom<String> for Guid {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Guid> for String {
    fn from(guid: Guid) -> Self {
        guid.to_string()
    }
}
