//! Remote calls. Delivered means that the device itself answered.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::WireError;

/// A call, from either side; its number is in the topic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// What to do; see [`method`] for what our agent knows.
    pub method: String,
    /// With what.
    #[serde(default)]
    pub params: Value,
}

impl Call {
    /// Reads one.
    ///
    /// # Errors
    /// If it isn't one.
    pub fn parse(payload: &[u8]) -> Result<Self, WireError> {
        crate::parse("a remote call", payload)
    }
}

/// What our agent answers. A stock ThingsBoard shows it as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// Whether it was done.
    pub ok: bool,
    /// What it gave.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub result: Value,
    /// Why it wasn't done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Reply {
    /// It was done, and gave this.
    pub fn done(result: impl Into<Value>) -> Self {
        Self {
            ok: true,
            result: result.into(),
            error: None,
        }
    }

    /// It wasn't done.
    pub fn refused(error: impl std::fmt::Display) -> Self {
        Self {
            ok: false,
            result: Value::Null,
            error: Some(format!("{error:#}")),
        }
    }
}

/// The calls that our agent knows.
pub mod method {
    /// Restarts the node. Params: `{"delay_seconds"?: n}`.
    pub const REBOOT: &str = "reboot";
    /// Restarts a systemd unit on the allow-list. Params: `{"unit": "name.service"}`.
    pub const RESTART_UNIT: &str = "restart-unit";
    /// Collects journal, units, boot state and disks, and uploads them. Result: `{"url"}`.
    pub const DIAGNOSTICS: &str = "collect-diagnostics";
    /// Runs an action that the image allows. Params: `{"name", "arguments"?: {…}}`.
    pub const RUN_ACTION: &str = "run-action";
    /// Gives up `/etc` and `/var` at the next boot; the identity stays unless `identity` is true. Params: `{"confirm": device id, "identity"?: bool}`.
    pub const FACTORY_RESET: &str = "factory-reset";
    /// Everything that `cairn-agent status --json` shows.
    pub const STATUS: &str = "status";
    /// The last lines of the journal. Params: `{"unit"?: name, "lines"?: n}`. Result: `{"lines": […]}`.
    pub const LOGS: &str = "logs";
    /// Starts, stops or restarts a workload, or makes its Docker container anew. Params: `{"name", "action": "start" | "stop" | "restart" |
    /// "redeploy"}`. Answered when it is done.
    pub const WORKLOAD: &str = "workload";
    /// The last lines that a workload wrote. Params: `{"name", "lines"?: n}`. Result: `{"lines": […]}`.
    pub const WORKLOAD_LOGS: &str = "workload-logs";
    /// Forgets that a release failed. Params: `{"release": digest}`.
    pub const FORGIVE: &str = "forgive-release";
}
