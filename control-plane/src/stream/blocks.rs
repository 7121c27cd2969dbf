//! Events in the database: a block for those that came together.

use std::cell::RefCell;
use std::ops::Range;

use rusqlite::{Connection, OptionalExtension as _, params};
use serde_json::Value;
use zstd::bulk::Compressor;

use super::engine::{Block, Stream};
use super::event::{Event, Kind};
use crate::config::Keep;
use crate::store::StoreError;

/// Blocks that one look goes over at most.
const BLOCKS: i64 = 4_096;
/// Bytes of bodies that one look gives.
const BYTES: usize = 4 << 20;
/// No block is larger unpacked: one record may be as large as a message.
const LARGEST: usize = 64 << 20;
/// Blocks that are deleted in one transaction.
const STEP: i64 = 2_000;
const DAY: i64 = 86_400_000;

/// What is known of a block without unpacking it.
#[derive(Debug)]
pub struct Head {
    pub time: i64,
    pub kind: Kind,
    pub device: String,
}

/// Events of a stretch of the stream, and how far that was looked at.
#[derive(Debug)]
pub struct Look {
    pub events: Vec<Event>,
    pub next: i64,
}

thread_local! {
    /// Making one costs more than a small block.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
}

fn compress(lines: &[u8]) -> std::io::Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|kept| match kept {
        Some(compressor) => compressor.compress(lines),
        None => kept.insert(Compressor::new(1)?).compress(lines),
    })
}

fn damaged(reason: impl ToString) -> StoreError {
    StoreError::Damaged {
        what: "a block of the stream",
        reason: reason.to_string(),
    }
}

fn count(events: usize) -> i64 {
    i64::try_from(events).unwrap_or(i64::MAX)
}

impl Stream for Connection {
    fn append(&self, block: &Block<'_>) -> Result<(), StoreError> {
        let packed = compress(block.lines).map_err(damaged)?;
        let (next, total): (i64, i64) = self
            .prepare_cached(
                "SELECT first + events, total FROM stream_block ORDER BY first DESC LIMIT 1",
            )?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?
            .unwrap_or_default();
        self.prepare_cached(
            "INSERT INTO stream_block (first, events, time, kind, device, total, packed) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            next,
            count(block.events),
            block.time,
            block.kind.as_str(),
            block.device,
            total.saturating_add(count(packed.len())),
            packed
        ])?;
        Ok(())
    }

    fn trim(&self, keep: &Keep, now: i64) -> Result<u64, StoreError> {
        let newest: Option<(i64, i64)> = self
            .prepare_cached("SELECT first, total FROM stream_block ORDER BY first DESC LIMIT 1")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((newest, total)) = newest else {
            return Ok(0);
        };
        let before = now - i64::from(keep.days) * DAY;
        let floor = total.saturating_sub(i64::try_from(keep.bytes).unwrap_or(i64::MAX));
        // From the oldest on, up to the first that stays: what is behind that stays too, whatever its clock said.
        let mut query = self.prepare_cached(
            "SELECT first, time, total FROM stream_block WHERE first < ?1 ORDER BY first LIMIT ?2",
        )?;
        let mut rows = query.query([newest, STEP])?;
        let mut last = None;
        while let Some(row) = rows.next()? {
            let (first, time, total): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            if time >= before && total > floor {
                break;
            }
            last = Some(first);
        }
        let gone = self
            .prepare_cached("DELETE FROM stream_block WHERE first <= ?1")?
            .execute([last.unwrap_or(-1)])?;
        Ok(gone as u64)
    }
}

/// From the oldest event that is kept to behind the newest.
pub fn bounds(connection: &Connection) -> Result<Range<i64>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT (SELECT min(first) FROM stream_block),
                (SELECT first + events FROM stream_block ORDER BY first DESC LIMIT 1)",
    )?;
    let (oldest, end): (Option<i64>, Option<i64>) =
        query.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(oldest.unwrap_or(0)..end.unwrap_or(0))
}

/// At most `limit` events of a stretch of the stream of which all is there, those of blocks that are wanted.
pub fn look(
    connection: &Connection,
    span: Range<i64>,
    limit: usize,
    mut wanted: impl FnMut(&Head) -> Result<bool, StoreError>,
) -> Result<Look, StoreError> {
    let mut look = Look {
        events: Vec::new(),
        next: span.start,
    };
    let mut query = connection.prepare_cached(
        "SELECT first, events, time, kind, device, packed FROM stream_block
         WHERE first >= coalesce((SELECT max(first) FROM stream_block WHERE first <= ?1), 0) AND first < ?2
         ORDER BY first LIMIT ?3",
    )?;
    let mut rows = query.query(params![span.start, span.end, BLOCKS])?;
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let (first, events): (i64, i64) = (row.get(0)?, row.get(1)?);
        let end = (first + events).min(span.end);
        let kind: Option<Kind> = row.get_ref(3)?.as_str().map_err(damaged)?.parse().ok();
        // A kind of a newer program is nobody's here.
        let Some(kind) = kind else {
            look.next = end;
            continue;
        };
        let head = Head {
            time: row.get(2)?,
            kind,
            device: row.get(4)?,
        };
        if wanted(&head)? {
            let packed = row.get_ref(5)?.as_blob().map_err(damaged)?;
            let lines = zstd::bulk::decompress(packed, LARGEST).map_err(damaged)?;
            let lines = lines.split_inclusive(|byte| *byte == b'\n');
            for (offset, line) in (first..end).zip(lines) {
                if offset < span.start {
                    continue;
                }
                bytes += line.len();
                if look.events.len() == limit || (bytes > BYTES && !look.events.is_empty()) {
                    return Ok(look);
                }
                let body: Value = serde_json::from_slice(line).map_err(damaged)?;
                look.events.push(Event {
                    offset,
                    time: head.time,
                    kind: head.kind,
                    device: head.device.clone(),
                    body,
                });
                look.next = offset + 1;
            }
        }
        look.next = end;
    }
    Ok(look)
}
