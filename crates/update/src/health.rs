//! Whether a release that runs is healthy.
//!
//! A check counts only if it passed before the update: what was broken already is not the new release's fault. The control plane
//! counts as reached when it answers at all; a failing server is no failing node. All that counts has to pass for the whole soak
//! time without a break, before the deadline.

use std::collections::{BTreeMap, BTreeSet};

/// The name under which the control plane appears among what is missing.
pub const CONTROL_PLANE: &str = "control-plane";

/// What is asked of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// How long all has to pass, in milliseconds.
    pub soak_ms: u64,
    /// When it must be over, in milliseconds since the kernel's start.
    pub deadline_ms: u64,
    /// Whether the control plane has to be reached once.
    pub control_plane: bool,
    /// The checks that count.
    pub baseline: BTreeSet<String>,
}

/// One look at the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observation {
    /// Milliseconds since the kernel's start.
    pub now_ms: u64,
    /// Each check: what is wrong, if anything.
    pub checks: BTreeMap<String, Option<String>>,
    /// Whether the control plane answered, whatever it said.
    pub reached: bool,
}

/// What is known by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Not yet; what is missing.
    Wait(String),
    /// It is healthy and stayed so.
    Healthy,
    /// The time is over; why.
    Unhealthy(String),
}

/// A judgement under way.
#[derive(Debug, Clone)]
pub struct Judge {
    demand: Demand,
    reached: bool,
    since: Option<u64>,
    last: String,
}

impl Judge {
    /// Begins.
    pub fn new(demand: Demand) -> Self {
        Self {
            demand,
            reached: false,
            since: None,
            last: "nothing was looked at yet".into(),
        }
    }

    /// Takes one look into account.
    pub fn observe(&mut self, seen: &Observation) -> Verdict {
        self.reached |= seen.reached;
        let mut missing = Vec::new();
        for name in &self.demand.baseline {
            match seen.checks.get(name) {
                // The new release has no such check any more.
                None | Some(None) => {}
                Some(Some(wrong)) => missing.push(format!("{name}: {wrong}")),
            }
        }
        if self.demand.control_plane && !self.reached {
            missing.push(format!("{CONTROL_PLANE}: not reached since the start"));
        }
        if missing.is_empty() {
            let since = *self.since.get_or_insert(seen.now_ms);
            let soaked = seen.now_ms.saturating_sub(since);
            if soaked >= self.demand.soak_ms {
                return Verdict::Healthy;
            }
            self.last = format!(
                "healthy for {} of {} s",
                soaked / 1000,
                self.demand.soak_ms / 1000
            );
        } else {
            self.since = None;
            self.last = missing.join("; ");
        }
        if seen.now_ms >= self.demand.deadline_ms {
            return Verdict::Unhealthy(format!(
                "not healthy {} s after the start: {}",
                self.demand.deadline_ms / 1000,
                self.last
            ));
        }
        Verdict::Wait(self.last.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(control_plane: bool) -> Judge {
        Judge::new(Demand {
            soak_ms: 60_000,
            deadline_ms: 300_000,
            control_plane,
            baseline: BTreeSet::from(["web".to_owned()]),
        })
    }

    fn seen(seconds: u64, web: Option<&str>, reached: bool) -> Observation {
        Observation {
            now_ms: seconds * 1000,
            checks: BTreeMap::from([
                ("web".to_owned(), web.map(str::to_owned)),
                ("always-broken".to_owned(), Some("exit code 1".to_owned())),
            ]),
            reached,
        }
    }

    #[test]
    fn soaks_without_a_break_and_ignores_what_was_broken_before() {
        let mut judge = judge(false);
        assert!(matches!(
            judge.observe(&seen(10, Some("inactive"), false)),
            Verdict::Wait(_)
        ));
        assert!(matches!(
            judge.observe(&seen(20, None, false)),
            Verdict::Wait(_)
        ));
        assert!(matches!(
            judge.observe(&seen(70, Some("inactive"), false)),
            Verdict::Wait(_)
        ));
        assert!(matches!(
            judge.observe(&seen(80, None, false)),
            Verdict::Wait(_)
        ));
        assert!(matches!(
            judge.observe(&seen(139, None, false)),
            Verdict::Wait(_)
        ));
        assert_eq!(judge.observe(&seen(140, None, false)), Verdict::Healthy);
    }

    #[test]
    fn the_control_plane_has_to_answer_once() {
        let mut judge = judge(true);
        assert!(matches!(
            judge.observe(&seen(100, None, false)),
            Verdict::Wait(_)
        ));
        assert!(matches!(
            judge.observe(&seen(200, None, true)),
            Verdict::Wait(_)
        ));
        // Gone again: that is the server's or the line's affair.
        assert_eq!(judge.observe(&seen(260, None, false)), Verdict::Healthy);
    }

    #[test]
    fn the_deadline_ends_it_and_says_what_is_missing() {
        let mut judge = judge(true);
        let verdict = judge.observe(&seen(300, Some("inactive"), false));
        let expected = "not healthy 300 s after the start: web: inactive; control-plane: not reached since the start";
        assert_eq!(verdict, Verdict::Unhealthy(expected.into()));
    }

    #[test]
    fn a_soak_that_ends_with_the_deadline_is_long_enough() {
        let mut judge = judge(false);
        judge.observe(&seen(240, None, false));
        assert_eq!(judge.observe(&seen(300, None, false)), Verdict::Healthy);
    }
}
