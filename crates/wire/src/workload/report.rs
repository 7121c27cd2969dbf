//! How a node tells of its workloads: telemetry of its own keys for each, told when something about it changes.

use cairn_release::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Name;
use crate::Object;

/// How a workload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadState {
    /// It can't be read, or this node doesn't allow it; the reason says what. What runs under its name goes on.
    Refused,
    /// Its image is being fetched, or waits to be.
    Pulling,
    /// Its Docker container is being made or started.
    Starting,
    /// A new one runs and has to prove itself; the one before is kept.
    OnTrial,
    /// It runs as declared; its health check, if it has one, passes or hasn't been made yet.
    Running,
    /// It runs, and its health check fails.
    Unhealthy,
    /// It ended and is about to be started again.
    Restarting,
    /// It ran to its end.
    Finished,
    /// Stopped by a command.
    Stopped,
    /// What is declared failed here, and the one before runs again; it is tried again later.
    RolledBack,
    /// What is declared failed here, and there is none before it; it is tried again later.
    Failed,
    /// It is no longer declared, and goes.
    Removing,
    /// It is gone.
    Removed,
}

/// What is told of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// How it is.
    pub state: WorkloadState,
    /// Digest of the image that runs, or that shall.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Digest>,
    /// Digest of what its Docker container was made of ([`super::Workload::spec`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<Digest>,
    /// How often Docker has started it again.
    #[serde(default)]
    pub restarts: u64,
    /// Why it is so, for people; empty if there is nothing to say.
    #[serde(default)]
    pub reason: String,
}

/// The values of the record: `workload.<name>.state` and its like.
pub fn values(name: &Name, status: &Status) -> Object {
    let mut values = Object::new();
    let mut put = |key: &str, value: Value| values.insert(format!("workload.{name}.{key}"), value);
    put("state", json!(status.state));
    if let Some(image) = status.image {
        put("image", json!(format!("sha256:{image}")));
    }
    if let Some(spec) = status.spec {
        put("spec", json!(spec));
    }
    put("restarts", json!(status.restarts));
    put("reason", json!(status.reason));
    values
}
