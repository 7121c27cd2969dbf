//! Where a rollout stands, and where a device is in it.

use cairn_wire::report::UpdateState;
use serde::{Deserialize, Serialize};

/// Where a rollout stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "status")]
pub enum Status {
    /// Made, not started.
    Draft,
    /// Devices are admitted.
    Running,
    /// By an operator.
    Paused,
    /// By itself.
    Halted {
        /// Why.
        reason: String,
    },
    /// All waves have ended.
    Finished,
    /// By an operator, for good.
    Aborted,
}

impl Status {
    /// All names, in the order of a rollout's life.
    pub const NAMES: [&str; 6] = [
        "draft", "running", "paused", "halted", "finished", "aborted",
    ];

    /// Its name, as in JSON; one of [`Self::NAMES`].
    pub fn as_str(&self) -> &'static str {
        Self::NAMES[match self {
            Self::Draft => 0,
            Self::Running => 1,
            Self::Paused => 2,
            Self::Halted { .. } => 3,
            Self::Finished => 4,
            Self::Aborted => 5,
        }]
    }

    /// Whether it is started and not at its end.
    pub fn is_active(&self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Halted { .. })
    }
}

/// Where a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceState {
    /// It has the order, and hasn't said a word about it.
    Offered,
    /// As [`UpdateState::Checking`].
    Checking,
    /// As [`UpdateState::Planned`].
    Planned,
    /// As [`UpdateState::Fetching`].
    Fetching,
    /// As [`UpdateState::Verified`].
    Verified,
    /// As [`UpdateState::Placed`].
    Placed,
    /// As [`UpdateState::Armed`].
    Armed,
    /// As [`UpdateState::OnTrial`].
    OnTrial,
    /// It failed for a cause that may pass, and gets the order again.
    Retrying,
    /// The rollout halted and took the order back; it comes again when the rollout is resumed and the device is there.
    Held,
    /// It runs the release, is healthy and stayed so.
    Good,
    /// It said that it failed.
    Failed,
    /// It was silent for too long.
    Expired,
    /// The order was taken back for good.
    Withdrawn,
    /// A newer rollout had given it an order before this one came to it.
    Superseded,
}

impl DeviceState {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Offered,
        Self::Checking,
        Self::Planned,
        Self::Fetching,
        Self::Verified,
        Self::Placed,
        Self::Armed,
        Self::OnTrial,
        Self::Retrying,
        Self::Held,
        Self::Good,
        Self::Failed,
        Self::Expired,
        Self::Withdrawn,
        Self::Superseded,
    ];

    /// Its name, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Offered => "offered",
            Self::Checking => "checking",
            Self::Planned => "planned",
            Self::Fetching => "fetching",
            Self::Verified => "verified",
            Self::Placed => "placed",
            Self::Armed => "armed",
            Self::OnTrial => "on-trial",
            Self::Retrying => "retrying",
            Self::Held => "held",
            Self::Good => "good",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Withdrawn => "withdrawn",
            Self::Superseded => "superseded",
        }
    }

    /// The state of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// Whether something is still to come.
    pub fn is_open(self) -> bool {
        self < Self::Good
    }

    /// Whether the order can be taken back: something is to come, and the boot state doesn't name the release yet.
    pub fn is_unarmed(self) -> bool {
        self.is_open() && !matches!(self, Self::Armed | Self::OnTrial)
    }

    /// Whether it counts against the rollout.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::Expired)
    }

    pub(crate) fn heard(state: UpdateState) -> Option<Self> {
        Some(match state {
            UpdateState::Checking => Self::Checking,
            UpdateState::Planned => Self::Planned,
            UpdateState::Fetching => Self::Fetching,
            UpdateState::Verified => Self::Verified,
            UpdateState::Placed => Self::Placed,
            UpdateState::Armed => Self::Armed,
            UpdateState::OnTrial => Self::OnTrial,
            UpdateState::Good | UpdateState::Failed => return None,
        })
    }
}
