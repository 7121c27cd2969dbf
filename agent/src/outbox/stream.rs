//! The records of one priority: what is known of those on the disk, and the newest themselves.

use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::path::Path;

use cairn_wire::{Object, Record, RecordId};

use super::Priority;
use super::frame::{Frame, When};
use super::ranges::Ranges;
use super::segment::{self, Segment};

/// Stored records of one stream that are held for sending live, in bytes.
const RECENT: usize = 24 * 1024;
/// What a record's JSON takes beside its values, in bytes, at most.
pub(super) const OVERHEAD: usize = 128;

/// A record in memory.
#[derive(Debug)]
pub(super) struct Entry {
    pub seq: u64,
    pub after: u64,
    pub bytes: Vec<u8>,
    /// It is on the disk.
    pub stored: bool,
    /// It is under way, though not on the disk.
    pub taken: bool,
}

/// A record that is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    pub after: u64,
    pub seq: u64,
}

/// Where the backlog is read on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    segment: u64,
    offset: u64,
    after: u64,
}

/// The records of one priority.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub segments: VecDeque<Segment>,
    /// The newest records, by number. One that isn't stored stays here until it is, or is acknowledged.
    pub recent: VecDeque<Entry>,
    /// Acknowledged.
    pub done: Ranges,
    /// Under way.
    pub taken: BTreeSet<u64>,
    /// Under way, and their segment was dropped meanwhile.
    pub orphans: BTreeSet<u64>,
    /// The last number given.
    pub last: u64,
    pub cursor: Option<Cursor>,
}

impl Stream {
    /// Records on the disk that are neither done with, nor under way, nor held.
    pub fn waiting(&self) -> u64 {
        let left: u64 = self.segments.iter().map(|segment| segment.left).sum();
        let here = self.recent.iter().filter(|entry| entry.stored).count();
        let away = self.taken.len() - self.recent.iter().filter(|entry| entry.taken).count();
        left.saturating_sub((here + away) as u64)
    }

    /// Where among the newest a record is.
    pub fn held(&self, seq: u64) -> Option<usize> {
        self.recent
            .binary_search_by_key(&seq, |entry| entry.seq)
            .ok()
    }

    /// The segment that a record is in.
    pub fn segment_of(&mut self, seq: u64) -> Option<&mut Segment> {
        let at = self.segments.partition_point(|segment| segment.last < seq);
        self.segments
            .get_mut(at)
            .filter(|segment| segment.holds(seq))
    }

    /// Lets go of the oldest that are stored.
    pub fn trim(&mut self) {
        let mut held: usize = self
            .recent
            .iter()
            .filter(|entry| entry.stored)
            .map(|entry| entry.bytes.len())
            .sum();
        while held > RECENT {
            match self.recent.front() {
                Some(oldest) if oldest.stored => held -= oldest.bytes.len(),
                _ => return,
            }
            self.recent.pop_front();
        }
    }
}

impl Stream {
    /// Reads on from the cursor. A number: a segment can't be read at all, and so many records are gone.
    pub fn read_backlog(
        &mut self,
        folder: &Path,
        priority: Priority,
        load: &mut Load,
        anchor: Option<&(String, i64)>,
    ) -> Option<u64> {
        let mut at = match self.cursor {
            Some(cursor) => self
                .segments
                .partition_point(|segment| segment.name < cursor.segment),
            None => 0,
        };
        while let Some(segment) = self.segments.get(at) {
            if segment.left == 0 {
                at += 1;
                continue;
            }
            let before = at
                .checked_sub(1)
                .and_then(|at| self.segments.get(at))
                .map_or(0, |segment| segment.last);
            let start = before.max(segment.first.saturating_sub(1));
            let cursor = self.cursor.filter(|cursor| cursor.segment == segment.name);
            let (mut offset, mut after) =
                cursor.map_or((0, start), |cursor| (cursor.offset, cursor.after));
            let (done, taken, recent) = (&self.done, &self.taken, &self.recent);
            let mut newly = Vec::new();
            let mut full = false;
            let path = segment::path(folder, priority, segment.name);
            let name = segment.name;
            let scanned = segment::scan(&path, offset, segment.bytes, |frame, end| {
                // A failed write may have left a record twice.
                if frame.seq > after {
                    let held = recent
                        .binary_search_by_key(&frame.seq, |entry| entry.seq)
                        .is_ok();
                    if !done.contains(frame.seq) && !taken.contains(&frame.seq) && !held {
                        if !load.put(&frame, after, anchor) {
                            full = true;
                            return ControlFlow::Break(());
                        }
                        newly.push(frame.seq);
                    }
                    after = frame.seq;
                }
                offset = end;
                ControlFlow::Continue(())
            });
            self.taken.extend(newly);
            self.cursor = Some(Cursor {
                segment: name,
                offset,
                after,
            });
            if let Err(error) = scanned {
                tracing::warn!(file = %path.display(), %error, "cannot read a segment of the outbox");
                let segment = self.segments.remove(at)?;
                self.cursor = None;
                let away: Vec<u64> = self
                    .taken
                    .range(segment.first..=segment.last)
                    .copied()
                    .collect();
                for seq in &away {
                    self.taken.remove(seq);
                    self.orphans.insert(*seq);
                }
                self.recent
                    .retain(|entry| !entry.stored || !segment.holds(entry.seq));
                return Some(segment.left.saturating_sub(away.len() as u64));
            }
            if full {
                return None;
            }
            at += 1;
        }
        None
    }

    /// Counts what is in the segments anew; gives how many records are missing.
    pub fn recount(&mut self, folder: &Path, priority: Priority) -> u64 {
        let mut lost = 0;
        let mut after = 0;
        for segment in &mut self.segments {
            after = after.max(segment.first.saturating_sub(1));
            let mut left = 0;
            let done = &self.done;
            let scanned = segment::scan(
                &segment::path(folder, priority, segment.name),
                0,
                segment.bytes,
                |frame, _| {
                    if frame.seq > after {
                        after = frame.seq;
                        left += u64::from(!done.contains(frame.seq));
                    }
                    ControlFlow::Continue(())
                },
            );
            if scanned.is_err() {
                left = 0;
            }
            lost += segment.left.saturating_sub(left);
            segment.left = left;
            after = after.max(segment.last);
        }
        lost
    }
}

/// Records of a message that is being filled.
pub(super) struct Load {
    max: usize,
    bytes: usize,
    pub records: Vec<Record>,
    pub items: Vec<Item>,
}

impl Load {
    /// Of at most so many bytes.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            bytes: 2,
            records: Vec::new(),
            items: Vec::new(),
        }
    }

    /// Whether it fitted. The first always does.
    pub fn put(&mut self, frame: &Frame, after: u64, anchor: Option<&(String, i64)>) -> bool {
        let bytes = frame.values.len() + OVERHEAD;
        if !self.items.is_empty() && self.bytes + bytes > self.max {
            return false;
        }
        self.bytes += bytes;
        // The sum was right, so these are the values that were written: an object.
        let values: Object = frame.object().unwrap_or_default();
        let id = RecordId {
            log: format!("{:016x}", frame.log),
            seq: frame.seq,
        };
        self.records.push(Record {
            ts: timestamp(&frame.when, anchor),
            values,
            id: Some(id),
        });
        self.items.push(Item {
            after,
            seq: frame.seq,
        });
        true
    }
}

/// When a record was made, in ms since 1970, if that is known.
pub(super) fn timestamp(when: &When, anchor: Option<&(String, i64)>) -> Option<i64> {
    match (when, anchor) {
        (When::Wall(ms), _) => Some(*ms),
        (When::Boot { boot, mono_ms }, Some((known, began))) if boot == known => {
            Some(began.saturating_add_unsigned(*mono_ms))
        }
        (When::Boot { .. }, _) => None,
    }
}
