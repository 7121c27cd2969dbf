//! Events of one device that are appended together, so that a thousand small ones cost one row.

use rusqlite::Transaction;
use serde::Serialize;

use super::engine::{Block, Stream as _};
use super::event::Kind;
use crate::store::StoreError;

/// Bytes of a block, about: what a reader has to unpack at once.
const LARGE: usize = 256 << 10;

/// Events that wait to be appended. Call [`Draft::finish`] before the transaction ends.
pub struct Draft {
    device: String,
    time: i64,
    kind: Kind,
    events: usize,
    lines: Vec<u8>,
}

impl Draft {
    /// For what came of a device at a time (milliseconds since 1970).
    pub fn new(device: &str, time: i64) -> Self {
        Self {
            device: device.to_owned(),
            time,
            kind: Kind::Telemetry,
            events: 0,
            lines: Vec::new(),
        }
    }

    /// Adds an event; those of another kind, or too many, are appended before.
    ///
    /// # Errors
    /// The database's.
    pub fn add(
        &mut self,
        tx: &Transaction<'_>,
        kind: Kind,
        body: &impl Serialize,
    ) -> Result<(), StoreError> {
        if kind != self.kind || self.lines.len() >= LARGE {
            self.finish(tx)?;
        }
        self.kind = kind;
        serde_json::to_writer(&mut self.lines, body)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        self.lines.push(b'\n');
        self.events += 1;
        Ok(())
    }

    /// Appends what waits.
    ///
    /// # Errors
    /// The database's.
    pub fn finish(&mut self, tx: &Transaction<'_>) -> Result<(), StoreError> {
        if self.events > 0 {
            tx.append(&Block {
                time: self.time,
                kind: self.kind,
                device: &self.device,
                events: self.events,
                lines: &self.lines,
            })?;
        }
        self.events = 0;
        self.lines.clear();
        Ok(())
    }
}

/// Appends one event of a device at a time (milliseconds since 1970).
///
/// # Errors
/// The database's.
pub fn one(
    tx: &Transaction<'_>,
    kind: Kind,
    device: &str,
    time: i64,
    body: &impl Serialize,
) -> Result<(), StoreError> {
    let mut draft = Draft::new(device, time);
    draft.add(tx, kind, body)?;
    draft.finish(tx)
}
