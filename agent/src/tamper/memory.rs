//! What outlives the agent: what was told, and what the kernel said in this boot.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use cairn_tamper::clock::Jumps;
use cairn_tamper::{Finding, Watch};
use serde::{Deserialize, Serialize};

use crate::files;

/// The longest file, in bytes.
const LIMIT: u64 = 4 << 20;
/// So many damaged blocks are remembered, and so many disks with errors.
const MANY: usize = 256;

/// What a disk's driver or a file system on it complained of since the boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    /// Requests that failed.
    pub io: u64,
    /// Complaints of file systems.
    pub fs: u64,
}

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// The boot that the rest is about.
    pub boot: String,
    /// The kernel's next message that wasn't read.
    pub next: u64,
    /// Errors by disk or partition.
    pub errors: BTreeMap<String, Errors>,
    /// Blocks that aren't what was signed.
    pub damaged: Vec<Finding>,
    /// The clock's jumps.
    pub jumps: Jumps,
    /// What was told. It goes on over boots, so that what a restart has mended is told to be over.
    pub watch: Watch,
}

impl Memory {
    /// What an earlier agent remembered; nothing, if that can't be read.
    pub fn load(path: &Path, boot: &str) -> Self {
        let kept = files::read(path, LIMIT).ok().flatten();
        let kept = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let mut memory: Self = kept.unwrap_or_default();
        if memory.boot != boot {
            memory = Self {
                boot: boot.to_owned(),
                watch: memory.watch,
                ..Self::default()
            };
        }
        memory
    }

    /// The errors of a disk, to be counted up; none if there are too many disks.
    pub fn errors_of(&mut self, device: String) -> Option<&mut Errors> {
        let room = self.errors.len() < MANY || self.errors.contains_key(&device);
        room.then(|| self.errors.entry(device).or_default())
    }

    /// Takes in a damaged block.
    pub fn damaged(&mut self, finding: Finding) {
        if self.damaged.len() < MANY && !self.damaged.contains(&finding) {
            self.damaged.push(finding);
        }
    }
}

/// The file, written only when there is something new to remember: what was merely read can be read again.
#[derive(Debug)]
pub struct Shelf {
    path: PathBuf,
    /// What the file says, and which message of the kernel's was next then.
    kept: (Vec<u8>, u64),
}

impl Shelf {
    /// In the agent's folder.
    pub fn open(folder: &Path, boot: &str) -> (Self, Memory) {
        let path = folder.join("tamper.json");
        let memory = Memory::load(&path, boot);
        let bytes = serde_json::to_vec(&memory).unwrap_or_default();
        let kept = (bytes, memory.next);
        (Self { path, kept }, memory)
    }

    /// Keeps it.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn keep(&mut self, memory: &Memory) -> io::Result<()> {
        let (bytes, next) = &self.kept;
        let same = Memory {
            next: *next,
            ..memory.clone()
        };
        if serde_json::to_vec(&same)? == *bytes {
            return Ok(());
        }
        let bytes = serde_json::to_vec(memory)?;
        files::replace(&self.path, &bytes)?;
        self.kept = (bytes, memory.next);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use cairn_tamper::Kind;

    use super::*;

    #[test]
    fn a_boot_begins_anew_but_for_what_was_told() {
        let folder = tempfile::tempdir().unwrap();
        let (mut shelf, mut memory) = Shelf::open(folder.path(), "one");
        memory.next = 7;
        memory.errors_of("sda".into()).unwrap().io += 1;
        memory.damaged(Finding::new(Kind::Verity, "7:1", "x"));
        memory.damaged(Finding::new(Kind::Verity, "7:1", "x"));
        memory.watch.saw(Kind::Verity, memory.damaged.clone());
        shelf.keep(&memory).unwrap();
        let (_, same) = Shelf::open(folder.path(), "one");
        assert_eq!((same.next, same.damaged.len()), (7, 1));
        let (_, mut next) = Shelf::open(folder.path(), "two");
        assert_eq!(
            (next.next, next.errors.len(), next.damaged.len()),
            (0, 0, 0)
        );
        assert_eq!(next.watch.saw(Kind::Verity, vec![]).over.len(), 1);
    }

    #[test]
    fn what_was_only_read_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let (mut shelf, mut memory) = Shelf::open(folder.path(), "one");
        memory.next = 7;
        shelf.keep(&memory).unwrap();
        assert!(!folder.path().join("tamper.json").exists());
        std::fs::write(folder.path().join("tamper.json"), "{half").unwrap();
        assert_eq!(Shelf::open(folder.path(), "one").1.next, 0);
    }
}
