//! What is remembered: what Docker doesn't know.

use std::collections::{BTreeMap, BTreeSet};

use cairn_release::Digest;
use cairn_wire::workload::{Name, Workload};
use serde::{Deserialize, Serialize};

use crate::action::Action;

/// How many failed specs of a workload are remembered; the oldest goes first.
const MAX_FAILED: usize = 8;

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// The boot in which its times were taken.
    boot: String,
    pub(crate) items: BTreeMap<Name, Item>,
    /// Images that were pulled for a workload, by what Docker calls them; and when each fell out of use, as a number that grows.
    pub(crate) images: BTreeMap<String, Option<u64>>,
    /// The last such number.
    pub(crate) uses: u64,
}

/// What is remembered of a workload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Item {
    /// What was last declared and could be used. It stays in force while what is declared can't be.
    pub last: Option<Box<Workload>>,
    /// Stopped by a command.
    pub held: bool,
    /// The Docker container that shall be replaced although its spec is right.
    pub replace: Option<String>,
    /// The Docker container that shall be stopped and started again.
    pub restart: Option<String>,
    /// Docker containers that ran until they were stopped here: they have not ended by themselves, whatever their exit code.
    pub stopped: BTreeSet<String>,
    /// The Docker container on trial.
    pub trial: Option<Trial>,
    /// Specs that failed, the newest failure last.
    pub failed: Vec<Failed>,
    /// Fetching the image fails.
    pub pull: Option<Wait>,
    /// Something else does.
    pub engine: Option<Wait>,
}

/// A Docker container that has to prove itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trial {
    pub id: String,
    /// When it was first seen to have been started.
    pub began_ms: Option<u64>,
    /// Its last start, as Docker says it, and when that was first seen.
    pub run: Option<(String, u64)>,
    /// It is over: the one before goes.
    pub passed: bool,
}

/// A spec that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failed {
    pub spec: Digest,
    pub reason: String,
    pub times: u32,
    /// Not tried again before.
    pub until_ms: u64,
}

/// An action failed, and isn't tried again before its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wait {
    /// What was declared then.
    pub about: Option<Digest>,
    pub reason: String,
    pub times: u32,
    /// How often of these Docker itself refused it.
    pub refused: u32,
    pub until_ms: u64,
}

/// Why an action failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Docker didn't answer: no word on what was asked for.
    #[error("Docker doesn't answer: {0}")]
    Unreachable(String),
    /// Docker doesn't do it.
    #[error("{0}")]
    Refused(String),
}

/// What an operator may order for one workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Runs again after [`Command::Stop`].
    Start,
    /// Stops until [`Command::Start`] or [`Command::Redeploy`], through restarts of the node.
    Stop,
    /// Stops the Docker container and starts it again, if one is given.
    Restart,
    /// Forgets what failed, and has a new Docker container take the place of this one, if one is given.
    Redeploy,
}

impl Memory {
    /// Times count since a boot. In another one every wait is over and every trial begins again.
    pub fn begin(&mut self, boot: &str) {
        if self.boot == boot {
            return;
        }
        boot.clone_into(&mut self.boot);
        for item in self.items.values_mut() {
            (item.pull, item.engine) = (None, None);
            item.trial = item.trial.take().filter(|trial| trial.passed);
            item.failed
                .iter_mut()
                .for_each(|failed| failed.until_ms = 0);
        }
    }

    /// Takes an operator's order; `current` is the workload's Docker container.
    pub fn command(&mut self, workload: &Name, command: Command, current: Option<&str>) {
        let item = self.items.entry(workload.clone()).or_default();
        item.held = command == Command::Stop;
        (item.pull, item.engine) = (None, None);
        let current = current.map(str::to_owned);
        item.restart = current.clone().filter(|_| command == Command::Restart);
        if command == Command::Redeploy {
            item.failed.clear();
            item.replace = current;
        }
    }

    /// An image is about to be pulled that isn't there: it will be ours. Noted before, as a crash may come between.
    pub fn pulling(&mut self, image: &str) {
        self.images.insert(image.to_owned(), None);
    }

    /// How an action ended. `chance`, 0 to 1, spreads the nodes of a fleet.
    pub fn note(&mut self, action: &Action, trouble: Option<&Trouble>, now_ms: u64, chance: f64) {
        let Some(item) = self.items.get_mut(action.workload()) else {
            return;
        };
        let about = item.last.as_ref().map(|last| last.spec());
        let pulls = matches!(action, Action::Pull { .. });
        let wait = if pulls {
            &mut item.pull
        } else {
            &mut item.engine
        };
        let Some(trouble) = trouble else {
            *wait = None;
            if let Action::Start { id, .. } = action {
                item.restart = item.restart.take().filter(|wanted| wanted != id);
                item.stopped.remove(id);
            }
            return;
        };
        let before = wait.take().filter(|wait| wait.about == about);
        let (times, refused) = before.map_or((0, 0), |wait| (wait.times, wait.refused));
        let (first, most) = if pulls {
            (5_000, 900_000)
        } else {
            (1_000, 60_000)
        };
        let counts = matches!(action, Action::Create { .. } | Action::Start { .. })
            && matches!(trouble, Trouble::Refused(_));
        *wait = Some(Wait {
            about,
            reason: trouble.to_string().chars().take(500).collect(),
            times: times.saturating_add(1),
            refused: refused + u32::from(counts),
            until_ms: now_ms.saturating_add(longer(first, most, times, chance)),
        });
    }
}

impl Item {
    /// The failure for which a spec isn't tried.
    pub fn blocks(&self, spec: Digest, now_ms: u64) -> Option<&Failed> {
        self.failed
            .iter()
            .find(|failed| failed.spec == spec && now_ms < failed.until_ms)
    }

    /// Remembers that a spec failed: 5 minutes first, 6 hours at most.
    pub fn fail(&mut self, spec: Digest, reason: &str, now_ms: u64) {
        let before = self.failed.iter().position(|failed| failed.spec == spec);
        let times = before.map_or(0, |at| self.failed.remove(at).times);
        if self.failed.len() == MAX_FAILED {
            self.failed.remove(0);
        }
        self.failed.push(Failed {
            spec,
            reason: reason.chars().take(500).collect(),
            times: times.saturating_add(1),
            until_ms: now_ms.saturating_add(longer(300_000, 21_600_000, times, 1.0)),
        });
        self.trial = None;
        self.replace = None;
        self.engine = None;
    }
}

/// A wait that doubles each time up to `most`; between half of it and all of it.
fn longer(first: u64, most: u64, times: u32, chance: f64) -> u64 {
    let whole = first.saturating_mul(1 << times.min(20)).min(most);
    // Far below 2^52, so nothing is lost.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    let part = (whole as f64 * chance.clamp(0.0, 1.0) / 2.0) as u64;
    whole / 2 + part
}
