//! Workloads: what customers have the fleet run, and which device runs what.
//!
//! Where a workload goes is decided in `cairn_placement`, which is pure; here are its tables, its clock and its API. A device is
//! given all its workloads in one document; how it comes to run them, and tells of it, is its own affair.
//!
//! | Module | Owns |
//! |---|---|
//! | [`declare`] | declaring and removing a workload |
//! | [`logins`] | users of the registries that images come from |
//! | `look` | what a plan has to know of devices |
//! | `scheduler` | making plans, and carrying them out |
//! | [`view`] | what people see |
//! | [`rest`] | `/v1/workloads`, `/v1/devices/{id}/workloads` |

pub mod declare;
pub mod logins;
mod look;
pub mod rest;
mod scheduler;
#[cfg(test)]
mod tests;
pub mod view;

use std::sync::Arc;

use cairn_wire::workload::{self, Login};
use rusqlite::Connection;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use rest::routes;

use crate::sessions::Sessions;
use crate::store::{Store, StoreError};

/// Workloads; clones share them.
#[derive(Clone, Default)]
pub struct Workloads(Arc<Notify>);

impl Workloads {
    /// The workloads of a device's document, and what their registries want to know; none if nothing was ever placed there.
    ///
    /// # Errors
    /// The database's.
    pub fn declared(
        connection: &Connection,
        device: &str,
    ) -> Result<(Option<workload::Workloads>, Vec<Login>), StoreError> {
        let mut query = connection
            .prepare_cached("SELECT 1 FROM desired WHERE device = ?1 AND workloads <> 0")?;
        if !query.exists([device])? {
            return Ok((None, Vec::new()));
        }
        let mut query = connection.prepare_cached(
            "SELECT declared FROM placement JOIN workload ON workload = name
             WHERE device = ?1 AND ended IS NULL ORDER BY name",
        )?;
        let rows = query.query_map([device], |row| row.get::<_, String>(0))?;
        let texts: Vec<String> = rows.collect::<Result<_, _>>()?;
        // Each was read before it was kept; one that can't be read any more says so to the device, alone.
        let list = format!("[{}]", texts.join(","));
        let Some(workloads) = serde_json::from_str(&list).ok() else {
            return Ok((None, Vec::new()));
        };
        let logins = logins::needed(connection, &workloads)?;
        Ok((Some(workloads), logins))
    }

    /// Something has changed that plans depend on.
    pub fn wake(&self) {
        self.0.notify_one();
    }

    /// Makes plans and carries them out until the shutdown; who is connected is told at once.
    pub async fn run(self, store: Store, sessions: Sessions, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = scheduler::run(&store, &sessions, &self.0) => {}
        }
    }
}
