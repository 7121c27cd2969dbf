//! What is remembered, what happens, and what is to be done.

use std::collections::BTreeSet;

use cairn_boot_state::Slot;
use cairn_release::{Digest, Sequence, Version};
use cairn_wire::report::{Failure, FailureKind, UpdateReport, UpdateState};
use cairn_wire::{ReleaseOrder, When};
use serde::{Deserialize, Serialize};

use crate::memory::Memory;
use crate::survey::Survey;

/// The format that this code writes and reads.
pub const FORMAT: u32 = 1;
/// The order's id of a release that nobody ordered: the bootloader started it because nothing better was left.
pub const ADOPTED: &str = "adopted";

/// The machine's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How often a trial may be started, 1 to 9.
    pub tries: u8,
    /// How often the good release may be started before an agent says again that it is good, 1 to 9.
    pub good_tries: u8,
    /// How many releases are kept beside the good one and the trial.
    pub keep: usize,
    /// Bytes of DATA that an update leaves free.
    pub reserve: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            tries: 3,
            good_tries: 9,
            keep: 1,
            reserve: 64 << 20,
        }
    }
}

/// A release that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its version.
    pub version: Version,
    /// Its place in the order of releases.
    pub sequence: Sequence,
    /// Digest of its manifest's payload.
    pub digest: Digest,
    /// As `uname -m` says it.
    pub architecture: String,
    /// The kinds of hardware that it is for.
    pub compatible: Vec<String>,
}

/// What the boot state says, both copies together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootView {
    /// The good release.
    pub good: Option<Version>,
    /// The trial and its tries.
    pub trial: Option<(Version, u8)>,
    /// Releases that can't boot.
    pub failed: Vec<Version>,
}

/// A start of the agent: what booted, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// The kernel's boot id.
    pub boot_id: String,
    /// In which role the bootloader started what runs.
    pub slot: Slot,
    /// What runs.
    pub running: Running,
    /// The boot state; `None` if it can't be read.
    pub view: Option<BootView>,
    /// What the last failed boot left behind about the release of the update, for people.
    pub trace: Option<String>,
}

/// One image of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Bytes.
    pub size: u64,
    /// Digest of the whole file.
    pub sha256: Digest,
}

/// What the signed manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The version.
    pub version: Version,
    /// Digest of the payload.
    pub digest: Digest,
    /// Its place in the order of releases.
    pub sequence: Sequence,
    /// The lowest sequence that may update to it.
    pub minimum_sequence: Sequence,
    /// As `uname -m` says it.
    pub architecture: String,
    /// The kinds of hardware that it is for.
    pub compatible: Vec<String>,
    /// When it was made, in seconds since 1970; the time of its `kernel.squashfs`.
    pub created: i64,
    /// Bytes of the signed manifest.
    pub manifest_size: u64,
    /// The kernel container.
    pub kernel: Image,
    /// The root image.
    pub root: Image,
    /// Whether a valid signed order allows a lower sequence.
    pub downgrade_allowed: bool,
}

/// What was found out before anything is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The manifest.
    pub facts: Facts,
    /// The disk.
    pub survey: Survey,
}

/// Why something failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// For programs.
    pub kind: FailureKind,
    /// For people.
    pub reason: String,
    /// Whether the cause may pass.
    pub retry: bool,
}

impl Cause {
    /// One that stays.
    pub fn lasting(kind: FailureKind, reason: impl Into<String>) -> Self {
        Self {
            kind,
            reason: reason.into(),
            retry: false,
        }
    }

    /// One that may pass.
    pub fn passing(kind: FailureKind, reason: impl Into<String>) -> Self {
        Self {
            kind,
            reason: reason.into(),
            retry: true,
        }
    }
}

/// How far an update is. Each names the work that is to be done next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The manifest is to be fetched and judged.
    Checking,
    /// Room is to be made.
    Planned {
        /// These releases go.
        remove: Vec<Version>,
    },
    /// The files are to be fetched.
    Fetching,
    /// They are to be read back.
    Verifying,
    /// They are to be given their final place.
    Verified,
    /// The boot state is to be told.
    Placed,
    /// The node is to be restarted.
    Armed,
    /// The release runs and is to be judged.
    OnTrial,
    /// It is healthy; the boot state is to be told.
    Proven,
    /// It failed; the boot state is to be told and the evidence to be kept.
    Failing(Ending),
}

/// How a failed update ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Why.
    pub cause: Cause,
    /// Whether the boot state has to say that the release failed.
    pub condemn: bool,
    /// Whether the node has to leave the release.
    pub restart: bool,
    /// Name of the evidence that is kept.
    pub evidence: Option<String>,
}

/// An update under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// The order.
    pub order: ReleaseOrder,
    /// How far it is.
    pub phase: Phase,
    /// What the manifest says, once it was judged.
    pub facts: Option<Facts>,
    /// The release that ran when it began.
    pub from: Version,
    /// The checks that passed before, once they were run: only these count on trial.
    pub baseline: Option<BTreeSet<String>>,
    /// How often the agent began again in this phase.
    pub resumes: u32,
    /// Whether what was read back damaged was fetched once more already.
    #[serde(default)]
    pub refetched: bool,
}

/// An update that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// The order's id.
    pub order: String,
    /// The release.
    pub version: Version,
    /// Digest of its manifest's payload.
    pub digest: Digest,
    /// Why it failed; none if it is good.
    pub failure: Option<Failure>,
    /// Whether the report is in the outbox.
    pub reported: bool,
}

/// All that is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// [`FORMAT`].
    pub format: u32,
    /// What runs, as the last start found it.
    pub running: Option<Running>,
    /// The last release that was good.
    pub good: Option<Running>,
    /// The boot that was seen last.
    pub boot_id: Option<String>,
    /// The order that stands.
    pub wanted: Option<ReleaseOrder>,
    /// The update under way.
    pub update: Option<Update>,
    /// Ids of orders that ended, the oldest first.
    pub done: Vec<String>,
    /// The last one that ended.
    pub last: Option<Finished>,
    /// Releases that failed here.
    pub failed: Memory,
    /// Restarts since something last got better.
    pub restarts: u32,
}

impl Default for State {
    fn default() -> Self {
        Self {
            format: FORMAT,
            running: None,
            good: None,
            boot_id: None,
            wanted: None,
            update: None,
            done: Vec::new(),
            last: None,
            failed: Memory::default(),
            restarts: 0,
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The agent started.
    Started(Box<Boot>),
    /// The control plane said what to run; none: stay as you are.
    Ordered(Option<Box<ReleaseOrder>>),
    /// An operator forgives a release.
    Forgiven(Digest),
    /// [`Action::Check`] is done.
    Checked(Box<Checked>),
    /// [`Action::Prepare`] is done.
    Prepared,
    /// [`Action::Fetch`] is done.
    Fetched,
    /// [`Action::Verify`] is done.
    Verified,
    /// As well, but this was damaged and is thrown away.
    Damaged(String),
    /// [`Action::Place`] is done.
    Placed,
    /// [`Action::Measure`] is done.
    Measured {
        /// The checks that pass now.
        baseline: BTreeSet<String>,
    },
    /// [`Action::Arm`] is done.
    Armed,
    /// The node may restart now.
    RestartAllowed,
    /// The release on trial is healthy and stayed so.
    Healthy,
    /// [`Action::MakeGood`] is done.
    MadeGood,
    /// [`Action::Settle`] is done, as well as could be.
    Settled,
    /// The last report is in the outbox.
    Reported,
    /// The work of this phase can't be done.
    Failed(Cause),
}

/// Something to do. Each may be done again after a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Tell the control plane; [`Event::Reported`] if it is the final word.
    Report(Box<UpdateReport>),
    /// Fetch newer trust roots and the manifest, judge it, look at the disk: [`Event::Checked`].
    Check(Box<ReleaseOrder>),
    /// Make room, and let the boot state forget an earlier failure of this version: [`Event::Prepared`].
    Prepare {
        /// The release to come.
        version: Version,
        /// Releases that go.
        remove: Vec<Version>,
    },
    /// Fetch what isn't there yet: [`Event::Fetched`].
    Fetch {
        /// From where.
        url: String,
        /// What.
        facts: Box<Facts>,
    },
    /// Read from the disk what was written: [`Event::Verified`] or [`Event::Damaged`].
    Verify {
        /// What.
        facts: Box<Facts>,
    },
    /// Rename and flush, so that the bootloader sees it: [`Event::Placed`].
    Place {
        /// What.
        facts: Box<Facts>,
    },
    /// Find out which checks pass before anything changes: [`Event::Measured`].
    Measure,
    /// Name the trial in the boot state: [`Event::Armed`].
    Arm {
        /// The trial.
        version: Version,
        /// How often it may be started.
        tries: u8,
    },
    /// Wait until the node may restart: [`Event::RestartAllowed`].
    AwaitRestart(When),
    /// Restart the node through its firmware.
    Restart,
    /// Watch the release that runs: [`Event::Healthy`] or [`Event::Failed`].
    Judge {
        /// Only these checks count.
        baseline: BTreeSet<String>,
    },
    /// Name the good release in the boot state: [`Event::MadeGood`].
    MakeGood {
        /// Which.
        version: Version,
        /// How often it may be started.
        tries: u8,
    },
    /// Keep the evidence, take the release out of the boot state: [`Event::Settled`].
    Settle {
        /// The release.
        version: Version,
        /// How it ends.
        ending: Box<Ending>,
    },
    /// Arm the good release's counter again. It may fail; the next start repeats it.
    Rearm {
        /// The good release.
        version: Version,
        /// How often it may be started.
        tries: u8,
    },
    /// Tell the rest of the system that this boot needs no rescue.
    Declare,
    /// Remove what is neither wanted nor needed to fall back.
    Tidy {
        /// How many to keep beside the protected ones.
        keep: usize,
    },
}

impl Phase {
    /// What others are told.
    pub fn outside(&self) -> UpdateState {
        match self {
            Self::Checking => UpdateState::Checking,
            Self::Planned { .. } => UpdateState::Planned,
            Self::Fetching | Self::Verifying => UpdateState::Fetching,
            Self::Verified => UpdateState::Verified,
            Self::Placed => UpdateState::Placed,
            Self::Armed => UpdateState::Armed,
            Self::OnTrial | Self::Proven => UpdateState::OnTrial,
            Self::Failing(_) => UpdateState::Failed,
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Checking => "Checking",
            Self::Planned { .. } => "Planned",
            Self::Fetching => "Fetching",
            Self::Verifying => "Verifying",
            Self::Verified => "Verified",
            Self::Placed => "Placed",
            Self::Armed => "Armed",
            Self::OnTrial => "OnTrial",
            Self::Proven => "Proven",
            Self::Failing(_) => "Failing",
        }
    }
}

impl State {
    /// Releases that must never be removed: what runs, what is good, what is being updated to.
    pub fn protected(&self) -> BTreeSet<Version> {
        let running = [&self.running, &self.good]
            .into_iter()
            .flatten()
            .map(|r| &r.version);
        let update = self.update.as_ref().map(|update| &update.order.version);
        running.chain(update).cloned().collect()
    }
}
