//! Samples over time: kept and read back, wherever they lie.

use std::collections::BTreeSet;
use std::ops::Range;

use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::pieces::{self, Row};
use super::windows::{DAY, WIDTHS, Window, Windows};
use crate::store::StoreError;

/// Values of one answer, in bytes of JSON; what is behind them is left out.
const ANSWER: usize = 4 << 20;
/// Keys of one device that an answer has at most.
const MOST_KEYS: usize = 10_000;
/// A time with more digits isn't one: the year 10000 in milliseconds.
pub(super) const MAX_TS: i64 = 253_402_300_800_000;

/// One value of one key at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Sample {
    /// The key.
    pub key: String,
    /// Milliseconds since 1970.
    pub ts: i64,
    /// The value.
    pub value: Value,
}

/// The time-series store: a value for each device, key and time in milliseconds since 1970. It is implemented for a connection, so that
/// within a transaction it sees and does what that does.
pub trait Series {
    /// Keeps a value. The same key and time again is the same sample, with its new value.
    ///
    /// # Errors
    /// The store's.
    fn put(&self, device: &str, key: &str, ts: i64, value: &Value) -> Result<(), StoreError>;

    /// Keeps a value that has no time: at `ts`, or behind the newest if something is there. Gives the time that it got.
    ///
    /// # Errors
    /// The store's.
    fn put_next(&self, device: &str, key: &str, ts: i64, value: &Value) -> Result<i64, StoreError>;

    /// The newest sample of each key that begins with `prefix`, by key.
    ///
    /// # Errors
    /// The store's.
    fn newest(&self, device: &str, prefix: &str) -> Result<Vec<Sample>, StoreError>;

    /// The newest sample of each of these keys, in their order.
    ///
    /// # Errors
    /// The store's.
    fn newest_of(&self, device: &str, keys: &[&str]) -> Result<Vec<Option<Sample>>, StoreError>;

    /// The time of a key's newest sample, those at `times` left out.
    ///
    /// # Errors
    /// The store's.
    fn newest_but(
        &self,
        device: &str,
        key: &str,
        times: &BTreeSet<i64>,
    ) -> Result<Option<i64>, StoreError>;

    /// Samples of a key within `time`, the newest first; at most `limit`, and as many as make a sensible answer.
    ///
    /// # Errors
    /// The store's.
    fn samples(
        &self,
        device: &str,
        key: &str,
        time: Range<i64>,
        limit: usize,
    ) -> Result<Vec<Sample>, StoreError>;

    /// What a key's numbers come to in each `step` milliseconds, the oldest first. Windows begin at multiples of the step since 1970;
    /// those that begin within `time` are given, whole. Where there are no numbers there is no window.
    ///
    /// # Errors
    /// The store's.
    fn windows(
        &self,
        device: &str,
        key: &str,
        time: Range<i64>,
        step: i64,
    ) -> Result<Vec<Window>, StoreError>;
}

/// SQLite: fresh samples are rows, older ones are packed by day. The newest sample of a key is always a row.
impl Series for Connection {
    fn put(&self, device: &str, key: &str, ts: i64, value: &Value) -> Result<(), StoreError> {
        self.prepare_cached(
            "INSERT INTO sample (device, key, ts, value) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET value = excluded.value",
        )?
        .execute(params![device, key, ts, value.to_string()])?;
        Ok(())
    }

    fn put_next(&self, device: &str, key: &str, ts: i64, value: &Value) -> Result<i64, StoreError> {
        let mut insert = self.prepare_cached(
            "INSERT INTO sample (device, key, ts, value) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        )?;
        let text = value.to_string();
        if insert.execute(params![device, key, ts, text])? > 0 {
            return Ok(ts);
        }
        let last: i64 = self
            .prepare_cached("SELECT max(ts) FROM sample WHERE device = ?1 AND key = ?2")?
            .query_row(params![device, key], |row| row.get(0))?;
        let next = last.saturating_add(1);
        insert.execute(params![device, key, next, text])?;
        Ok(next)
    }

    fn newest(&self, device: &str, prefix: &str) -> Result<Vec<Sample>, StoreError> {
        // From key to key, and not over what lies between.
        let mut next = self.prepare_cached(
            "SELECT key FROM sample WHERE device = ?1 AND key > ?2 ORDER BY key LIMIT 1",
        )?;
        let mut first = self.prepare_cached(
            "SELECT key FROM sample WHERE device = ?1 AND key >= ?2 ORDER BY key LIMIT 1",
        )?;
        let mut key: Option<String> = first
            .query_row([device, prefix], |row| row.get(0))
            .optional()?;
        let (mut answer, mut keys) = (Answer::default(), 0);
        while let Some(found) = key.take_if(|key| key.starts_with(prefix) && keys < MOST_KEYS) {
            if let Some(row) = newest_row(self, device, &found)?
                && !answer.take(&found, &row)
            {
                break;
            }
            keys += 1;
            key = next
                .query_row([device, &found], |row| row.get(0))
                .optional()?;
        }
        Ok(answer.samples)
    }

    fn newest_of(&self, device: &str, keys: &[&str]) -> Result<Vec<Option<Sample>>, StoreError> {
        let newest = |key: &&str| {
            let row = newest_row(self, device, key)?;
            Ok(row.map(|row| sample(key, pieces::point(&row))))
        };
        keys.iter().map(newest).collect()
    }

    fn newest_but(
        &self,
        device: &str,
        key: &str,
        times: &BTreeSet<i64>,
    ) -> Result<Option<i64>, StoreError> {
        let mut query = self.prepare_cached(
            "SELECT ts FROM sample WHERE device = ?1 AND key = ?2 ORDER BY ts DESC",
        )?;
        let mut rows = query.query([device, key])?;
        let mut row = None;
        while let Some(found) = rows.next()? {
            row = Some(found.get(0)?).filter(|ts| !times.contains(ts));
            if row.is_some() {
                break;
            }
        }
        Ok(row.max(pieces::newest_but(self, device, key, times)?))
    }

    fn samples(
        &self,
        device: &str,
        key: &str,
        time: Range<i64>,
        limit: usize,
    ) -> Result<Vec<Sample>, StoreError> {
        let (mut answer, mut end) = (Answer::default(), time.end);
        while answer.samples.len() < limit
            && let Some(day) = pieces::day_before(self, device, key, end)?
            && let start = day.saturating_mul(DAY)
            && start.saturating_add(DAY) > time.start
        {
            let span = time.start.max(start)..end.min(start.saturating_add(DAY));
            let left = limit - answer.samples.len();
            let rows = newest_rows(self, device, key, span.clone(), left)?;
            let mut packed = pieces::piece(self, device, key, day)?.unwrap_or_default();
            packed.retain(|(ts, _)| span.contains(ts));
            let mut packed = packed.into_iter().rev().peekable();
            let mut rows = rows.into_iter().peekable();
            while answer.samples.len() < limit {
                let row = rows.peek().map(|row| row.0);
                let taken = if packed.peek().is_some_and(|packed| Some(packed.0) > row) {
                    packed.next().is_none_or(|point| answer.packed(key, point))
                } else if let Some(row) = rows.next() {
                    packed.next_if(|packed| packed.0 == row.0);
                    answer.take(key, &row)
                } else {
                    break;
                };
                if !taken {
                    return Ok(answer.samples);
                }
            }
            end = start;
        }
        Ok(answer.samples)
    }

    fn windows(
        &self,
        device: &str,
        key: &str,
        time: Range<i64>,
        step: i64,
    ) -> Result<Vec<Window>, StoreError> {
        let step = step.max(1);
        let time = time.start.clamp(0, MAX_TS)..time.end.clamp(0, MAX_TS);
        let up =
            |ts: i64| ts.div_euclid(step) * step + if ts.rem_euclid(step) > 0 { step } else { 0 };
        let span = up(time.start)..up(time.end);
        // The widest that are kept and come to whole steps; without any the samples themselves.
        let width = WIDTHS.into_iter().rev().find(|width| step % width == 0);
        let range = span.start.div_euclid(DAY)..span.end.saturating_sub(1).div_euclid(DAY) + 1;
        let mut windows = Windows::new(step);
        for day in pieces::days(self, device, key, range, width)? {
            let of_day = day * DAY..(day + 1) * DAY;
            let rows = pieces::rows(self, device, key, of_day, usize::MAX)?;
            if let Some(width) = width
                && rows.is_empty()
                && let Some(kept) = pieces::windows_of(self, device, key, width, day)?
            {
                let inside = kept.iter().filter(|window| span.contains(&window.start));
                inside.for_each(|window| windows.window(window));
                continue;
            }
            let rows = rows.iter().map(pieces::point).collect();
            let day = pieces::fold(pieces::kept(self, device, key, day)?, rows);
            let kept = width.and_then(|width| WIDTHS.iter().position(|it| *it == width));
            match (day.piece, kept) {
                (Some(piece), _) => {
                    let inside = pieces::numbers(&piece).filter(|(ts, _)| span.contains(ts));
                    inside.for_each(|(ts, number)| windows.number(ts, number));
                }
                (None, Some(at)) => {
                    let kept = day
                        .windows
                        .get(at)
                        .and_then(Option::as_ref)
                        .into_iter()
                        .flatten();
                    let inside = kept.filter(|window| span.contains(&window.start));
                    inside.for_each(|window| windows.window(window));
                }
                // Finer than what is left of so old a day.
                (None, None) => {}
            }
        }
        Ok(windows.done())
    }
}

fn newest_row(connection: &Connection, device: &str, key: &str) -> Result<Option<Row>, StoreError> {
    Ok(connection
        .prepare_cached(
            "SELECT ts, value FROM sample WHERE device = ?1 AND key = ?2 ORDER BY ts DESC LIMIT 1",
        )?
        .query_row([device, key], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?)
}

fn newest_rows(
    connection: &Connection,
    device: &str,
    key: &str,
    time: Range<i64>,
    limit: usize,
) -> Result<Vec<Row>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT ts, value FROM sample WHERE device = ?1 AND key = ?2 AND ts >= ?3 AND ts < ?4 ORDER BY ts DESC LIMIT ?5",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = query.query(params![device, key, time.start, time.end, limit])?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    // One more than an answer has, so that it is seen to be full.
    while bytes <= ANSWER
        && let Some(row) = rows.next()?
    {
        let row: Row = (row.get(0)?, row.get(1)?);
        bytes += row.1.len();
        found.push(row);
    }
    Ok(found)
}

fn sample(key: &str, (ts, value): (i64, Value)) -> Sample {
    Sample {
        key: key.to_owned(),
        ts,
        value,
    }
}

/// As many samples as come to [`ANSWER`]: a device chose how large they are.
#[derive(Default)]
struct Answer {
    samples: Vec<Sample>,
    bytes: usize,
}

impl Answer {
    /// Whether there was room.
    fn take(&mut self, key: &str, row: &Row) -> bool {
        let room = self.room(row.1.len());
        if room {
            self.samples.push(sample(key, pieces::point(row)));
        }
        room
    }

    fn packed(&mut self, key: &str, point: (i64, Value)) -> bool {
        let length = match &point.1 {
            Value::Null | Value::Bool(_) | Value::Number(_) => 8,
            other => other.to_string().len(),
        };
        let room = self.room(length);
        if room {
            self.samples.push(sample(key, point));
        }
        room
    }

    fn room(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        self.bytes <= ANSWER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_each_key_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cairn.db");
        drop(crate::store::Store::open(&path).unwrap());
        let connection = Connection::open(&path).unwrap();
        assert!(connection.newest("a", "").unwrap().is_empty());
        for (device, key, ts) in [
            ("a", "x", 1),
            ("a", "x", 3),
            ("a", "y", 2),
            ("b", "x", 9),
            ("b", "z", 9),
        ] {
            connection.put(device, key, ts, &1.into()).unwrap();
        }
        let newest = |prefix| -> Vec<_> {
            let found = connection.newest("a", prefix).unwrap();
            found.into_iter().map(|s| (s.key, s.ts)).collect()
        };
        assert_eq!(newest(""), [("x".to_owned(), 3), ("y".to_owned(), 2)]);
        assert_eq!(newest("y"), [("y".to_owned(), 2)]);
        assert_eq!(newest("z"), []);
        let of = connection.newest_of("a", &["y", "z", "x"]).unwrap();
        let of: Vec<_> = of.iter().map(|s| s.as_ref().map(|s| s.ts)).collect();
        assert_eq!(of, [Some(2), None, Some(3)]);
        assert_eq!(connection.samples("a", "x", 0..3, 10).unwrap().len(), 1);
        // However much a device has sent, an answer fits into memory.
        let large = Value::from("x".repeat(65_000));
        for ts in 0..100 {
            connection.put("c", "x", ts, &large).unwrap();
        }
        let found = connection.samples("c", "x", 0..i64::MAX, 10_000).unwrap();
        assert_eq!((found.len(), found[0].ts), (ANSWER / 65_002, 99));
    }
}
