//! The block index: one SHA-256 per 4 KiB block of an image, 32 raw bytes each,
//! in order, nothing else. It ships with a release, so that a node can tell
//! which blocks it already has without reading the whole of the old image first.

use crate::{BLOCK, Digest};
use std::collections::HashSet;

/// A block index.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockIndex(Vec<u8>);

/// The bytes are no block index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a block index, a multiple of 32 bytes, got {0} bytes")]
pub struct NotAnIndex(usize);

impl BlockIndex {
    /// Reads an index file.
    ///
    /// # Errors
    /// If the length isn't a multiple of 32.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, NotAnIndex> {
        if bytes.len().is_multiple_of(32) {
            Ok(Self(bytes))
        } else {
            Err(NotAnIndex(bytes.len()))
        }
    }

    /// The index of a whole image.
    pub fn of(image: &[u8]) -> Self {
        let mut index = Self::default();
        image.chunks(BLOCK).for_each(|block| index.push(block));
        index
    }

    /// Takes in the image's next block; the last may be short.
    pub fn push(&mut self, block: &[u8]) {
        self.push_digest(&Digest::of(block).0);
    }

    /// Takes in the digest of the image's next block, 32 bytes, which may be a salted one.
    pub fn push_digest(&mut self, digest: &[u8]) {
        self.0.extend_from_slice(digest);
    }

    /// The index file's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.0.len() / 32
    }

    /// The blocks' digests, 32 bytes each, in order.
    pub fn digests(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.0.chunks_exact(32)
    }

    /// The digest of one block.
    pub fn digest(&self, block: u32) -> Option<&[u8]> {
        let start = usize::try_from(block).ok()?.checked_mul(32)?;
        self.0.get(start..start.checked_add(32)?)
    }

    /// Bytes of this image that a node with `others` must fetch, in whole blocks;
    /// a block that occurs twice is fetched once.
    pub fn bytes_missing_from(&self, others: &[&BlockIndex]) -> u64 {
        let known: HashSet<&[u8]> = others.iter().flat_map(|index| index.0.chunks(32)).collect();
        let missing: HashSet<&[u8]> = self
            .0
            .chunks(32)
            .filter(|block| !known.contains(block))
            .collect();
        (missing.len() * BLOCK) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_only_the_blocks_that_no_other_image_has() {
        let index = |blocks: &[u8]| {
            let mut index = BlockIndex::default();
            blocks.iter().for_each(|b| index.push(&[*b; BLOCK]));
            index
        };
        let new = index(&[1, 2, 3, 3, 4]);
        assert_eq!(new.blocks(), 5);
        assert_eq!(new.bytes_missing_from(&[]), 4 * BLOCK as u64);
        assert_eq!(
            new.bytes_missing_from(&[&index(&[9, 1]), &index(&[4])]),
            2 * BLOCK as u64
        );
        assert_eq!(BlockIndex::parse(vec![0; 33]), Err(NotAnIndex(33)));
    }
}
