//! Which parts of an old image resemble some bytes.
//!
//! Of all windows of [`WINDOW`] bytes those are noted whose rolling sum is of a certain
//! kind, wherever they lie: so the same bytes are noted in both images, also if they have
//! moved by a few. A part of the old image is the better a reference, the more of its
//! windows the new bytes have.

use std::collections::{HashMap, HashSet};

use cairn_release::BLOCK;

use crate::runs::{self, Run};

/// Bytes that are looked at together.
const WINDOW: usize = 48;
/// Of so many windows one is noted.
const ONE_OF: u64 = 64;
/// Blocks that are taken or left together: 64 KiB.
const PART: u32 = 16;
/// In so many parts a window may lie before it says nothing: zeros, headers.
const COMMON: usize = 8;

/// What is noted of an old image.
#[derive(Debug)]
pub struct Notes {
    parts_of: HashMap<u64, Vec<u32>>,
    blocks: u32,
}

impl Notes {
    /// Goes through an image, of whole blocks.
    pub fn of(image: &[u8]) -> Self {
        let mut parts_of: HashMap<u64, Vec<u32>> = HashMap::new();
        for (place, sum) in Windows::of(image) {
            let part = (place / (BLOCK * PART as usize)) as u32;
            let parts = parts_of.entry(sum).or_default();
            if parts.last() != Some(&part) && parts.len() <= COMMON {
                parts.push(part);
            }
        }
        Self {
            parts_of,
            blocks: (image.len() / BLOCK) as u32,
        }
    }

    /// Runs of the old image that resemble `bytes`, of `most` blocks at most. Of what
    /// resembles nothing else, nothing is taken.
    pub fn resembling(&self, bytes: &[u8], most: u64) -> Vec<Run> {
        let mut hits: HashMap<u32, u32> = HashMap::new();
        let sums: HashSet<u64> = Windows::of(bytes).map(|(_, sum)| sum).collect();
        for parts in sums.iter().filter_map(|sum| self.parts_of.get(sum)) {
            if parts.len() <= COMMON {
                for part in parts {
                    *hits.entry(*part).or_default() += 1;
                }
            }
        }
        let mut best: Vec<(u32, u32)> = hits.into_iter().map(|(part, hits)| (hits, part)).collect();
        best.sort_by_key(|(hits, part)| (std::cmp::Reverse(*hits), *part));
        let mut chosen: Vec<u32> = best.into_iter().map(|(_, part)| part).collect();
        chosen.truncate((most / u64::from(PART)) as usize);
        chosen.sort_unstable();
        let mut taken = Vec::new();
        for part in chosen {
            (part * PART..((part + 1) * PART).min(self.blocks))
                .for_each(|block| runs::push(&mut taken, block));
        }
        taken
    }
}

/// The noted windows of some bytes: where each begins, and its sum.
struct Windows<'b> {
    bytes: &'b [u8],
    at: usize,
    sum: u64,
}

/// Odd, so that no byte's trace is lost; from the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl<'b> Windows<'b> {
    fn of(bytes: &'b [u8]) -> Self {
        let first = bytes.get(..WINDOW).unwrap_or_default();
        let sum = first.iter().fold(0, |sum, byte| add(sum, *byte));
        Self { bytes, at: 0, sum }
    }
}

fn add(sum: u64, byte: u8) -> u64 {
    sum.wrapping_mul(FACTOR).wrapping_add(u64::from(byte) + 1)
}

/// What the first byte of a window is worth in its sum.
const fn first_factor() -> u64 {
    let (mut factor, mut step) = (1_u64, 1);
    while step < WINDOW {
        factor = factor.wrapping_mul(FACTOR);
        step += 1;
    }
    factor
}

impl Iterator for Windows<'_> {
    type Item = (usize, u64);

    fn next(&mut self) -> Option<Self::Item> {
        const FIRST: u64 = first_factor();
        while self.at + WINDOW <= self.bytes.len() {
            let (at, sum) = (self.at, self.sum);
            let gone = u64::from(self.bytes[at]) + 1;
            if let Some(next) = self.bytes.get(at + WINDOW) {
                self.sum = add(sum.wrapping_sub(gone.wrapping_mul(FIRST)), *next);
            }
            self.at += 1;
            // The upper bits have seen every byte.
            if (sum >> 32).is_multiple_of(ONE_OF) {
                return Some((at, sum));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::noise;

    #[test]
    fn what_has_moved_is_found_and_what_is_strange_is_not() {
        let old = noise(1, 64 * PART as usize * BLOCK);
        let notes = Notes::of(&old);
        let from = 10 * PART as usize * BLOCK + 777;
        let moved = &old[from..from + 20_000];
        assert_eq!(notes.resembling(moved, 1000), [Run { at: 160, count: 16 }]);
        assert_eq!(notes.resembling(&noise(2, 20_000), 1000), []);
        assert_eq!(
            notes
                .resembling(&old, 32)
                .iter()
                .map(|run| run.count)
                .sum::<u32>(),
            32
        );
        assert_eq!(Notes::of(&[0; 1 << 20]).resembling(&[0; 1 << 16], 1000), []);
        assert_eq!(Notes::of(&[]).resembling(&[1; 10], 1000), []);
    }
}
