//! What time does: alarms that have been wrong or well for long enough, escalations, the ends of silences, and what doesn't come.

use std::time::Duration;

use cairn_alarm::{Condition, Event, Template};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::case::Case;
use super::device::Device;
use super::judge;
use super::now_ms;
use super::rules;
use crate::store::{Store, StoreError};
use crate::telemetry::Series as _;

/// Between two looks.
const ROUND: Duration = Duration::from_millis(500);
/// Tracks in one transaction: others' changes wait for it.
pub(super) const CHUNK: usize = 500;
/// Resolved alarms are kept for so long, in seconds: 400 days.
const KEEP: i64 = 400 * 86_400;
/// Rounds between two looks for what is older.
const PRUNE: u32 = 600;

/// Device, template, instance.
type Place = (String, String, String);

/// Until it is dropped. A round that is left in the middle has done nothing by halves.
pub(super) async fn run(store: &Store, started: i64) {
    let mut rounds = tokio::time::interval(ROUND);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut until_prune = PRUNE;
    loop {
        rounds.tick().await;
        if let Err(error) = round(store, now_ms(), started).await {
            tracing::error!(%error, "a round of the alarms failed; it is done again");
        }
        until_prune -= 1;
        if until_prune == 0 {
            until_prune = PRUNE;
            if let Err(error) = store.write(|tx| prune(tx, now_ms() / 1000)).await {
                tracing::error!(%error, "old alarms can't be deleted");
            }
        }
    }
}

/// Everything that is due.
pub(super) async fn round(store: &Store, now: i64, started: i64) -> Result<(), StoreError> {
    loop {
        let due = store.read(move |connection| due(connection, now)).await?;
        let more = due.len() == CHUNK;
        if !due.is_empty() {
            store.write(move |tx| ticks(tx, &due, now, started)).await?;
        }
        if !more {
            return Ok(());
        }
    }
}

fn due(connection: &Connection, now: i64) -> Result<Vec<Place>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT device, template, instance FROM alarm_track WHERE due IS NOT NULL AND due <= ?1 ORDER BY due LIMIT ?2",
    )?;
    let most = i64::try_from(CHUNK).unwrap_or(i64::MAX);
    let rows = query.query_map(params![now, most], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn ticks(tx: &Transaction<'_>, due: &[Place], now: i64, started: i64) -> Result<(), StoreError> {
    let rules = rules::rules(tx)?;
    for (device, name, instance) in due {
        let (Some(template), Some(known)) = (rules.template(name), Device::read(tx, device)?)
        else {
            // Its template was switched off between the look and now.
            tx.execute(
                "UPDATE alarm_track SET due = NULL WHERE device = ?1 AND template = ?2 AND instance = ?3",
                (device, name, instance),
            )?;
            continue;
        };
        let case = Case {
            tx,
            rules: &rules,
            device: known,
            now,
        };
        let mut heard = heard(tx, device, template, instance, now)?.map(|at| at.max(started));
        if template.when.waits() && !case.selects(template) {
            // It is looked at again, as the device may be meant by then.
            heard = Some(now);
        }
        judge::change(&case, template, instance, Event::Tick { heard })?;
    }
    Ok(())
}

/// When something last came, if the template waits for it.
fn heard(
    connection: &Connection,
    device: &str,
    template: &Template,
    instance: &str,
    now: i64,
) -> Result<Option<i64>, StoreError> {
    match (&template.when, &template.key) {
        (Condition::Offline, _) => {
            let mut query = connection.prepare_cached(
                "SELECT CASE WHEN online THEN ?2 ELSE coalesce(last_seen, created) * 1000 END FROM device WHERE id = ?1",
            )?;
            Ok(query
                .query_row(params![device, now], |row| row.get(0))
                .optional()?)
        }
        (Condition::Absent, Some(pattern)) => {
            let newest = connection.newest_of(device, &[&pattern.key(instance)])?;
            let newest = newest.into_iter().flatten().next();
            // Nothing at all is left of it: it hasn't come for a very long time.
            Ok(Some(newest.map_or(0, |sample| sample.ts).min(now)))
        }
        _ => Ok(None),
    }
}

/// Forgets what has long been over, and silences that have ended.
fn prune(tx: &Transaction<'_>, now: i64) -> Result<(), StoreError> {
    tx.prepare_cached(
        "DELETE FROM alarm WHERE id IN (SELECT id FROM alarm WHERE status = 'resolved' AND resolved < ?1 ORDER BY id LIMIT 1000)",
    )?
    .execute([now - KEEP])?;
    let gone = tx
        .prepare_cached("DELETE FROM alarm_silence WHERE until < ?1")?
        .execute([now - 30 * 86_400])?;
    if gone > 0 {
        rules::changed(tx)?;
    }
    Ok(())
}
