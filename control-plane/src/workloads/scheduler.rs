//! Making plans, and carrying them out. A round that is left in the middle has done nothing by halves; the next one goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cairn_placement::{Missing, Obstacle, Plan, Reason};
use rusqlite::{Connection, Transaction, params};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::look::{Look, look};
use crate::desired;
use crate::people::now;
use crate::sessions::Sessions;
use crate::store::{Store, StoreError};

/// Between two rounds in which nobody has called.
const ROUND: Duration = Duration::from_secs(10);
/// Changes in one transaction: others' wait for it.
const CHUNK: usize = 500;
/// How long it is known where a workload was, in seconds: 30 days.
const KEEP: i64 = 30 * 86_400;

/// Until it is dropped.
pub(super) async fn run(store: &Store, sessions: &Sessions, wake: &Notify) {
    let started = now();
    let mut rounds = tokio::time::interval(ROUND);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = rounds.tick() => {}
            () = wake.notified() => {}
        }
        let done = async {
            round(store, now(), started).await?;
            desired::push(store, sessions).await
        };
        if let Err(error) = done.await {
            tracing::error!(%error, "a round of placing workloads failed; it is done again");
        }
    }
}

/// One plan, carried out.
pub(super) async fn round(store: &Store, now: i64, started: i64) -> Result<(), StoreError> {
    let plan = store
        .read::<_, StoreError, _>(move |connection| {
            let Some(seen) = look(connection, now, started)? else {
                return Ok(None);
            };
            let Look {
                nodes,
                orders,
                placed,
                failed_lately,
            } = &seen;
            let plan = cairn_placement::plan(now, nodes, orders, placed, failed_lately);
            let missing = changed(connection, &plan.missing)?;
            Ok(Some((plan, missing)))
        })
        .await?;
    if let Some((plan, missing)) = plan {
        carry_out(store, plan, missing, now).await?;
    }
    let old = store
        .read(move |connection| is_old(connection, now))
        .await?;
    if old {
        store.write(move |tx| prune(tx, now)).await?;
    }
    Ok(())
}

/// What is said of a workload that nodes are missing for; none: nothing is missing any more.
type Said = (String, Option<String>);

async fn carry_out(
    store: &Store,
    plan: Plan,
    missing: Vec<Said>,
    now: i64,
) -> Result<(), StoreError> {
    let Plan { place, remove, .. } = plan;
    for (workload, device, reason) in &remove {
        tracing::info!(
            workload,
            device,
            reason = word(*reason),
            "a workload leaves a device"
        );
    }
    for (workload, device) in &place {
        tracing::info!(workload, device, "a workload comes to a device");
    }
    // What leaves goes first, so that a copy that moves is never in two devices' documents.
    for some in remove.chunks(CHUNK) {
        let some = some.to_vec();
        store.write(move |tx| take(tx, &some, now)).await?;
    }
    for some in place.chunks(CHUNK) {
        let some = some.to_vec();
        store.write(move |tx| give(tx, &some, now)).await?;
    }
    if !missing.is_empty() {
        store.write(move |tx| note(tx, &missing)).await?;
    }
    Ok(())
}

fn take(
    tx: &Transaction<'_>,
    gone: &[(String, String, Reason)],
    now: i64,
) -> Result<(), StoreError> {
    let mut end = tx.prepare_cached(
        "UPDATE placement SET ended = ?3, reason = ?4 WHERE workload = ?1 AND device = ?2 AND ended IS NULL",
    )?;
    for (workload, device, reason) in gone {
        end.execute(params![workload, device, now, word(*reason)])?;
    }
    renew(tx, gone.iter().map(|(_, device, _)| device.as_str()), now)
}

fn give(tx: &Transaction<'_>, new: &[(String, String)], now: i64) -> Result<(), StoreError> {
    // Either may have gone since the look.
    let mut begin = tx.prepare_cached(
        "INSERT INTO placement (workload, device, since)
         SELECT workload.name, id, ?3 FROM workload JOIN device WHERE workload.name = ?1 AND id = ?2
         ON CONFLICT (workload, device) DO UPDATE SET since = excluded.since, ended = NULL, reason = NULL",
    )?;
    for (workload, device) in new {
        begin.execute(params![workload, device, now])?;
    }
    renew(tx, new.iter().map(|(_, device)| device.as_str()), now)
}

/// Another revision for each of these devices, with a word on workloads from now on.
fn renew<'d>(
    tx: &Transaction<'_>,
    devices: impl Iterator<Item = &'d str>,
    now: i64,
) -> Result<(), StoreError> {
    let mut mark = tx.prepare_cached("UPDATE desired SET workloads = 1 WHERE device = ?1")?;
    for device in devices.collect::<BTreeSet<_>>() {
        desired::renew(tx, device, now)?;
        mark.execute([device])?;
    }
    Ok(())
}

/// What is said of each workload that nodes are missing for, if it isn't said already.
fn changed(connection: &Connection, missing: &[Missing]) -> Result<Vec<Said>, StoreError> {
    let now: BTreeMap<&str, String> = missing
        .iter()
        .map(|missing| (missing.workload.as_str(), told(missing).to_string()))
        .collect();
    let mut query = connection.prepare_cached("SELECT name, missing FROM workload")?;
    let rows = query.query_map([], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?))
    })?;
    let mut changed = Vec::new();
    for row in rows {
        let (name, before) = row?;
        let now = now.get(name.as_str());
        if now != before.as_ref() {
            changed.push((name, now.cloned()));
        }
    }
    Ok(changed)
}

fn told(missing: &Missing) -> Value {
    let because: BTreeMap<&str, usize> = missing
        .because
        .iter()
        .map(|(obstacle, count)| (obstacle_word(*obstacle), *count))
        .collect();
    json!({ "copies": missing.copies, "because": because })
}

fn note(tx: &Transaction<'_>, missing: &[Said]) -> Result<(), StoreError> {
    let mut set = tx.prepare_cached("UPDATE workload SET missing = ?2 WHERE name = ?1")?;
    for (name, missing) in missing {
        set.execute(params![name, missing])?;
    }
    Ok(())
}

fn is_old(connection: &Connection, now: i64) -> Result<bool, StoreError> {
    let mut query =
        connection.prepare_cached("SELECT 1 FROM placement WHERE ended < ?1 LIMIT 1")?;
    Ok(query.exists([now - KEEP])?)
}

fn prune(tx: &Transaction<'_>, now: i64) -> Result<(), StoreError> {
    tx.execute("DELETE FROM placement WHERE ended < ?1", [now - KEEP])?;
    Ok(())
}

fn word(reason: Reason) -> &'static str {
    match reason {
        Reason::Removed => "removed",
        Reason::NotMeant => "not-meant",
        Reason::Drained => "drained",
        Reason::Gone => "gone",
        Reason::Failed => "failed",
        Reason::Surplus => "surplus",
    }
}

fn obstacle_word(obstacle: Obstacle) -> &'static str {
    match obstacle {
        Obstacle::Drained => "drained",
        Obstacle::Gone => "gone",
        Obstacle::Failed => "failed",
        Obstacle::Room => "room",
        Obstacle::Unknown => "unknown",
        Obstacle::Port => "port",
        Obstacle::Line => "line",
    }
}
