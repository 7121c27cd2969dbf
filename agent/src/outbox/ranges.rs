//! Which records of a stream are done with, as ranges.

/// Ranges `(after, to]` of sequence numbers, sorted, never touching. A record is put in with the number of the one before it in
/// its stream: so neighbours grow together, although the streams share one count.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Adds `(after, to]`.
    pub fn insert(&mut self, after: u64, to: u64) {
        if after >= to {
            return;
        }
        let from = self.0.partition_point(|range| range.1 < after);
        let upto = self.0.partition_point(|range| range.0 <= to);
        let merged = self.0.get(from..upto).unwrap_or_default();
        let low = merged.first().map_or(after, |range| range.0.min(after));
        let high = merged.last().map_or(to, |range| range.1.max(to));
        self.0.splice(from..upto.max(from), [(low, high)]);
    }

    /// Whether `seq` is in one of them.
    pub fn contains(&self, seq: u64) -> bool {
        let at = self.0.partition_point(|range| range.1 < seq);
        self.0.get(at).is_some_and(|range| range.0 < seq)
    }

    /// Forgets ranges that end below `first`.
    pub fn prune(&mut self, first: u64) {
        self.0.retain(|range| range.1 >= first);
    }

    /// The highest number, or 0.
    pub fn highest(&self) -> u64 {
        self.0.last().map_or(0, |range| range.1)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_grow_together() {
        let mut ranges = Ranges::default();
        for (after, to) in [(0, 3), (7, 9), (3, 7), (20, 21)] {
            ranges.insert(after, to);
        }
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(0, 9), (20, 21)]);
        ranges.prune(10);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(20, 21)]);
    }

    proptest! {
        #[test]
        fn they_are_the_set_that_was_put_in(inserts in prop::collection::vec((0u64..60, 0u64..12), 0..40)) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (after, length) in inserts {
                ranges.insert(after, after + length);
                set.extend(after + 1..=after + length);
            }
            for seq in 0..80 {
                prop_assert_eq!(ranges.contains(seq), set.contains(&seq), "{}", seq);
            }
            let all: Vec<_> = ranges.iter().collect();
            prop_assert!(all.windows(2).all(|pair| pair[0].1 < pair[1].0), "{:?}", all);
            prop_assert_eq!(ranges.highest(), set.last().copied().unwrap_or(0));
        }
    }
}
