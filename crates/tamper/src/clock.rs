//! The wall clock against the machine's own, which only ever runs. A jump that nobody accounts for is found for an hour.

use serde::{Deserialize, Serialize};

use crate::finding::{Finding, Kind};

/// A smaller one is no jump, in milliseconds: slewing and reading the two clocks one after the other are far below.
const JUMP_MS: i64 = 10_000;
/// How long a jump is a finding, in milliseconds.
const REMEMBERED_MS: u64 = 3_600_000;
/// So many jumps are remembered.
const MANY: usize = 16;

/// Both clocks at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Milliseconds since the boot.
    pub steady_ms: u64,
    /// Milliseconds since 1970, as the machine believes.
    pub wall_ms: i64,
    /// Whether that may be right. A clock that isn't set may be set to anything.
    pub known: bool,
    /// Whether the clock was set since the last look by somebody who may: time synchronisation, or the agent.
    pub accounted: bool,
}

/// A jump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Jump {
    at_ms: u64,
    from_ms: i64,
    to_ms: i64,
}

/// The last look, and the jumps of this boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jumps {
    #[serde(skip)]
    last: Option<Look>,
    jumps: Vec<Jump>,
}

impl Jumps {
    /// Takes in a look, and gives what is to be told now.
    pub fn saw(&mut self, look: Look) -> Vec<Finding> {
        let steady = look.steady_ms;
        if let Some(last) = self.last.replace(look.clone()) {
            let passed = i64::try_from(steady.saturating_sub(last.steady_ms)).unwrap_or(i64::MAX);
            let expected = last.wall_ms.saturating_add(passed);
            let off = look.wall_ms.saturating_sub(expected);
            if last.known && !look.accounted && off.saturating_abs() >= JUMP_MS {
                self.jumps.push(Jump {
                    at_ms: steady,
                    from_ms: expected,
                    to_ms: look.wall_ms,
                });
            }
        }
        let fresh = |jump: &Jump| steady.saturating_sub(jump.at_ms) < REMEMBERED_MS;
        self.jumps.retain(fresh);
        let many = self.jumps.len().saturating_sub(MANY);
        self.jumps.drain(..many);
        self.jumps.iter().map(Jump::finding).collect()
    }
}

impl Jump {
    fn finding(&self) -> Finding {
        let by = self.to_ms.saturating_sub(self.from_ms) / 1000;
        let subject = format!("{by:+} s, {} s after the boot", self.at_ms / 1000);
        Finding::new(
            Kind::Clock,
            &subject,
            "the wall clock jumped, and nobody who may had set it",
        )
        .with("from_ms", self.from_ms)
        .with("to_ms", self.to_ms)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn look(steady_s: u64, wall_s: i64) -> Look {
        Look {
            steady_ms: steady_s * 1000,
            wall_ms: wall_s * 1000,
            known: true,
            accounted: false,
        }
    }

    #[test]
    fn a_jump_is_found_for_an_hour() {
        let mut jumps = Jumps::default();
        assert_eq!(jumps.saw(look(10, 1_000_000)), []);
        assert_eq!(jumps.saw(look(40, 1_000_031)), []);
        let found = jumps.saw(look(70, 999_061));
        assert_eq!(found[0].subject, "-1000 s, 70 s after the boot");
        assert_eq!(found[0].evidence["to_ms"], "999061000");
        assert_eq!(jumps.saw(look(100, 999_091)), found);
        assert_eq!(jumps.saw(look(3670, 1_002_661)), []);
    }

    #[test]
    fn who_may_set_the_clock_and_a_clock_that_was_not_set_are_no_jumps() {
        let mut jumps = Jumps::default();
        let unset = Look {
            known: false,
            ..look(1, 0)
        };
        jumps.saw(unset.clone());
        assert_eq!(jumps.saw(look(31, 1_000_000)), [], "it is set at last");
        let accounted = Look {
            accounted: true,
            ..look(61, 5_000_000)
        };
        assert_eq!(jumps.saw(accounted), []);
        let back = Look {
            steady_ms: 90_000,
            ..unset
        };
        assert_eq!(jumps.saw(back).len(), 1, "but a known one is not unset");
    }

    proptest! {
        #[test]
        fn any_times_are_taken(looks in prop::collection::vec((any::<u64>(), any::<i64>(), any::<bool>(), any::<bool>()), 0..50)) {
            let mut jumps = Jumps::default();
            for (steady_ms, wall_ms, known, accounted) in looks {
                let found = jumps.saw(Look { steady_ms, wall_ms, known, accounted });
                prop_assert!(found.len() <= MANY);
            }
        }

        #[test]
        fn a_clock_that_runs_never_jumps(start in 0i64..4_000_000_000, steps in prop::collection::vec((0u64..600, -2i64..2), 0..50)) {
            let mut jumps = Jumps::default();
            let mut steady = 0;
            for (step, slew) in steps {
                steady += step;
                prop_assert_eq!(jumps.saw(look(steady, start + i64::try_from(steady).unwrap() + slew)), []);
            }
        }
    }
}
