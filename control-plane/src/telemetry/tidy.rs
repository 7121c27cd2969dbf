//! Makes telemetry small, and forgets it: rows become pieces and windows, and what is too old goes.
//!
//! Packing is done by whoever reads; the writer only compares a day's rows with those that were packed, and swaps. So devices hardly
//! wait, and a sample that comes meanwhile stays a row until the next turn. Every step is a transaction of its own that leaves all answers
//! as they were: it may be killed between any two.

use std::collections::BTreeSet;

use futures_util::future::try_join_all;
use rusqlite::{Connection, Transaction, params};

use super::pieces::{self, Packed, Row};
use super::runs;
use super::windows::{DAY, WIDTHS};
use crate::config::Ages;
use crate::store::{Store, StoreError};

/// Rows younger than this aren't packed: late ones are few then.
const SETTLED: i64 = 2 * 3_600_000;
/// Of a day that isn't over, rows are packed when there are so many: each time the whole day is packed again.
const MANY: usize = 100;
/// Rows that are packed at once, and bytes of their values.
const ROWS: usize = 10_000;
const BYTES: usize = 16 << 20;
/// Keys that are looked at in one go.
const KEYS: usize = 2_000;
/// Days that are deleted in one transaction.
const STEP: i64 = 1_000;

/// What a turn did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Rows that were packed.
    pub packed: u64,
    /// Days of keys, and of their windows, that were forgotten; also runs of record numbers.
    pub forgotten: u64,
}

/// One turn over everything. `now` is in milliseconds since 1970.
///
/// # Errors
/// The database's, or if something in it is damaged.
pub async fn tidy(store: &Store, ages: &Ages, now: i64) -> Result<Tidied, StoreError> {
    let mut done = Tidied::default();
    let (mut place, ages) = (Some(Place::default()), *ages);
    while let Some(from) = place.take() {
        let look = move |connection: &Connection| look(connection, from, &ages, now);
        let (plans, next) = store.read::<_, StoreError, _>(look).await?;
        // Together, so that they share a commit.
        let writes = plans
            .into_iter()
            .map(|plan| store.write::<_, StoreError, _>(move |tx| plan.write(tx)));
        done.packed += try_join_all(writes).await?.iter().sum::<u64>();
        place = next;
    }
    let day = |days: u32| now.div_euclid(DAY) - i64::from(days);
    let pieces = day(ages.raw_days);
    done.forgotten += steps(store, move |tx| {
        tx.prepare_cached(
            "DELETE FROM piece WHERE (device, key, day) IN
                (SELECT device, key, day FROM piece WHERE day < ?1 LIMIT ?2)",
        )?
        .execute([pieces, STEP])
    })
    .await?;
    for (width, cutoff) in WIDTHS
        .into_iter()
        .zip([ages.five_minute_days, ages.hour_days].map(day))
    {
        done.forgotten += steps(store, move |tx| {
            tx.prepare_cached(
                "DELETE FROM window_day WHERE (device, key, width, day) IN
                    (SELECT device, key, width, day FROM window_day WHERE width = ?1 AND day < ?2 LIMIT ?3)",
            )?
            .execute([width, cutoff, STEP])
        })
        .await?;
    }
    done.forgotten += runs::forget(store).await?;
    Ok(done)
}

/// Deletes a step at a time until there is no whole one left; gives how many rows.
async fn steps(
    store: &Store,
    step: impl Fn(&Transaction<'_>) -> rusqlite::Result<usize> + Copy + Send + 'static,
) -> Result<u64, StoreError> {
    let mut deleted = 0;
    loop {
        let gone = store
            .write::<_, StoreError, _>(move |tx| Ok(step(tx)?))
            .await?;
        deleted += gone as u64;
        if i64::try_from(gone).unwrap_or(0) < STEP {
            return Ok(deleted);
        }
    }
}

/// How far a turn is: at a key, and there at a time.
#[derive(Debug, Clone, Default)]
struct Place {
    device: String,
    key: String,
    ts: i64,
}

/// A day of a key as it is to be.
struct Plan {
    device: String,
    key: String,
    day: i64,
    /// The rows that go into it; all that there are from the first to the last.
    rows: Vec<Row>,
    packed: Packed,
}

impl Plan {
    /// Writes it; gives how many rows it took. If they are others by now it does nothing, and the next turn does it.
    fn write(self, tx: &Transaction<'_>) -> Result<u64, StoreError> {
        let (Some((first, _)), Some((last, _))) = (self.rows.first(), self.rows.last()) else {
            return Ok(0);
        };
        let span = *first..last + 1;
        let rows = pieces::rows(
            tx,
            &self.device,
            &self.key,
            span.clone(),
            self.rows.len() + 1,
        )?;
        if rows != self.rows {
            return Ok(0);
        }
        self.packed.write(tx, &self.device, &self.key, self.day)?;
        let gone = tx
            .prepare_cached(
                "DELETE FROM sample WHERE device = ?1 AND key = ?2 AND ts >= ?3 AND ts < ?4",
            )?
            .execute(params![self.device, self.key, span.start, span.end])?;
        Ok(gone as u64)
    }
}

/// What is to be packed from a place on, and where to go on after that.
fn look(
    connection: &Connection,
    mut place: Place,
    ages: &Ages,
    now: i64,
) -> Result<(Vec<Plan>, Option<Place>), StoreError> {
    let mut here = connection.prepare_cached(
        "SELECT min(ts), (SELECT max(ts) FROM sample WHERE device = ?1 AND key = ?2) FROM sample
         WHERE device = ?1 AND key = ?2 AND ts >= ?3",
    )?;
    let mut next = connection.prepare_cached(
        "SELECT device, key FROM sample WHERE (device, key) > (?1, ?2) ORDER BY device, key LIMIT 1",
    )?;
    let (settled, oldest) = (
        now - SETTLED,
        now.div_euclid(DAY) - i64::from(ages.raw_days),
    );
    let (mut plans, mut keys_left) = (Vec::new(), KEYS);
    let (mut rows_left, mut bytes_left) = (ROWS, BYTES);
    // One plan for a day: a second would know nothing of the first.
    let mut planned = BTreeSet::new();
    loop {
        let (first, newest): (Option<i64>, Option<i64>) = here
            .query_row(params![place.device, place.key, place.ts], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        let fresh = first.is_none_or(|first| first >= settled);
        if fresh {
            let mut found = next.query([&place.device, &place.key])?;
            let Some(row) = found.next()? else {
                return Ok((plans, None));
            };
            place = Place {
                device: row.get(0)?,
                key: row.get(1)?,
                ts: i64::MIN,
            };
            planned.clear();
            keys_left -= 1;
            if keys_left == 0 {
                return Ok((plans, Some(place)));
            }
            continue;
        }
        let (Some(first), Some(newest)) = (first, newest) else {
            continue;
        };
        let day = first.div_euclid(DAY);
        if rows_left == 0 || bytes_left == 0 || !planned.insert(day) {
            return Ok((plans, Some(Place { ts: first, ..place })));
        }
        let over = (day + 1) * DAY;
        // The newest stays a row, so that it is found at once; but not for ever.
        let spared = if day < oldest { i64::MAX } else { newest };
        let end = over.min(settled).min(spared);
        let rows = pieces::rows_within(
            connection,
            &place.device,
            &place.key,
            first..end,
            rows_left,
            bytes_left,
        )?;
        let bytes: usize = rows.iter().map(|(_, value)| value.len()).sum();
        let is_cut = rows.len() == rows_left || bytes >= bytes_left;
        place.ts = match rows.last() {
            Some((ts, _)) if is_cut => ts + 1,
            _ => over,
        };
        let is_worth_it = is_cut || rows.len() >= MANY || over <= settled;
        if rows.is_empty() || !is_worth_it {
            continue;
        }
        let points = rows.iter().map(pieces::point).collect();
        let packed = pieces::kept(connection, &place.device, &place.key, day)
            .and_then(|kept| Packed::new(&pieces::fold(kept, points)));
        let packed = match packed {
            // Its rows stay; nothing else is held up.
            Err(StoreError::Damaged { what, reason }) => {
                tracing::error!(
                    device = place.device,
                    key = place.key,
                    day,
                    what,
                    reason,
                    "a day can't be packed"
                );
                place.ts = over;
                continue;
            }
            packed => packed?,
        };
        rows_left -= rows.len();
        bytes_left = bytes_left.saturating_sub(bytes);
        plans.push(Plan {
            device: place.device.clone(),
            key: place.key.clone(),
            day,
            rows,
            packed,
        });
    }
}
