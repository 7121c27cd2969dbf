//! DATA: where the bytes of a file lie by debugfs, with the journal replayed or not.
//! The replay is our own, since it must be taken back; e2fsck is there to compare with.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{Context, Result, bail, ensure};
use cairn_system::{Command, CommandError};
use regex::Regex;
use rustix::fs::{SeekFrom, seek};

use super::journal::Journal;

/// `mkfs.ext4 -b 4096` made it.
pub const BLOCK: u64 = 4096;

/// Where a file lies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Placement {
    /// The file's bytes.
    pub size: u64,
    /// Its parts, in order.
    pub extents: Vec<Extent>,
}

/// Blocks of a file that lie side by side.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Extent {
    /// The first block in the file.
    pub logical: u64,
    /// The first block of the file system.
    pub physical: u64,
    /// How many.
    pub blocks: u64,
    /// Never written: the kernel reads zeros.
    pub unwritten: bool,
}

/// The file system in an image of a disk.
#[derive(Debug)]
pub struct Ext4 {
    image: PathBuf,
    disk: File,
    area: Range<u64>,
    journal: Journal,
    journal_ranges: Vec<Range<u64>>,
    undo: Vec<(u64, Vec<u8>)>,
}

impl Ext4 {
    /// In these bytes of the image.
    ///
    /// # Errors
    /// If there is none, or one without a journal.
    pub fn open(image: &Path, area: Range<u64>) -> Result<Self> {
        let mut ext4 = Self {
            image: image.to_owned(),
            disk: OpenOptions::new().read(true).write(true).open(image)?,
            area,
            journal: Journal::new(Vec::new()),
            journal_ranges: Vec::new(),
            undo: Vec::new(),
        };
        let placement = ext4.placements(&["<8>"])?.pop().flatten();
        let placement = placement.context("the file system has no journal")?;
        ext4.journal_ranges = ext4.ranges(&placement);
        let extents = placement.extents.iter();
        let blocks = extents.flat_map(|extent| extent.physical..extent.physical + extent.blocks);
        ext4.journal = Journal::new(blocks.collect());
        Ok(ext4)
    }

    /// Where the journal lies, in bytes of the disk.
    pub fn journal(&self) -> &[Range<u64>] {
        &self.journal_ranges
    }

    /// Says that these bytes of the disk were written.
    pub fn changed(&mut self, range: &Range<u64>) {
        if range.end > self.area.start && range.start < self.area.end {
            let start = range.start.saturating_sub(self.area.start) / BLOCK;
            let end = (range.end - self.area.start).div_ceil(BLOCK);
            self.journal.changed(&(start..end));
        }
    }

    /// Where these files lie as the disk says now, a journal left aside; `None` for one
    /// that isn't there.
    ///
    /// # Errors
    /// If debugfs doesn't find a file system.
    pub fn placements(&self, paths: &[&str]) -> Result<Vec<Option<Placement>>> {
        let requests = paths
            .iter()
            .map(|path| format!("stat {path}\ndump_extents {path}\n"));
        // What isn't replayed yet may contradict its checksums; GRUB doesn't look at them.
        let output = Command::new("debugfs")
            .args(["-n", "-f", "-", &self.device()])
            .stdin(requests.collect::<String>())
            .run()?;
        let said = output.text();
        ensure!(
            said.contains("debugfs: "),
            "debugfs finds no file system: {}",
            output.stderr.trim()
        );
        let sections: Vec<_> = said.split("debugfs: ").skip(1).collect();
        ensure!(
            sections.len() == 2 * paths.len(),
            "debugfs answers {} of {} requests: {}",
            sections.len(),
            2 * paths.len(),
            output.stderr.trim()
        );
        Ok(sections
            .chunks(2)
            .map(|answers| placement(answers[0], answers[1]))
            .collect())
    }

    /// The places of a file's bytes on the disk.
    pub fn ranges(&self, placement: &Placement) -> Vec<Range<u64>> {
        let range = |extent: &Extent| {
            let start = self.area.start + extent.physical * BLOCK;
            start..start + extent.blocks * BLOCK
        };
        placement.extents.iter().map(range).collect()
    }

    /// Replays the journal, as the kernel does when it mounts, until
    /// [`Ext4::take_back`].
    ///
    /// # Errors
    /// If that can't be done.
    pub fn replay(&mut self) -> Result<()> {
        ensure!(self.undo.is_empty(), "a replay wasn't taken back");
        self.check_features()?;
        let (disk, start) = (&self.disk, self.area.start);
        let blocks = self.journal.replay(|block| {
            let mut bytes = Box::new([0; BLOCK as usize]);
            disk.read_exact_at(&mut bytes[..], start + block * BLOCK)?;
            Ok(bytes)
        })?;
        for (block, bytes) in blocks {
            let place = start + block * BLOCK;
            ensure!(place < self.area.end, "the journal writes to block {block}");
            let mut old = vec![0; bytes.len()];
            self.disk.read_exact_at(&mut old, place)?;
            self.undo.push((place, old));
            self.disk.write_all_at(&bytes[..], place)?;
        }
        Ok(())
    }

    /// With sums over its metadata a torn superblock or commit block would keep the kernel
    /// from mounting it. The superblock lies in the first block behind 1024 bytes: magic
    /// at 56, features that the kernel may ignore when it only reads at 100.
    fn check_features(&self) -> Result<()> {
        const METADATA_CSUM: u8 = 4;
        let mut block = [0; 1024];
        self.disk
            .read_exact_at(&mut block, self.area.start + 1024)?;
        ensure!(block[56..58] == [0x53, 0xef], "no superblock of ext4");
        ensure!(
            block[101] & METADATA_CSUM == 0,
            "an ext4 with the feature metadata_csum"
        );
        Ok(())
    }

    /// The file system as it was before [`Ext4::replay`].
    ///
    /// # Errors
    /// If it can't be written.
    pub fn take_back(&mut self) -> Result<()> {
        while let Some((place, bytes)) = self.undo.pop() {
            self.disk.write_all_at(&bytes, place)?;
        }
        Ok(())
    }

    /// Whether e2fsck, on a copy in `scratch`, can replay the journal and finds the file
    /// system whole then; and where these files lie after its replay.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn second_opinion(&self, scratch: &Path, paths: &[&str]) -> Result<Vec<Option<Placement>>> {
        // A file of its own: e2fsck forgets an offset once it has replayed a journal.
        let copy = scratch.join("opinion.img");
        copy_sparse(&self.disk, &self.area, &copy)?;
        let opinion = Self {
            disk: File::open(&copy)?,
            image: copy.clone(),
            area: 0..self.area.end - self.area.start,
            journal: Journal::new(Vec::new()),
            journal_ranges: Vec::new(),
            undo: Vec::new(),
        };
        let e2fsck = |option: &[&str]| {
            let command = Command::new("e2fsck").args(option).arg(opinion.device());
            match command.run() {
                // 1: something was changed.
                Err(CommandError::Failed { status, .. }) if status.code() == Some(1) => Ok(()),
                other => other.map(drop),
            }
        };
        e2fsck(&["-p", "-E", "journal_only"])?;
        let placements = opinion.placements(paths)?;
        // The kernel finishes what was deleted while open; -p does so here.
        e2fsck(&["-p"])?;
        let check = Command::new("e2fsck").args(["-fn", &opinion.device()]);
        if let Err(error) = check.run() {
            bail!("the file system isn't whole: {error}");
        }
        std::fs::remove_file(copy)?;
        Ok(placements)
    }

    fn device(&self) -> String {
        format!("{}?offset={}", self.image.display(), self.area.start)
    }
}

/// Copies what is written in this area of a file.
fn copy_sparse(from: &File, area: &Range<u64>, to: &Path) -> Result<()> {
    let to = File::create(to)?;
    to.set_len(area.end - area.start)?;
    let mut buffer = vec![0; 1 << 20];
    let mut place = area.start;
    while let Ok(data) = seek(from, SeekFrom::Data(place)) {
        let hole = seek(from, SeekFrom::Hole(data))?.min(area.end);
        place = data.max(place);
        while place < hole {
            let length = (hole - place).min(buffer.len() as u64);
            let part = &mut buffer[..usize::try_from(length)?];
            from.read_exact_at(part, place)?;
            to.write_all_at(part, place - area.start)?;
            place += length;
        }
        if place >= area.end {
            break;
        }
    }
    Ok(())
}

/// ` 0/ 0   1/  1     0 - 20115  37056 -  57171  20116 Uninit`; what isn't a leaf of
/// the tree has only one physical block.
static EXTENT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?m)^ *\d+/ *\d+ +\d+/ *\d+ +(\d+) *- *\d+ +(\d+) *- *\d+ +(\d+)( +Uninit)?").ok()
});
static SIZE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"Size: (\d+)\n").ok());

fn placement(stat: &str, extents: &str) -> Option<Placement> {
    let size = SIZE.as_ref()?.captures(stat)?[1].parse().ok()?;
    let extents = EXTENT.as_ref()?.captures_iter(extents).map(|captures| {
        let number = |group: usize| captures[group].parse::<u64>().ok();
        Some(Extent {
            logical: number(1)?,
            physical: number(2)?,
            blocks: number(3)?,
            unwritten: captures.get(4).is_some(),
        })
    });
    Some(Placement {
        size,
        extents: extents.collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debugfs_is_understood() {
        let stat =
            "stat /x\nInode: 17   Type: regular\nProject:     0   Size: 8195\nFragment:  Size: 0\n";
        let extents = "dump_extents /x\nLevel Entries       Logical        Physical Length Flags\n \
            0/ 1   1/  1     0 - 20115  37056            20116\n \
            1/ 1   1/  2     0 -     1  500 -  501      2 \n \
            1/ 1   2/  2     2 -     2  700 -  700      1 Uninit\n";
        let found = placement(stat, extents).unwrap();
        assert_eq!(found.size, 8195);
        let parts: Vec<_> = found
            .extents
            .iter()
            .map(|e| (e.logical, e.physical, e.blocks, e.unwritten))
            .collect();
        assert_eq!(parts, [(0, 500, 2, false), (2, 700, 1, true)]);
        assert_eq!(placement("stat /x\n", "dump_extents /x\n"), None);
    }
}
