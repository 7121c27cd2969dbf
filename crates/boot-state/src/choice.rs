//! Which copy of the state rules, and which releases are tried in which order.

use crate::block::{BootState, Damage, Tries};
use cairn_release::Version;
use std::fmt;
use std::str::FromStr;

/// One of the two copies on the ESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Copy {
    /// `boot-a.env`
    A,
    /// `boot-b.env`
    B,
}

impl Copy {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Its path on the ESP.
    pub fn path(self) -> &'static str {
        match self {
            Self::A => "cairn/boot-a.env",
            Self::B => "cairn/boot-b.env",
        }
    }
}

impl fmt::Display for Copy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::A => "boot-a.env",
            Self::B => "boot-b.env",
        })
    }
}

/// What both copies together say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picked {
    /// The newest valid state, or the empty one if both copies are damaged.
    pub state: BootState,
    /// Where it was found; `None` if both copies are damaged.
    pub from: Option<Copy>,
    /// What is wrong with which copy.
    pub damaged: Vec<(Copy, Damage)>,
}

impl Picked {
    /// The order in which the copies are written.
    ///
    /// The one that rules comes last: until the other is on the disk, flushed
    /// and read back, it must stay as it is, so that a power cut at any byte
    /// leaves one that is valid.
    pub fn write_order(&self) -> [Copy; 2] {
        let last = self.from.unwrap_or(Copy::B);
        [last.other(), last]
    }
}

/// Chooses the newest valid copy, `a` if both are as new.
///
/// A file that is missing or can't be read is an empty slice.
pub fn pick(a: &[u8], b: &[u8]) -> Picked {
    let mut best: Option<(Copy, BootState)> = None;
    let mut damaged = Vec::new();
    for (copy, block) in [(Copy::A, a), (Copy::B, b)] {
        match BootState::parse(block) {
            Err(damage) => damaged.push((copy, damage)),
            Ok(state) => match &best {
                Some((_, first)) if first.generation >= state.generation => {}
                _ => best = Some((copy, state)),
            },
        }
    }
    let (from, state) = match best {
        Some((copy, state)) => (Some(copy), state),
        None => (None, BootState::default()),
    };
    Picked {
        state,
        from,
        damaged,
    }
}

/// In which role a release is started; GRUB hands it over as `cairn.slot=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slot {
    /// It is being tried out.
    Trial,
    /// It is known to work.
    Good,
    /// Neither could be started.
    Other,
}

impl Slot {
    /// As it is written on the kernel's command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trial => "trial",
            Self::Good => "good",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text names no slot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected trial, good or other, got {0:?}")]
pub struct NotASlot(String);

impl FromStr for Slot {
    type Err = NotASlot;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Trial, Self::Good, Self::Other]
            .into_iter()
            .find(|slot| slot.as_str() == text)
            .ok_or_else(|| NotASlot(text.chars().take(80).collect()))
    }
}

/// Why a release is tried at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// A trial with this many tries left, this one included.
    Trial(u8),
    /// The good release.
    Good(Tries),
    /// Installed, and not known to have failed.
    NotFailed,
    /// The good release although it failed or has no tries left: all others
    /// are worse.
    LastResort,
}

/// A release that GRUB would try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// In which role.
    pub slot: Slot,
    /// Which release.
    pub version: Version,
    /// Why here.
    pub why: Why,
}

/// The releases that GRUB would try, in its order; empty means the recovery
/// menu.
///
/// `installed` comes newest first: GRUB goes by the time of each release's
/// `kernel.squashfs`. A trial whose tries are used up has failed, even if
/// nobody could write that down: it is none of the others.
pub fn candidates(state: &BootState, installed: &[Version]) -> Vec<Candidate> {
    let usable = |version: &&Version| installed.contains(version);
    let candidate = |slot, version: &Version, why| Candidate {
        slot,
        version: version.clone(),
        why,
    };
    let mut list = Vec::new();

    if let Some(trial) = state.trial.as_ref().filter(usable)
        && state.trial_tries > 0
        && !state.has_failed(trial)
    {
        list.push(candidate(Slot::Trial, trial, Why::Trial(state.trial_tries)));
    }

    let good = state.good.as_ref().filter(usable);
    let sound = |version: &&Version| state.good_tries.any_left() && !state.has_failed(version);
    if let Some(good) = good.filter(sound) {
        list.push(candidate(Slot::Good, good, Why::Good(state.good_tries)));
    }

    let named = [&state.trial, &state.good];
    for version in installed {
        let is_named = named.into_iter().flatten().any(|v| v == version);
        // How an unfinished download is called.
        let partial = version.as_str().ends_with(".partial");
        if !is_named && !partial && !state.has_failed(version) {
            list.push(candidate(Slot::Other, version, Why::NotFailed));
        }
    }

    if let Some(good) = good.filter(|version| !sound(version)) {
        list.push(candidate(Slot::Good, good, Why::LastResort));
    }
    list
}
