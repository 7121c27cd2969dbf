//! Alarms: what is wrong with devices, and who is told.
//!
//! What an alarm does is decided in `cairn_alarm`, which is pure; here are its tables, its clock, its channels and its API. A sample
//! is judged in the transaction that stores it, and what people are to be told is written there too: after kill -9 no alarm is lost
//! and none comes twice. What only time can change is found by an index over when it is due.
//!
//! | Module | Owns |
//! |---|---|
//! | `rules` | templates, silences and channels as the judges need them, remembered |
//! | [`listener`] | which samples matter |
//! | `device` | a device, as far as alarms know it |
//! | `case` | what is judged: one device at one moment |
//! | `judge` | the state machine over the database |
//! | `life` | alarms as rows, their history, and what is queued for whom |
//! | `timer` | what time does |
//! | [`channel`] | where people are told: webhook, mail, WeCom, gateways |
//! | `message` | what they read |
//! | `send` | one message to one channel |
//! | `delivery` | the queue: order, rates, repetition |
//! | [`manage`] | changing templates, channels and silences |
//! | [`view`] | what people see |
//! | [`rest`] | `/v1/alarms`, `/v1/alarm-templates`, `/v1/alarm-channels`, `/v1/alarm-silences` |

mod case;
pub mod channel;
mod delivery;
mod device;
mod judge;
mod life;
pub mod listener;
pub mod manage;
mod message;
pub mod rest;
mod rules;
mod send;
#[cfg(test)]
mod tests;
mod timer;
pub mod view;

use rusqlite::{Connection, Transaction};
use tokio_util::sync::CancellationToken;

pub use listener::Listener;
pub use rest::routes;

use crate::store::{Store, StoreError};

/// Does what happens by itself until the shutdown: timers, and telling people.
pub async fn run(store: Store, shutdown: CancellationToken) {
    // Silence before this moment is the server's own.
    let started = now_ms();
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = async { tokio::join!(timer::run(&store, started), delivery::run(&store)); } => {}
    }
}

/// A device was seen: it isn't offline any more.
///
/// # Errors
/// The database's.
pub fn seen(tx: &Transaction<'_>, device: &str) -> Result<(), StoreError> {
    judge::seen(tx, device, now_ms())
}

/// A device has another group, other tags, another supplier, or is shut out: what is open is looked at again, and seen by who has the
/// device now.
///
/// # Errors
/// The database's.
pub fn device_changed(tx: &Transaction<'_>, device: &str) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE alarm SET supplier = (SELECT supplier FROM device WHERE id = ?1) WHERE device = ?1 AND status <> 'resolved'",
    )?
    .execute([device])?;
    tx.prepare_cached("UPDATE alarm_track SET due = ?2 WHERE device = ?1 AND open")?
        .execute((device, now_ms()))?;
    Ok(())
}

/// Milliseconds since 1970.
fn now_ms() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}

/// JSON from the database; nothing, with a line in the log, if it can't be read: what another version wrote must neither keep telemetry
/// from being stored nor other alarms from being told. The log gets no text of it, which may hold secrets.
fn readable<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Option<T> {
    let read = serde_json::from_str(text);
    if let Err(error) = &read {
        let (line, column) = (error.line(), error.column());
        tracing::error!(what, line, column, "it can't be read from the database");
    }
    read.ok()
}

/// A column that holds JSON.
fn json<T: serde::de::DeserializeOwned>(text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
    })
}

fn to_json(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)).into())
}

/// How many alarms fire, acknowledged or not; and how many messages wait.
///
/// # Errors
/// The database's.
pub fn tally(connection: &Connection) -> Result<(i64, i64), StoreError> {
    let count = |sql| {
        connection
            .prepare_cached(sql)?
            .query_row([], |row| row.get(0))
    };
    Ok((
        count("SELECT count(*) FROM alarm WHERE status IN ('firing', 'acknowledged')")?,
        count("SELECT count(*) FROM alarm_delivery WHERE state = 'queued'")?,
    ))
}
