//! What happens by itself: arrivals, deadlines, waves, pushes. Every round is safe to repeat and to leave out.

use std::collections::HashMap;
use std::time::Duration;

use cairn_rollout::{DeviceEvent, Event, admit, step};
use rusqlite::Transaction;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::admission::{self, Among};
use super::sql::Stored;
use super::{Inner, Rollouts, sql};
use crate::desired;
use crate::people::now;
use crate::sessions::Sessions;
use crate::store::{Store, StoreError};

/// Between two rounds.
const ROUND: Duration = Duration::from_secs(1);
/// Devices in one transaction: others' changes wait for it.
pub(super) const CHUNK: usize = 500;
/// Chunks of one kind in a round.
const CHUNKS: usize = 40;
/// When nothing was found, and nothing has changed, the next sweep is so many seconds later.
const SWEEP: i64 = 10;
/// How long the timelines are kept, in seconds: 400 days.
const KEEP: i64 = 400 * 86_400;
/// Between two looks for what is older, in seconds.
const PRUNE: i64 = 3_600;

/// What is remembered between rounds, to save work only.
#[derive(Default)]
pub(super) struct Memory {
    /// Of each rollout: how it stood when a sweep found nothing more, and when that was.
    swept: HashMap<i64, (String, i64)>,
    /// When the timelines were last cut.
    pruned: i64,
}

/// Runs until the shutdown. A round that is left in the middle has done nothing by halves: each change is a transaction.
pub(super) async fn run(
    rollouts: &Rollouts,
    sessions: &Sessions,
    arrived: mpsc::Receiver<String>,
    shutdown: CancellationToken,
) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = rounds(rollouts, sessions, arrived) => {}
    }
}

async fn rounds(rollouts: &Rollouts, sessions: &Sessions, mut arrived: mpsc::Receiver<String>) {
    let Inner { store, wake, .. } = &*rollouts.0;
    let mut memory = Memory::default();
    let mut rounds = tokio::time::interval(ROUND);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut devices = Vec::new();
    loop {
        let done = tokio::select! {
            _ = rounds.tick() => round(store, &mut memory, now()).await,
            () = wake.notified() => round(store, &mut memory, now()).await,
            got = arrived.recv_many(&mut devices, CHUNK) => {
                if got == 0 {
                    return;
                }
                arrivals(store, std::mem::take(&mut devices), now()).await.map(|_| ())
            }
        };
        if let Err(error) = done {
            tracing::error!(%error, "a round of the rollouts failed; it is done again");
        }
        if let Err(error) = desired::push(store, sessions).await {
            tracing::error!(%error, "devices could not be told of their orders; it is done again");
        }
    }
}

/// Devices have arrived.
pub(super) async fn arrivals(
    store: &Store,
    mut devices: Vec<String>,
    now: i64,
) -> Result<usize, StoreError> {
    devices.sort_unstable();
    devices.dedup();
    // Nearly always there is nothing to give; then the writer isn't troubled.
    let wanted = store
        .read(move |connection| admission::wanted(connection, devices, now))
        .await?;
    if wanted.is_empty() {
        return Ok(0);
    }
    store
        .write(move |tx| admission::arrive(tx, &wanted, now))
        .await
}

/// One round: deadlines, waves, then slots.
pub(super) async fn round(store: &Store, memory: &mut Memory, now: i64) -> Result<(), StoreError> {
    for _ in 0..CHUNKS {
        let due = store
            .read(move |connection| sql::due(connection, now, CHUNK))
            .await?;
        let more = due.len() == CHUNK;
        if !due.is_empty() {
            store.write(move |tx| deadlines(tx, &due, now)).await?;
        }
        if !more {
            break;
        }
    }
    if now >= memory.pruned.saturating_add(PRUNE) {
        let more = store
            .write(move |tx| sql::prune(tx, now - KEEP, CHUNK * 10))
            .await?;
        memory.pruned = if more { memory.pruned } else { now };
    }
    let running = store.read(sql::running).await?;
    memory
        .swept
        .retain(|id, _| running.iter().any(|stored| stored.id == *id));
    for stored in running {
        let id = stored.id;
        // A look first: most rounds change nothing.
        let moves =
            step(&stored.rollout, Event::Tick, now).is_ok_and(|(next, _)| next != stored.rollout);
        if moves {
            store.write(move |tx| tick(tx, id, now)).await?;
        }
        sweep(store, memory, id, now).await?;
    }
    Ok(())
}

fn deadlines(tx: &Transaction<'_>, due: &[(i64, String)], now: i64) -> Result<(), StoreError> {
    let mut rollouts: HashMap<i64, Stored> = HashMap::new();
    for (id, device) in due {
        let stored = match rollouts.entry(*id) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => match sql::load(tx, *id)? {
                Some(stored) => entry.insert(stored),
                None => continue,
            },
        };
        // Read again: what came before it may have changed it.
        let Some(before) = sql::assignment(tx, *id, device)? else {
            continue;
        };
        stored.device(tx, device, &before, DeviceEvent::Due, now)?;
    }
    for stored in rollouts.values() {
        stored.save(tx)?;
    }
    Ok(())
}

fn tick(tx: &Transaction<'_>, id: i64, now: i64) -> Result<(), StoreError> {
    let Some(mut stored) = sql::load(tx, id)? else {
        return Ok(());
    };
    // Time is always possible.
    let _ = stored.take(tx, None, Event::Tick, now)?;
    stored.save(tx)
}

/// Looks among the connected devices for some that a rollout has slots for.
async fn sweep(store: &Store, memory: &mut Memory, id: i64, now: i64) -> Result<(), StoreError> {
    for _ in 0..CHUNKS {
        let swept = memory
            .swept
            .get(&id)
            .filter(|(_, at)| now < at + SWEEP)
            .map(|(key, _)| key.clone());
        let (key, devices) = store
            .read(move |connection| {
                let Some(stored) = sql::load(connection, id)? else {
                    return Ok::<_, StoreError>((String::new(), Vec::new()));
                };
                let slots = admit(&stored.rollout, now);
                let key = format!(
                    "{} {slots} {:?}",
                    stored.rollout.wave_since, stored.rollout.counts
                );
                if swept.as_ref() == Some(&key) {
                    return Ok((key, Vec::new()));
                }
                let mut devices = Vec::new();
                if stored.rollout.counts.of(cairn_rollout::DeviceState::Held) > 0
                    && stored.rollout.plan.open_at(now)
                {
                    devices = admission::held(connection, id, CHUNK)?;
                }
                if slots > 0 && devices.len() < CHUNK {
                    let selector = sql::selector(connection, id)?;
                    let limit = slots.min(u64::try_from(CHUNK - devices.len()).unwrap_or(0));
                    let found = admission::candidates(
                        connection,
                        &stored,
                        &selector,
                        &Among::Online,
                        limit,
                    )?;
                    devices.extend(found.into_iter().map(|candidate| candidate.device));
                }
                Ok((key, devices))
            })
            .await?;
        if devices.is_empty() {
            if memory
                .swept
                .get(&id)
                .is_none_or(|(last, at)| *last != key || now >= at + SWEEP)
            {
                memory.swept.insert(id, (key, now));
            }
            return Ok(());
        }
        store
            .write(move |tx| admission::arrive(tx, &devices, now))
            .await?;
    }
    Ok(())
}
