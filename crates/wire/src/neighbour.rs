//! What nodes of a site say to each other of an image that one of them has or wants.
//!
//! ```text
//! GET /v1/images/<root hash>          → Holding
//! GET /v1/images/<root hash>/bytes    → bytes of the image, by ranges; only of blocks that are held
//! ```
//!
//! Over TLS, where both ends show the certificate that the site's CA gave to the device. The root hash is that of the
//! signed manifest, so each block that comes can be checked, and who sends it needn't be believed.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// What a path begins with; the root hash follows.
pub const PATH: &str = "/v1/images/";
/// What follows the root hash where the image's bytes are.
pub const BYTES: &str = "/bytes";
/// No answer is longer.
pub const MAX_HOLDING: usize = 1 << 20;

/// What a node does to have an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It lacks blocks, and waits for others to have them.
    Wants,
    /// It is about to fetch it from the server, unless somebody else is.
    Claims,
    /// It fetches it from the server.
    Fetches,
}

/// What a node has of an image, and what it does to have more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The id of the device that says so.
    #[serde(default)]
    pub device: String,
    /// What it does; nothing if it has all, or has given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// How far it is, in bytes; a number that stands still says that nothing comes.
    #[serde(default)]
    pub progress: u64,
    /// Which blocks of the image's data it has checked.
    #[serde(default)]
    pub blocks: Blocks,
}

/// Numbers of blocks, as `[first, how many]` each; in order, and none twice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<[u32; 2]>", into = "Vec<[u32; 2]>")]
pub struct Blocks(Vec<Range<u32>>);

/// Blocks that aren't in order, or go beyond any image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected blocks in order as [first, how many], got [{0}, {1}]")]
pub struct NotBlocks(u32, u32);

impl Blocks {
    /// All blocks of an image.
    pub fn all(count: u32) -> Self {
        Self((count > 0).then_some(0..count).into_iter().collect())
    }

    /// Those that `have` says of.
    pub fn of(have: &[bool]) -> Self {
        let mut runs: Vec<Range<u32>> = Vec::new();
        for (block, _) in (0..).zip(have).filter(|(_, have)| **have) {
            match runs.last_mut() {
                Some(last) if last.end == block => last.end += 1,
                _ => runs.push(block..block + 1),
            }
        }
        Self(runs)
    }

    /// Whether it is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of `wanted` that are among these, in order.
    pub fn among(&self, wanted: &Range<u32>) -> impl Iterator<Item = Range<u32>> {
        let from = self.0.partition_point(|run| run.end <= wanted.start);
        let wanted = wanted.clone();
        let runs = self.0.get(from..).unwrap_or_default().iter();
        runs.map(move |run| run.start.max(wanted.start)..run.end.min(wanted.end))
            .take_while(|run| !run.is_empty())
    }
}

impl TryFrom<Vec<[u32; 2]>> for Blocks {
    type Error = NotBlocks;

    fn try_from(pairs: Vec<[u32; 2]>) -> Result<Self, NotBlocks> {
        let mut runs: Vec<Range<u32>> = Vec::with_capacity(pairs.len());
        for [first, count] in pairs {
            let wrong = NotBlocks(first, count);
            let end = first.checked_add(count).ok_or(wrong)?;
            if count == 0 || runs.last().is_some_and(|last| last.end > first) {
                return Err(wrong);
            }
            runs.push(first..end);
        }
        Ok(Self(runs))
    }
}

impl From<Blocks> for Vec<[u32; 2]> {
    fn from(blocks: Blocks) -> Self {
        let pair = |run: Range<u32>| [run.start, run.end - run.start];
        blocks.0.into_iter().map(pair).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_holding_is_written_as_runs() {
        let holding = Holding {
            device: "node-7".into(),
            role: Some(Role::Fetches),
            progress: 9,
            blocks: Blocks::of(&[true, true, false, true]),
        };
        let text = r#"{"device":"node-7","role":"fetches","progress":9,"blocks":[[0,2],[3,1]]}"#;
        assert_eq!(serde_json::to_string(&holding).unwrap(), text);
        assert_eq!(serde_json::from_str::<Holding>(text).unwrap(), holding);
        assert_eq!(
            serde_json::from_str::<Holding>("{}").unwrap(),
            Holding::default()
        );
    }

    #[test]
    fn what_is_no_order_of_blocks_is_refused() {
        for wrong in [
            "[[0,0]]",
            "[[1,2],[2,1]]",
            "[[5,1],[0,1]]",
            "[[4294967295,1]]",
            "[[1]]",
        ] {
            assert!(serde_json::from_str::<Blocks>(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn among_are_those_of_both(have in prop::collection::vec(any::<bool>(), 0..40), from in 0u32..45, length in 0u32..45) {
            let wanted = from..from + length;
            let both: Vec<u32> = Blocks::of(&have).among(&wanted).flatten().collect();
            let expected: Vec<u32> = wanted.filter(|block| have.get(*block as usize) == Some(&true)).collect();
            prop_assert_eq!(both, expected);
        }
    }
}
