//! Short texts with a rule each. What breaks its rule can't be made.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::FileSystem;
pub use crate::workload::text::NotThat;
use crate::workload::text::{text, word};

/// Where nothing is ever mounted: these are the system's, themselves and what lies in them.
const SYSTEM: [&str; 18] = [
    "/bin",
    "/boot",
    "/data/agent",
    "/data/releases",
    "/data/state",
    "/data/trust",
    "/dev",
    "/efi",
    "/etc",
    "/lib",
    "/lib64",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/sys",
    "/tmp",
    "/usr",
];
/// The system's, too, but what lies in them may be somebody else's.
const SHARED: [&str; 5] = ["/data", "/home", "/var", "/var/lib", "/var/log"];

text!(
    /// A disk's serial number.
    Serial,
    "a serial number of 1 to 64 printable characters without spaces at its ends",
    |text| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|b| (b' '..=b'~').contains(&b))
            && text.trim() == text
    }
);

text!(
    /// Where a disk is plugged in, as udev names it. Names as `/dev/sdb` change from boot to boot and mean nothing.
    Place,
    "a link in /dev/disk/by-path/ or /dev/disk/by-id/",
    |text| {
        let name = text
            .strip_prefix("/dev/disk/by-path/")
            .or_else(|| text.strip_prefix("/dev/disk/by-id/"));
        name.is_some_and(|name| {
            (1..=200).contains(&name.len())
                && !name.starts_with('.')
                && name.bytes().all(|b| (b'!'..=b'~').contains(&b) && b != b'/')
        })
    }
);

text!(
    /// A file system's label.
    FsLabel,
    "a label of 1 to 255 of A-Za-z0-9._-, beginning with a letter or digit",
    |text| word(text, 255, b"._-")
);

text!(
    /// The word for what a disk holds.
    EraseWord,
    "the word that the node told: 16 of 0-9a-f",
    |text| {
        text.len() == 16
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    }
);

text!(
    /// A folder to mount on, which the system itself doesn't need.
    MountPoint,
    "an absolute path of at most 120 of A-Za-z0-9._- and /, without . and .. in it, and none of the system's folders",
    |text| {
        text.len() <= 120
            && text.strip_prefix('/').is_some_and(|rest| {
                rest.split('/')
                    .all(|part| !part.starts_with('.') && word(part, 64, b"._-"))
            })
            && !SYSTEM.iter().any(|folder| is_in(text, folder))
            && !SHARED.contains(&text)
    }
);

text!(
    /// A mount option of those that can do no harm.
    MountOption,
    "one of noatime, relatime, lazytime, noexec, ro, discard, commit=1 to 300, compress=zstd:1 to 15, autodefrag, nodatacow",
    |text| {
        let number = |text: &str, most: u16| {
            text.len() <= 3
                && text.bytes().all(|b| b.is_ascii_digit())
                && !text.starts_with('0')
                && text.parse().is_ok_and(|n: u16| (1..=most).contains(&n))
        };
        COMMON.contains(&text)
            || matches!(text, "autodefrag" | "nodatacow")
            || text
                .strip_prefix("commit=")
                .is_some_and(|seconds| number(seconds, 300))
            || text
                .strip_prefix("compress=zstd:")
                .is_some_and(|level| number(level, 15))
    }
);

/// What every file system takes.
const COMMON: [&str; 6] = ["noatime", "relatime", "lazytime", "noexec", "ro", "discard"];

impl MountOption {
    /// What it is about: no two options may be about the same.
    pub fn key(&self) -> &str {
        match self.as_str() {
            "noatime" | "relatime" => "atime",
            // btrfs compresses nothing that isn't copied on write.
            "nodatacow" => "compress",
            other => other.split('=').next().unwrap_or(other),
        }
    }

    /// Whether this file system knows it.
    pub fn fits(&self, file_system: FileSystem) -> bool {
        COMMON.contains(&self.as_str())
            || match file_system {
                FileSystem::Ext4 => self.key() == "commit",
                FileSystem::Xfs => false,
                FileSystem::Btrfs => true,
            }
    }
}

impl MountPoint {
    /// Whether it is `folder` or lies in it.
    pub fn is_in(&self, folder: &str) -> bool {
        is_in(self.as_str(), folder)
    }
}

fn is_in(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A size in whole MiB, up to 1 EiB; written as `512MiB`, `100GiB` or `4TiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(u64);

const UNITS: [(&str, u32); 3] = [("TiB", 20), ("GiB", 10), ("MiB", 0)];

impl Size {
    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0 << 20
    }
}

impl FromStr for Size {
    type Err = NotThat;

    fn from_str(text: &str) -> Result<Self, NotThat> {
        let wrong = || NotThat::new("a size as 512MiB, 100GiB or 4TiB", text);
        let read = |(unit, shift): &(&str, u32)| {
            let number = text.strip_suffix(unit)?;
            let plain = (1..=12).contains(&number.len())
                && number.bytes().all(|b| b.is_ascii_digit())
                && !number.starts_with('0');
            let number: u64 = number.parse().ok().filter(|_| plain)?;
            number
                .checked_mul(1 << shift)
                .filter(|mebibytes| *mebibytes <= 1 << 40)
        };
        UNITS.iter().find_map(read).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |(_, shift): &&(&str, u32)| self.0.is_multiple_of(1 << shift);
        let (unit, shift) = UNITS.iter().find(whole).unwrap_or(&("MiB", 0));
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

impl TryFrom<String> for Size {
    type Error = NotThat;

    fn try_from(text: String) -> Result<Self, NotThat> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

/// How large a partition is: a [`Size`], or `rest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Extent {
    /// This large.
    Size(Size),
    /// What is left of the disk.
    Rest,
}

impl TryFrom<String> for Extent {
    type Error = NotThat;

    fn try_from(text: String) -> Result<Self, NotThat> {
        match text.as_str() {
            "rest" => Ok(Self::Rest),
            other => other
                .parse()
                .map(Self::Size)
                .map_err(|_| NotThat::new("a size as 512MiB, 100GiB or 4TiB, or rest", &text)),
        }
    }
}

impl From<Extent> for String {
    fn from(extent: Extent) -> Self {
        match extent {
            Extent::Size(size) => size.into(),
            Extent::Rest => "rest".to_owned(),
        }
    }
}
