//! How the boot state changes.
//!
//! ```text
//!              TrialChosen                    GoodChosen (same version)
//!   no trial ──────────────▶ trial, n tries ─────────────────────────────▶ good, no trial
//!       ▲                      │
//!       ├── TrialWithdrawn ────┤
//!       ╰── BootFailed ────────╯ and remembered as failed
//! ```
//!
//! The one change that is missing here is GRUB's: it takes away a try before it
//! starts a release, in place and without a new generation.

use crate::block::{BootState, MAX_GENERATION, MAX_TRIES, Tries};
use cairn_release::Version;

/// Something that changes what boots next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A release was installed and shall be tried out.
    TrialChosen {
        /// Which one.
        version: Version,
        /// How often, 1 to [`MAX_TRIES`].
        tries: u8,
    },
    /// The trial is called off; it did not fail.
    TrialWithdrawn,
    /// A release is known to work: the first one on a new disk, a trial that
    /// proved itself, or the good one again, to arm its counter.
    GoodChosen {
        /// Which one.
        version: Version,
        /// How often it may be started before somebody says so again.
        tries: Tries,
    },
    /// A release can't work, in whatever slot it is.
    BootFailed {
        /// Which one.
        version: Version,
    },
    /// A failed release may be tried again.
    FailureForgiven {
        /// Which one.
        version: Version,
    },
}

/// Why an event isn't possible in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The release failed and wasn't forgiven.
    #[error("the release has failed before")]
    FailedBefore,
    /// The good release needs no trial.
    #[error("the release is good already")]
    GoodAlready,
    /// A number of tries that makes no sense or doesn't fit.
    #[error("expected 1 to {MAX_TRIES} tries, got {0}")]
    Tries(u8),
    /// There is no trial.
    #[error("there is no trial")]
    NoTrial,
    /// The release isn't among the failed ones.
    #[error("the release has not failed")]
    NotFailed,
}

/// The event isn't possible in this state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("boot state {state:?} can't take {event:?}")]
pub struct Illegal {
    /// The state, unchanged.
    pub state: BootState,
    /// The event.
    pub event: Event,
    /// What is wrong with it.
    #[source]
    pub reason: Reason,
}

/// The state after `event`.
///
/// The generation grows by one and stays at [`MAX_GENERATION`] for ever: then
/// copy a rules, and a change counts once both copies are written.
///
/// # Errors
/// If the event isn't possible. [`Event::BootFailed`] always is: who reports a
/// failure must not fail over it.
pub fn step(state: &BootState, event: Event) -> Result<BootState, Illegal> {
    let mut next = state.clone();
    if let Err(reason) = apply(&mut next, &event) {
        return Err(Illegal {
            state: state.clone(),
            event,
            reason,
        });
    }
    next.generation = state.generation.saturating_add(1).min(MAX_GENERATION);
    next.fit();
    Ok(next)
}

fn apply(state: &mut BootState, event: &Event) -> Result<(), Reason> {
    match event {
        Event::TrialChosen { version, tries } => {
            if state.has_failed(version) {
                return Err(Reason::FailedBefore);
            }
            if state.good.as_ref() == Some(version) {
                return Err(Reason::GoodAlready);
            }
            if !(1..=MAX_TRIES).contains(tries) {
                return Err(Reason::Tries(*tries));
            }
            state.trial = Some(version.clone());
            state.trial_tries = *tries;
        }
        Event::TrialWithdrawn => {
            if state.trial.is_none() {
                return Err(Reason::NoTrial);
            }
            clear_trial(state);
        }
        Event::GoodChosen { version, tries } => {
            if state.has_failed(version) {
                return Err(Reason::FailedBefore);
            }
            if let Tries::Left(n) = tries
                && !(1..=MAX_TRIES).contains(n)
            {
                return Err(Reason::Tries(*n));
            }
            if state.trial.as_ref() == Some(version) {
                clear_trial(state);
            }
            state.good = Some(version.clone());
            state.good_tries = *tries;
        }
        Event::BootFailed { version } => {
            if state.trial.as_ref() == Some(version) {
                clear_trial(state);
            }
            state.failed.retain(|failed| failed != version);
            state.failed.insert(0, version.clone());
        }
        Event::FailureForgiven { version } => {
            if !state.has_failed(version) {
                return Err(Reason::NotFailed);
            }
            state.failed.retain(|failed| failed != version);
        }
    }
    Ok(())
}

fn clear_trial(state: &mut BootState) {
    state.trial = None;
    state.trial_tries = 0;
}
