//! Readings of counters, taken in so that no byte is lost and none counted twice.
//!
//! A counter only grows, until whatever it belongs to is made anew; its *epoch* names that life, whatever name or owner it
//! goes by. What is counted is what a counter grew by since it was last read, or all of it in a new epoch. So a reading that
//! is taken in twice, or late, or not at all changes no sum: the next one brings what is missing.
//!
//! The time of a span is how long the steady clock ran, laid so that it ends now. A wall clock that is set moves where bytes
//! are booked, not how many they are.

use std::collections::BTreeMap;

use cairn_release::Digest;
use serde::{Deserialize, Serialize};

use crate::chain::{MOST_METERS, Record, Usage};
use crate::meter::{Kind, Meter};
use crate::slot::{self, LENGTH_MS, Slot};

/// Both counters of a meter at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Which.
    pub meter: Meter,
    /// Names the life of the counters: they began at zero with it. For an interface its index, for a container its id and
    /// when it was started; the boot is part of every epoch and needn't be named.
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

/// What was last read of a life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Last {
    kind: Kind,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Ledger {
    /// Names the chain of its records.
    chain: String,
    /// When something was last read.
    at: Option<Moment>,
    lives: Vec<Last>,
    open: Vec<(Slot, Vec<(Meter, Sum)>)>,
    /// Records that haven't left.
    pending: Vec<Record>,
    next: u64,
    tip: Option<Digest>,
}

/// A container's life that wasn't read for so long, a week in milliseconds, has ended, if others are read: while nothing can
/// be read, the counters go on. An interface's life ends with the boot.
const ENDED_MS: i64 = 7 * 86_400_000;

impl Ledger {
    /// An empty one. `chain` names its records' chain, and is never given twice: something random.
    pub fn begin(chain: String) -> Self {
        Self {
            chain,
            at: None,
            lives: Vec::new(),
            open: Vec::new(),
            pending: Vec::new(),
            next: 0,
            tip: None,
        }
    }

    /// Takes in what all counters show at one moment. What is first seen in the ledger's first reading has a past that
    /// nobody asked about; what appears later is new, and all of it counts. Slots that are over become records.
    pub fn read(&mut self, at: &Moment, readings: Vec<Reading>) {
        let mut lives: BTreeMap<(Kind, String), Last> = std::mem::take(&mut self.lives)
            .into_iter()
            .filter(|last| last.at.boot == at.boot)
            .map(|last| ((last.kind, last.epoch.clone()), last))
            .collect();
        let containers = readings
            .iter()
            .any(|reading| reading.meter.kind == Kind::Container);
        for reading in readings {
            let Reading {
                meter,
                epoch,
                rx,
                tx,
            } = reading;
            let last = lives.get(&(meter.kind, epoch.clone()));
            // A counter that went back without a new epoch was reset.
            let grown = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
            let (new_rx, new_tx) = match last {
                Some(last) => (grown(rx, last.rx), grown(tx, last.tx)),
                None if self.at.is_none() => (0, 0),
                None => (rx, tx),
            };
            let passed = match last.map(|last| &last.at).or(self.at.as_ref()) {
                Some(before) if before.boot == at.boot => at.steady_ms - before.steady_ms,
                Some(_) => at.steady_ms,
                None => 0,
            };
            let span = at.wall_ms.saturating_sub(passed.max(0))..at.wall_ms;
            self.book(&meter, new_rx, new_tx, span);
            let last = Last {
                kind: meter.kind,
                epoch: epoch.clone(),
                rx,
                tx,
                at: at.clone(),
            };
            lives.insert((meter.kind, epoch), last);
        }
        let goes_on = |last: &Last| {
            last.kind == Kind::Interface
                || !containers
                || at.steady_ms - last.at.steady_ms < ENDED_MS
        };
        self.lives = lives.into_values().filter(goes_on).collect();
        self.at = Some(at.clone());
        self.close(Slot::of(at.wall_ms));
    }

    /// What these counters show is a past that nobody asks about, though something was read before: what they grow by from now
    /// on counts.
    pub fn overlook(&mut self, at: &Moment, readings: Vec<Reading>) {
        // Of two with one epoch the later is read on.
        self.lives.extend(readings.into_iter().map(|reading| Last {
            kind: reading.meter.kind,
            epoch: reading.epoch,
            rx: reading.rx,
            tx: reading.tx,
            at: at.clone(),
        }));
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
        let since = self.at.as_ref().map(|before| Slot::of(before.wall_ms));
        for ((slot, rx), (_, tx)) in received.into_iter().zip(sent) {
            // Of what is closed nothing is said again but bytes.
            if rx == 0 && tx == 0 && since.is_some_and(|since| slot < since) {
                continue;
            }
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
            for sums in sums.chunks(MOST_METERS) {
                self.finish(slot, sums);
            }
        }
    }

    fn finish(&mut self, slot: Slot, sums: &[(Meter, Sum)]) {
        let usage = sums.iter().map(|(meter, sum)| Usage {
            meter: meter.clone(),
            rx: sum.rx,
            tx: sum.tx,
            estimated: sum.estimated,
        });
        let record = Record {
            chain: self.chain.clone(),
            number: self.next,
            previous: self.tip,
            slot,
            usage: usage.collect(),
        };
        self.tip = Some(record.digest());
        self.next += 1;
        self.pending.push(record);
    }
}

#[cfg(test)]
mod tests;
