//! What an operator asks for.

use serde::{Deserialize, Serialize};

use crate::state::DeviceState;
use crate::window::Window;
use cairn_fleet::{Rate, Seconds, Share};

/// Most waves.
pub const MAX_WAVES: usize = 100;
/// Most windows.
pub const MAX_WINDOWS: usize = 16;
/// Most retries of a device.
pub const MAX_RETRIES: u32 = 100;

/// How a rollout goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    /// How many devices have a slot by the end of each wave: cumulative, over the devices that matched at the start. A canary is
    /// the first of them. After the last one come all the rest.
    pub waves: Vec<Share>,
    /// How long all is watched after a wave's last outcome before the next one begins.
    pub soak: Seconds,
    /// Halts when so many devices have failed.
    pub max_failures: Option<u64>,
    /// Halts when so much of the outcomes are failures, once there are [`Plan::min_outcomes`].
    pub max_failure_rate: Option<Rate>,
    /// Outcomes below which no rate is judged.
    pub min_outcomes: u64,
    /// Devices are admitted in these hours only; none: at any time.
    pub windows: Vec<Window>,
    /// No device is admitted before this moment (seconds since 1970).
    pub not_before: Option<i64>,
    /// How long a device may stay in each state.
    pub deadlines: Deadlines,
    /// How long a wave waits for devices that don't show up.
    pub fill: Seconds,
    /// How often a device is given the order again after a failure that may pass.
    pub retries: u32,
    /// How long after the failure.
    pub retry_delay: Seconds,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            waves: vec![Share::ALL],
            soak: Seconds(0),
            max_failures: None,
            max_failure_rate: None,
            min_outcomes: 10,
            windows: Vec::new(),
            not_before: None,
            deadlines: Deadlines::default(),
            fill: Seconds(7 * 86_400),
            retries: 2,
            retry_delay: Seconds(5 * 60),
        }
    }
}

/// How long a device may stay in each state before it counts as failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Deadlines {
    /// From the order to the device's first word about it.
    pub offered: Seconds,
    /// Judging the manifest.
    pub checking: Seconds,
    /// Knowing what to fetch.
    pub planned: Seconds,
    /// The download.
    pub fetching: Seconds,
    /// Between the download and its final place.
    pub verified: Seconds,
    /// Between its final place and the boot state.
    pub placed: Seconds,
    /// Waiting for the restart, which may be the device's own maintenance window.
    pub armed: Seconds,
    /// Restart, health checks and the device's soak time.
    pub on_trial: Seconds,
}

impl Default for Deadlines {
    fn default() -> Self {
        const HOUR: u32 = 3_600;
        Self {
            offered: Seconds(HOUR),
            checking: Seconds(HOUR),
            planned: Seconds(HOUR),
            fetching: Seconds(12 * HOUR),
            verified: Seconds(HOUR),
            placed: Seconds(HOUR),
            armed: Seconds(48 * HOUR),
            on_trial: Seconds(2 * HOUR),
        }
    }
}

impl Deadlines {
    /// The same for every state.
    pub fn all(deadline: Seconds) -> Self {
        Self {
            offered: deadline,
            checking: deadline,
            planned: deadline,
            fetching: deadline,
            verified: deadline,
            placed: deadline,
            armed: deadline,
            on_trial: deadline,
        }
    }

    /// The one for a state; none if a device may stay in it, or something else bounds it.
    pub fn of(&self, state: DeviceState) -> Option<Seconds> {
        Some(match state {
            DeviceState::Offered => self.offered,
            DeviceState::Checking => self.checking,
            DeviceState::Planned => self.planned,
            DeviceState::Fetching => self.fetching,
            DeviceState::Verified => self.verified,
            DeviceState::Placed => self.placed,
            DeviceState::Armed => self.armed,
            DeviceState::OnTrial => self.on_trial,
            DeviceState::Retrying
            | DeviceState::Held
            | DeviceState::Good
            | DeviceState::Failed
            | DeviceState::Expired
            | DeviceState::Withdrawn
            | DeviceState::Superseded => return None,
        })
    }
}

/// A plan makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A field is out of its range.
    #[error("{field}: expected {expected}")]
    Field {
        /// Which.
        field: &'static str,
        /// What would have been right.
        expected: &'static str,
    },
    /// Waves count all devices so far, so they grow.
    #[error("waves: each counts all devices so far, so {next} can't follow {before}")]
    Shrinks {
        /// The one before.
        before: Share,
        /// The smaller one.
        next: Share,
    },
}

impl Plan {
    /// Whether it makes sense. Waves of both kinds can only be compared once the number of devices is known; see [`Plan::targets`].
    ///
    /// # Errors
    /// The first thing that doesn't.
    pub fn check(&self) -> Result<(), PlanError> {
        let field = |good, field, expected| {
            if good {
                Ok(())
            } else {
                Err(PlanError::Field { field, expected })
            }
        };
        field(
            (1..=MAX_WAVES).contains(&self.waves.len()),
            "waves",
            "1 to 100",
        )?;
        for pair in self.waves.windows(2) {
            let [before, next] = *pair else { continue };
            let shrinks = match (before, next) {
                (Share::Count(before), Share::Count(next)) => next < before,
                (Share::Percent(before), Share::Percent(next)) => next < before,
                _ => false,
            };
            if shrinks {
                return Err(PlanError::Shrinks { before, next });
            }
        }
        field(
            self.max_failures != Some(0),
            "max_failures",
            "at least 1: the rollout halts when so many have failed",
        )?;
        field(self.min_outcomes > 0, "min_outcomes", "at least 1")?;
        field(self.windows.len() <= MAX_WINDOWS, "windows", "at most 16")?;
        field(self.retries <= MAX_RETRIES, "retries", "at most 100")?;
        field(self.fill > Seconds(0), "fill", "more than 0")?;
        let d = &self.deadlines;
        for (name, deadline) in [
            ("deadlines.offered", d.offered),
            ("deadlines.checking", d.checking),
            ("deadlines.planned", d.planned),
            ("deadlines.fetching", d.fetching),
            ("deadlines.verified", d.verified),
            ("deadlines.placed", d.placed),
            ("deadlines.armed", d.armed),
            ("deadlines.on-trial", d.on_trial),
        ] {
            field(deadline > Seconds(0), name, "more than 0")?;
        }
        Ok(())
    }

    /// How many devices have a slot by the end of each wave: growing, the last one is `matched`.
    pub fn targets(&self, matched: u64) -> Vec<u64> {
        let mut targets: Vec<u64> = Vec::with_capacity(self.waves.len() + 1);
        for share in self.waves.iter().copied().chain([Share::ALL]) {
            let target = share.of(matched);
            // Small fleets: two waves of the same size are one.
            if targets.last().is_none_or(|last| *last < target) {
                targets.push(target);
            }
        }
        targets
    }

    /// Whether devices may be admitted at this hour.
    pub fn open_at(&self, now: i64) -> bool {
        self.not_before.is_none_or(|moment| now >= moment)
            && (self.windows.is_empty() || self.windows.iter().any(|window| window.contains(now)))
    }

    /// Why so many failures are too many, if they are. Without any limit the first failure is one too many.
    pub fn too_many(&self, failures: u64, outcomes: u64) -> Option<String> {
        let most = match (self.max_failures, self.max_failure_rate) {
            (None, None) => Some(1),
            (most, _) => most,
        };
        if let Some(most) = most
            && failures >= most
        {
            return Some(format!("{failures} failed, the limit is {most}"));
        }
        let rate = self.max_failure_rate?;
        (outcomes >= self.min_outcomes && rate.reached(failures, outcomes))
            .then(|| format!("{failures} of {outcomes} failed, the limit is {rate}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(waves: &[&str]) -> Plan {
        Plan {
            waves: waves.iter().map(|wave| wave.parse().unwrap()).collect(),
            ..Plan::default()
        }
    }

    #[test]
    fn targets_grow_and_end_with_all() {
        assert_eq!(
            plan(&["5", "10%", "50%", "100%"]).targets(1_000),
            [5, 100, 500, 1_000]
        );
        assert_eq!(plan(&["10%", "50%"]).targets(2), [1, 2]);
        assert_eq!(plan(&["5", "10%"]).targets(20), [5, 20]);
        assert_eq!(plan(&["100%"]).targets(1), [1]);
    }

    #[test]
    fn a_plan_that_cannot_work_is_refused_by_field() {
        assert!(plan(&["5", "10%", "100%"]).check().is_ok());
        let error = plan(&["50%", "10%"]).check().unwrap_err().to_string();
        assert!(error.contains("10% can't follow 50%"), "{error}");
        let none = Plan {
            max_failures: Some(0),
            ..Plan::default()
        };
        assert!(
            none.check()
                .unwrap_err()
                .to_string()
                .starts_with("max_failures")
        );
        let never = Plan {
            deadlines: Deadlines {
                armed: Seconds(0),
                ..Deadlines::default()
            },
            ..Plan::default()
        };
        assert!(
            never
                .check()
                .unwrap_err()
                .to_string()
                .starts_with("deadlines.armed")
        );
    }

    #[test]
    fn a_rate_is_judged_only_after_enough_outcomes() {
        let plan = Plan {
            max_failure_rate: Some("20%".parse().unwrap()),
            min_outcomes: 10,
            ..Plan::default()
        };
        assert_eq!(plan.too_many(9, 9), None);
        assert_eq!(plan.too_many(1, 10), None);
        assert!(plan.too_many(2, 10).is_some());
        assert!(
            Plan::default().too_many(1, 1).is_some(),
            "no limit at all is the strictest one"
        );
    }
}
