//! A disk image that goes through its own history: the state after any number of
//! logged writes, what a power cut could have made of the next ones, and back.
//!
//! There is one image, changed in place. What a power cut leaves is applied on top of
//! a state and taken back afterwards, so a thousand of them cost what they write.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::crash::{Crash, Fate};
use super::log::{Log, Op};
use crate::Disk;

/// An image on its way through a log.
pub struct Replay {
    image: PathBuf,
    disk: File,
    log: File,
    /// What happened to the disk.
    pub history: Log,
    next: usize,
    touched: Vec<Range<u64>>,
    undo: Vec<(u64, Vec<u8>)>,
}

impl Replay {
    /// The history `log` of a disk that was `base` before it; a copy at `image` goes
    /// through it.
    ///
    /// # Errors
    /// If the log isn't one of that disk, or there is no space.
    pub fn open(base: &Disk, log: &Path, image: &Path) -> Result<Self> {
        base.copy_to(image)?;
        let disk = OpenOptions::new().read(true).write(true).open(image)?;
        let log = File::open(log).with_context(|| format!("cannot open {}", log.display()))?;
        let history = Log::read(&log, disk.metadata()?.len())?;
        Ok(Self {
            image: image.to_owned(),
            disk,
            log,
            history,
            next: 0,
            touched: Vec::new(),
            undo: Vec::new(),
        })
    }

    /// The image.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// How many operations the image has behind it.
    pub fn position(&self) -> usize {
        self.next
    }

    /// Goes on until `position` operations have happened.
    ///
    /// # Errors
    /// If that lies behind, or the log doesn't hold what it says.
    pub fn advance(&mut self, position: usize) -> Result<()> {
        ensure!(self.undo.is_empty(), "a power cut wasn't taken back");
        ensure!(self.next <= position, "a replay can't go back");
        while self.next < position {
            let op = *self.op(self.next)?;
            self.apply(&op, &Fate::Whole, false)?;
            self.next += 1;
        }
        Ok(())
    }

    /// Makes of the image what this power cut leaves, until [`Replay::take_back`].
    ///
    /// # Errors
    /// If the power cut belongs to another position.
    pub fn cut_power(&mut self, crash: &Crash) -> Result<()> {
        ensure!(self.undo.is_empty(), "a power cut wasn't taken back");
        ensure!(crash.position == self.next, "the replay is elsewhere");
        for (ahead, fate) in crash.fates.iter().enumerate() {
            let op = *self.op(self.next + ahead)?;
            self.apply(&op, fate, true)?;
        }
        Ok(())
    }

    /// The image as it was before [`Replay::cut_power`].
    ///
    /// # Errors
    /// If it can't be written.
    pub fn take_back(&mut self) -> Result<()> {
        while let Some((at, bytes)) = self.undo.pop() {
            self.disk.write_all_at(&bytes, at)?;
            self.touched.push(at..at + bytes.len() as u64);
        }
        Ok(())
    }

    /// The first byte at which the image differs from another, if it does.
    ///
    /// # Errors
    /// If that can't be read.
    pub fn difference(&self, other: &Disk) -> Result<Option<u64>> {
        let other = File::open(other.path())?;
        let end = self.disk.metadata()?.len();
        ensure!(other.metadata()?.len() == end, "the disks have other sizes");
        let (mut ours, mut theirs) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        let mut place = 0;
        while place < end {
            let part = ..usize::try_from((end - place).min(1 << 20))?;
            self.disk.read_exact_at(&mut ours[part], place)?;
            other.read_exact_at(&mut theirs[part], place)?;
            if ours[part] != theirs[part] {
                let same = ours.iter().zip(&theirs).take_while(|(a, b)| a == b);
                return Ok(Some(place + same.count() as u64));
            }
            place += 1 << 20;
        }
        Ok(None)
    }

    /// Which bytes were changed since this was asked last.
    pub fn take_touched(&mut self) -> Vec<Range<u64>> {
        std::mem::take(&mut self.touched)
    }

    fn op(&self, index: usize) -> Result<&Op> {
        let op = self.history.ops.get(index);
        op.with_context(|| format!("the log has no operation {index}"))
    }

    fn apply(&mut self, op: &Op, fate: &Fate, undo: bool) -> Result<()> {
        let Some((at, len)) = op.range() else {
            return Ok(());
        };
        let mut bytes = vec![0; usize::try_from(len)?];
        if let Op::Write { data, .. } = op {
            self.log.read_exact_at(&mut bytes, *data)?;
        }
        for part in fate.parts(len, self.history.sector) {
            let place = at + part.start;
            let range = usize::try_from(part.start)?..usize::try_from(part.end)?;
            let new = &bytes[range];
            if undo {
                let mut old = vec![0; new.len()];
                self.disk.read_exact_at(&mut old, place)?;
                self.undo.push((place, old));
            }
            self.disk.write_all_at(new, place)?;
            self.touched.push(place..place + new.len() as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_of(writes: &[(u64, u8)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in [0x006a_7366_7773_6872, 1, writes.len() as u64, 512] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.resize(512, 0);
        for (sector, byte) in writes {
            // Two sectors each.
            for field in [*sector, 2, 0, 0] {
                bytes.extend(field.to_le_bytes());
            }
            bytes.resize(bytes.len() + 480, 0);
            bytes.resize(bytes.len() + 1024, *byte);
        }
        bytes
    }

    #[test]
    fn a_power_cut_is_made_and_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let (base, log) = (dir.path().join("base"), dir.path().join("log"));
        std::fs::write(&base, [0; 4096]).unwrap();
        std::fs::write(&log, log_of(&[(0, 1), (1, 2), (4, 3)])).unwrap();
        let base = Disk::open(&base).unwrap();
        let mut replay = Replay::open(&base, &log, &dir.path().join("image")).unwrap();
        let sectors = |replay: &Replay| -> Vec<u8> {
            let bytes = std::fs::read(replay.image()).unwrap();
            bytes.chunks(512).map(|sector| sector[0]).collect()
        };

        replay.advance(1).unwrap();
        assert_eq!(sectors(&replay), [1, 1, 0, 0, 0, 0, 0, 0]);
        replay.take_touched();
        // The second write got lost but for its last sector, the third is there.
        let crash = Crash {
            position: 1,
            fates: vec![Fate::Torn(vec![false, true]), Fate::Whole],
        };
        replay.cut_power(&crash).unwrap();
        assert_eq!(sectors(&replay), [1, 1, 2, 0, 3, 3, 0, 0]);
        assert_eq!(replay.take_touched(), [1024..1536, 2048..3072]);
        assert!(replay.advance(2).is_err(), "not taken back");
        replay.take_back().unwrap();
        assert_eq!(sectors(&replay), [1, 1, 0, 0, 0, 0, 0, 0]);

        replay.advance(3).unwrap();
        assert_eq!(sectors(&replay), [1, 2, 2, 0, 3, 3, 0, 0]);
        assert!(replay.advance(4).is_err(), "the log is at its end");
        assert!(replay.advance(1).is_err(), "no way back");
    }
}
