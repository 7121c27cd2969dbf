//! The log of a disk's writes and flushes, as QEMU's `blklogwrites` makes it. The
//! format is that of Linux' dm-log-writes
//! (`Documentation/admin-guide/device-mapper/log-writes.rst`), little-endian:
//!
//! ```text
//! sector 0   magic 8 | version 8 | number of entries 8 | sector size 4
//! then, for each entry, one sector:
//!            sector 8 | sectors 8 | flags 8 | length of a mark's text 8
//!            followed by the written sectors, unless it is a discard or a mark
//! ```
//!
//! An entry is written when the disk has answered, so the order is that of the
//! answers; a write that was answered while a flush was under way counts as durable. The
//! number of entries is only renewed with a flush: what a machine
//! wrote after its last flush isn't in the log once it is killed, and doesn't count.

use std::io::{self, Read, Seek, SeekFrom};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;
const METADATA: u64 = 16;
/// The largest sector that QEMU writes a log with.
const LARGEST_SECTOR: u64 = 1 << 23;
/// A log with more entries isn't one of a test.
const MOST_ENTRIES: u64 = 10_000_000;

/// Something that happened to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Bytes were written.
    Write {
        /// Where on the disk, in bytes.
        at: u64,
        /// How many.
        len: u64,
        /// Where they lie in the log, in bytes.
        data: u64,
        /// Durable as soon as it was answered, without a flush.
        fua: bool,
    },
    /// Bytes are no longer wanted, and read as zeros from now on.
    Discard {
        /// Where on the disk, in bytes.
        at: u64,
        /// How many.
        len: u64,
    },
    /// All that was answered before is durable.
    Flush,
}

impl Op {
    /// What it changes: start and length in bytes.
    pub fn range(&self) -> Option<(u64, u64)> {
        match *self {
            Self::Write { at, len, .. } | Self::Discard { at, len } => Some((at, len)),
            Self::Flush => None,
        }
    }
}

/// What a log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Bytes in a sector.
    pub sector: u64,
    /// What happened, in order.
    pub ops: Vec<Op>,
    /// The log ends in the middle of an entry that it has counted: the machine was
    /// killed while it wrote it.
    pub cut_short: bool,
}

/// It isn't a log of this disk.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It can't be read.
    #[error("cannot read the log")]
    Io(#[from] io::Error),
    /// No log at all; an empty file is one of a machine that never flushed.
    #[error("not a log of writes: expected magic {MAGIC:#x}, got {0:#x}")]
    Magic(u64),
    /// Of another version.
    #[error("expected log version {VERSION}, got {0}")]
    Version(u64),
    /// No power of two between 512 bytes and 8 MiB.
    #[error("a sector can't have {0} bytes")]
    Sector(u64),
    /// More than a test writes.
    #[error("expected at most {MOST_ENTRIES} entries, got {0}")]
    Entries(u64),
    /// Flags that this code doesn't know.
    #[error("entry {entry}: unknown flags {flags:#x}")]
    Flags {
        /// Which entry, from 0.
        entry: u64,
        /// Its flags.
        flags: u64,
    },
    /// A place that the disk doesn't have.
    #[error("entry {entry}: {len} bytes at {at} don't fit a disk of {disk} bytes")]
    Place {
        /// Which entry, from 0.
        entry: u64,
        /// Where, in bytes.
        at: u64,
        /// How many.
        len: u64,
        /// The disk's bytes.
        disk: u64,
    },
}

impl Log {
    /// Reads the log of a disk of `disk` bytes; the written bytes stay where they are.
    ///
    /// # Errors
    /// If it isn't one.
    pub fn read(mut source: impl Read + Seek, disk: u64) -> Result<Self, LogError> {
        let end = source.seek(SeekFrom::End(0))?;
        source.seek(SeekFrom::Start(0))?;
        let mut first = [0; 28];
        if let Err(error) = source.read_exact(&mut first) {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof => Err(LogError::Magic(0)),
                _ => Err(error.into()),
            };
        }
        let (magic, version, entries) = (word(&first, 0), word(&first, 8), word(&first, 16));
        if magic != MAGIC {
            return Err(LogError::Magic(magic));
        }
        if version != VERSION {
            return Err(LogError::Version(version));
        }
        let sector = word(&first, 20) >> 32;
        if !sector.is_power_of_two() || !(512..=LARGEST_SECTOR).contains(&sector) {
            return Err(LogError::Sector(sector));
        }
        if entries > MOST_ENTRIES {
            return Err(LogError::Entries(entries));
        }

        let mut log = Self {
            sector,
            ops: Vec::new(),
            cut_short: false,
        };
        let mut place = sector;
        for entry in 0..entries {
            let data = place + sector;
            if data > end {
                log.cut_short = true;
                break;
            }
            let mut header = [0; 32];
            source.seek(SeekFrom::Start(place))?;
            source.read_exact(&mut header)?;
            let flags = word(&header, 16);
            if flags & !(FLUSH | FUA | DISCARD | MARK | METADATA) != 0 {
                return Err(LogError::Flags { entry, flags });
            }
            let (at, len) = (word(&header, 0), word(&header, 8));
            let (at, len) = (at.saturating_mul(sector), len.saturating_mul(sector));
            if at.saturating_add(len) > disk {
                return Err(LogError::Place {
                    entry,
                    at,
                    len,
                    disk,
                });
            }
            // Linux logs a flush and the write behind it as one entry.
            if flags & FLUSH != 0 {
                log.ops.push(Op::Flush);
            }
            place = data;
            if flags & MARK != 0 || len == 0 {
                continue;
            }
            if flags & DISCARD != 0 {
                log.ops.push(Op::Discard { at, len });
                continue;
            }
            place = data.saturating_add(len);
            if place > end {
                log.cut_short = true;
                break;
            }
            let fua = flags & FUA != 0;
            log.ops.push(Op::Write { at, len, data, fua });
        }
        Ok(log)
    }

    /// How many flushes there are.
    pub fn flushes(&self) -> usize {
        self.ops.iter().filter(|op| **op == Op::Flush).count()
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    const DISK: u64 = 1 << 20;

    struct Made(Vec<u8>);

    impl Made {
        fn new(entries: u64, sector: u32) -> Self {
            let mut bytes = Vec::new();
            for field in [MAGIC, VERSION, entries] {
                bytes.extend(field.to_le_bytes());
            }
            bytes.extend(sector.to_le_bytes());
            bytes.resize(sector as usize, 0);
            Self(bytes)
        }

        fn entry(mut self, at: u64, sectors: u64, flags: u64, data: &[u8]) -> Self {
            let sector = u32::from_le_bytes(self.0[24..28].try_into().unwrap()) as usize;
            let start = self.0.len();
            for field in [at, sectors, flags, 0] {
                self.0.extend(field.to_le_bytes());
            }
            self.0.resize(start + sector, 0);
            self.0.extend(data);
            self
        }

        fn read(self) -> Result<Log, LogError> {
            Log::read(Cursor::new(self.0), DISK)
        }
    }

    #[test]
    fn writes_flushes_and_discards_come_in_order() {
        let log = Made::new(5, 512)
            .entry(8, 2, 0, &[7; 1024])
            .entry(0, 0, FLUSH, &[])
            .entry(100, 50, DISCARD, &[])
            .entry(3, 1, FLUSH | FUA, &[9; 512])
            .entry(0, 0, MARK, &[])
            .read()
            .unwrap();
        let write = |at, len, data, fua| Op::Write { at, len, data, fua };
        assert_eq!(
            log.ops,
            [
                write(4096, 1024, 1024, false),
                Op::Flush,
                Op::Discard {
                    at: 51_200,
                    len: 25_600
                },
                Op::Flush,
                write(1536, 512, 3584, true),
            ]
        );
        assert_eq!((log.flushes(), log.cut_short), (2, false));
    }

    #[test]
    fn sectors_may_be_larger() {
        let log = Made::new(1, 4096).entry(1, 1, 0, &[1; 4096]).read();
        let (at, len, data) = (4096, 4096, 8192);
        let fua = false;
        assert_eq!(log.unwrap().ops, [Op::Write { at, len, data, fua }]);
    }

    #[test]
    fn what_comes_behind_the_last_flush_does_not_count() {
        let made = Made::new(1, 512).entry(1, 1, 0, &[1; 512]);
        let log = made.entry(2, 1, 0, &[2; 512]).read().unwrap();
        assert_eq!((log.ops.len(), log.cut_short), (1, false));
    }

    #[test]
    fn a_log_that_was_cut_gives_what_is_whole() {
        let whole = Made::new(2, 512)
            .entry(1, 1, 0, &[1; 512])
            .entry(2, 2, 0, &[2; 1024]);
        let bytes = whole.0;
        for end in 512..bytes.len() {
            let log = Log::read(Cursor::new(&bytes[..end]), DISK).unwrap();
            assert_eq!(log.ops.len(), usize::from(end >= 1536), "{end}");
            assert!(log.cut_short, "{end}");
        }
        for end in 0..28 {
            assert!(Log::read(Cursor::new(&bytes[..end]), DISK).is_err());
        }
    }

    #[test]
    fn odd_input_is_refused_with_a_reason() {
        let with = |at: usize, byte: u8| {
            let mut made = Made::new(1, 512).entry(1, 1, 0, &[1; 512]);
            made.0[at] = byte;
            made.read().unwrap_err().to_string()
        };
        assert!(with(0, 1).starts_with("not a log of writes"));
        assert_eq!(with(8, 2), "expected log version 1, got 2");
        assert_eq!(with(25, 3), "a sector can't have 768 bytes");
        assert_eq!(with(25, 0), "a sector can't have 0 bytes");
        assert!(with(23, 1).starts_with("expected at most"));
        assert_eq!(with(512 + 16, 64), "entry 0: unknown flags 0x40");
        assert!(with(512 + 7, 255).starts_with("entry 0: 512 bytes at"));
        assert!(with(512 + 15, 255).contains("don't fit a disk of 1048576 bytes"));
        assert!(Log::read(Cursor::new(b"text"), DISK).is_err());
    }
}
