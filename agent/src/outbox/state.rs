//! What the outbox knows in memory: no more than the segments' outlines, the newest records, and what is under way.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use cairn_wire::Record;

use super::frame::{self, Frame, Step, When};
use super::ledger::{Ledger, RANGE, new_log};
use super::ranges::Ranges;
use super::segment::{self, Segment};
use super::stream::{Entry, Item, Load, Stream, timestamp};
use super::{Priority, Settings};
use crate::clock::Stamp;

/// Records that wait for the disk, in bytes.
pub(super) const UNSTORED: usize = 256 * 1024;
/// A wall clock that goes back by more begins a new log, in ms; by less, time stands still until it is caught up.
const BACK: i64 = 60_000;
/// All of it.
#[derive(Debug)]
pub(super) struct State {
    pub folder: PathBuf,
    pub settings: Settings,
    pub streams: [Stream; 3],
    pub ledger: Ledger,
    /// The ledger on the disk says something else.
    pub dirty: bool,
    pub next: u64,
    /// The last record made while the clock was unset: when, in ms since this boot.
    pub last_unset: Option<u64>,
    /// Acknowledged and not yet written: stream, after, to.
    pub acknowledged: Vec<(usize, u64, u64)>,
    /// Bytes in memory only.
    pub unstored: usize,
    /// Why the disk took nothing the last time.
    pub failing: Option<String>,
    /// The disk was offered all records below this number.
    pub tried: u64,
    last_report: Option<u64>,
}

/// What became of a record that was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// There is room for more.
    Enough,
    /// It should be written now.
    Full,
}

impl State {
    pub fn new(folder: &Path, settings: Settings, ledger: Ledger) -> Self {
        Self {
            folder: folder.to_owned(),
            settings,
            streams: Default::default(),
            next: ledger.reserved,
            ledger,
            dirty: false,
            last_unset: None,
            acknowledged: Vec::new(),
            unstored: 0,
            failing: None,
            tried: 0,
            last_report: None,
        }
    }

    /// One of them.
    pub fn stream(&mut self, priority: Priority) -> &mut Stream {
        let [event, fact, sample] = &mut self.streams;
        match priority {
            Priority::Event => event,
            Priority::Fact => fact,
            Priority::Sample => sample,
        }
    }

    fn begin_log(&mut self) {
        self.ledger.log = new_log();
        self.ledger.last_ts = 0;
        self.dirty = true;
    }

    /// Learns from the clock when this boot began.
    fn time(&mut self, now: &Stamp) {
        let Some(wall) = now.wall_ms else { return };
        if self
            .ledger
            .anchor
            .as_ref()
            .is_some_and(|(boot, _)| *boot == now.boot)
        {
            return;
        }
        let began = wall.saturating_sub_unsigned(now.mono_ms);
        self.ledger.anchor = Some((now.boot.clone(), began));
        self.dirty = true;
    }

    fn when(&mut self, now: &Stamp) -> When {
        self.time(now);
        let Some(wall) = now.wall_ms else {
            // Times of one log only grow: what is made before the clock is set gets a log of its own, behind none with a time.
            if self.ledger.last_ts != 0 {
                self.begin_log();
            }
            let mono_ms = now
                .mono_ms
                .max(self.last_unset.map_or(0, |last| last.saturating_add(1)));
            self.last_unset = Some(mono_ms);
            return When::Boot {
                boot: now.boot.clone(),
                mono_ms,
            };
        };
        if let (Some(unset), Some((_, began))) = (self.last_unset.take(), &self.ledger.anchor) {
            self.ledger.last_ts = self
                .ledger
                .last_ts
                .max(began.saturating_add_unsigned(unset));
        }
        if wall < self.ledger.last_ts.saturating_sub(BACK) {
            self.begin_log();
        }
        self.ledger.last_ts = wall.max(self.ledger.last_ts.saturating_add(1));
        When::Wall(self.ledger.last_ts)
    }

    /// Takes a record in; it isn't on the disk yet. Gives its number.
    pub fn append(&mut self, priority: Priority, values: Vec<u8>, now: &Stamp) -> Room {
        if self.next >= self.ledger.reserved {
            // The disk doesn't say that this number is in use: another log's numbers are free.
            self.begin_log();
            self.ledger.reserved = self.next.saturating_add(RANGE);
        }
        let when = self.when(now);
        let seq = self.next;
        self.next += 1;
        let bytes = Frame {
            log: self.ledger.log,
            seq,
            when,
            values,
        }
        .encode();
        self.unstored += bytes.len();
        let stream = self.stream(priority);
        let after = std::mem::replace(&mut stream.last, seq);
        stream.recent.push_back(Entry {
            seq,
            after,
            bytes,
            stored: false,
            taken: false,
        });
        if self.unstored < UNSTORED {
            return Room::Enough;
        }
        if self.failing.is_some() {
            self.shed_memory();
        }
        Room::Full
    }

    /// Counts dropped records.
    pub fn lost(&mut self, priority: Priority, records: u64) {
        if let Some(dropped) = self.ledger.dropped.get_mut(priority.index()) {
            *dropped += records;
            self.dirty |= records > 0;
        }
    }

    /// Whether [`State::take`] would give something.
    pub fn has_work(&self) -> bool {
        let unstored_below = self.unstored_below();
        let here = |entry: &Entry| !entry.taken && (entry.stored || entry.seq < unstored_below);
        self.streams
            .iter()
            .any(|stream| stream.recent.iter().any(here) || stream.waiting() > 0)
    }

    /// Records below this number are sent though they aren't on the disk: it didn't take them.
    fn unstored_below(&self) -> u64 {
        if self.failing.is_some() {
            self.tried
        } else {
            0
        }
    }

    /// Records for one message of at most `max` bytes, or a single longer one: live before backlog, and by priority.
    pub fn take(&mut self, max: usize, now: &Stamp) -> Option<(Priority, Vec<Record>, Vec<Item>)> {
        self.time(now);
        for priority in Priority::ALL {
            let taken = self.take_live(priority, max);
            if !taken.1.is_empty() {
                return Some((priority, taken.0, taken.1));
            }
        }
        for priority in Priority::ALL {
            let taken = self.take_backlog(priority, max);
            if !taken.1.is_empty() {
                return Some((priority, taken.0, taken.1));
            }
        }
        None
    }

    /// How many drops to report now: once a minute at most, and only when somebody listens.
    pub fn report(&mut self, now: &Stamp) -> Option<u64> {
        let dropped = self.ledger.dropped();
        let soon = self
            .last_report
            .is_some_and(|last| now.mono_ms.saturating_sub(last) < 60_000);
        if dropped == self.ledger.reported || soon {
            return None;
        }
        self.ledger.reported = dropped;
        self.last_report = Some(now.mono_ms);
        self.dirty = true;
        Some(dropped)
    }

    fn take_live(&mut self, priority: Priority, max: usize) -> (Vec<Record>, Vec<Item>) {
        let unstored_below = self.unstored_below();
        let anchor = self.ledger.anchor.clone();
        let stream = self.stream(priority);
        let mut load = Load::new(max);
        let mut at = 0;
        while let Some(entry) = stream.recent.get_mut(at) {
            if entry.taken || !(entry.stored || entry.seq < unstored_below) {
                at += 1;
                continue;
            }
            let Step::Record { frame, .. } = frame::next(&entry.bytes) else {
                at += 1;
                continue;
            };
            if !load.put(&frame, entry.after, anchor.as_ref()) {
                break;
            }
            stream.taken.insert(entry.seq);
            if entry.stored {
                stream.recent.remove(at);
            } else {
                entry.taken = true;
                at += 1;
            }
        }
        (load.records, load.items)
    }

    fn take_backlog(&mut self, priority: Priority, max: usize) -> (Vec<Record>, Vec<Item>) {
        let folder = self.folder.clone();
        let anchor = self.ledger.anchor.clone();
        let mut load = Load::new(max);
        let mut rewound = false;
        while self.stream(priority).waiting() > 0 {
            let stream = self.stream(priority);
            rewound |= stream.cursor.is_none();
            let broken = stream.read_backlog(&folder, priority, &mut load, anchor.as_ref());
            if let Some(lost) = broken {
                self.damaged(lost);
                continue;
            }
            if !load.items.is_empty() {
                break;
            }
            if rewound {
                // What is counted isn't there.
                let lost = self.stream(priority).recount(&folder, priority);
                self.damaged(lost);
                break;
            }
            self.stream(priority).cursor = None;
        }
        (load.records, load.items)
    }

    fn damaged(&mut self, records: u64) {
        if records > 0 {
            tracing::warn!(records, "the outbox lost records: the disk is damaged");
            self.ledger.damaged += records;
            self.dirty = true;
        }
    }

    /// Records were acknowledged.
    pub fn acked(&mut self, priority: Priority, items: &[Item]) {
        let mut freed = 0;
        let stream = self.stream(priority);
        let mut ranges = Ranges::default();
        for item in items {
            if stream.orphans.remove(&item.seq) {
                continue;
            }
            stream.taken.remove(&item.seq);
            stream.done.insert(item.after, item.seq);
            ranges.insert(item.after, item.seq);
            if let Some(at) = stream.held(item.seq)
                && let Some(entry) = stream.recent.remove(at)
            {
                // It was never on the disk, and needn't be any more.
                freed += entry.bytes.len();
            } else if let Some(segment) = stream.segment_of(item.seq) {
                segment.left = segment.left.saturating_sub(1);
            }
        }
        self.unstored = self.unstored.saturating_sub(freed);
        self.acknowledged.extend(
            ranges
                .iter()
                .map(|(after, to)| (priority.index(), after, to)),
        );
    }

    /// Records weren't acknowledged: they wait again.
    pub fn returned(&mut self, priority: Priority, items: &[Item]) {
        let mut lost = 0;
        let stream = self.stream(priority);
        for item in items {
            if stream.orphans.remove(&item.seq) {
                lost += 1;
                continue;
            }
            stream.taken.remove(&item.seq);
            if let Some(at) = stream.held(item.seq)
                && let Some(entry) = stream.recent.get_mut(at)
            {
                entry.taken = false;
            }
            stream.cursor = None;
        }
        self.lost(priority, lost);
    }

    /// What has to be written: for each stream, its records that aren't on the disk.
    pub fn unstored(&self, priority: Priority) -> impl Iterator<Item = &Entry> {
        self.streams
            .get(priority.index())
            .into_iter()
            .flat_map(|stream| &stream.recent)
            .filter(|entry| !entry.stored)
    }

    /// These records are on the disk now, `bytes` more in the segment `name`.
    pub fn stored(&mut self, priority: Priority, name: u64, seqs: &[u64], bytes: u64) {
        let (Some(first), Some(last)) = (seqs.first(), seqs.last()) else {
            return;
        };
        let stream = self.stream(priority);
        let left = seqs
            .iter()
            .filter(|seq| !stream.done.contains(**seq))
            .count() as u64;
        let mut freed = 0;
        for seq in seqs {
            if let Some(at) = stream.held(*seq)
                && let Some(entry) = stream.recent.get_mut(at)
            {
                freed += entry.bytes.len();
                entry.stored = true;
            }
        }
        // What is under way comes from the disk if it comes back.
        stream.recent.retain(|entry| !(entry.stored && entry.taken));
        stream.trim();
        match stream
            .segments
            .back_mut()
            .filter(|segment| segment.name == name)
        {
            Some(segment) => {
                segment.last = *last;
                segment.bytes += bytes;
                segment.left += left;
            }
            None => stream.segments.push_back(Segment {
                name,
                first: *first,
                last: *last,
                bytes,
                left,
                sealed: false,
            }),
        }
        self.unstored = self.unstored.saturating_sub(freed);
    }

    /// Nothing may be added to this segment: its file is longer than what counts.
    pub fn seal(&mut self, priority: Priority, name: u64) {
        if let Some(segment) = self
            .stream(priority)
            .segments
            .back_mut()
            .filter(|segment| segment.name == name)
        {
            segment.sealed = true;
        }
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.streams
            .iter()
            .flat_map(|stream| &stream.segments)
            .map(|segment| segment.bytes)
            .sum()
    }

    /// Records that aren't acknowledged.
    pub fn records(&self) -> u64 {
        let left: u64 = self
            .streams
            .iter()
            .flat_map(|stream| &stream.segments)
            .map(|segment| segment.left)
            .sum();
        let memory = self
            .streams
            .iter()
            .flat_map(|stream| &stream.recent)
            .filter(|entry| !entry.stored)
            .count();
        left + memory as u64
    }

    /// When the oldest record that isn't acknowledged was made, in ms since 1970, if that is known.
    pub fn oldest(&self) -> Option<i64> {
        let began = self.ledger.anchor.as_ref();
        let oldest =
            Priority::ALL
                .into_iter()
                .zip(&self.streams)
                .filter_map(|(priority, stream)| {
                    let mut found = None;
                    if let Some(segment) = stream.segments.iter().find(|segment| segment.left > 0) {
                        // One that can't be read has no time to tell.
                        let _ = segment::scan(
                            &segment::path(&self.folder, priority, segment.name),
                            0,
                            segment.bytes,
                            |frame, _| {
                                if frame.seq < segment.first || stream.done.contains(frame.seq) {
                                    return ControlFlow::Continue(());
                                }
                                found = Some(frame);
                                ControlFlow::Break(())
                            },
                        );
                    } else if let Some(entry) = stream.recent.front()
                        && let Step::Record { frame, .. } = frame::next(&entry.bytes)
                    {
                        found = Some(frame);
                    }
                    found.and_then(|frame| timestamp(&frame.when, began))
                });
        oldest.min()
    }
}
