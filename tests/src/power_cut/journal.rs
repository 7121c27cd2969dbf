//! What a kernel writes when it replays an ext4 journal (jbd2), computed without
//! writing it. Big-endian, in blocks of the file system:
//!
//! ```text
//! header       magic 4 | type 4 | sequence 4
//! superblock   … block size 4 | blocks 4 | first 4 | sequence 4 | start 4 | error 4 |
//!              compat 4 | incompat 4 | ro_compat 4 | uuid 16      (type 4, block 0)
//! descriptor   tags of 12: block 4 | checksum 2 | flags 2 | block, high 4, the first one
//!              with a uuid of 16 behind it; the blocks follow     (type 1)
//! commit       …                                                  (type 2)
//! revocation   bytes used 4 | blocks of 8                         (type 5)
//! ```
//!
//! Source: Linux' `Documentation/filesystems/ext4/journal.rst`. There are no checksums:
//! the kernel flushes the disk before it writes a commit block, all of which is in its
//! first sector, so a transaction counts if that is there. A revoked block isn't written by a transaction up to the one
//! that revokes it. The `sweep` compares this with e2fsck again and again.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use anyhow::{Context, Result, ensure};

use super::ext4::BLOCK;

const MAGIC: u32 = 0xc03b_3998;
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOCATION: u32 = 5;
/// Revocations and 64-bit block numbers: what Linux sets for a file system without
/// `metadata_csum`.
const INCOMPAT: u32 = 0x1 | 0x2;
/// Of the latter.
const WIDE: u32 = 0x2;
const ESCAPED: u32 = 1;
const SAME_UUID: u32 = 2;
const LAST: u32 = 8;

/// A block as the disk has it.
pub type Block = [u8; BLOCK as usize];

/// A block of the journal that says something; checked already.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Control {
    /// Blocks to be written, and whether their first word was the magic number.
    Descriptor(Vec<(u64, bool)>),
    Commit,
    Revocation(Vec<u64>),
    /// The journal ends here.
    End,
}

/// The journal of one file system.
#[derive(Debug, Clone)]
pub struct Journal {
    /// Where its blocks lie in the file system.
    blocks: Vec<u64>,
    /// What was read before, by place in the journal, for the sequence it had.
    cache: HashMap<usize, (u32, Control)>,
}

impl Journal {
    /// One whose blocks lie there.
    pub fn new(blocks: Vec<u64>) -> Self {
        Self {
            blocks,
            cache: HashMap::new(),
        }
    }

    /// Forgets what was read of these blocks of the file system.
    pub fn changed(&mut self, range: &Range<u64>) {
        let blocks = &self.blocks;
        self.cache.retain(|place, _| {
            !blocks
                .get(*place)
                .is_some_and(|block| range.contains(block))
        });
    }

    /// The blocks that a replay writes, by their place in the file system.
    ///
    /// # Errors
    /// If a block can't be read, or the journal has features that this doesn't know.
    pub fn replay(
        &mut self,
        mut read: impl FnMut(u64) -> Result<Box<Block>>,
    ) -> Result<BTreeMap<u64, Box<Block>>> {
        let mut read_at = |blocks: &[u64], place: usize| {
            let block = blocks.get(place).context("the journal is shorter")?;
            read(*block)
        };
        let superblock = read_at(&self.blocks, 0)?;
        let field = |at: usize| word(&superblock[..], at);
        ensure!(field(0) == MAGIC, "the journal has no superblock");
        let length = usize::try_from(field(16))?.min(self.blocks.len());
        let (first, start) = (usize::try_from(field(20))?, usize::try_from(field(28))?);
        if start == 0 {
            return Ok(BTreeMap::new());
        }
        ensure!(
            field(36) == 0 && field(40) & !INCOMPAT == 0 && field(40) & WIDE != 0,
            "a journal with the features {:#x}",
            field(40)
        );
        ensure!(
            (1..length).contains(&first) && (first..length).contains(&start),
            "a journal from {first} to {length} can't start at {start}"
        );

        let next = |place: usize, ahead: usize| {
            let place = place + ahead;
            if place < length {
                place
            } else {
                first + place - length
            }
        };
        let (mut place, mut sequence) = (start, field(24));
        let mut writes: Vec<(u32, u64, usize, bool)> = Vec::new();
        let mut revoked: BTreeMap<u64, u32> = BTreeMap::new();
        // Of the transaction whose commit isn't found yet.
        let (mut new_writes, mut new_revoked) = (Vec::new(), Vec::new());
        let mut seen = 0;
        while seen < length {
            let control = match self.cache.get(&place) {
                Some((cached, control)) if *cached == sequence => control.clone(),
                _ => {
                    let block = read_at(&self.blocks, place)?;
                    let control = control(&block, sequence);
                    self.cache.insert(place, (sequence, control.clone()));
                    control
                }
            };
            match control {
                Control::End => break,
                Control::Descriptor(tags) => {
                    for (number, (block, escaped)) in tags.iter().enumerate() {
                        new_writes.push((sequence, *block, next(place, 1 + number), *escaped));
                    }
                    seen += 1 + tags.len();
                    place = next(place, 1 + tags.len());
                }
                Control::Revocation(blocks) => {
                    new_revoked.extend(blocks);
                    seen += 1;
                    place = next(place, 1);
                }
                Control::Commit => {
                    writes.append(&mut new_writes);
                    revoked.extend(new_revoked.drain(..).map(|block| (block, sequence)));
                    sequence = sequence.wrapping_add(1);
                    seen += 1;
                    place = next(place, 1);
                }
            }
        }

        let mut last: BTreeMap<u64, (usize, bool)> = BTreeMap::new();
        for (sequence, block, place, escaped) in writes {
            let not_before = revoked.get(&block);
            if not_before.is_none_or(|revoked| sequence > *revoked) {
                last.insert(block, (place, escaped));
            }
        }
        let blocks = last.into_iter().map(|(block, (place, escaped))| {
            let mut bytes = read_at(&self.blocks, place)?;
            if escaped {
                bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
            }
            Ok((block, bytes))
        });
        blocks.collect()
    }
}

/// Understands a block; whatever is something else, or of another transaction, is the end.
fn control(block: &Block, sequence: u32) -> Control {
    if word(block, 0) != MAGIC || word(block, 8) != sequence {
        return Control::End;
    }
    match word(block, 4) {
        DESCRIPTOR => Control::Descriptor(tags(&block[12..])),
        REVOCATION => {
            let used = (word(block, 12) as usize).clamp(16, block.len());
            let blocks = block[16..used].chunks_exact(8);
            let number = |bytes: &[u8]| u64::from(word(bytes, 0)) << 32 | u64::from(word(bytes, 4));
            Control::Revocation(blocks.map(number).collect())
        }
        COMMIT => Control::Commit,
        _ => Control::End,
    }
}

fn tags(bytes: &[u8]) -> Vec<(u64, bool)> {
    let mut tags = Vec::new();
    let mut rest = bytes;
    while rest.len() >= 12 {
        let flags = word(rest, 4) & 0xffff;
        let block = u64::from(word(rest, 8)) << 32 | u64::from(word(rest, 0));
        tags.push((block, flags & ESCAPED != 0));
        let length = if flags & SAME_UUID != 0 { 12 } else { 28 };
        rest = rest.get(length..).unwrap_or_default();
        if flags & LAST != 0 {
            break;
        }
    }
    tags
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The journal of the tests: blocks 100 to 115, the file system's are all zero.
    const LENGTH: u64 = 16;

    struct Made(Vec<Block>);

    impl Made {
        fn new(start: u32, sequence: u32) -> Self {
            let mut blocks = vec![[0; BLOCK as usize]; LENGTH as usize];
            for (at, value) in [
                (0, MAGIC),
                (4, 4),
                (12, 4096),
                (16, 16),
                (20, 1),
                (24, sequence),
                (28, start),
                (40, INCOMPAT),
            ] {
                put(&mut blocks[0], at, value);
            }
            Self(blocks)
        }

        fn control(mut self, place: usize, kind: u32, sequence: u32, body: &[u32]) -> Self {
            let block = &mut self.0[place];
            for (at, value) in [(0, MAGIC), (4, kind), (8, sequence)] {
                put(block, at, value);
            }
            for (number, value) in body.iter().enumerate() {
                put(block, 12 + 4 * number, *value);
            }
            self
        }

        fn descriptor(self, place: usize, sequence: u32, blocks: &[u32]) -> Self {
            let mut body = Vec::new();
            for (number, block) in blocks.iter().enumerate() {
                let last = if number + 1 == blocks.len() { LAST } else { 0 };
                let same = if number > 0 { SAME_UUID } else { 0 };
                body.extend([*block, last | same, 0]);
                body.extend([0; 4].iter().filter(|_| number == 0));
            }
            self.control(place, DESCRIPTOR, sequence, &body)
        }

        fn data(mut self, place: usize, byte: u8) -> Self {
            self.0[place] = [byte; BLOCK as usize];
            self
        }

        fn commit(self, place: usize, sequence: u32) -> Self {
            self.control(place, COMMIT, sequence, &[])
        }

        fn revoke(self, place: usize, sequence: u32, block: u32) -> Self {
            self.control(place, REVOCATION, sequence, &[24, 0, block])
        }

        fn replay(&self) -> Vec<(u64, u8)> {
            let mut journal = Journal::new((100..100 + LENGTH).collect());
            let read = |block: u64| Ok(Box::new(self.0[(block - 100) as usize]));
            let blocks = journal.replay(read).unwrap();
            assert_eq!(journal.replay(read).unwrap(), blocks, "from the cache");
            blocks
                .into_iter()
                .map(|(block, bytes)| (block, bytes[9]))
                .collect()
        }
    }

    fn put(block: &mut Block, at: usize, value: u32) {
        block[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    #[test]
    fn whole_transactions_count_and_the_last_one_wins() {
        let made = Made::new(1, 5)
            .descriptor(1, 5, &[20, 21])
            .data(2, 1)
            .data(3, 2)
            .commit(4, 5)
            .descriptor(5, 6, &[21])
            .data(6, 3)
            .commit(7, 6)
            // No commit any more.
            .descriptor(8, 7, &[22])
            .data(9, 4);
        assert_eq!(made.replay(), [(20, 1), (21, 3)]);
    }

    #[test]
    fn it_goes_on_at_the_beginning() {
        let made = Made::new(14, 5)
            .descriptor(14, 5, &[20, 21])
            .data(15, 1)
            .data(1, 2)
            .commit(2, 5);
        assert_eq!(made.replay(), [(20, 1), (21, 2)]);
    }

    #[test]
    fn a_revoked_block_is_left_alone_until_it_is_written_again() {
        let made = Made::new(1, 5)
            .descriptor(1, 5, &[20, 21])
            .data(2, 1)
            .data(3, 2)
            .commit(4, 5)
            .revoke(5, 6, 20)
            .commit(6, 6);
        assert_eq!(made.replay(), [(21, 2)]);
        let made = made.descriptor(7, 7, &[20]).data(8, 9).commit(9, 7);
        assert_eq!(made.replay(), [(20, 9), (21, 2)]);
    }

    #[test]
    fn other_and_old_blocks_end_it() {
        let made = || {
            let made = Made::new(1, 5).descriptor(1, 5, &[20]).data(2, 1);
            made.commit(3, 5)
        };
        for place in [1, 3] {
            let mut other = made();
            other.0[place][0] ^= 1;
            assert_eq!(other.replay(), [], "block {place}");
        }
        // Torn behind its first sector, which says all.
        let mut torn = made();
        torn.0[3][512..].fill(7);
        assert_eq!(torn.replay(), [(20, 1)]);
        let old = made().descriptor(4, 4, &[21]).commit(6, 4);
        assert_eq!(old.replay(), [(20, 1)]);
        assert_eq!(
            Made::new(0, 5)
                .descriptor(1, 5, &[20])
                .commit(3, 5)
                .replay(),
            []
        );
    }

    #[test]
    fn odd_superblocks_are_refused_and_a_full_journal_ends() {
        let refused = |at: usize, value: u32| {
            let mut made = Made::new(1, 5);
            put(&mut made.0[0], at, value);
            let mut journal = Journal::new((100..100 + LENGTH).collect());
            let read = |block: u64| Ok(Box::new(made.0[(block - 100) as usize]));
            journal.replay(read).is_err()
        };
        assert!(refused(0, 0) && refused(28, 16) && refused(20, 0) && refused(40, 0x23));
        assert!(refused(36, 1) && refused(40, 0x13), "with checksums");
        // Revocations all around, each of the same transaction.
        let full = (1..16).fold(Made::new(1, 5), |made, place| made.revoke(place, 5, 1));
        assert_eq!(full.replay(), []);
    }
}
