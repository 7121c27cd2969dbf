//! The file that makes the data of a new image from one old image.
//!
//! ```text
//! "CAIRNP1\n" │ from 32 │ to 32 │ old blocks 4 │ new blocks 4 │ table length 4 │ table │ data …
//! ```
//!
//! `from` and `to` are the SHA-256 of the images, numbers are little endian. The new blocks
//! are those of the data; the verity tree behind them follows from them. The table is a
//! zstd frame of LEB128 numbers.
//!
//! First come the copies: how many there are, and of each its place in the new image (the
//! blocks between it and the one before, and its length), and where it comes from: by how
//! much it is moved more than the one before, zigzag, and in the lowest bit whether it
//! comes from the new image itself. Then the segments: how many, and of each its reference
//! (runs of the old image), its target (runs of the new image) and the length of its data.
//! A run is the number of blocks between it and the one before, and its length; targets go
//! on from segment to segment. A segment's data is a zstd frame that gives the target's
//! blocks, one after the other, and refers to the reference's blocks as its prefix.
//!
//! All segments are applied first, then all copies in order. A patch is signed by nobody:
//! what comes out is checked against the signed manifest.

use std::ops::Range;

use cairn_release::{BLOCK, Digest};

use crate::local::{Copy, Source};
use crate::runs::Run;
use crate::varint;

/// The first bytes of a patch.
pub const MAGIC: [u8; 8] = *b"CAIRNP1\n";
/// Bytes before the table.
pub const HEAD: usize = 8 + 32 + 32 + 4 + 4 + 4;
/// Blocks of the old image that a segment refers to, at most: 24 MiB.
pub const REFERENCE: u64 = (24 << 20) / BLOCK as u64;
/// Blocks of the new image that a segment makes, at most: 8 MiB.
pub const TARGET: u64 = (8 << 20) / BLOCK as u64;
/// Bytes of a segment's data at most: its target's, and what zstd adds to noise.
pub const DATA: u64 = (8 << 20) + (1 << 16);
/// Bytes of the table at most, packed and unpacked.
pub const TABLE: usize = 1 << 20;
/// Segments at most: 128 GiB, if they are full.
pub const SEGMENTS: usize = 1 << 14;

/// A patch's head and table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// Digest of the old image.
    pub from: Digest,
    /// Digest of the new image.
    pub to: Digest,
    /// Blocks of the old image.
    pub old_blocks: u32,
    /// Blocks of the new image's data, its verity tree left out.
    pub new_blocks: u32,
    /// What the old image has, or the new one at an earlier place, by its place.
    pub copies: Vec<Copy>,
    /// Its segments, in the order of their targets.
    pub segments: Vec<Segment>,
}

/// Some of the new image's blocks, and what they are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Runs of the old image, in order.
    pub reference: Vec<Run>,
    /// Runs of the new image, in order.
    pub target: Vec<Run>,
    /// Where its data lies in the patch, in bytes.
    pub data: Range<u64>,
}

/// The bytes are no patch that this code can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// Fewer bytes than the head and the table have.
    #[error("expected {expected} bytes of head and table, got {got}")]
    Short {
        /// How many there should be.
        expected: usize,
        /// How many there are.
        got: usize,
    },
    /// Other first bytes.
    #[error("this is no patch, or one of a newer format")]
    Magic,
    /// The table is longer than [`TABLE`].
    #[error("the table has {0} bytes, expected {TABLE} at most")]
    Table(u32),
    /// zstd can't unpack the table.
    #[error("the table is damaged")]
    Damaged,
    /// More segments than [`SEGMENTS`].
    #[error("there are {0} segments, expected {SEGMENTS} at most")]
    Segments(u64),
    /// A number of a copy is missing, too large or out of order.
    #[error("copy {copy}: {what}")]
    Copy {
        /// Which, from 0.
        copy: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// The same of a segment.
    #[error("segment {segment}: {what}")]
    Segment {
        /// Which, from 0.
        segment: usize,
        /// What is wrong.
        what: &'static str,
    },
}

impl Patch {
    /// How many bytes head and table have, from the head.
    ///
    /// # Errors
    /// If these aren't the first bytes of a patch.
    pub fn table_end(head: &[u8]) -> Result<usize, PatchError> {
        let head: &[u8; HEAD] = head.first_chunk().ok_or(PatchError::Short {
            expected: HEAD,
            got: head.len(),
        })?;
        if !head.starts_with(&MAGIC) {
            return Err(PatchError::Magic);
        }
        let length = word(head, HEAD - 4);
        match usize::try_from(length) {
            Ok(length) if length <= TABLE => Ok(HEAD + length),
            _ => Err(PatchError::Table(length)),
        }
    }

    /// Reads head and table; more bytes may follow.
    ///
    /// # Errors
    /// If they contradict the format or its bounds.
    pub fn parse(bytes: &[u8]) -> Result<Self, PatchError> {
        let end = Self::table_end(bytes)?;
        let table = bytes.get(HEAD..end).ok_or(PatchError::Short {
            expected: end,
            got: bytes.len(),
        })?;
        let table = zstd::bulk::decompress(table, TABLE).map_err(|_| PatchError::Damaged)?;
        let digest = |at: usize| -> Result<Digest, PatchError> {
            let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk::<32>);
            bytes.map(|bytes| Digest(*bytes)).ok_or(PatchError::Magic)
        };
        let mut patch = Self {
            from: digest(8)?,
            to: digest(40)?,
            old_blocks: word(bytes, 72),
            new_blocks: word(bytes, 76),
            copies: Vec::new(),
            segments: Vec::new(),
        };
        let mut rest = &table[..];
        patch.read_copies(&mut rest)?;
        patch.read_segments(rest, end as u64)?;
        Ok(patch)
    }

    fn read_copies(&mut self, table: &mut &[u8]) -> Result<(), PatchError> {
        let bad = |copy, what| PatchError::Copy { copy, what };
        let count = varint::take(table).ok_or(bad(0, ENDED))?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        // Each has three bytes at least.
        self.copies.reserve_exact(count.min(table.len() / 3));
        let (mut done, mut moved) = (0, 0);
        for number in 0..count {
            let bad = |what| bad(number, what);
            let to = take_run(table, done, self.new_blocks).map_err(bad)?;
            let coded = varint::take(table).ok_or(bad(ENDED))?;
            let (source, end) = match coded & 1 {
                0 => (Source::Image(0), self.old_blocks),
                _ => (Source::Itself, to.at),
            };
            moved = i64::checked_add(moved, varint::signed(coded >> 1)).ok_or(bad(LARGE))?;
            let from = i64::from(to.at).checked_add(moved);
            let from = from.and_then(|from| u32::try_from(from).ok());
            let from = from.ok_or(bad(LARGE))?;
            if from.checked_add(to.count).is_none_or(|last| last > end) {
                return Err(bad("what it copies lies beyond its source"));
            }
            done = to.end();
            self.copies.push(Copy { to, source, from });
        }
        Ok(())
    }

    fn read_segments(&mut self, mut table: &[u8], mut data: u64) -> Result<(), PatchError> {
        let bad = |segment, what| PatchError::Segment { segment, what };
        let count = varint::take(&mut table).ok_or(bad(0, ENDED))?;
        let count = match usize::try_from(count) {
            Ok(number) if number <= SEGMENTS => number,
            _ => return Err(PatchError::Segments(count)),
        };
        self.segments.reserve_exact(count.min(table.len() / 5));
        let mut done = 0;
        for number in 0..count {
            let mut read = |after: u32, end: u32, most: u64| {
                take_runs(&mut table, after, end, most).map_err(|what| bad(number, what))
            };
            let reference = read(0, self.old_blocks, REFERENCE)?;
            let target = read(done, self.new_blocks, TARGET)?;
            let length = varint::take(&mut table).ok_or(bad(number, ENDED))?;
            done = match target.last() {
                Some(last) if length <= DATA => last.end(),
                Some(_) => return Err(bad(number, "its data is too long")),
                None => return Err(bad(number, "it makes nothing")),
            };
            self.segments.push(Segment {
                reference,
                target,
                data: data..data.saturating_add(length),
            });
            data = data.saturating_add(length);
        }
        match table {
            [] => Ok(()),
            _ => Err(bad(self.segments.len(), "more follows than was announced")),
        }
    }

    /// Head and table as bytes. The segments' data has to follow, in order.
    ///
    /// # Errors
    /// If zstd fails, or the table is longer than [`TABLE`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, PatchError> {
        if self.segments.len() > SEGMENTS {
            return Err(PatchError::Segments(self.segments.len() as u64));
        }
        let mut table = Vec::new();
        varint::put(&mut table, self.copies.len() as u64);
        let (mut done, mut moved) = (0, 0);
        for copy in &self.copies {
            done = put_run(&mut table, done, copy.to);
            let now = i64::from(copy.from) - i64::from(copy.to.at);
            let itself = u64::from(copy.source == Source::Itself);
            varint::put(&mut table, varint::unsigned(now - moved) << 1 | itself);
            moved = now;
        }
        varint::put(&mut table, self.segments.len() as u64);
        let mut done = 0;
        for segment in &self.segments {
            put_runs(&mut table, 0, &segment.reference);
            done = put_runs(&mut table, done, &segment.target);
            varint::put(&mut table, segment.data.end - segment.data.start);
        }
        let packed = zstd::bulk::compress(&table, 19).map_err(|_| PatchError::Damaged)?;
        let length = u32::try_from(packed.len().max(table.len())).unwrap_or(u32::MAX);
        if length as usize > TABLE {
            return Err(PatchError::Table(length));
        }
        let mut bytes = Vec::from(MAGIC);
        bytes.extend(self.from.0);
        bytes.extend(self.to.0);
        for number in [self.old_blocks, self.new_blocks, packed.len() as u32] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(packed);
        Ok(bytes)
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>);
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn put_runs(table: &mut Vec<u8>, mut after: u32, runs: &[Run]) -> u32 {
    varint::put(table, runs.len() as u64);
    for run in runs {
        after = put_run(table, after, *run);
    }
    after
}

/// Gives its end.
fn put_run(table: &mut Vec<u8>, after: u32, run: Run) -> u32 {
    varint::put(table, u64::from(run.at - after));
    varint::put(table, u64::from(run.count));
    run.end()
}

const ENDED: &str = "the table ends in it";
const LARGE: &str = "a number is too large";

/// A run behind `after` and before `end`.
fn take_run(table: &mut &[u8], after: u32, end: u32) -> Result<Run, &'static str> {
    let mut number = || u32::try_from(varint::take(table).ok_or(ENDED)?).map_err(|_| LARGE);
    let (gap, count) = (number()?, number()?);
    let at = after.checked_add(gap).ok_or(LARGE)?;
    if count == 0 || at.checked_add(count).is_none_or(|last| last > end) {
        return Err("a run lies beyond the image");
    }
    Ok(Run { at, count })
}

/// Runs behind `after` and before `end`, of `most` blocks in all.
fn take_runs(
    table: &mut &[u8],
    mut after: u32,
    end: u32,
    mut most: u64,
) -> Result<Vec<Run>, &'static str> {
    let count = varint::take(table).ok_or(ENDED)?;
    // Each is a block and two bytes at least. A list that grows would take twice its size.
    let room = count.min(most).min(table.len() as u64 / 2);
    let mut taken = Vec::with_capacity(room as usize);
    for _ in 0..count {
        let run = take_run(table, after, end)?;
        let left = most.checked_sub(run.count.into());
        most = left.ok_or("it has too many blocks")?;
        after = run.end();
        taken.push(run);
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(at: u32, count: u32) -> Run {
        Run { at, count }
    }

    fn patch() -> Patch {
        let copy = |to, source, from| Copy { to, source, from };
        let segment = |reference: &[Run], target: &[Run]| Segment {
            reference: reference.to_vec(),
            target: target.to_vec(),
            data: 0..100,
        };
        let mut patch = Patch {
            from: Digest([1; 32]),
            to: Digest([2; 32]),
            old_blocks: 1000,
            new_blocks: 2000,
            copies: vec![
                copy(run(0, 5), Source::Image(0), 995),
                copy(run(30, 10), Source::Itself, 20),
                copy(run(40, 10), Source::Image(0), 30),
            ],
            segments: vec![
                segment(&[run(0, 10), run(990, 10)], &[run(5, 1), run(7, 20)]),
                segment(&[], &[run(1999, 1)]),
            ],
        };
        let mut at = patch.to_bytes().unwrap().len() as u64;
        for segment in &mut patch.segments {
            segment.data = at..at + 100;
            at += 100;
        }
        patch
    }

    /// Whether each lies behind the one before it, none is empty, and all lie before `end`.
    fn are_in_order(runs: &[Run], end: u32) -> bool {
        let mut next = 0;
        runs.iter().all(|run| {
            let fits = run.count > 0 && run.at >= next && run.end() <= end;
            next = run.end();
            fits
        })
    }

    #[test]
    fn a_patch_comes_back() {
        let bytes = patch().to_bytes().unwrap();
        assert_eq!(Patch::table_end(&bytes[..HEAD]), Ok(bytes.len()));
        assert_eq!(Patch::parse(&bytes), Ok(patch()));
    }

    #[test]
    fn what_lies_beyond_the_bounds_is_refused() {
        let refused = |change: fn(&mut Patch)| {
            let mut patch = patch();
            change(&mut patch);
            Patch::parse(&patch.to_bytes().unwrap())
                .unwrap_err()
                .to_string()
        };
        let beyond = "segment 1: a run lies beyond the image";
        assert_eq!(refused(|patch| patch.new_blocks = 1999), beyond);
        let source = "what it copies lies beyond its source";
        let far = |patch: &mut Patch| patch.copies[0].from = 996;
        assert_eq!(refused(far), format!("copy 0: {source}"));
        let late = |patch: &mut Patch| patch.copies[1].from = 21;
        assert_eq!(refused(late), format!("copy 1: {source}"));
        let empty = |patch: &mut Patch| patch.copies[2].to.count = 0;
        assert_eq!(refused(empty), "copy 2: a run lies beyond the image");
        let large = |patch: &mut Patch| {
            patch.old_blocks = 1 << 20;
            patch.segments[0].reference = vec![run(0, 6144), run(7000, 1)];
        };
        assert_eq!(refused(large), "segment 0: it has too many blocks");
        let long = |patch: &mut Patch| patch.segments[0].data = 0..DATA + 1;
        assert_eq!(refused(long), "segment 0: its data is too long");
        let idle = |patch: &mut Patch| patch.segments[0].target.clear();
        assert_eq!(refused(idle), "segment 0: it makes nothing");

        let bytes = patch().to_bytes().unwrap();
        assert_eq!(
            Patch::parse(&bytes[..HEAD - 1]).unwrap_err().to_string(),
            "expected 84 bytes of head and table, got 83"
        );
        assert!(matches!(
            Patch::parse(&bytes[..bytes.len() - 1]),
            Err(PatchError::Short { .. })
        ));
        let mut other = bytes.clone();
        other[6] = b'2';
        assert_eq!(Patch::parse(&other), Err(PatchError::Magic));
        let mut long = bytes;
        long[HEAD - 4..HEAD].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Patch::parse(&long), Err(PatchError::Table(u32::MAX)));
    }

    #[test]
    fn a_small_file_does_not_become_many_segments() {
        let segments = |count: usize| {
            let segment = |at| Segment {
                reference: Vec::new(),
                target: vec![run(at, 1)],
                data: 0..0,
            };
            Patch {
                new_blocks: u32::MAX,
                segments: (0..count as u32).map(segment).collect(),
                ..patch()
            }
        };
        let most = segments(SEGMENTS).to_bytes().unwrap();
        assert_eq!(Patch::parse(&most).unwrap().segments.len(), SEGMENTS);
        let refused = segments(SEGMENTS + 1).to_bytes();
        assert_eq!(refused, Err(PatchError::Segments(SEGMENTS as u64 + 1)));

        // No copies.
        let mut table = vec![0];
        varint::put(&mut table, SEGMENTS as u64 + 1);
        table.extend([0, 1, 0, 1, 0].repeat(SEGMENTS + 1));
        let packed = zstd::bulk::compress(&table, 1).unwrap();
        let mut bytes = most;
        bytes.truncate(HEAD);
        bytes[HEAD - 4..].copy_from_slice(&(packed.len() as u32).to_le_bytes());
        bytes.extend(packed);
        let refused = Err(PatchError::Segments(SEGMENTS as u64 + 1));
        assert_eq!(Patch::parse(&bytes), refused);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(at in 0usize..200, byte: u8, cut in 0usize..200) {
            let mut bytes = patch().to_bytes().unwrap();
            let length = bytes.len();
            bytes[at % length] = byte;
            let _ = Patch::parse(&bytes[..length - cut % length]);
        }

        #[test]
        fn no_table_makes_it_panic(table in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut bytes = patch().to_bytes().unwrap();
            let packed = zstd::bulk::compress(&table, 1).unwrap();
            bytes.truncate(HEAD);
            bytes[HEAD - 4..].copy_from_slice(&(packed.len() as u32).to_le_bytes());
            bytes.extend(packed);
            if let Ok(patch) = Patch::parse(&bytes) {
                for segment in patch.segments {
                    prop_assert!(are_in_order(&segment.reference, 1000));
                    prop_assert!(are_in_order(&segment.target, 2000));
                }
            }
        }
    }
}
