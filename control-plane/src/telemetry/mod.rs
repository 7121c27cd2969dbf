//! Telemetry: taking each record once, reading it back, and forgetting what is old.
//!
//! A record with an id counts once, however often it comes. One without is known by device, key and time: the same again is one.
//! Values without a time get the server's, moved by a millisecond if the key has one there already, so that none is lost. So do values
//! whose time is too far ahead: their sender's clock is wrong, and they would be the newest for ever.
//!
//! | Module | Owns |
//! |---|---|
//! | [`quota`] | how much a device may store in a day |
//! | `prune` | what is too old |
//! | `query` | reading |

mod prune;
mod query;
pub mod quota;

use cairn_traffic::chain;
use cairn_wire::report::{self, UpdateReport};
use cairn_wire::{Object, Record};
use rusqlite::{Transaction, params};

use crate::alarms::Listener;
use crate::registry::attributes::MAX_KEY;
use crate::rollouts::Rollouts;
use crate::store::StoreError;
use crate::traffic;

pub use prune::prune;
pub use query::{Sample, newest, samples};

/// Values that one record may have.
pub const MAX_VALUES: usize = 1024;
/// A time with more digits isn't one: the year 10000 in milliseconds.
const MAX_TS: i64 = 253_402_300_800_000;

/// How far a time may be ahead of the server's, in milliseconds.
const AHEAD: i64 = 10 * 60 * 1000;

/// What became of records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Stored.
    pub stored: u64,
    /// There before.
    pub duplicates: u64,
    /// Of those stored: by the server's time, as their own was too far ahead.
    pub ahead: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.stored += more.stored;
        self.duplicates += more.duplicates;
        self.ahead += more.ahead;
    }
}

/// Why records can't be stored, whatever the database says.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// A key.
    #[error("a telemetry key is empty or longer than {MAX_KEY} bytes")]
    Key,
    /// Too many values.
    #[error("a telemetry record has more than {MAX_VALUES} values")]
    Values,
    /// A time.
    #[error("{0} is no time in milliseconds since 1970")]
    Time(i64),
    /// A record's number.
    #[error("the record number {0} is too large")]
    Number(u64),
}

/// Checks what the database would choke on.
///
/// # Errors
/// If a record can't be stored.
pub fn check(records: &[Record]) -> Result<(), Unusable> {
    for record in records {
        if record.values.len() > MAX_VALUES {
            return Err(Unusable::Values);
        }
        if record
            .values
            .keys()
            .any(|key| key.is_empty() || key.len() > MAX_KEY)
        {
            return Err(Unusable::Key);
        }
        if let Some(ts) = record.ts
            && !(0..=MAX_TS).contains(&ts)
        {
            return Err(Unusable::Time(ts));
        }
        if let Some(id) = &record.id
            && i64::try_from(id.seq).is_err()
        {
            return Err(Unusable::Number(id.seq));
        }
    }
    Ok(())
}

/// Stores records of a device that came at `received` (milliseconds since 1970). In the same transaction reports of updates go to the
/// rollouts, records of traffic to the bills (and nowhere else), and every value to the alarms, which judge it when the caller has no
/// more ([`Listener::finish`]).
///
/// # Errors
/// The database's.
pub fn store(
    transaction: &Transaction<'_>,
    device: &str,
    records: &[Record],
    received: i64,
    alarms: &mut Listener,
) -> Result<Counts, StoreError> {
    let mut counts = Counts::default();
    for record in records {
        if let Some(id) = &record.id
            && !first(
                transaction,
                device,
                &id.log,
                i64::try_from(id.seq).unwrap_or(i64::MAX),
            )?
        {
            counts.duplicates += 1;
            continue;
        }
        let rest;
        let record = match record.values.get(chain::KEY) {
            None => record,
            Some(value) => {
                traffic::take(transaction, device, value, received)?;
                rest = without(record, chain::KEY);
                &rest
            }
        };
        match (record.ts, &record.id) {
            (None, _) => unset(transaction, device, received, &record.values, alarms)?,
            (Some(ts), _) if ts <= received.saturating_add(AHEAD) => {
                at(transaction, device, ts, &record.values, alarms)?;
            }
            (Some(_), Some(_)) => {
                counts.ahead += 1;
                unset(transaction, device, received, &record.values, alarms)?;
            }
            // Known by its own time all the same: sent again, it is still one.
            (Some(ts), None) => {
                let mut new = Object::new();
                for (key, value) in &record.values {
                    if first(transaction, device, &format!("ahead {key}"), ts)? {
                        new.insert(key.clone(), value.clone());
                    }
                }
                if new.is_empty() && !record.values.is_empty() {
                    counts.duplicates += 1;
                    continue;
                }
                counts.ahead += 1;
                unset(transaction, device, received, &new, alarms)?;
            }
        }
        if let Some(value) = record.values.get(report::KEY) {
            match serde_json::from_value::<UpdateReport>(value.clone()) {
                Ok(report) => Rollouts::on_report(transaction, device, &report)?,
                Err(error) => {
                    tracing::warn!(device, %error, "an update report can't be read; kept as telemetry only")
                }
            }
        }
        counts.stored += 1;
    }
    Ok(counts)
}

/// A record but for one of its values.
fn without(record: &Record, key: &str) -> Record {
    let mut rest = record.clone();
    rest.values.remove(key);
    rest
}

/// Notes a number of a log; whether it is there for the first time.
fn first(
    transaction: &Transaction<'_>,
    device: &str,
    log: &str,
    seq: i64,
) -> Result<bool, StoreError> {
    let new = transaction
        .prepare_cached("INSERT OR IGNORE INTO record (device, log, seq) VALUES (?1, ?2, ?3)")?
        .execute(params![device, log, seq])?;
    Ok(new > 0)
}

fn at(
    transaction: &Transaction<'_>,
    device: &str,
    ts: i64,
    values: &Object,
    alarms: &mut Listener,
) -> Result<(), StoreError> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO sample (device, key, ts, value) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET value = excluded.value",
    )?;
    for (key, value) in values {
        statement.execute(params![device, key, ts, value.to_string()])?;
        alarms.sample(key, ts, value);
    }
    Ok(())
}

fn unset(
    transaction: &Transaction<'_>,
    device: &str,
    received: i64,
    values: &Object,
    alarms: &mut Listener,
) -> Result<(), StoreError> {
    let mut insert = transaction.prepare_cached(
        "INSERT OR IGNORE INTO sample (device, key, ts, value) VALUES (?1, ?2, ?3, ?4)",
    )?;
    for (key, value) in values {
        let text = value.to_string();
        if insert.execute(params![device, key, received, text])? > 0 {
            alarms.sample(key, received, value);
            continue;
        }
        let last: i64 = transaction
            .prepare_cached("SELECT max(ts) FROM sample WHERE device = ?1 AND key = ?2")?
            .query_row(params![device, key], |row| row.get(0))?;
        let next = last.saturating_add(1);
        insert.execute(params![device, key, next, text])?;
        alarms.sample(key, next, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
