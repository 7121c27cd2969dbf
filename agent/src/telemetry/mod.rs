//! How the node is: measured on a schedule, and given to the outbox.
//!
//! A measurement is one record of flat values, a sample: `cpu_percent`, `load_1m`, `memory.available_bytes`, `swap.used_bytes`,
//! `uptime_seconds`, `temperature_celsius` (the hottest sensor), `disk.<mount point>.used_percent`, `io.<disk>.written_bytes`,
//! `net.<interface>.rx_bytes`, `agent.resident_bytes`, `outbox.records` and their like. Counters count since the boot; the receiver
//! builds differences. What a machine doesn't have is left out, never 0.
//!
//! What a node *is* (release, slot, kernel, hardware) goes out as a fact when the agent starts, when it has changed, and once a day.
//!
//! | Module | Owns |
//! |---|---|
//! | [`procfs`] | `/proc`'s texts |
//! | [`collect`] | one measurement |
//! | [`disks`] | which disks there are, and what their drivers say of their health |
//! | [`smart`] | what disks say of their own health |
//! | `facts` | what the node is |
//! | `settings` | `[telemetry]` |

pub mod collect;
pub mod disks;
mod facts;
pub mod procfs;
mod settings;
pub mod smart;

use std::time::{Duration, Instant};

use cairn_wire::Object;
use rand::Rng;

pub use collect::{Collector, Process, Sources};
pub(crate) use facts::BOOT_FAILURES;
pub use facts::facts;
pub use settings::{Input, Settings};

use crate::outbox::{Outbox, Priority};
use crate::shutdown::Shutdown;
use crate::told::Told;

/// What others know.
pub struct Others<F, S> {
    /// Facts, as the boot state or the update under way; they are told when they change, and daily.
    pub facts: F,
    /// What they have measured last; it is part of each sample.
    pub measured: S,
}

/// Measures until `shutdown`.
pub async fn run<F, S>(
    settings: Settings,
    outbox: Outbox,
    sources: Sources,
    others: Others<F, S>,
    mut shutdown: Shutdown,
) where
    F: Fn() -> Object + Send,
    S: Fn() -> Object + Send,
{
    let mut collector = Collector::new(sources.clone());
    let mut told = Told::default();
    // A start of many nodes at once isn't to be heard as one.
    let mut wait = late(settings.jitter);
    loop {
        let mut now = facts(&sources);
        now.extend((others.facts)());
        told.update(Instant::now(), [((), now)], |(), now| {
            outbox.append(Priority::Fact, now.clone());
        });
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shutdown.requested() => return,
        }
        let mut sample = collector.collect(&outbox.stats());
        sample.extend((others.measured)());
        outbox.append(Priority::Sample, sample);
        wait = settings.interval.saturating_sub(settings.jitter / 2) + late(settings.jitter);
    }
}

fn late(most: Duration) -> Duration {
    most.mul_f64(rand::thread_rng().gen_range(0.0..=1.0))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::clock::Clock;
    use crate::outbox;
    use crate::shutdown;

    #[tokio::test]
    async fn facts_are_told_when_they_change_and_samples_again_and_again() {
        let folder = tempfile::tempdir().unwrap();
        let settings = outbox::Settings {
            commit_interval: Duration::from_millis(1),
            ..outbox::Settings::default()
        };
        let outbox = Outbox::open(
            folder.path(),
            &settings,
            Clock::manual("b", 1_800_000_000, 0),
        )
        .unwrap();
        let (trigger, shutdown) = shutdown::pair();
        let quick = Settings {
            interval: Duration::from_millis(20),
            jitter: Duration::from_millis(2),
        };
        let one = |name: &str| [(name.to_owned(), "1.0".into())].into_iter().collect();
        let others = Others {
            facts: move || one("boot_good"),
            measured: move || one("tamper.etc"),
        };
        let task = tokio::spawn(run(
            quick,
            outbox.clone(),
            Sources::system(Path::new("/data")),
            others,
            shutdown,
        ));
        let (mut facts, mut samples) = (0, 0);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while samples < 3 {
            tokio::time::timeout_at(deadline, outbox.ready())
                .await
                .unwrap();
            let Some(batch) = outbox.next_batch(60_000) else {
                continue;
            };
            match batch.priority {
                Priority::Fact => {
                    facts += batch.len();
                    assert_eq!(batch.records[0].values["boot_good"], "1.0");
                }
                _ => {
                    samples += batch.len();
                    assert_eq!(batch.records[0].values["tamper.etc"], "1.0");
                }
            }
            outbox.acked(batch);
        }
        trigger.pull();
        tokio::time::timeout_at(deadline, task)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(facts, 1, "the facts didn't change");
    }
}
