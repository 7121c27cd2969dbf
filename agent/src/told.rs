//! What was told last, so that only what has changed is told; and everything once a day, since the control plane forgets what is old.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// After this what hasn't changed is told again. The control plane keeps values for more than a day, whatever it is set to.
const AGAIN: Duration = Duration::from_secs(24 * 3600);

/// How each thing was when it was told last, and when that was.
#[derive(Debug)]
pub struct Told<K, V>(BTreeMap<K, (V, Instant)>);

impl<K, V> Default for Told<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord, V: PartialEq> Told<K, V> {
    /// Takes how everything is `now`, and calls `tell` with what is to be told of it. What isn't there any more is forgotten.
    pub fn update(
        &mut self,
        now: Instant,
        all: impl IntoIterator<Item = (K, V)>,
        mut tell: impl FnMut(&K, &V),
    ) {
        let mut before = std::mem::take(&mut self.0);
        for (key, value) in all {
            let known = before
                .remove(&key)
                .filter(|(told, at)| *told == value && now.saturating_duration_since(*at) < AGAIN);
            let at = known.map_or_else(
                || {
                    tell(&key, &value);
                    now
                },
                |(_, at)| at,
            );
            self.0.insert(key, (value, at));
        }
    }

    /// What was told of one.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.get(key).map(|(value, _)| value)
    }

    /// Forgets those that `keep` doesn't.
    pub fn retain(&mut self, keep: impl Fn(&V) -> bool) {
        self.0.retain(|_, (value, _)| keep(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_told_and_the_rest_once_a_day() {
        let begin = Instant::now();
        let mut told = Told::default();
        let mut at = |hours: u64, all: &[(&'static str, u32)]| {
            let now = begin + Duration::from_secs(hours * 3600);
            let mut heard = Vec::new();
            told.update(now, all.iter().copied(), |key, value| {
                heard.push((*key, *value));
            });
            heard
        };
        assert_eq!(at(0, &[("a", 1), ("b", 1)]), [("a", 1), ("b", 1)]);
        assert_eq!(at(1, &[("a", 1), ("b", 2)]), [("b", 2)]);
        assert_eq!(at(23, &[("a", 1), ("b", 2)]), []);
        assert_eq!(at(24, &[("a", 1), ("b", 2)]), [("a", 1)], "a day old");
        assert_eq!(at(25, &[("a", 1), ("b", 2)]), [("b", 2)]);
        assert_eq!(at(26, &[("b", 2)]), []);
        assert_eq!(at(27, &[("a", 1), ("b", 2)]), [("a", 1)], "it was gone");
    }
}
