//! Disks: how those of a node shall be laid out, as the desired document declares it.
//!
//! Each is judged alone ([`Disks`]), so that a word that nobody understands costs one disk and not the whole document.
//!
//! | Module | Owns |
//! |---|---|
//! | [`text`] | serials, places, sizes and other short texts, each with its rule |
//! | [`declared`] | the list, item by item |
//! | [`report`] | how a node tells of its disks |

pub mod declared;
pub mod report;
pub mod text;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use crate::workload::Name;
pub use declared::{Declared, Disks};
pub use report::{DiskState, Status};
pub use text::{EraseWord, Extent, FsLabel, MountOption, MountPoint, Place, Serial, Size};

/// The most partitions of one disk.
pub const MAX_PARTITIONS: usize = 16;
/// The most mount options of one partition.
const MAX_OPTIONS: usize = 8;

/// A disk, and how it shall be laid out. It gets a GPT of its own; what it held before is gone then, and so it has to be empty, or
/// [`Erase`] has to be right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Its name, unique on the node. What is made is known again by it.
    pub name: Name,
    /// Which disk it is.
    pub find: Find,
    /// From the first to the last.
    pub partitions: Vec<Partition>,
    /// Leave to destroy what is on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erase: Option<Erase>,
    /// Only tell what would be done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// Which disk it is. One that the system itself needs is none of them; if more than one is left, nothing is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Find {
    /// The one with this serial number.
    Serial(Serial),
    /// The one that is plugged in here.
    Path(Place),
    /// The only one of this size.
    Size(Span),
}

/// A range of sizes, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// The least.
    pub least: Size,
    /// The most.
    pub most: Size,
}

/// Leave to destroy what one disk holds now. The word is told with the refusal; it is made of the serial and of what the
/// disk holds, so that it is of no use for another disk, or for the same one once something else is on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erase {
    /// The disk's serial number.
    pub serial: Serial,
    /// The word for what it holds.
    pub word: EraseWord,
}

/// A partition with its file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// Its name, unique on the disk.
    pub name: Name,
    /// How large it is.
    pub size: Extent,
    /// What is in it.
    pub file_system: FileSystem,
    /// The file system's label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<FsLabel>,
    /// Where it is mounted; nowhere without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<MountPoint>,
    /// How it is mounted, beside `nosuid` and `nodev`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub options: BTreeSet<MountOption>,
}

/// A file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileSystem {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
}

impl FileSystem {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    /// As mount(8) and blkid(8) call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// The longest label, in bytes: ext4(5), mkfs.xfs(8), mkfs.btrfs(8).
    pub fn longest_label(self) -> usize {
        match self {
            Self::Ext4 => 16,
            Self::Xfs => 12,
            Self::Btrfs => 255,
        }
    }

    /// The smallest partition, in bytes, that its mkfs takes with its defaults.
    pub fn least(self) -> u64 {
        match self {
            Self::Ext4 => 16 << 20,
            Self::Xfs => 300 << 20,
            Self::Btrfs => 128 << 20,
        }
    }
}

impl Disk {
    /// What is wrong with it as a whole; the parts are right by themselves.
    ///
    /// # Errors
    /// Names the field and what was expected.
    pub fn check(&self) -> Result<(), String> {
        let count = self.partitions.len();
        if !(1..=MAX_PARTITIONS).contains(&count) {
            return Err(format!(
                "partitions: expected 1 to {MAX_PARTITIONS}, got {count}"
            ));
        }
        if let Find::Size(span) = self.find
            && span.least > span.most
        {
            return Err("find.size: expected `least` to be no more than `most`".to_owned());
        }
        if let (Find::Serial(serial), Some(erase)) = (&self.find, &self.erase)
            && *serial != erase.serial
        {
            return Err(format!(
                "erase.serial: expected {serial}, as in find.serial"
            ));
        }
        let mut names = BTreeSet::new();
        for (at, partition) in self.partitions.iter().enumerate() {
            let wrong = |reason: String| Err(format!("partition {}: {reason}", partition.name));
            if !names.insert(&partition.name) {
                return wrong("the name is there twice".to_owned());
            }
            if partition.size == Extent::Rest && at + 1 < count {
                return wrong("size: only the last one can have the rest".to_owned());
            }
            if let Err(reason) = partition.check() {
                return wrong(reason);
            }
        }
        Ok(())
    }

    /// Where its partitions are mounted.
    pub fn mounts(&self) -> impl Iterator<Item = &MountPoint> {
        self.partitions
            .iter()
            .filter_map(|partition| partition.mount.as_ref())
    }
}

impl Partition {
    fn check(&self) -> Result<(), String> {
        let (fs, least) = (self.file_system, self.file_system.least());
        if let Extent::Size(size) = self.size
            && size.bytes() < least
        {
            return Err(format!(
                "size: {} needs {} MiB or more",
                fs.as_str(),
                least >> 20
            ));
        }
        if let Some(label) = &self.label
            && label.as_str().len() > fs.longest_label()
        {
            return Err(format!(
                "label: expected at most {} bytes for {}, got {label:?}",
                fs.longest_label(),
                fs.as_str(),
                label = label.as_str()
            ));
        }
        if self.options.len() > MAX_OPTIONS {
            return Err(format!("options: expected at most {MAX_OPTIONS}"));
        }
        if self.mount.is_none() && !self.options.is_empty() {
            return Err("options: it isn't mounted".to_owned());
        }
        let mut keys = BTreeSet::new();
        for option in &self.options {
            if !option.fits(fs) {
                return Err(format!("options: {} has no {option}", fs.as_str()));
            }
            if !keys.insert(option.key()) {
                return Err(format!("options: {option} says another thing twice"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
