//! What goes when there is no room, and what goes because it is done with.

use super::Priority;
use super::segment::Segment;
use super::state::{State, UNSTORED};

/// A drained segment that is still written to goes when it has grown to this, in bytes.
const DRAINED: u64 = 32 * 1024;

/// What was given up for space.
#[derive(Debug)]
pub(super) enum Evicted {
    /// A segment.
    Segment(Priority, Segment),
    /// A record in memory, of so many bytes.
    Memory(usize),
}

impl State {
    /// Drops what isn't on the disk and doesn't fit into memory.
    pub fn shed_memory(&mut self) {
        while self.unstored > UNSTORED && self.shed_one() {}
    }

    /// Drops the oldest record in memory only of the lowest priority.
    fn shed_one(&mut self) -> bool {
        for priority in Priority::ALL.into_iter().rev() {
            let stream = self.stream(priority);
            if let Some(at) = stream
                .recent
                .iter()
                .position(|entry| !entry.stored && !entry.taken)
                && let Some(entry) = stream.recent.remove(at)
            {
                self.unstored = self.unstored.saturating_sub(entry.bytes.len());
                self.lost(priority, 1);
                return true;
            }
        }
        false
    }

    /// Gives up the oldest segment of the lowest priority, or the oldest record there that isn't on the disk.
    pub fn evict(&mut self) -> Option<Evicted> {
        for priority in Priority::ALL.into_iter().rev() {
            let stream = self.stream(priority);
            if let Some(segment) = stream.segments.pop_front() {
                stream
                    .recent
                    .retain(|entry| !entry.stored || !segment.holds(entry.seq));
                // A record that is acknowledged later was written before it was: it is in `taken` and not in `recent`.
                let unstored = |seq: &u64| {
                    stream
                        .recent
                        .binary_search_by_key(seq, |entry| entry.seq)
                        .is_ok()
                };
                let away: Vec<u64> = stream
                    .taken
                    .range(segment.first..=segment.last)
                    .copied()
                    .filter(|seq| !unstored(seq))
                    .collect();
                for seq in &away {
                    stream.taken.remove(seq);
                    stream.orphans.insert(*seq);
                }
                stream.cursor = None;
                let lost = segment.left.saturating_sub(away.len() as u64);
                if let Some(floor) = self.ledger.floor.get_mut(priority.index()) {
                    *floor = segment.last.max(*floor);
                }
                self.dirty = true;
                self.lost(priority, lost);
                return Some(Evicted::Segment(priority, segment));
            }
            let before = self.unstored;
            if self
                .stream(priority)
                .recent
                .iter()
                .any(|entry| !entry.stored && !entry.taken)
            {
                self.shed_one();
                return Some(Evicted::Memory(before - self.unstored));
            }
        }
        None
    }

    /// Removes the segments that are done with, and gives their names.
    pub fn drained(&mut self) -> Vec<(Priority, u64)> {
        let mut gone = Vec::new();
        for priority in Priority::ALL {
            let stream = self.stream(priority);
            let newest = stream.segments.back().map(|segment| segment.name);
            stream.segments.retain(|segment| {
                let keep = segment.left > 0
                    || (Some(segment.name) == newest && !segment.sealed && segment.bytes < DRAINED);
                if !keep {
                    gone.push((priority, segment.name));
                }
                keep
            });
            let first = stream
                .segments
                .front()
                .map_or(u64::MAX, |segment| segment.first);
            let first = stream
                .recent
                .front()
                .map_or(first, |entry| entry.seq.min(first));
            stream.done.prune(first.min(stream.last));
        }
        gone
    }
}
