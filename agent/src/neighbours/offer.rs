//! What this node has of an image.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cairn_release::verity::Verity;
use cairn_release::{BLOCK, Digest};
use cairn_wire::neighbour::{Blocks, Holding, Role};

/// What this node has of an image, as neighbours may know it. Who fetches the image keeps it true; who answers
/// neighbours reads it.
#[derive(Debug)]
pub struct Offer {
    /// The image: its root hash.
    pub image: Digest,
    hash_offset: u64,
    size: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    role: Option<Role>,
    progress: u64,
    /// Whether the verity tree is there; nothing else is before it.
    tree: bool,
    have: Vec<bool>,
    count: u64,
}

impl Offer {
    /// Nothing of an image yet.
    pub fn none(verity: &Verity) -> Self {
        Self {
            image: verity.root_hash,
            hash_offset: verity.hash_offset,
            size: verity.hash_offset.saturating_add(verity.tree_size()),
            state: Mutex::default(),
        }
    }

    /// All of an image.
    pub fn all(verity: &Verity) -> Self {
        let offer = Self::none(verity);
        offer.complete(verity);
        offer
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the node does this.
    pub fn set_role(&self, role: Option<Role>) {
        self.state().role = role;
    }

    /// How many bytes are there.
    pub fn progress(&self, bytes: u64) {
        self.state().progress = bytes;
    }

    /// The tree is there, and none of so many blocks.
    pub fn begin(&self, blocks: usize) {
        let mut state = self.state();
        (state.tree, state.count) = (true, 0);
        state.have = vec![false; blocks];
    }

    /// Nothing that is there counts any more.
    pub fn forget(&self) {
        *self.state() = State::default();
    }

    /// All is there.
    pub fn complete(&self, verity: &Verity) {
        let mut state = self.state();
        state.tree = true;
        state.count = verity.data_blocks;
        state.have = vec![true; usize::try_from(verity.data_blocks).unwrap_or(0)];
    }

    /// These blocks are there, and checked. Gives how many there are now.
    pub fn got(&self, blocks: Range<u32>) -> u64 {
        let mut state = self.state();
        for block in blocks {
            if let Some(have) = state.have.get_mut(block as usize).filter(|have| !**have) {
                *have = true;
                state.count += 1;
            }
        }
        state.count
    }

    /// Whether this block is there.
    pub fn has(&self, block: u32) -> bool {
        self.state().have.get(block as usize) == Some(&true)
    }

    /// How many blocks are there.
    pub fn count(&self) -> u64 {
        self.state().count
    }

    /// The blocks that aren't there, in order.
    pub fn missing(&self) -> Vec<u32> {
        let state = self.state();
        let missing = (0..).zip(&state.have).filter(|(_, have)| !**have);
        missing.map(|(block, _)| block).collect()
    }

    /// What a neighbour is told by `device`.
    pub fn holding(&self, device: &str) -> Holding {
        let state = self.state();
        Holding {
            device: device.to_owned(),
            role: state.role,
            progress: state.progress,
            blocks: Blocks::of(&state.have),
        }
    }

    /// Whether all these bytes of the image are there and checked.
    pub fn holds(&self, bytes: &Range<u64>) -> bool {
        let state = self.state();
        let place = |at: u64| usize::try_from(at.min(self.hash_offset)).unwrap_or(usize::MAX);
        let blocks = place(bytes.start) / BLOCK..place(bytes.end).div_ceil(BLOCK);
        let data = blocks.is_empty()
            || state
                .have
                .get(blocks)
                .is_some_and(|have| have.iter().all(|have| *have));
        !bytes.is_empty() && state.tree && bytes.end <= self.size && data
    }
}

#[cfg(test)]
mod tests {
    use cairn_release::verity::{Builder, Salt};

    use super::*;

    #[test]
    fn only_what_was_checked_is_given() {
        let mut tree = Builder::new(Salt::default());
        (0..4u8).for_each(|block| tree.push(&[block; BLOCK]));
        let (_, verity) = tree.finish();
        let (end, size) = (verity.hash_offset, verity.hash_offset + verity.tree_size());
        let block = BLOCK as u64;
        let offer = Offer::none(&verity);
        assert!(!offer.holds(&(end..size)));
        offer.begin(usize::try_from(verity.data_blocks).unwrap());
        assert!(offer.holds(&(end..size)));
        assert!(!offer.holds(&(0..1)) && !offer.holds(&(end..size + 1)) && !offer.holds(&(3..3)));
        assert_eq!(offer.got(1..3), 2);
        assert_eq!(offer.got(2..3), 2);
        assert!(offer.holds(&(block..3 * block)) && offer.holds(&(block + 5..block + 6)));
        assert!(!offer.holds(&(block - 1..2 * block)) && !offer.holds(&(block..3 * block + 1)));
        assert_eq!(offer.missing().first(), Some(&0));
        assert_eq!(
            serde_json::to_string(&offer.holding("a").blocks).unwrap(),
            "[[1,2]]"
        );
        assert!(Offer::all(&verity).holds(&(0..size)));
    }
}
