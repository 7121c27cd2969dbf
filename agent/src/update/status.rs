//! What others are shown of updates.

use cairn_boot_state::Slot;
use cairn_release::{Digest, Sequence, Version};
use cairn_update::State;
use cairn_update::memory::Entry;
use cairn_wire::report::{Failure, FailureKind};
use cairn_wire::{ReleaseOrder, UpdateReport, UpdateState};
use serde::Serialize;

/// For `cairn-agent status`, calls, and telemetry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Whether Cairn's bootloader started this system; none: not known yet.
    pub managed: Option<bool>,
    /// What runs.
    pub running: Option<Shown>,
    /// In which role the bootloader started it: `trial`, `good` or `other`.
    pub slot: Option<String>,
    /// The good release.
    pub good: Option<Version>,
    /// The update under way.
    pub update: Option<UnderWay>,
    /// The last one that ended.
    pub last: Option<Ended>,
    /// Releases that failed here, the newest failure first.
    pub failed: Vec<Entry>,
}

/// A release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Its version.
    pub version: Version,
    /// Its place in the order of releases.
    pub sequence: Sequence,
    /// Digest of its manifest's payload.
    pub digest: Digest,
}

/// An update under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnderWay {
    /// The order's id.
    pub order: String,
    /// The release.
    pub version: Version,
    /// Where it is.
    pub state: UpdateState,
    /// What it does or waits for.
    pub note: Option<String>,
}

/// An update that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ended {
    /// The order's id.
    pub order: String,
    /// The release.
    pub version: Version,
    /// Why it failed; none if it is good.
    pub failure: Option<Failure>,
}

impl Status {
    pub(super) fn take(&mut self, state: &State) {
        self.managed = Some(true);
        self.running = state.running.as_ref().map(|running| Shown {
            version: running.version.clone(),
            sequence: running.sequence,
            digest: running.digest,
        });
        self.good = state.good.as_ref().map(|good| good.version.clone());
        self.update = state.update.as_ref().map(|update| UnderWay {
            order: update.order.id.clone(),
            version: update.order.version.clone(),
            state: update.phase.outside(),
            note: None,
        });
        self.last = state.last.as_ref().map(|last| Ended {
            order: last.order.clone(),
            version: last.version.clone(),
            failure: last.failure.clone(),
        });
        self.failed = state.failed.iter().cloned().collect();
    }

    pub(super) fn note(&mut self, text: String) -> bool {
        match &mut self.update {
            Some(update) if update.note.as_ref() != Some(&text) => {
                update.note = Some(text);
                true
            }
            _ => false,
        }
    }

    pub(super) fn booted(&mut self, slot: Slot) {
        self.slot = Some(slot.to_string());
    }

    pub(super) fn unmanaged(&mut self) {
        self.managed = Some(false);
    }
}

/// The report that an order can't be followed.
pub(super) fn refusal(order: &ReleaseOrder, reason: &str) -> UpdateReport {
    UpdateReport {
        order: order.id.clone(),
        version: order.version.clone(),
        digest: order.digest,
        state: UpdateState::Failed,
        running: None,
        failure: Some(Failure {
            kind: FailureKind::Refused,
            reason: reason.to_owned(),
            retry: false,
            evidence: None,
        }),
        note: None,
    }
}
