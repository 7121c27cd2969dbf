//! What the node has to tell waits here until the server has it: through outages, restarts and power cuts.
//!
//! Records lie in segments, files of frames with a sum each, one stream of segments for each [`Priority`]. They are written together
//! (*group commit*), and a segment is deleted when all in it is acknowledged. Over the budget the oldest samples go first, then
//! the oldest facts, events last; what is dropped is counted, and the count reported as `outbox_dropped`.
//!
//! What a server gets more than once it knows by [`cairn_wire::RecordId`]: the log is random when an outbox is made, the number never
//! comes twice. A log's times only grow, so a clock that is set back, or wasn't set, begins a new log; the numbers go on.
//!
//! | Module | Owns |
//! |---|---|
//! | `frame` | a record's bytes |
//! | `segment` | reading files of them |
//! | `ledger` | log id, reserved numbers, counts |
//! | `ranges`, `acks` | what is acknowledged |
//! | `stream` | the records of one priority |
//! | `state` | all streams: numbers, times, what goes next |
//! | `budget` | what is dropped, what is done with |
//! | `store` | committing, deleting |
//! | `recovery` | opening after whatever happened |
//! | `set_aside` | what a server can't take |
//! | `batch` | records under way |

mod acks;
mod batch;
mod budget;
mod frame;
mod ledger;
mod ranges;
mod recovery;
mod segment;
mod set_aside;
mod settings;
mod state;
mod store;
mod stream;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cairn_wire::{MAX_PAYLOAD, Object};
use serde::Serialize;
use tokio::sync::Notify;

pub use batch::Batch;
pub use settings::{Input, MIN_BUDGET, Settings};

use crate::clock::Clock;
use crate::shutdown::boxed;
use state::{Room, State};
use store::Store;
use stream::Item;

/// How long a disk that takes nothing is left alone.
const PATIENCE: Duration = Duration::from_secs(10);

/// What goes first, and what is dropped last.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Something happened, and somebody acts on it: steps of an update, failures.
    Event,
    /// Something is so until further notice: the release, the hardware.
    Fact,
    /// One of many measurements.
    #[default]
    Sample,
}

impl Priority {
    /// All, the highest first.
    pub const ALL: [Self; 3] = [Self::Event, Self::Fact, Self::Sample];

    /// `event`, `fact` or `sample`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Fact => "fact",
            Self::Sample => "sample",
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Event => 0,
            Self::Fact => 1,
            Self::Sample => 2,
        }
    }
}

/// The outbox can't be used, or didn't store what it should.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// A file or folder of it.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Records are in memory only: the disk took nothing, and is tried again by itself.
    #[error("the outbox could not store its records: {0}")]
    NotStored(String),
}

/// How full it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Records that aren't acknowledged, those under way included.
    pub records: u64,
    /// Bytes that they take on the disk.
    pub bytes: u64,
    /// Records dropped unsent, for want of space, since the outbox was made.
    pub dropped: u64,
    /// Records that the server couldn't take, since the outbox was made.
    pub set_aside: u64,
    /// Records that the disk lost, as far as that can be counted, since the outbox was made.
    pub damaged: u64,
    /// When the oldest record was made, in ms since 1970; `None` if there is none or it isn't known.
    pub oldest_ms: Option<i64>,
    /// Why the disk takes nothing; records are then held in memory, as many as fit.
    pub failing: Option<String>,
}

/// The outbox. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Outbox(Arc<Inner>);

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Outbox")
            .field(&self.0.state().folder)
            .finish()
    }
}

pub(crate) struct Inner {
    clock: Clock,
    state: Mutex<State>,
    /// Held while files change. Taken before `state`, never after it.
    store: Mutex<Store>,
    /// There may be something to send.
    ready: Notify,
    /// There is something to write.
    work: Arc<Notify>,
}

impl Outbox {
    /// Opens the outbox in `folder`, or makes one there. Within a tokio runtime it commits by itself; without, at [`Outbox::flush`] and when
    /// memory is full.
    ///
    /// # Errors
    /// If the folder can't be made or read. A full or damaged disk is no error.
    pub fn open(folder: &Path, settings: &Settings, clock: Clock) -> Result<Self, OutboxError> {
        let (store, state) = recovery::open(folder, settings, &clock)?;
        let work = Arc::new(Notify::new());
        let inner = Arc::new(Inner {
            clock,
            state: Mutex::new(state),
            store: Mutex::new(store),
            ready: Notify::new(),
            work: Arc::clone(&work),
        });
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let interval = settings.commit_interval;
            runtime.spawn(boxed(commit_by_itself(
                Arc::downgrade(&inner),
                work,
                interval,
            )));
        }
        Ok(Self(inner))
    }

    /// Takes a record in. It is on the disk within the commit interval, or after [`Outbox::flush`]. One that no message could carry is
    /// set aside.
    pub fn append(&self, priority: Priority, values: Object) {
        self.0.append(priority, &values);
    }

    /// Puts everything that was appended on the disk.
    ///
    /// # Errors
    /// If the disk takes nothing; then the records stay in memory and are sent from there.
    pub async fn flush(&self) -> Result<(), OutboxError> {
        let inner = Arc::clone(&self.0);
        if tokio::task::spawn_blocking(move || inner.commit())
            .await
            .is_err()
        {
            return Err(OutboxError::NotStored("the runtime is ending".to_owned()));
        }
        match &self.0.state().failing {
            Some(reason) => Err(OutboxError::NotStored(reason.clone())),
            None => Ok(()),
        }
    }

    /// The next records for a message of at most `max_bytes`; a single record may be longer, but never longer than
    /// [`cairn_wire::MAX_PAYLOAD`]. New records go before old ones, and events before facts before samples. Several batches
    /// may be under way. `None`: nothing to send, see [`Outbox::ready`].
    pub fn next_batch(&self, max_bytes: usize) -> Option<Batch> {
        let now = self.0.clock.now();
        let report = self.0.state().report(&now);
        if let Some(dropped) = report {
            let values = [("outbox_dropped".to_owned(), dropped.into())]
                .into_iter()
                .collect();
            self.0.append(Priority::Event, &values);
        }
        let (priority, records, items) = self.0.state().take(max_bytes, &now)?;
        Some(Batch::new(&self.0, priority, records, items))
    }

    /// The server has these for good.
    pub fn acked(&self, mut batch: Batch) {
        self.0.acked(batch.priority, &batch.settle());
    }

    /// These weren't acknowledged; they are sent again.
    pub fn returned(&self, mut batch: Batch) {
        self.0.returned(batch.priority, &batch.settle());
    }

    /// The server can't take these, however often they are sent: they go to a file of bounded size, for people to look at.
    pub fn set_aside(&self, mut batch: Batch) {
        let records = std::mem::take(&mut batch.records);
        self.0.set_aside(
            records
                .iter()
                .filter_map(|record| serde_json::to_vec(record).ok()),
        );
        self.0.acked(batch.priority, &batch.settle());
    }

    /// Waits until there is something to send.
    pub async fn ready(&self) {
        loop {
            let changed = self.0.ready.notified();
            if self.0.state().has_work() {
                return;
            }
            changed.await;
        }
    }

    /// How full it is. Looks at the disk for the oldest record: not for a tight loop.
    pub fn stats(&self) -> Stats {
        let state = self.0.state();
        Stats {
            records: state.records(),
            bytes: state.bytes(),
            dropped: state.ledger.dropped(),
            set_aside: state.ledger.set_aside,
            damaged: state.ledger.damaged,
            oldest_ms: state.oldest(),
            failing: state.failing.clone(),
        }
    }
}

impl Inner {
    /// Nothing panics while it holds a lock, so what a poisoned one guards is right.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, priority: Priority, values: &Object) {
        let Ok(json) = serde_json::to_vec(values) else {
            return;
        };
        if json.len() + stream::OVERHEAD > MAX_PAYLOAD {
            tracing::warn!(bytes = json.len(), "a record is too long for any message");
            self.set_aside([json].into_iter());
            return;
        }
        let now = self.clock.now();
        let full = {
            let mut state = self.state();
            state.append(priority, json, &now) == Room::Full && state.failing.is_none()
        };
        if full {
            self.commit();
        }
        self.work.notify_one();
    }

    fn commit(&self) {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.commit(&self.state);
        drop(store);
        self.ready.notify_waiters();
    }

    fn acked(&self, priority: Priority, items: &[Item]) {
        self.state().acked(priority, items);
        self.work.notify_one();
    }

    fn returned(&self, priority: Priority, items: &[Item]) {
        self.state().returned(priority, items);
        self.ready.notify_waiters();
    }

    fn set_aside(&self, lines: impl Iterator<Item = Vec<u8>>) {
        let folder = self.state().folder.clone();
        let mut count = 0;
        for line in lines {
            count += 1;
            if let Err(error) = set_aside::write(&folder, &line) {
                tracing::warn!(%error, "cannot keep a record that the server can't take");
            }
        }
        let mut state = self.state();
        state.ledger.set_aside += count;
        state.dirty = true;
        drop(state);
        self.work.notify_one();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The task that commits sees that nobody is left.
        self.work.notify_one();
    }
}

async fn commit_by_itself(inner: std::sync::Weak<Inner>, work: Arc<Notify>, interval: Duration) {
    loop {
        let failing = inner
            .upgrade()
            .is_some_and(|inner| inner.state().failing.is_some());
        if failing {
            tokio::time::sleep(PATIENCE).await;
        } else {
            work.notified().await;
            tokio::time::sleep(interval).await;
        }
        let Some(inner) = inner.upgrade() else { return };
        // Only a runtime that is ending refuses.
        if tokio::task::spawn_blocking(move || inner.commit())
            .await
            .is_err()
        {
            return;
        }
    }
}
