//! Rows of the tables in `005-rollouts.sql`.

use cairn_rollout::{Assignment, DeviceState, Reason, Rollout, Selector, Target};
use cairn_wire::ReleaseOrder;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, named_params, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::StoreError;

/// Events kept of one device in one rollout; more are not written. A device that behaves makes some ten for each attempt.
const MAX_EVENTS: i64 = 500;

/// A column that holds JSON.
pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    parse(&text)
}

fn maybe_json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<T>> {
    row.get::<_, Option<String>>(column)?
        .map(|text| parse(&text))
        .transpose()
}

fn parse<T: DeserializeOwned>(text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error)))
}

/// A column that is never negative.
pub(super) fn unsigned(row: &Row<'_>, column: impl rusqlite::RowIndex) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, value))
}

/// A column whose text has a type of its own.
pub(super) fn typed<T>(row: &Row<'_>, column: &str) -> rusqlite::Result<T>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text: String = row.get(column)?;
    text.parse()
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error)))
}

pub(super) fn to_json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)).into())
}

/// A rollout as the engine needs it.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) id: i64,
    pub(super) target: Target,
    pub(super) rollout: Rollout,
}

const STORED: &str = "SELECT id, version, digest, state FROM rollout";

fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    Ok(Stored {
        id: row.get("id")?,
        target: Target {
            version: typed(row, "version")?,
            digest: typed(row, "digest")?,
        },
        rollout: json(row, "state")?,
    })
}

pub(super) fn load(connection: &Connection, id: i64) -> Result<Option<Stored>, StoreError> {
    let mut query = connection.prepare_cached(&format!("{STORED} WHERE id = ?1"))?;
    Ok(query.query_row([id], stored).optional()?)
}

/// The one that an order's id belongs to.
pub(super) fn by_tag(connection: &Connection, tag: &str) -> Result<Option<Stored>, StoreError> {
    let mut query = connection.prepare_cached(&format!("{STORED} WHERE tag = ?1"))?;
    Ok(query.query_row([tag], stored).optional()?)
}

/// All that run, the newest first.
pub(super) fn running(connection: &Connection) -> Result<Vec<Stored>, StoreError> {
    let mut query = connection.prepare_cached(&format!(
        "{STORED} WHERE status = 'running' ORDER BY id DESC"
    ))?;
    Ok(query.query_map([], stored)?.collect::<Result<_, _>>()?)
}

pub(super) fn save(tx: &Transaction<'_>, id: i64, rollout: &Rollout) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE rollout SET status = ?2, state = ?3 WHERE id = ?1")?
        .execute(params![id, rollout.status.as_str(), to_json(rollout)?])?;
    Ok(())
}

pub(super) fn selector(connection: &Connection, id: i64) -> Result<Selector, StoreError> {
    let mut query = connection.prepare_cached("SELECT selector FROM rollout WHERE id = ?1")?;
    Ok(query.query_row([id], |row| json(row, "selector"))?)
}

pub(super) fn template(
    connection: &Connection,
    id: i64,
) -> Result<Option<(String, ReleaseOrder)>, StoreError> {
    let mut query = connection.prepare_cached("SELECT tag, template FROM rollout WHERE id = ?1")?;
    Ok(query
        .query_row([id], |row| Ok((row.get("tag")?, json(row, "template")?)))
        .optional()?)
}

pub(super) fn assignment_of(row: &Row<'_>) -> rusqlite::Result<Assignment> {
    let state: String = row.get("state")?;
    let unknown = || {
        rusqlite::Error::FromSqlConversionFailure(
            0,
            Type::Text,
            format!("unknown state {state}").into(),
        )
    };
    Ok(Assignment {
        state: DeviceState::from_name(&state).ok_or_else(unknown)?,
        attempt: row.get("attempt")?,
        retries: row.get("retries")?,
        since: row.get("since")?,
        due: row.get("due")?,
        armed: row.get("armed")?,
        running: row
            .get::<_, Option<String>>("running")?
            .and_then(|version| version.parse().ok()),
        note: row.get("note")?,
        reason: maybe_json(row, "reason")?,
    })
}

pub(super) fn assignment(
    connection: &Connection,
    rollout: i64,
    device: &str,
) -> Result<Option<Assignment>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT state, attempt, retries, since, due, armed, running, note, reason FROM assignment WHERE rollout = ?1 AND device = ?2",
    )?;
    Ok(query
        .query_row(params![rollout, device], assignment_of)
        .optional()?)
}

pub(super) fn put_assignment(
    tx: &Transaction<'_>,
    rollout: i64,
    device: &str,
    a: &Assignment,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO assignment (rollout, device, state, attempt, retries, since, due, armed, running, note, reason)
         VALUES (:rollout, :device, :state, :attempt, :retries, :since, :due, :armed, :running, :note, :reason)
         ON CONFLICT (rollout, device) DO UPDATE SET state = :state, attempt = :attempt, retries = :retries, since = :since,
             due = :due, armed = :armed, running = :running, note = :note, reason = :reason",
    )?
    .execute(named_params! {
        ":rollout": rollout,
        ":device": device,
        ":state": a.state.as_str(),
        ":attempt": a.attempt,
        ":retries": a.retries,
        ":since": a.since,
        ":due": a.due,
        ":armed": a.armed,
        ":running": a.running.as_ref().map(ToString::to_string),
        ":note": a.note,
        ":reason": reason(a.reason.as_ref())?,
    })?;
    Ok(())
}

fn reason(reason: Option<&Reason>) -> Result<Option<String>, StoreError> {
    reason.map(to_json).transpose()
}

/// Something for a timeline.
#[derive(Debug, Default)]
pub(super) struct NewEvent<'a> {
    pub(super) device: Option<&'a str>,
    pub(super) attempt: Option<u32>,
    pub(super) state: Option<&'a str>,
    pub(super) text: &'a str,
    pub(super) reason: Option<&'a Reason>,
}

pub(super) fn put_event(
    tx: &Transaction<'_>,
    rollout: i64,
    now: i64,
    event: &NewEvent<'_>,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO rollout_event (rollout, device, time, attempt, state, text, reason)
         SELECT :rollout, :device, :time, :attempt, :state, :text, :reason WHERE :device IS NULL
             OR (SELECT count(*) FROM rollout_event WHERE rollout = :rollout AND device = :device) < :most",
    )?
    .execute(named_params! {
        ":rollout": rollout,
        ":device": event.device,
        ":time": now,
        ":attempt": event.attempt,
        ":state": event.state,
        ":text": event.text,
        ":reason": reason(event.reason)?,
        ":most": MAX_EVENTS,
    })?;
    Ok(())
}

/// Forgets events before a moment, the oldest first; whether there may be more.
pub(super) fn prune(tx: &Transaction<'_>, before: i64, limit: usize) -> Result<bool, StoreError> {
    // Numbers grow with time: no index over the time is needed.
    let gone = tx
        .prepare_cached(
            "DELETE FROM rollout_event WHERE id IN
                 (SELECT id FROM (SELECT id, time FROM rollout_event ORDER BY id LIMIT ?2) WHERE time < ?1)",
        )?
        .execute(params![before, i64::try_from(limit).unwrap_or(i64::MAX)])?;
    Ok(gone == limit)
}

/// Devices whose moment has come, the oldest first.
pub(super) fn due(
    connection: &Connection,
    now: i64,
    limit: usize,
) -> Result<Vec<(i64, String)>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT rollout, device FROM assignment WHERE due IS NOT NULL AND due <= ?1 ORDER BY due LIMIT ?2",
    )?;
    let rows = query.query_map(
        params![now, i64::try_from(limit).unwrap_or(i64::MAX)],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(rows.collect::<Result<_, _>>()?)
}
