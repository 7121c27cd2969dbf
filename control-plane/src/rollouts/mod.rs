//! Which device shall run which release.
//!
//! What a rollout does is decided in `cairn_rollout`, which is pure; here are its tables, its clock and its API. Everything that
//! is known is in the database, and each change of it is one transaction: after kill -9 the engine goes on where it was.
//!
//! Starting a rollout writes a few rows, however many devices it is for. A device gets its slot, its order and its row when it
//! is there: as it connects or polls ([`Rollouts::on_connect`]), or in a sweep over the connected ones.
//!
//! | Module | Owns |
//! |---|---|
//! | [`create`] | making a rollout, and whether it makes sense |
//! | [`steer`] | start, pause, resume, abort |
//! | `admission` | which devices get a slot |
//! | `report` | what a device's report does |
//! | `engine` | what happens by itself: arrivals, deadlines, waves, pushes |
//! | `apply` | the state machine's effects as changes of the database |
//! | `order` | which device has which order |
//! | `sql` | rows |
//! | `tally` | how many there are, for metrics |
//! | [`view`] | what people see |
//! | [`rest`] | `/v1/rollouts` |

mod admission;
mod apply;
pub mod create;
mod engine;
mod order;
mod report;
pub mod rest;
mod sql;
pub mod steer;
mod tally;
#[cfg(test)]
mod tests;
pub mod view;

use std::sync::{Arc, Mutex, PoisonError};

use cairn_wire::{ReleaseOrder, UpdateReport};
use rusqlite::{Connection, Transaction};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

pub use rest::routes;

use crate::people::now;
use crate::sessions::Sessions;
use crate::store::{Store, StoreError};

/// Devices that have arrived and wait for the engine. More are found by its sweep.
const ARRIVALS: usize = 16_384;

/// Rollouts; clones share them.
#[derive(Clone)]
pub struct Rollouts(Arc<Inner>);

struct Inner {
    store: Store,
    arrivals: mpsc::Sender<String>,
    /// Taken by the engine.
    arrived: Mutex<Option<mpsc::Receiver<String>>>,
    /// Something for the engine to do now.
    wake: Notify,
}

impl Rollouts {
    /// Over this database.
    pub fn new(store: Store) -> Self {
        let (arrivals, arrived) = mpsc::channel(ARRIVALS);
        Self(Arc::new(Inner {
            store,
            arrivals,
            arrived: Mutex::new(Some(arrived)),
            wake: Notify::new(),
        }))
    }

    /// The release that a device shall run; none: as it is.
    ///
    /// # Errors
    /// The database's.
    pub fn release(
        connection: &Connection,
        device: &str,
    ) -> Result<Option<ReleaseOrder>, StoreError> {
        order::release(connection, device)
    }

    /// A device told of its update. In the transaction that stores the record. A report that is about nothing known changes nothing.
    ///
    /// # Errors
    /// The database's.
    pub fn on_report(
        tx: &Transaction<'_>,
        device: &str,
        report: &UpdateReport,
    ) -> Result<(), StoreError> {
        report::take(tx, device, report, now())
    }

    /// A device has connected, or polled. Returns at once; the engine gives it a slot, if there is one for it.
    pub fn on_connect(&self, device: &str) {
        // If there is no room, the sweep finds it.
        let _ = self.0.arrivals.try_send(device.to_owned());
    }

    /// Events of a device over all rollouts, the newest first: those before `before`, at most `limit`.
    ///
    /// # Errors
    /// The database's.
    pub fn timeline(
        connection: &Connection,
        device: &str,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<view::TimelineEvent>, StoreError> {
        view::timeline(connection, &view::Timeline::Device(device), before, limit)
    }

    /// How many there are.
    ///
    /// # Errors
    /// The database's.
    pub fn tally(connection: &Connection) -> Result<tally::Tally, StoreError> {
        tally::tally(connection)
    }

    /// Does what happens by itself, until the shutdown; who is connected is told at once.
    pub async fn run(self, sessions: Sessions, shutdown: CancellationToken) {
        let arrived = self.0.arrived.lock();
        let arrived = arrived.unwrap_or_else(PoisonError::into_inner).take();
        match arrived {
            Some(arrived) => engine::run(&self, &sessions, arrived, shutdown).await,
            None => tracing::error!("the rollout engine runs already"),
        }
    }

    fn wake(&self) {
        self.0.wake.notify_one();
    }
}
