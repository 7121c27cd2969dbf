//! How a node tells of its disks: telemetry of its own keys for each, told when something about it changes.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Name;
use crate::Object;

/// How a declared disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskState {
    /// There is something to do, and it is only told, as `dry_run` says.
    Planned,
    /// It is being done.
    Working,
    /// It is as declared.
    Applied,
    /// Nothing is done; the reason says why.
    Refused,
    /// A step failed; it is tried again.
    Failed,
}

/// What is told of a declared disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// How it is.
    pub state: DiskState,
    /// Which disk it is, for people; empty if none was found.
    #[serde(default)]
    pub device: String,
    /// What there is yet to do, a line for each step.
    #[serde(default)]
    pub plan: Vec<String>,
    /// Why it is so; empty if there is nothing to say.
    #[serde(default)]
    pub reason: String,
}

/// The values of the record: `disk_layout.<name>.state` and its like.
pub fn values(name: &Name, status: &Status) -> Object {
    let mut values = Object::new();
    let mut put =
        |key: &str, value: Value| values.insert(format!("disk_layout.{name}.{key}"), value);
    put("state", json!(status.state));
    put("device", json!(status.device));
    put("plan", json!(status.plan));
    put("reason", json!(status.reason));
    values
}
