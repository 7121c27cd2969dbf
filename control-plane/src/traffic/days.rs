//! Packing days that are over.

use rusqlite::{Transaction, params};

use super::packed::pack as compress;
use super::series;
use super::sum::DAY;
use crate::store::{Store, StoreError};

/// A day is packed when it has been over for so many days: later records are few then.
const SETTLED: i64 = 2;
/// Series of a day in one transaction.
const BATCH: i64 = 500;

/// Packs what is old enough; gives how many days of series that were. `now` is a slot's number.
///
/// # Errors
/// The database's.
pub async fn pack(store: &Store, now: i64) -> Result<u64, StoreError> {
    let before = (now.div_euclid(DAY) - SETTLED) * DAY;
    let mut packed = 0;
    loop {
        let count = store
            .write::<_, StoreError, _>(move |tx| batch(tx, before))
            .await?;
        packed += count;
        if count == 0 {
            return Ok(packed);
        }
    }
}

fn batch(tx: &Transaction<'_>, before: i64) -> Result<u64, StoreError> {
    let mut old = tx.prepare_cached(
        "SELECT DISTINCT series, slot / 288 FROM traffic_slot WHERE slot < ?1 LIMIT ?2",
    )?;
    let days = old.query_map(params![before, BATCH], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let days: Vec<(i64, i64)> = days.collect::<Result<_, _>>()?;
    for (series, day) in &days {
        one(tx, *series, *day)?;
    }
    Ok(days.len() as u64)
}

fn one(tx: &Transaction<'_>, series: i64, day: i64) -> Result<(), StoreError> {
    let sums = series::read(tx, series, day * DAY..(day + 1) * DAY)?;
    tx.prepare_cached(
        "INSERT OR REPLACE INTO traffic_day (series, day, slots) VALUES (?1, ?2, ?3)",
    )?
    .execute(params![series, day, compress(&sums)?])?;
    tx.prepare_cached("DELETE FROM traffic_slot WHERE series = ?1 AND slot >= ?2 AND slot < ?3")?
        .execute(params![series, day * DAY, (day + 1) * DAY])?;
    Ok(())
}
