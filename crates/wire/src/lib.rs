//! What devices and the control plane say to each other, as types.
//!
//! The wire scheme is ThingsBoard's device API, so that a stock ThingsBoard can stand where our control plane stands, and any
//! ThingsBoard device can talk to ours. What ThingsBoard has no word for (enrolment with a signing request, the desired state)
//! is a small HTTP API beside it. Functions over bytes: no file, socket or clock.
//!
//! | Module | Owns |
//! |---|---|
//! | [`topic`] | MQTT topics and what they mean |
//! | [`telemetry`] | telemetry records and the four shapes that they come in |
//! | [`attributes`] | pushes, requests and answers of attributes |
//! | [`rpc`] | remote calls, in both directions |
//! | [`provision`] | ThingsBoard's own way of making a device known |
//! | [`enrol`] | one-time token, signing request, certificate; renewal |
//! | [`declared`] | items of a list that are each judged alone |
//! | [`desired`] | what a node shall be: the order to run a release, workloads, disks |
//! | [`workload`] | a customer's Docker container, as it is declared and as it is told of |
//! | [`disk`] | how a disk shall be laid out, and how a node tells of it |
//! | [`report`] | how a node tells of its update |
//! | [`neighbour`] | what nodes of a site tell each other of an image |
//! | [`speed`] | where a device measures how fast its line is |

pub mod attributes;
pub mod declared;
pub mod desired;
pub mod disk;
pub mod enrol;
pub mod neighbour;
pub mod provision;
pub mod report;
pub mod rpc;
pub mod speed;
pub mod telemetry;
pub mod topic;
pub mod workload;

pub use desired::{Desired, ReleaseOrder, When};
pub use disk::{Disk, Disks};
pub use report::{UpdateReport, UpdateState};
pub use telemetry::{Record, RecordId};
pub use workload::{Workload, Workloads};

/// Largest MQTT payload in bytes that either side takes: ThingsBoard's default.
pub const MAX_PAYLOAD: usize = 65_536;

/// A JSON object, its keys in order.
pub type Object = serde_json::Map<String, serde_json::Value>;

/// A message can't be used.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// It isn't JSON at all, or lacks a field.
    #[error("cannot read {what}")]
    Json {
        /// What was expected.
        what: &'static str,
        /// What serde says.
        #[source]
        source: serde_json::Error,
    },
    /// It is JSON of another shape.
    #[error("{what}: expected {expected}")]
    Shape {
        /// What was read.
        what: &'static str,
        /// What would have been right.
        expected: &'static str,
    },
    /// More bytes than [`MAX_PAYLOAD`].
    #[error("a payload of {0} bytes is over the limit of {MAX_PAYLOAD}")]
    Size(usize),
    /// Nobody knows this topic.
    #[error("unknown topic {0:?}")]
    Topic(String),
}

pub(crate) fn parse<T: serde::de::DeserializeOwned>(
    what: &'static str,
    payload: &[u8],
) -> Result<T, WireError> {
    if payload.len() > MAX_PAYLOAD {
        return Err(WireError::Size(payload.len()));
    }
    serde_json::from_slice(payload).map_err(|source| WireError::Json { what, source })
}
