//! The boot state, changed by boot-state's rules over both copies on the ESP.

use std::time::Duration;

use cairn_boot_state::transition::Event;
use cairn_boot_state::{BootState, Copy, Picked, Tries, candidates, pick};
use cairn_release::Version;
use cairn_update::{BootView, Cause};
use cairn_wire::report::FailureKind;

use super::effects::Effects;

/// How often a write is tried.
const ATTEMPTS: u32 = 3;

/// What shall become of the boot state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// This release is tried out, so often.
    Try(Version, u8),
    /// This release is good, and may be started so often.
    Good(Version, u8),
    /// This release is not tried out any more.
    Withdraw(Version),
    /// This release can't work.
    Condemn(Version),
    /// This release may be tried again.
    Forgive(Version),
}

/// The boot state for the state machine; `None` if it can't be read.
pub async fn view<E: Effects>(effects: &E) -> Option<BootView> {
    match effects.boot_copies().await {
        Ok([a, b]) => Some(seen(&pick(&a, &b).state)),
        Err(error) => {
            tracing::error!(%error, "cannot read the boot state");
            None
        }
    }
}

fn seen(state: &BootState) -> BootView {
    BootView {
        good: state.good.clone(),
        trial: state.trial.clone().map(|trial| (trial, state.trial_tries)),
        failed: state.failed.clone(),
    }
}

/// Makes a change, unless it is made already, and reads it back.
///
/// # Errors
/// If boot-state's rules forbid it, or the ESP doesn't take it in some tries.
pub async fn change<E: Effects>(effects: &E, change: Change) -> Result<(), Cause> {
    let mut attempt = 1;
    loop {
        match once(effects, &change).await {
            Err(cause) if cause.retry && attempt < ATTEMPTS => {
                tracing::warn!(reason = cause.reason, "the boot state is written again");
                effects.sleep(Duration::from_secs(1)).await;
                attempt += 1;
            }
            result => return result,
        }
    }
}

async fn once<E: Effects>(effects: &E, change: &Change) -> Result<(), Cause> {
    let failed = |what: &str, error: std::io::Error| {
        Cause::passing(
            FailureKind::Storage,
            format!("cannot {what} the boot state: {error}"),
        )
    };
    let [a, b] = effects
        .boot_copies()
        .await
        .map_err(|error| failed("read", error))?;
    let picked = pick(&a, &b);
    for (copy, damage) in &picked.damaged {
        tracing::warn!(%copy, %damage, "a copy of the boot state is damaged, and is written anew");
    }
    let mut state = picked.state.clone();
    for event in events(&picked, change) {
        state = cairn_boot_state::step(&state, event).map_err(|illegal| {
            Cause::lasting(
                FailureKind::Storage,
                format!("the boot state doesn't allow it: {}", illegal.reason),
            )
        })?;
    }
    let agree = matches!((BootState::parse(&a), BootState::parse(&b)), (Ok(a), Ok(b)) if a.generation == b.generation);
    if state == picked.state && agree {
        return Ok(());
    }
    if let Change::Condemn(version) = change
        && !bootable_without(effects, &state).await
    {
        // The last that boots is better than none.
        tracing::warn!(%version, "nothing else could be booted: the release isn't marked as failed");
        return Ok(());
    }
    let block = state.to_block();
    for copy in picked.write_order() {
        effects
            .write_boot_copy(copy, block.to_vec())
            .await
            .map_err(|error| failed(&format!("write {copy} of"), error))?;
    }
    // What the next boot will find, not what was meant.
    let [a, b] = effects
        .boot_copies()
        .await
        .map_err(|error| failed("read back", error))?;
    let read = pick(&a, &b);
    if read.damaged.is_empty() && read.state == state && read.from == Some(Copy::A) {
        Ok(())
    } else {
        Err(failed(
            "write",
            std::io::Error::other("it reads back as something else"),
        ))
    }
}

async fn bootable_without<E: Effects>(effects: &E, state: &BootState) -> bool {
    let Ok(mut survey) = effects.survey(None).await else {
        return false;
    };
    survey.installed.retain(|installed| installed.whole);
    survey
        .installed
        .sort_by_key(|installed| std::cmp::Reverse(installed.created));
    let installed: Vec<Version> = survey
        .installed
        .into_iter()
        .map(|installed| installed.version)
        .collect();
    candidates(state, &installed)
        .into_iter()
        .any(|candidate| !state.has_failed(&candidate.version))
}

/// What leads from the picked state to the wanted one; nothing if it is there.
fn events(picked: &Picked, change: &Change) -> Vec<Event> {
    let state = &picked.state;
    let mut events = Vec::new();
    let mut forgive = |version: &Version| {
        if state.has_failed(version) {
            events.push(Event::FailureForgiven {
                version: version.clone(),
            });
        }
    };
    match change {
        Change::Try(version, tries) => {
            if state.trial.as_ref() != Some(version) || state.trial_tries != *tries {
                events.push(Event::TrialChosen {
                    version: version.clone(),
                    tries: *tries,
                });
            }
        }
        Change::Good(version, tries) => {
            forgive(version);
            let tries = Tries::Left(*tries);
            let named = state.good.as_ref() == Some(version) && state.good_tries == tries;
            if !named || state.trial.as_ref() == Some(version) || !events.is_empty() {
                events.push(Event::GoodChosen {
                    version: version.clone(),
                    tries,
                });
            }
        }
        Change::Withdraw(version) => {
            if state.trial.as_ref() == Some(version) {
                events.push(Event::TrialWithdrawn);
            }
        }
        Change::Condemn(version) => {
            if !state.has_failed(version) || state.trial.as_ref() == Some(version) {
                events.push(Event::BootFailed {
                    version: version.clone(),
                });
            }
        }
        Change::Forgive(version) => forgive(version),
    }
    events
}
