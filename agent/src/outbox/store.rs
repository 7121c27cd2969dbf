//! The outbox's files: committing, keeping to the budget, deleting.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::budget::Evicted;
use super::ledger::{Ledger, RANGE};
use super::segment;
use super::state::State;
use super::stream::Stream;
use super::{Priority, acks};
use crate::files;

/// The ledger's file.
pub(super) const LEDGER: &str = "ledger";

/// What only the one that commits knows.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    /// There is a whole ledger to write into.
    ledger_made: bool,
    /// The size at which the acknowledgements are written anew; 0: now.
    compact_at: u64,
    /// Called at each point where a power cut would leave what is on the disk.
    #[cfg(test)]
    pub on_sync: Option<super::tests::Hook>,
    /// The disk is full.
    #[cfg(test)]
    pub full: bool,
}

/// Records that go into one segment.
struct Addition {
    priority: Priority,
    name: u64,
    /// Where they begin; 0: a new file.
    offset: u64,
    bytes: Vec<u8>,
    seqs: Vec<u64>,
}

/// Segments to delete, the ledger if it has changed, what was acknowledged, what to write.
type Plan = (
    Vec<(Priority, u64)>,
    Option<Ledger>,
    Vec<acks::Acked>,
    Vec<Addition>,
);

/// Deletes a file; one that can't be deleted is tried again when the outbox is opened.
pub(super) fn remove(path: &Path) {
    if let Err(error) = files::remove(path) {
        tracing::warn!(file = %path.display(), %error, "cannot delete");
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// In this folder; whether the ledger there is whole.
    pub fn new(folder: &Path, ledger_made: bool) -> Self {
        Self {
            folder: folder.to_owned(),
            ledger_made,
            compact_at: acks::COMPACT,
            #[cfg(test)]
            on_sync: None,
            #[cfg(test)]
            full: false,
        }
    }

    /// Writes what is in memory only, keeps to the budget, deletes what is acknowledged. A failure is told in [`State::failing`], and
    /// everything stays as it was.
    pub fn commit(&mut self, state: &Mutex<State>) {
        let (tried, (gone, mut ledger, acked, writes)) = {
            let mut state = lock(state);
            (state.next, plan(&mut state))
        };
        // The count comes first: a power cut may leave segments that were counted as dropped, and `floor` tells which.
        if let Some(ledger) = &mut ledger {
            self.keep_ledger(state, ledger);
        }
        for (priority, name) in &gone {
            remove(&segment::path(&self.folder, *priority, *name));
        }
        let mut failing = None;
        for write in writes {
            match self.write(&write) {
                Ok(()) => lock(state).stored(
                    write.priority,
                    write.name,
                    &write.seqs,
                    write.bytes.len() as u64,
                ),
                Err((error, whole)) => {
                    let path = segment::path(&self.folder, write.priority, write.name);
                    tracing::warn!(file = %path.display(), %error, "the outbox cannot store records, and holds them in memory");
                    if !whole {
                        lock(state).seal(write.priority, write.name);
                    }
                    failing = Some(format!("{}: {error}", path.display()));
                    break;
                }
            }
        }
        self.write_acks(state, &acked);
        if failing.is_some() {
            // Records will be sent from memory, and after a crash no later one may have their times.
            let mut ledger = lock(state).ledger.clone();
            self.keep_ledger(state, &mut ledger);
        }
        let mut state = lock(state);
        state.failing = failing;
        state.tried = tried;
    }

    fn keep_ledger(&mut self, state: &Mutex<State>, ledger: &mut Ledger) {
        match self.write_ledger(ledger) {
            Ok(()) => lock(state).ledger.generation = ledger.generation,
            Err(error) => {
                tracing::warn!(%error, "cannot write the outbox's ledger");
                lock(state).dirty = true;
            }
        }
    }

    /// Writes records and syncs them. An error says whether the segment is as it was.
    fn write(&mut self, write: &Addition) -> Result<(), (io::Error, bool)> {
        let path = segment::path(&self.folder, write.priority, write.name);
        let new = write.offset == 0;
        let opened = match new {
            true => OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&path),
            false => OpenOptions::new().append(true).open(&path),
        };
        let mut file = opened.map_err(|error| (error, true))?;
        let written = self
            .writable()
            .and_then(|()| file.write_all(&write.bytes))
            .and_then(|()| self.sync(&file));
        let written = written.and_then(|()| {
            if new {
                files::sync_folder(&self.folder)
            } else {
                Ok(())
            }
        });
        written.map_err(|error| {
            let undone = if new {
                files::remove(&path)
            } else {
                file.set_len(write.offset)
            };
            (error, undone.is_ok())
        })
    }

    /// Writes the ledger: in place if it is there.
    ///
    /// # Errors
    /// If the disk takes nothing.
    pub fn write_ledger(&mut self, ledger: &mut Ledger) -> io::Result<()> {
        let path = self.folder.join(LEDGER);
        ledger.generation += 1;
        let written = if self.ledger_made {
            ledger.write(&path).and_then(|file| self.sync(&file))
        } else {
            self.writable().and_then(|()| ledger.create(&path))
        };
        self.ledger_made |= written.is_ok();
        // The next try must not touch the slot that is whole.
        ledger.generation -= u64::from(written.is_err());
        written
    }

    fn write_acks(&mut self, state: &Mutex<State>, acked: &[acks::Acked]) {
        if acked.is_empty() {
            return;
        }
        let path = self.folder.join(acks::FILE);
        let (log, last_ts) = {
            let state = lock(state);
            (state.ledger.log, state.ledger.last_ts)
        };
        let size = self
            .writable()
            .and_then(|()| acks::append(&path, &acks::encode(acked, log, last_ts)));
        if size.as_ref().is_ok_and(|size| *size < self.compact_at) {
            return;
        }
        let all: Vec<acks::Acked> = {
            let state = lock(state);
            let of = |(index, stream): (usize, &Stream)| {
                stream
                    .done
                    .iter()
                    .map(move |(after, to)| (index, after, to))
                    .collect::<Vec<_>>()
            };
            state.streams.iter().enumerate().flat_map(of).collect()
        };
        let bytes = acks::encode(&all, log, last_ts);
        match self.writable().and_then(|()| files::replace(&path, &bytes)) {
            Ok(()) => self.compact_at = acks::COMPACT.max(2 * bytes.len() as u64),
            Err(error) => {
                tracing::warn!(%error, "cannot keep what was acknowledged; records may be sent twice");
                self.compact_at = 0;
            }
        }
    }

    fn sync(&mut self, file: &File) -> io::Result<()> {
        file.sync_data()?;
        #[cfg(test)]
        if let Some(hook) = &mut self.on_sync {
            (hook.0)(&self.folder);
        }
        Ok(())
    }

    #[cfg(not(test))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "tests have a full disk here"
    )]
    fn writable(&self) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    fn writable(&self) -> io::Result<()> {
        if self.full {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }
}

/// Decides, without touching the disk.
fn plan(state: &mut State) -> Plan {
    let mut gone = state.drained();
    let mut bytes = state.bytes() + state.unstored as u64;
    let mut dropped = false;
    while bytes > state.settings.budget {
        let freed = match state.evict() {
            Some(Evicted::Segment(priority, segment)) => {
                gone.push((priority, segment.name));
                segment.bytes
            }
            Some(Evicted::Memory(bytes)) => bytes as u64,
            None => break,
        };
        dropped = true;
        bytes = bytes.saturating_sub(freed);
    }
    if dropped {
        tracing::debug!(
            dropped = state.ledger.dropped(),
            "the outbox is over its budget"
        );
    }
    if state.ledger.reserved.saturating_sub(state.next) < RANGE / 2 {
        state.ledger.reserved = state.next.saturating_add(RANGE);
        state.dirty = true;
    }
    let ledger = std::mem::take(&mut state.dirty).then(|| state.ledger.clone());
    let mut writes = Vec::new();
    for priority in Priority::ALL {
        plan_writes(state, priority, &mut writes);
    }
    (
        gone,
        ledger,
        std::mem::take(&mut state.acknowledged),
        writes,
    )
}

/// Puts the records of a stream that aren't on the disk into its newest segment, and new ones when that is full.
fn plan_writes(state: &State, priority: Priority, writes: &mut Vec<Addition>) {
    let limit = state.settings.segment();
    let newest = state
        .streams
        .get(priority.index())
        .and_then(|stream| stream.segments.back());
    let mut open: Option<Addition> =
        newest
            .filter(|segment| !segment.sealed)
            .map(|segment| Addition {
                priority,
                name: segment.name,
                offset: segment.bytes,
                bytes: Vec::new(),
                seqs: Vec::new(),
            });
    for entry in state.unstored(priority) {
        let full = |write: &Addition| {
            write.offset + (write.bytes.len() + entry.bytes.len()) as u64 > limit
                && write.offset + write.bytes.len() as u64 > 0
        };
        if let Some(write) = open.take_if(|write| full(write))
            && !write.seqs.is_empty()
        {
            writes.push(write);
        }
        let write = open.get_or_insert_with(|| Addition {
            priority,
            name: entry.seq,
            offset: 0,
            bytes: Vec::new(),
            seqs: Vec::new(),
        });
        write.bytes.extend(&entry.bytes);
        write.seqs.push(entry.seq);
    }
    writes.extend(open.filter(|write| !write.seqs.is_empty()));
}
