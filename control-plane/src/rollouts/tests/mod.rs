//! Rollouts over a database, with a fleet that only reports; time is the test's.

mod course;
mod live;
mod owners;
mod rest;
mod scale;
mod server;
mod tally;

use std::path::Path;

use cairn_release::{Digest, Sequence, Version};
use cairn_wire::report::{Failure, FailureKind};
use cairn_wire::{Desired, UpdateReport, UpdateState};
use rusqlite::{Connection, params};
use serde_json::json;

use super::create::{NewRollout, Release};
use super::engine::Memory;
use super::steer::Command;
use super::view::{self, DeviceView, RolloutView, TimelineEvent};
use super::{Rollouts, create, engine, report, steer};
use crate::desired;
use crate::store::{Store, StoreError};
use crate::web::ApiError;

/// When the tests begin.
const START: i64 = 1_760_000_000;

/// A device's document, as far as rollouts write it.
fn wanted(connection: &Connection, device: &str) -> Result<Desired, StoreError> {
    Ok(Desired {
        revision: desired::revision(connection, device)?,
        release: Rollouts::release(connection, device)?,
        ..Desired::default()
    })
}

/// A database with devices, and the time.
struct Site {
    folder: tempfile::TempDir,
    store: Store,
    memory: Memory,
    now: i64,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cairn.db")).unwrap();
        Self {
            folder,
            store,
            memory: Memory::default(),
            now: START,
        }
    }

    /// What would be there if the power went now: a copy of the files, opened anew, nothing in memory.
    fn after_a_crash(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["cairn.db", "cairn.db-wal"] {
            let from = self.folder.path().join(name);
            if Path::new(&from).exists() {
                std::fs::copy(from, folder.path().join(name)).unwrap();
            }
        }
        let store = Store::open(&folder.path().join("cairn.db")).unwrap();
        Self {
            folder,
            store,
            memory: Memory::default(),
            now: self.now,
        }
    }

    async fn sql(&self, sql: &'static str) -> usize {
        self.store
            .write(move |tx| Ok::<_, StoreError>(tx.execute(sql, [])?))
            .await
            .unwrap()
    }

    /// Devices `d0` and so on, enrolled an hour ago.
    async fn devices(&self, count: usize, online: bool) {
        let created = self.now - 3_600;
        self.store
            .write(move |tx| {
                let mut put = tx.prepare(
                    "INSERT INTO device (id, name, created, online) VALUES (?1, ?1, ?2, ?3)",
                )?;
                for n in 0..count {
                    put.execute(params![format!("d{n}"), created, online])?;
                }
                Ok::<_, StoreError>(())
            })
            .await
            .unwrap();
    }

    async fn try_create(
        &self,
        version: &str,
        sequence: u64,
        more: serde_json::Value,
    ) -> Result<i64, ApiError> {
        let mut body =
            json!({ "release": version, "select": "all", "max_failures": 1000, "start": true });
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        let new: NewRollout = serde_json::from_value(body).unwrap();
        let release = release(version, sequence);
        let now = self.now;
        self.store
            .write(move |tx| create::create(tx, &new, &release, "tester", now))
            .await
    }

    async fn create(&self, version: &str, more: serde_json::Value) -> i64 {
        self.try_create(version, version.parse().unwrap(), more)
            .await
            .unwrap()
    }

    async fn steer(&self, id: i64, command: Command) -> Result<(), ApiError> {
        let now = self.now;
        self.store
            .write(move |tx| steer::steer(tx, id, command, "tester", now))
            .await
    }

    async fn arrive(&self, devices: &[&str]) -> usize {
        let devices = devices.iter().map(|device| (*device).to_owned()).collect();
        engine::arrivals(&self.store, devices, self.now)
            .await
            .unwrap()
    }

    /// Time passes, and the engine does its round.
    async fn wait(&mut self, seconds: i64) {
        self.now += seconds;
        engine::round(&self.store, &mut self.memory, self.now)
            .await
            .unwrap();
    }

    async fn desired(&self, device: &str) -> Desired {
        let device = device.to_owned();
        self.store
            .read(move |connection| wanted(connection, &device))
            .await
            .unwrap()
    }

    /// The device reports on the order that it has.
    async fn report(
        &self,
        device: &str,
        state: UpdateState,
        running: &str,
        failure: Option<Failure>,
    ) {
        let order = self.desired(device).await.release.unwrap();
        let report = UpdateReport {
            order: order.id,
            version: order.version,
            digest: order.digest,
            state,
            running: Some(running.parse().unwrap()),
            failure,
            note: None,
        };
        self.send(device, report).await;
    }

    async fn send(&self, device: &str, report: UpdateReport) {
        let (device, now) = (device.to_owned(), self.now);
        self.store
            .write(move |tx| report::take(tx, &device, &report, now))
            .await
            .unwrap();
    }

    async fn good(&self, device: &str) {
        let version = self.desired(device).await.release.unwrap().version;
        self.report(device, UpdateState::Good, version.as_str(), None)
            .await;
    }

    async fn fail(&self, device: &str, kind: FailureKind, retry: bool) {
        let failure = Failure {
            kind,
            reason: "the kernel panicked".into(),
            retry,
            evidence: Some("panic.txt".into()),
        };
        self.report(device, UpdateState::Failed, "1", Some(failure))
            .await;
    }

    async fn show(&self, id: i64) -> RolloutView {
        self.store
            .read::<_, StoreError, _>(move |connection| view::show(connection, id))
            .await
            .unwrap()
            .unwrap()
    }

    async fn device(&self, id: i64, device: &str) -> DeviceView {
        let found = self
            .store
            .read::<_, StoreError, _>(move |c| view::devices(c, id, None, "", 1_000))
            .await
            .unwrap();
        found
            .into_iter()
            .find(|view| view.device == device)
            .unwrap()
    }

    async fn timeline(&self, device: &str) -> Vec<TimelineEvent> {
        let device = device.to_owned();
        let mut events = self
            .store
            .read(move |connection| super::Rollouts::timeline(connection, &device, None, 1_000))
            .await
            .unwrap();
        events.reverse();
        events
    }
}

fn release(version: &str, sequence: u64) -> Release {
    Release {
        version: version.parse::<Version>().unwrap(),
        digest: Digest::of(version.as_bytes()),
        sequence: Sequence(sequence),
        channel: "stable".into(),
    }
}
