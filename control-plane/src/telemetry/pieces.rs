//! A key's samples where they lie: as rows while they are fresh, then in pieces of a day, and as windows.
//!
//! A row counts in the place of a packed sample of its time. A day has all of its windows, or none; what they don't have yet is in
//! rows. So a day is always what [`fold`] makes of its rows and of what is kept of it, whether that has been written or not.

use std::collections::BTreeSet;
use std::ops::Range;

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use serde_json::Value;

use super::numbers::Damaged;
use super::pack::{self, Point};
use super::windows::{self, DAY, WIDTHS, Window};
use crate::store::StoreError;

/// What is kept of a day beside its rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kept {
    /// Its samples in the order of time; none: nothing was packed, or it is too old.
    pub piece: Option<Vec<Point>>,
    /// Its windows, by [`WIDTHS`].
    pub windows: [Option<Vec<Window>>; WIDTHS.len()],
}

/// A row: a time in milliseconds since 1970, and JSON.
pub type Row = (i64, String);

fn damaged(reason: &Damaged) -> StoreError {
    StoreError::Damaged {
        what: "packed telemetry",
        reason: reason.to_string(),
    }
}

/// A row's sample. What can't be read is nothing.
pub fn point((ts, text): &Row) -> Point {
    (*ts, serde_json::from_str(text).unwrap_or(Value::Null))
}

/// Those samples that are numbers.
pub fn numbers(points: &[Point]) -> impl Iterator<Item = (i64, f64)> {
    points
        .iter()
        .filter_map(|(ts, value)| Some((*ts, value.as_f64()?)))
}

/// A day's samples with rows among them; both are in the order of time.
pub fn merge(piece: Vec<Point>, rows: Vec<Point>) -> Vec<Point> {
    let mut merged = Vec::with_capacity(piece.len() + rows.len());
    let mut rows = rows.into_iter().peekable();
    for packed in piece {
        while let Some(row) = rows.next_if(|row| row.0 < packed.0) {
            merged.push(row);
        }
        merged.push(rows.next_if(|row| row.0 == packed.0).unwrap_or(packed));
    }
    merged.extend(rows);
    merged
}

/// What a day is with these rows taken into it. Where the samples themselves are gone, rows are added to its windows.
pub fn fold(kept: Kept, rows: Vec<Point>) -> Kept {
    let is_first = kept.windows.iter().all(Option::is_none);
    if kept.piece.is_some() || is_first {
        let piece = merge(kept.piece.unwrap_or_default(), rows);
        let windows = WIDTHS.map(|width| windows::of(numbers(&piece), width));
        return Kept {
            piece: Some(piece),
            windows: windows.map(|windows| (!windows.is_empty()).then_some(windows)),
        };
    }
    let mut windows = kept.windows;
    for (windows, width) in windows.iter_mut().zip(WIDTHS) {
        if let Some(before) = windows.take() {
            *windows = Some(windows::add(before, numbers(&rows), width));
        }
    }
    Kept {
        piece: None,
        windows,
    }
}

/// Rows of a stretch of time, the oldest first; at most so many.
///
/// # Errors
/// The database's.
pub fn rows(
    connection: &Connection,
    device: &str,
    key: &str,
    time: Range<i64>,
    limit: usize,
) -> Result<Vec<Row>, StoreError> {
    rows_within(connection, device, key, time, limit, usize::MAX)
}

/// The same, and no more once their values come to so many bytes.
///
/// # Errors
/// The database's.
pub fn rows_within(
    connection: &Connection,
    device: &str,
    key: &str,
    time: Range<i64>,
    limit: usize,
    bytes: usize,
) -> Result<Vec<Row>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT ts, value FROM sample WHERE device = ?1 AND key = ?2 AND ts >= ?3 AND ts < ?4 ORDER BY ts LIMIT ?5",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = query.query(params![device, key, time.start, time.end, limit])?;
    let (mut found, mut length) = (Vec::new(), 0);
    while length < bytes
        && let Some(row) = rows.next()?
    {
        let row: Row = (row.get(0)?, row.get(1)?);
        length += row.1.len();
        found.push(row);
    }
    Ok(found)
}

/// The packed samples of a day.
///
/// # Errors
/// The database's, or if they are damaged.
pub fn piece(
    connection: &Connection,
    device: &str,
    key: &str,
    day: i64,
) -> Result<Option<Vec<Point>>, StoreError> {
    let packed: Option<Vec<u8>> = connection
        .prepare_cached("SELECT packed FROM piece WHERE device = ?1 AND key = ?2 AND day = ?3")?
        .query_row(params![device, key, day], |row| row.get(0))
        .optional()?;
    packed
        .map(|packed| pack::unpack(&packed).map_err(|error| damaged(&error)))
        .transpose()
}

/// The time of the newest packed sample, those at `times` left out.
///
/// # Errors
/// The database's.
pub fn newest_but(
    connection: &Connection,
    device: &str,
    key: &str,
    times: &BTreeSet<i64>,
) -> Result<Option<i64>, StoreError> {
    let mut query = connection
        .prepare_cached("SELECT day FROM piece WHERE device = ?1 AND key = ?2 ORDER BY day DESC")?;
    let mut days = query.query([device, key])?;
    while let Some(row) = days.next()? {
        let day: i64 = row.get(0)?;
        let piece = match piece(connection, device, key, day) {
            // That it was on that day is still known.
            Err(StoreError::Damaged { .. }) => return Ok(Some(day * DAY)),
            piece => piece?.unwrap_or_default(),
        };
        let mut newest = piece.iter().rev().map(|(ts, _)| *ts);
        if let Some(newest) = newest.find(|ts| !times.contains(ts)) {
            return Ok(Some(newest));
        }
    }
    Ok(None)
}

/// The windows of a day.
///
/// # Errors
/// The database's, or if they are damaged.
pub fn windows_of(
    connection: &Connection,
    device: &str,
    key: &str,
    width: i64,
    day: i64,
) -> Result<Option<Vec<Window>>, StoreError> {
    let packed: Option<Vec<u8>> = connection
        .prepare_cached(
            "SELECT packed FROM window_day WHERE device = ?1 AND key = ?2 AND width = ?3 AND day = ?4",
        )?
        .query_row(params![device, key, width, day], |row| row.get(0))
        .optional()?;
    packed
        .map(|packed| windows::unpack(&packed, day, width).map_err(|error| damaged(&error)))
        .transpose()
}

/// All that is kept of a day.
///
/// # Errors
/// The database's, or if it is damaged.
pub fn kept(
    connection: &Connection,
    device: &str,
    key: &str,
    day: i64,
) -> Result<Kept, StoreError> {
    let mut kept = Kept {
        piece: piece(connection, device, key, day)?,
        ..Kept::default()
    };
    for (windows, width) in kept.windows.iter_mut().zip(WIDTHS) {
        *windows = windows_of(connection, device, key, width, day)?;
    }
    Ok(kept)
}

/// A day as it is written.
#[derive(Debug)]
pub struct Packed {
    piece: Option<Vec<u8>>,
    windows: [Option<Vec<u8>>; WIDTHS.len()],
}

impl Packed {
    /// A day's bytes.
    ///
    /// # Errors
    /// If they can't be packed.
    pub fn new(kept: &Kept) -> Result<Self, StoreError> {
        let bytes = |packed: Result<Vec<u8>, Damaged>| packed.map_err(|error| damaged(&error));
        let mut windows = [const { None }; WIDTHS.len()];
        for ((packed, kept), width) in windows.iter_mut().zip(&kept.windows).zip(WIDTHS) {
            *packed = kept
                .as_ref()
                .map(|kept| bytes(windows::pack(kept, width)))
                .transpose()?;
        }
        let piece = kept.piece.as_ref().map(|piece| bytes(pack::pack(piece)));
        Ok(Self {
            piece: piece.transpose()?,
            windows,
        })
    }

    /// Writes it in the place of what was there.
    ///
    /// # Errors
    /// The database's.
    pub fn write(
        &self,
        tx: &Transaction<'_>,
        device: &str,
        key: &str,
        day: i64,
    ) -> Result<(), StoreError> {
        if let Some(piece) = &self.piece {
            tx.prepare_cached(
                "INSERT INTO piece (device, key, day, packed) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (device, key, day) DO UPDATE SET packed = excluded.packed",
            )?
            .execute(params![device, key, day, piece])?;
        }
        for (windows, width) in self.windows.iter().zip(WIDTHS) {
            if let Some(windows) = windows {
                tx.prepare_cached(
                    "INSERT INTO window_day (device, key, width, day, packed) VALUES (?1, ?2, ?3, ?4, ?5)
                     ON CONFLICT (device, key, width, day) DO UPDATE SET packed = excluded.packed",
                )?
                .execute(params![device, key, width, day, windows])?;
            }
        }
        Ok(())
    }
}

/// The newest day before a moment in which there are samples, as rows or packed.
///
/// # Errors
/// The database's.
pub fn day_before(
    connection: &Connection,
    device: &str,
    key: &str,
    end: i64,
) -> Result<Option<i64>, StoreError> {
    let row: Option<i64> = connection
        .prepare_cached("SELECT max(ts) FROM sample WHERE device = ?1 AND key = ?2 AND ts < ?3")?
        .query_row(params![device, key, end], |row| row.get(0))?;
    let piece: Option<i64> = connection
        .prepare_cached("SELECT max(day) FROM piece WHERE device = ?1 AND key = ?2 AND day <= ?3")?
        .query_row(
            params![device, key, end.saturating_sub(1).div_euclid(DAY)],
            |row| row.get(0),
        )?;
    Ok(row.map(|ts| ts.div_euclid(DAY)).max(piece))
}

/// The days of a range (days since 1970) of which there is anything: rows, samples, or windows of this width.
///
/// # Errors
/// The database's.
pub fn days(
    connection: &Connection,
    device: &str,
    key: &str,
    range: Range<i64>,
    width: Option<i64>,
) -> Result<BTreeSet<i64>, StoreError> {
    let mut days = BTreeSet::new();
    let mut packed = connection.prepare_cached(
        "SELECT day FROM piece WHERE device = ?1 AND key = ?2 AND day >= ?3 AND day < ?4
         UNION SELECT day FROM window_day WHERE device = ?1 AND key = ?2 AND width = ?5 AND day >= ?3 AND day < ?4",
    )?;
    let found = packed.query_map(params![device, key, range.start, range.end, width], |row| {
        row.get(0)
    })?;
    for day in found {
        days.insert(day?);
    }
    // From day to day, and not over all that lies in each.
    let mut next = connection.prepare_cached(
        "SELECT min(ts) FROM sample WHERE device = ?1 AND key = ?2 AND ts >= ?3 AND ts < ?4",
    )?;
    let (mut from, end) = (
        range.start.saturating_mul(DAY),
        range.end.saturating_mul(DAY),
    );
    while let Some(ts) = next.query_row(params![device, key, from, end], |row| {
        row.get::<_, Option<i64>>(0)
    })? {
        let day = ts.div_euclid(DAY);
        days.insert(day);
        from = (day + 1) * DAY;
    }
    Ok(days)
}
