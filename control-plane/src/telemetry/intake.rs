//! One transaction's taking of what a device sent.

use cairn_traffic::chain;
use cairn_wire::report::{self, UpdateReport};
use cairn_wire::{Object, Record};
use rusqlite::Transaction;
use serde_json::json;

use super::runs::Runs;
use super::series::Series as _;
use super::{AHEAD, Counts};
use crate::alarms::Listener;
use crate::rollouts::Rollouts;
use crate::store::StoreError;
use crate::stream::{Draft, Kind};
use crate::traffic;

/// Takes a device's records in the order in which they came. In the same transaction reports of updates go to the rollouts, records of
/// traffic to the bills (and nowhere else), every value to the alarms, and everything but traffic to the stream. Call
/// [`Intake::finish`] when the device has no more, or nothing is taken.
pub struct Intake<'t> {
    tx: &'t Transaction<'t>,
    device: &'t str,
    received: i64,
    runs: Runs,
    alarms: Listener,
    draft: Draft,
}

impl<'t> Intake<'t> {
    /// For what a device sent that came at `received` (milliseconds since 1970).
    ///
    /// # Errors
    /// The database's.
    pub fn new(
        tx: &'t Transaction<'t>,
        device: &'t str,
        received: i64,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            tx,
            device,
            received,
            runs: Runs::default(),
            alarms: Listener::new(tx)?,
            draft: Draft::new(device, received),
        })
    }

    /// Takes records that [`super::check`] has nothing against.
    ///
    /// # Errors
    /// The database's.
    pub fn records(&mut self, records: Vec<Record>) -> Result<Counts, StoreError> {
        let mut counts = Counts::default();
        for record in records {
            self.record(record, &mut counts)?;
        }
        Ok(counts)
    }

    fn record(&mut self, mut record: Record, counts: &mut Counts) -> Result<(), StoreError> {
        if let Some(id) = &record.id {
            let number = i64::try_from(id.seq).unwrap_or(i64::MAX);
            if !self.runs.first(self.tx, self.device, &id.log, number)? {
                counts.duplicates += 1;
                return Ok(());
            }
        }
        let paid = record.values.remove(chain::KEY);
        if let Some(value) = &paid {
            traffic::take(self.tx, self.device, value, self.received)?;
        }
        match record.ts {
            None => self.without_time(&record.values)?,
            Some(ts) if ts <= self.received.saturating_add(AHEAD) => {
                self.at(ts, &record.values)?;
            }
            Some(ts) => {
                // Known by its own time all the same: sent again, it is still one.
                if record.id.is_none() {
                    let had = record.values.len();
                    let mut new = Object::new();
                    for (key, value) in record.values {
                        let log = format!("ahead {key}");
                        if self.runs.first(self.tx, self.device, &log, ts)? {
                            new.insert(key, value);
                        }
                    }
                    record.values = new;
                    if had > 0 && record.values.is_empty() && paid.is_none() {
                        counts.duplicates += 1;
                        return Ok(());
                    }
                }
                counts.ahead += 1;
                self.without_time(&record.values)?;
            }
        }
        if let Some(value) = record.values.get(report::KEY) {
            match serde_json::from_value::<UpdateReport>(value.clone()) {
                Ok(report) => Rollouts::on_report(self.tx, self.device, &report)?,
                Err(error) => {
                    tracing::warn!(device = self.device, %error, "an update report can't be read; kept as telemetry only")
                }
            }
        }
        counts.stored += 1;
        Ok(())
    }

    /// Tells of attributes that the device has set; storing them is the caller's.
    ///
    /// # Errors
    /// The database's.
    pub fn attributes(&mut self, values: &Object) -> Result<(), StoreError> {
        self.draft
            .add(self.tx, Kind::Attributes, &json!({ "values": values }))
    }

    /// Keeps what is still in memory, and judges what the samples mean.
    ///
    /// # Errors
    /// The database's.
    pub fn finish(mut self) -> Result<(), StoreError> {
        self.runs.finish(self.tx, self.device)?;
        self.draft.finish(self.tx)?;
        self.alarms.finish(self.tx, self.device, self.received)
    }

    fn at(&mut self, ts: i64, values: &Object) -> Result<(), StoreError> {
        for (key, value) in values {
            self.tx.put(self.device, key, ts, value)?;
            self.alarms.sample(key, ts, value);
        }
        self.told(ts, values)
    }

    fn without_time(&mut self, values: &Object) -> Result<(), StoreError> {
        for (key, value) in values {
            let ts = self.tx.put_next(self.device, key, self.received, value)?;
            self.alarms.sample(key, ts, value);
        }
        self.told(self.received, values)
    }

    fn told(&mut self, ts: i64, values: &Object) -> Result<(), StoreError> {
        if values.is_empty() {
            return Ok(());
        }
        #[derive(serde::Serialize)]
        struct Taken<'v> {
            ts: i64,
            values: &'v Object,
        }
        self.draft
            .add(self.tx, Kind::Telemetry, &Taken { ts, values })
    }
}
