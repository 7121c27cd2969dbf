//! What must outlive a crash beside the records: the log's id, the numbers that may be in use, what was dropped.
//!
//! Two slots in one file of a fixed size, written in turn and in place: so it can be written on a full disk, and a power cut leaves
//! one of them whole.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::frame::{self, Found};

const SLOT: usize = 512;
/// How many numbers are reserved at a time. Those that a crash leaves unused are never used.
pub(super) const RANGE: u64 = 1 << 20;

/// See above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ledger {
    /// Grows with each write.
    pub generation: u64,
    /// The log that new records belong to.
    pub log: u64,
    /// No record has this number or a higher one.
    pub reserved: u64,
    /// The highest time that was given to a record of the log, in ms since 1970.
    pub last_ts: i64,
    /// Records dropped in each stream: unsent, for want of space.
    pub dropped: [u64; 3],
    /// How many of them were reported.
    pub reported: u64,
    /// Records set aside.
    pub set_aside: u64,
    /// Records that the disk lost.
    pub damaged: u64,
    /// Segments of each stream up to this number were given up; they may be there still.
    pub floor: [u64; 3],
    /// Of which boot it is known when it began, in ms since 1970.
    pub anchor: Option<(String, i64)>,
}

impl Ledger {
    /// Of a new log.
    pub fn new(first: u64) -> Self {
        Self {
            generation: 0,
            log: new_log(),
            reserved: first,
            last_ts: 0,
            dropped: [0; 3],
            reported: 0,
            set_aside: 0,
            damaged: 0,
            floor: [0; 3],
            anchor: None,
        }
    }

    /// Records dropped in all.
    pub fn dropped(&self) -> u64 {
        self.dropped.iter().sum()
    }

    fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(SLOT);
        let numbers = [
            self.generation,
            self.log,
            self.reserved,
            self.last_ts.cast_unsigned(),
            self.reported,
            self.set_aside,
            self.damaged,
        ];
        for number in numbers.iter().chain(&self.dropped).chain(&self.floor) {
            body.extend(number.to_le_bytes());
        }
        if let Some((boot, began)) = &self.anchor {
            body.extend(began.to_le_bytes());
            body.extend(boot.bytes().take(64));
        }
        let mut slot = frame::seal(&body);
        slot.resize(SLOT, 0);
        slot
    }

    fn decode(slot: &[u8]) -> Option<Self> {
        let Found::Body(body, _) = frame::open(slot) else {
            return None;
        };
        let (numbers, rest) = body.as_chunks::<8>().0.split_first_chunk::<13>()?;
        let [
            generation,
            log,
            reserved,
            last_ts,
            reported,
            set_aside,
            damaged,
            d0,
            d1,
            d2,
            f0,
            f1,
            f2,
        ] = numbers.map(u64::from_le_bytes);
        let anchor = match rest.first() {
            None => None,
            Some(began) => {
                let boot = std::str::from_utf8(body.get(14 * 8..)?).ok()?;
                Some((boot.to_owned(), i64::from_le_bytes(*began)))
            }
        };
        Some(Self {
            generation,
            log,
            reserved,
            last_ts: last_ts.cast_signed(),
            dropped: [d0, d1, d2],
            reported,
            set_aside,
            damaged,
            floor: [f0, f1, f2],
            anchor,
        })
    }

    /// Reads it; the flag says whether both slots are whole. If not, numbers above the reserved ones may be in use.
    ///
    /// # Errors
    /// If the file is there and can't be read.
    pub fn read(path: &Path) -> io::Result<Option<(Self, bool)>> {
        let Some(bytes) = crate::files::read(path, 2 * SLOT as u64)? else {
            return Ok(None);
        };
        let slots: Vec<Self> = bytes.chunks(SLOT).filter_map(Self::decode).collect();
        let whole = slots.len() == 2;
        Ok(slots
            .into_iter()
            .max_by_key(|ledger| ledger.generation)
            .map(|ledger| (ledger, whole)))
    }

    /// Writes it for the first time: both slots.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn create(&self, path: &Path) -> io::Result<()> {
        crate::files::replace(path, &[self.encode(), self.encode()].concat())
    }

    /// Writes one slot in place. The caller has raised the generation.
    ///
    /// # Errors
    /// If the disk fails, or the file is gone.
    pub fn write(&self, path: &Path) -> io::Result<File> {
        let file = OpenOptions::new().write(true).mode(0o600).open(path)?;
        file.write_all_at(&self.encode(), (self.generation % 2) * SLOT as u64)?;
        Ok(file)
    }
}

/// A random id.
pub(super) fn new_log() -> u64 {
    rand::random()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(5);
        ledger.dropped = [1, 2, 3];
        ledger.floor = [4, 5, 6];
        ledger.last_ts = -1;
        ledger
    }

    #[test]
    fn what_is_written_is_read_and_one_torn_slot_does_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        assert_eq!(Ledger::read(&path).unwrap(), None);
        let mut ledger = ledger();
        ledger.create(&path).unwrap();
        assert_eq!(Ledger::read(&path).unwrap(), Some((ledger.clone(), true)));
        let before = ledger.clone();
        ledger.generation += 1;
        ledger.anchor = Some(("b-oot".into(), 1_700_000_000_000));
        ledger.write(&path).unwrap();
        assert_eq!(Ledger::read(&path).unwrap(), Some((ledger.clone(), true)));

        let whole = std::fs::read(&path).unwrap();
        for at in SLOT..SLOT + 100 {
            let mut torn = whole.clone();
            torn[at] ^= 1;
            std::fs::write(&path, torn).unwrap();
            assert_eq!(
                Ledger::read(&path).unwrap(),
                Some((before.clone(), false)),
                "byte {at}"
            );
        }
        std::fs::write(&path, b"rubbish").unwrap();
        assert_eq!(Ledger::read(&path).unwrap(), None);
    }
}
