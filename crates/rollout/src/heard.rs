//! What a device's report says about a rollout's release.

use cairn_release::{Digest, Version};
use cairn_wire::UpdateReport;
use cairn_wire::report::{Failure, FailureKind, UpdateState};

use crate::state::DeviceState;

/// What a rollout brings: a report counts only if it is about this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The release.
    pub version: Version,
    /// Digest of its manifest's payload.
    pub digest: Digest,
}

/// What a report says, once it was held against the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// The update goes on.
    Progress(DeviceState),
    /// The release itself runs and is good.
    Good,
    /// It failed.
    Failed(Failure),
    /// Nothing that can be counted, and why.
    Unproven(String),
}

impl Heard {
    /// Judges a report. A `good` counts only from the release itself: an old release that says `good` after a fallback has failed,
    /// and one that doesn't say what runs has said nothing.
    pub fn of(target: &Target, report: &UpdateReport) -> Self {
        if report.digest != target.digest || report.version != target.version {
            return Self::Unproven(format!(
                "the report is about {} and another digest, not about {}",
                report.version, target.version
            ));
        }
        match (report.state, &report.running) {
            (UpdateState::Good, Some(running)) if *running == target.version => Self::Good,
            (UpdateState::Good, Some(running)) => Self::Failed(Failure {
                kind: FailureKind::FellBack,
                reason: format!(
                    "the device said good, but runs {running} instead of {}",
                    target.version
                ),
                retry: false,
                evidence: None,
            }),
            (UpdateState::Good, None) => {
                Self::Unproven("the device said good, but not what it runs".into())
            }
            (UpdateState::Failed, _) => {
                Self::Failed(report.failure.clone().unwrap_or_else(|| Failure {
                    kind: FailureKind::Refused,
                    reason: "the device gave no reason".into(),
                    retry: false,
                    evidence: None,
                }))
            }
            (state, _) => DeviceState::heard(state)
                .map_or_else(|| Self::Unproven("unknown state".into()), Self::Progress),
        }
    }
}
