//! How a node tells of its update: a telemetry record with the one value [`KEY`], which goes through the outbox and so arrives in the end.
//! Beside it the agent sets ThingsBoard's `fw_state`, `current_fw_version` and `fw_error`.

use cairn_release::{Digest, Version};
use serde::{Deserialize, Serialize};

/// The telemetry key: `{"cairn_update": UpdateReport}`.
pub const KEY: &str = "cairn_update";

/// Where an update is; the drawing is in docs/state-machine.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateState {
    /// The manifest is fetched and judged.
    Checking,
    /// It is known what to fetch, and that it fits.
    Planned,
    /// Files are on their way.
    Fetching,
    /// All of them are on the disk, read back, and right.
    Verified,
    /// They have their final place.
    Placed,
    /// The boot state names the release as the trial; waiting for the restart.
    Armed,
    /// The release runs and is being judged.
    OnTrial,
    /// The release is the good one.
    Good,
    /// It is not; the reason says why.
    Failed,
}

impl UpdateState {
    /// ThingsBoard's word for it.
    pub fn firmware_state(self) -> &'static str {
        match self {
            Self::Checking | Self::Planned | Self::Fetching => "DOWNLOADING",
            Self::Verified => "DOWNLOADED",
            Self::Placed => "VERIFIED",
            Self::Armed | Self::OnTrial => "UPDATING",
            Self::Good => "UPDATED",
            Self::Failed => "FAILED",
        }
    }

    /// Whether nothing follows.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Good | Self::Failed)
    }
}

/// Why an update failed, as a word for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The order, the manifest, or its signature is wrong, or it isn't for this node.
    Refused,
    /// It failed here before and wasn't forgiven.
    FailedBefore,
    /// A lower sequence without a signed order.
    Downgrade,
    /// The disk can't hold it.
    Space,
    /// It couldn't be fetched.
    Fetch,
    /// What was fetched is wrong, or the disk gave back something else.
    Verify,
    /// The disk or the boot state couldn't be written.
    Storage,
    /// The node came back with another release: it panicked, hung or didn't load.
    FellBack,
    /// It ran and a health check failed, or it didn't become healthy in time.
    Unhealthy,
    /// Called off by an order.
    Withdrawn,
}

/// One step of an update. The same one may come twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateReport {
    /// The order's id.
    pub order: String,
    /// The release.
    pub version: Version,
    /// Digest of its manifest's payload.
    pub digest: Digest,
    /// Where the update is.
    pub state: UpdateState,
    /// What runs now: the release that the node booted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Version>,
    /// With [`UpdateState::Failed`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// A word for people: how far, what plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Why an update failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For programs.
    pub kind: FailureKind,
    /// For people, a sentence.
    pub reason: String,
    /// Whether the order may be tried again without an operator: nothing of the release was booted, and the cause may pass.
    pub retry: bool,
    /// Name of the evidence that was uploaded (`PUT /v1/me/evidence/<name>`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
}
