//! Readings of counters, taken in so that no byte is lost and none counted twice.
//!
//! A counter only grows, until whatever it belongs to is made anew; its *epoch* names that life. What is counted is what a
//! counter grew by since it was last read, or all of it in a new epoch. So a reading that is taken in twice, or late, or not
//! at all changes no sum: the next one brings what is missing.
//!
//! The time of a span is how long the steady clock ran, laid so that it ends now. A wall clock that is set moves where bytes
//! are booked, not how many they are.

use std::collections::BTreeMap;

use cairn_release::Digest;
use serde::{Deserialize, Serialize};

use crate::chain::{Record, Usage};
use crate::slot::{self, LENGTH_MS, Slot};

/// What is metered, and for whom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Meter {
    /// Its kind.
    pub kind: Kind,
    /// The interface's name, or the container's.
    pub name: String,
    /// Whose container it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer: Option<String>,
    /// Of which of the customer's businesses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub business: Option<String>,
}

/// What has counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A network interface of the node.
    Interface,
    /// A container.
    Container,
}

/// Both counters of a meter at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Which.
    pub meter: Meter,
    /// Names the life of the counters: they began at zero with it. For an interface its index, for a container its id;
    /// the boot is part of every epoch and needn't be named.
    pub epoch: String,
    /// Bytes received.
    pub rx: u64,
    /// Bytes sent.
    pub tx: u64,
}

/// A moment, by both clocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moment {
    /// The kernel's boot id.
    pub boot: String,
    /// Milliseconds since that boot; this clock is never set.
    pub steady_ms: i64,
    /// Milliseconds since 1970.
    pub wall_ms: i64,
}

/// What was last read of a meter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Last {
    epoch: String,
    rx: u64,
    tx: u64,
    at: Moment,
}

/// Bytes of a meter in a slot that isn't closed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sum {
    rx: u64,
    tx: u64,
    estimated: bool,
}

/// The state. Who keeps it stores it before it lets a record of it go, so that a crash repeats a record and never makes
/// another one of its number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Ledger {
    /// When something was last read.
    at: Option<Moment>,
    meters: Vec<(Meter, Last)>,
    open: Vec<(Slot, Vec<(Meter, Sum)>)>,
    /// Records that haven't left.
    pending: Vec<Record>,
    next: u64,
    tip: Option<Digest>,
}

impl Ledger {
    /// Takes in what all counters show at one moment. What is first seen in the ledger's first reading has a past that
    /// nobody asked about; what appears later is new, and all of it counts. Slots that are over become records.
    pub fn read(&mut self, at: &Moment, readings: Vec<Reading>) {
        let first = self.at.is_none();
        let mut meters: BTreeMap<Meter, Last> =
            std::mem::take(&mut self.meters).into_iter().collect();
        if self
            .at
            .as_ref()
            .is_some_and(|before| before.boot != at.boot)
        {
            // Their counters are gone with the old boot.
            meters.retain(|meter, _| readings.iter().any(|reading| reading.meter == *meter));
        }
        for reading in readings {
            let last = meters.get(&reading.meter);
            let (rx, tx) = match last {
                None if first => (0, 0),
                Some(last) if last.goes_on(&reading, at) => {
                    (reading.rx - last.rx, reading.tx - last.tx)
                }
                _ => (reading.rx, reading.tx),
            };
            let before = last.map(|last| &last.at).or(self.at.as_ref());
            let passed = match before {
                Some(before) if before.boot == at.boot => at.steady_ms - before.steady_ms,
                Some(_) => at.steady_ms,
                None => 0,
            };
            let span = at.wall_ms.saturating_sub(passed.max(0))..at.wall_ms;
            self.book(&reading.meter, rx, tx, span);
            let last = Last {
                epoch: reading.epoch,
                rx: reading.rx,
                tx: reading.tx,
                at: at.clone(),
            };
            meters.insert(reading.meter, last);
        }
        self.meters = meters.into_iter().collect();
        self.at = Some(at.clone());
        self.close(Slot::of(at.wall_ms));
    }

    /// Records that are to leave, the oldest first. They stay until [`Ledger::left`].
    pub fn pending(&self) -> &[Record] {
        &self.pending
    }

    /// All records up to this number are where they can't be lost.
    pub fn left(&mut self, number: u64) {
        self.pending.retain(|record| record.number > number);
    }

    fn book(&mut self, meter: &Meter, rx: u64, tx: u64, span: std::ops::Range<i64>) {
        let estimated = span.end.saturating_sub(span.start) > LENGTH_MS;
        let received = slot::share(rx, span.clone());
        let sent = slot::share(tx, span);
        for ((slot, rx), (_, tx)) in received.into_iter().zip(sent) {
            let sum = self.sum(slot, meter);
            sum.rx = sum.rx.saturating_add(rx);
            sum.tx = sum.tx.saturating_add(tx);
            sum.estimated |= estimated;
        }
    }

    fn sum(&mut self, slot: Slot, meter: &Meter) -> &mut Sum {
        let place = match self.open.binary_search_by_key(&slot, |(slot, _)| *slot) {
            Ok(place) => place,
            Err(place) => {
                self.open.insert(place, (slot, Vec::new()));
                place
            }
        };
        let sums = &mut self.open[place].1;
        let place = match sums.binary_search_by(|(known, _)| known.cmp(meter)) {
            Ok(place) => place,
            Err(place) => {
                sums.insert(place, (meter.clone(), Sum::default()));
                place
            }
        };
        &mut sums[place].1
    }

    /// Closes every slot but the present one. One that was closed before, when the clock was another, gets one more record.
    fn close(&mut self, present: Slot) {
        let (open, closed) = std::mem::take(&mut self.open)
            .into_iter()
            .partition(|(slot, _)| *slot == present);
        self.open = open;
        for (slot, sums) in closed {
            let usage = sums.into_iter().map(|(meter, sum)| Usage {
                meter,
                rx: sum.rx,
                tx: sum.tx,
                estimated: sum.estimated,
            });
            let record = Record::new(self.next, self.tip, slot, usage.collect());
            self.tip = Some(record.digest());
            self.next += 1;
            self.pending.push(record);
        }
    }
}

impl Last {
    fn goes_on(&self, reading: &Reading, at: &Moment) -> bool {
        let same = self.at.boot == at.boot && self.epoch == reading.epoch;
        // A counter that went back without a new epoch was reset.
        same && reading.rx >= self.rx && reading.tx >= self.tx
    }
}

#[cfg(test)]
mod tests;
