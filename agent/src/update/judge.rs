//! Watching a release on trial.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cairn_update::health::{Demand, Judge, Observation, Verdict};

use super::effects::Effects;
use super::settings::{ControlPlane, Health};

/// Runs all checks: what is wrong with each, if anything.
pub async fn checks<E: Effects>(effects: &E, health: &Health) -> BTreeMap<String, Option<String>> {
    let mut results = BTreeMap::new();
    for check in &health.checks {
        results.insert(check.name.clone(), effects.check(check).await);
    }
    results
}

/// The checks that pass now.
pub async fn baseline<E: Effects>(effects: &E, health: &Health) -> BTreeSet<String> {
    let results = checks(effects, health).await;
    for (name, wrong) in &results {
        if let Some(wrong) = wrong {
            tracing::warn!(
                name,
                wrong,
                "a check fails before the update, and won't count after it"
            );
        }
    }
    results
        .into_iter()
        .filter(|(_, wrong)| wrong.is_none())
        .map(|(name, _)| name)
        .collect()
}

/// Looks until the release is healthy, or the deadline is over. `note` is told what is missing.
///
/// # Errors
/// If it isn't healthy in time: why.
pub async fn watch<E: Effects>(
    effects: &E,
    health: &Health,
    baseline: BTreeSet<String>,
    note: &(dyn Fn(String) + Send + Sync),
) -> Result<(), String> {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut judge = Judge::new(Demand {
        soak_ms: ms(health.soak),
        deadline_ms: ms(health.deadline),
        control_plane: health.control_plane == ControlPlane::Required,
        baseline,
    });
    let pause = (health.soak / 6).clamp(Duration::from_secs(1), Duration::from_secs(10));
    let mut last = String::new();
    loop {
        let seen = Observation {
            checks: checks(effects, health).await,
            reached: effects.control_plane_reached(),
            now_ms: effects.uptime_ms(),
        };
        match judge.observe(&seen) {
            Verdict::Healthy => return Ok(()),
            Verdict::Unhealthy(reason) => return Err(reason),
            Verdict::Wait(missing) => {
                if missing != last {
                    note(missing.clone());
                    last = missing;
                }
            }
        }
        effects.sleep(pause).await;
    }
}
