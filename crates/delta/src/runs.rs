//! Runs of blocks.

use std::ops::Range;

use cairn_release::BLOCK;

/// Blocks that follow one another, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// The first.
    pub at: u32,
    /// How many.
    pub count: u32,
}

impl Run {
    /// The block after the last.
    pub fn end(self) -> u32 {
        self.at.saturating_add(self.count)
    }

    /// Where they lie in an image, in bytes.
    pub fn bytes(self) -> Range<u64> {
        let place = |block: u32| u64::from(block) * BLOCK as u64;
        place(self.at)..place(self.end())
    }
}

/// Adds a block to runs in order; joins it to the last one if it follows it.
pub fn push(runs: &mut Vec<Run>, block: u32) {
    match runs.last_mut() {
        Some(last) if last.end() == block => last.count += 1,
        _ => runs.push(Run {
            at: block,
            count: 1,
        }),
    }
}

/// How many blocks there are in all.
pub fn blocks(runs: &[Run]) -> u64 {
    runs.iter().map(|run| u64::from(run.count)).sum()
}

/// How many bytes they have in all.
pub fn bytes(runs: &[Run]) -> u64 {
    blocks(runs) * BLOCK as u64
}

/// The bytes of some runs of an image, one after the other; what lies beyond it is left out.
pub fn gather(image: &[u8], runs: &[Run]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(blocks(runs) as usize * BLOCK);
    for run in runs {
        let range = run.bytes();
        let range = range.start as usize..range.end as usize;
        bytes.extend_from_slice(image.get(range).unwrap_or_default());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_runs_and_runs_become_bytes() {
        let mut runs = Vec::new();
        for block in [1, 2, 3, 7, 9, 10] {
            push(&mut runs, block);
        }
        let run = |at, count| Run { at, count };
        assert_eq!(runs, [run(1, 3), run(7, 1), run(9, 2)]);
        assert_eq!(blocks(&runs), 6);
        assert_eq!(run(9, 2).bytes(), 9 * 4096..11 * 4096);
    }
}
