//! The dm-verity hash tree, format 1, SHA-256, 4096-byte blocks: what
//! `veritysetup format --no-superblock --hash-offset=<size of the data>` makes.
//!
//! ```text
//! image file = data blocks | padding-free tree, top level first
//! level 0    = sha256(salt || data block), 128 to a block, last block zero-filled
//! level n    = sha256(salt || block of level n-1)
//! root hash  = sha256(salt || the one block of the top level)
//! ```
//!
//! Source: the kernel's `Documentation/admin-guide/device-mapper/verity.rst` and
//! cryptsetup's wiki page "DM-Verity".

use crate::index::BlockIndex;
use crate::{BLOCK, Digest};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

const HASHES_PER_BLOCK: usize = BLOCK / 32;

/// What is needed to open an image: part of the signed manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verity {
    /// The digest that stands for every data block.
    pub root_hash: Digest,
    /// Salt that is hashed before each block.
    pub salt: Salt,
    /// Number of 4096-byte data blocks.
    pub data_blocks: u64,
    /// Where the tree begins in the file, in bytes.
    pub hash_offset: u64,
}

/// A salt of 0 to 32 bytes, written in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Salt(Vec<u8>);

/// A salt that is too long or not hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a salt of at most 32 bytes in hexadecimal, got {0:?}")]
pub struct NotASalt(String);

impl Salt {
    /// Takes at most 32 bytes.
    ///
    /// # Errors
    /// If there are more.
    pub fn new(bytes: &[u8]) -> Result<Self, NotASalt> {
        if bytes.len() > 32 {
            return Err(NotASalt(hex::encode(bytes)));
        }
        Ok(Self(bytes.to_vec()))
    }

    /// The digest of a data block, as the tree has it.
    pub fn digest(&self, block: &[u8]) -> Digest {
        salted(self, block)
    }

    /// The salt as dm-verity's table takes it: hexadecimal, `-` for none.
    pub fn for_table(&self) -> String {
        if self.0.is_empty() {
            "-".into()
        } else {
            hex::encode(&self.0)
        }
    }
}

impl Serialize for Salt {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Salt {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        hex::decode(&text)
            .ok()
            .and_then(|bytes| Self::new(&bytes).ok())
            .ok_or_else(|| serde::de::Error::custom(NotASalt(text.chars().take(80).collect())))
    }
}

impl Verity {
    /// Size of the tree in bytes.
    pub fn tree_size(&self) -> u64 {
        let mut blocks = 0;
        let mut level = self.data_blocks;
        while level > 1 {
            level = level.div_ceil(HASHES_PER_BLOCK as u64);
            blocks += level;
        }
        // One data block has no level of its own above it but the root hash;
        // dm-verity still wants one block of hashes.
        if self.data_blocks == 1 {
            BLOCK as u64
        } else {
            blocks * BLOCK as u64
        }
    }

    /// Whether `block`, the 4096 bytes at [`Verity::hash_offset`], is the top of
    /// this tree. It is a quick check that the file is the named one at all;
    /// dm-verity checks everything below it when it is read.
    pub fn is_top(&self, block: &[u8]) -> bool {
        salted(&self.salt, block) == self.root_hash
    }

    /// The digests of the data blocks, out of the tree's bytes; `None` if this is another
    /// tree. They are salted: compare them with [`Salt::digest`].
    pub fn index(&self, tree: &[u8]) -> Option<BlockIndex> {
        let leaves = usize::try_from(self.data_blocks).ok()?.checked_mul(32)?;
        let level = leaves.div_ceil(BLOCK).checked_mul(BLOCK)?;
        let start = tree.len().checked_sub(level)?;
        let builder = Builder {
            salt: self.salt.clone(),
            leaves: tree.get(start..start.checked_add(leaves)?)?.to_vec(),
        };
        let index = BlockIndex::parse(builder.leaves.clone()).ok()?;
        let (bytes, verity) = builder.finish();
        (bytes == tree && verity == *self).then_some(index)
    }

    /// The target line for device-mapper, with `device` holding data and tree.
    pub fn table(&self, device: &str) -> String {
        format!(
            "1 {device} {device} {BLOCK} {BLOCK} {} {} sha256 {} {}",
            self.data_blocks,
            self.hash_offset / BLOCK as u64,
            self.root_hash,
            self.salt.for_table()
        )
    }
}

fn salted(salt: &Salt, block: &[u8]) -> Digest {
    let mut hasher = Sha256::new();
    hasher.update(&salt.0);
    hasher.update(block);
    Digest(hasher.finalize().into())
}

/// Builds a tree while the data goes by, block by block.
pub struct Builder {
    salt: Salt,
    leaves: Vec<u8>,
}

impl Builder {
    /// Begins a tree.
    pub fn new(salt: Salt) -> Self {
        Self {
            salt,
            leaves: Vec::new(),
        }
    }

    /// Begins a tree over so many data blocks, which come in any order; see [`Builder::put`].
    pub fn sized(salt: Salt, blocks: u32) -> Self {
        Self {
            salt,
            leaves: vec![0; blocks as usize * 32],
        }
    }

    /// Takes in data blocks, from number `at` on. Of a tree that was begun with [`Builder::sized`]; what lies beyond its
    /// end counts for nothing, and a block that never comes gives another root.
    pub fn put(&mut self, at: u32, blocks: &[u8]) {
        let leaves = self.leaves.chunks_exact_mut(32).skip(at as usize);
        for (leaf, block) in leaves.zip(blocks.chunks_exact(BLOCK)) {
            leaf.copy_from_slice(&salted(&self.salt, block).0);
        }
    }

    /// Takes in the next data block, which must be [`BLOCK`] bytes; a shorter one
    /// is taken as filled up with zeroes.
    pub fn push(&mut self, block: &[u8]) {
        let digest = if block.len() == BLOCK {
            salted(&self.salt, block)
        } else {
            let mut full = block.to_vec();
            full.resize(BLOCK, 0);
            salted(&self.salt, &full)
        };
        self.leaves.extend_from_slice(&digest.0);
    }

    /// The tree's bytes, to be written right behind the data, and what opens it.
    pub fn finish(self) -> (Vec<u8>, Verity) {
        let data_blocks = (self.leaves.len() / 32) as u64;
        let mut levels = vec![padded(self.leaves)];
        while let Some(last) = levels.last().filter(|level| level.len() > BLOCK) {
            let above = last
                .chunks(BLOCK)
                .flat_map(|block| salted(&self.salt, block).0)
                .collect();
            levels.push(padded(above));
        }
        let top = levels.last().map_or(&[][..], Vec::as_slice);
        let verity = Verity {
            root_hash: salted(&self.salt, top),
            salt: self.salt,
            data_blocks,
            hash_offset: data_blocks * BLOCK as u64,
        };
        (levels.into_iter().rev().flatten().collect(), verity)
    }
}

fn padded(mut level: Vec<u8>) -> Vec<u8> {
    level.resize(level.len().div_ceil(BLOCK) * BLOCK, 0);
    level
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(blocks: usize) -> (Vec<u8>, Verity) {
        let mut builder = Builder::new(Salt::new(b"salt").unwrap());
        for i in 0..blocks {
            builder.push(&[i as u8; BLOCK]);
        }
        builder.finish()
    }

    #[test]
    fn levels_grow_at_128_hashes_a_block() {
        for (blocks, tree_blocks) in [
            (1, 1),
            (2, 1),
            (128, 1),
            (129, 3),
            (16384, 129),
            (16385, 132),
        ] {
            let (bytes, verity) = tree(blocks);
            assert_eq!(bytes.len(), tree_blocks * BLOCK, "{blocks}");
            assert_eq!(verity.tree_size(), bytes.len() as u64, "{blocks}");
            assert!(verity.is_top(&bytes[..BLOCK]), "{blocks}");
            assert_eq!(verity.hash_offset, (blocks * BLOCK) as u64);
        }
    }

    #[test]
    fn blocks_may_come_in_any_order() {
        let (expected, verity) = tree(300);
        let block = |i: usize| [i as u8; BLOCK];
        let mut builder = Builder::sized(verity.salt.clone(), 300);
        let late: Vec<u8> = (100..300).flat_map(block).collect();
        builder.put(100, &late);
        builder.put(0, &(0..150).flat_map(block).collect::<Vec<_>>());
        builder.put(299, &[block(299 % 256), [9; BLOCK]].concat());
        assert!(builder.finish() == (expected, verity.clone()));
        let mut lacking = Builder::sized(verity.salt.clone(), 300);
        lacking.put(100, &late);
        assert_ne!(lacking.finish().1, verity);
    }

    #[test]
    fn a_tree_gives_the_digests_of_its_blocks_and_no_other_tree_does() {
        for blocks in [1, 2, 128, 129, 16_500] {
            let (bytes, verity) = tree(blocks);
            let index = verity.index(&bytes).unwrap();
            assert_eq!(index.blocks(), blocks);
            let block = verity.salt.digest(&[0; BLOCK]);
            assert_eq!(index.digest(0), Some(&block.0[..]));
            for at in [0, bytes.len() / 2, bytes.len() - 1] {
                let mut other = bytes.clone();
                other[at] ^= 1;
                assert_eq!(verity.index(&other), None, "{blocks} {at}");
            }
            assert_eq!(verity.index(&bytes[1..]), None);
            assert_eq!(verity.index(&[]), None);
            let mut longer = verity.clone();
            longer.data_blocks += 1;
            assert_eq!(longer.index(&bytes), None);
            longer.data_blocks = u64::MAX;
            assert_eq!(longer.index(&bytes), None);
        }
    }

    #[test]
    fn one_changed_bit_changes_the_root() {
        let mut builder = Builder::new(Salt::default());
        builder.push(&[0; BLOCK]);
        let (_, a) = builder.finish();
        let mut builder = Builder::new(Salt::default());
        let mut block = [0; BLOCK];
        block[4095] = 1;
        builder.push(&block);
        let (top, b) = builder.finish();
        assert_ne!(a.root_hash, b.root_hash);
        assert!(!a.is_top(&top));
    }
}
