//! One workload: create, adopt, update, roll back, remove.

use cairn_release::Digest;
use cairn_wire::workload::{Name, Restart, Status, Workload, WorkloadState as State};

use crate::action::Action;
use crate::memory::{Item, Trial};
use crate::seen::{Health, Ours, Run};
use crate::world::{Fleet, World};

/// How long what has no health check must run before it counts as healthy.
const SETTLE_MS: u64 = 10_000;
/// How often one on trial may be started again by Docker.
const RESTARTS: u64 = 3;
/// How often Docker may refuse to make or start a new one before the one before comes back.
const REFUSALS: u32 = 3;

/// One workload in one turn.
pub(crate) struct Course<'w> {
    world: &'w World<'w>,
    name: &'w Name,
    pub item: &'w mut Item,
    fleet: &'w Fleet<'w>,
    status: Status,
    action: Option<Action>,
    wake_ms: Option<u64>,
}

impl<'w> Course<'w> {
    pub fn new(
        world: &'w World<'w>,
        name: &'w Name,
        item: &'w mut Item,
        fleet: &'w Fleet<'w>,
    ) -> Self {
        // What runs was started again since.
        let down = |id: &String| {
            fleet
                .all()
                .any(|ours| ours.seen.id == *id && !ours.seen.run.is_active())
        };
        item.stopped.retain(down);
        let shown = fleet.current.or(fleet.previous);
        let status = Status {
            state: State::Removed,
            image: shown.and_then(|ours| image(ours.seen.image.as_str())),
            spec: shown.and_then(|ours| ours.spec),
            restarts: shown.map_or(0, |ours| ours.seen.restarts),
            reason: String::new(),
        };
        Self {
            world,
            name,
            item,
            fleet,
            status,
            action: None,
            wake_ms: None,
        }
    }

    pub fn end(self) -> (Status, Option<Action>, Option<u64>) {
        (self.status, self.action, self.wake_ms)
    }

    /// Removes all of it. While it `waits`, what runs isn't stopped.
    pub fn retire(&mut self, waits: bool) {
        let Some(ours) = self.fleet.all().next() else {
            return;
        };
        self.say(State::Removing, "");
        let active = self.fleet.all().find(|ours| ours.seen.run.is_active());
        match active {
            Some(_) if waits => {}
            Some(active) => self.stop(active),
            None => self.remove(ours),
        }
    }

    /// Brings it to what is declared.
    pub fn pursue(&mut self, wanted: &Workload) {
        let (current, previous) = (self.fleet.current, self.fleet.previous);
        // Two never run.
        if let (Some(_), Some(previous)) = (current, previous)
            && previous.seen.run.is_active()
        {
            self.say(State::OnTrial, "");
            return self.stop(previous);
        }
        if self.item.held {
            self.say(State::Stopped, "by a command");
            if let Some(active) = self.fleet.all().find(|ours| ours.seen.run.is_active()) {
                self.stop(active);
            }
            return;
        }
        if let Some(folder) = self.world.missing.of(wanted) {
            self.say(State::Stopped, &format!("the disk at {folder} is missing"));
            if let Some(active) = self.fleet.all().find(|ours| ours.seen.run.is_active()) {
                self.stop(active);
            }
            return;
        }
        if let Some(current) = current
            && self.item.restart.as_ref() == Some(&current.seen.id)
        {
            self.say(State::Restarting, "by a command");
            return match current.seen.run.is_active() {
                true => self.stop(current),
                false => self.start(wanted, current),
            };
        }
        let spec = wanted.spec();
        let blocked = self
            .item
            .blocks(spec, self.world.now_ms)
            .map(|failed| (failed.reason.clone(), failed.until_ms));
        match (current, previous) {
            (None, None) => self.introduce(wanted, spec),
            (Some(current), None) if self.fits(current, spec) => self.keep(wanted, current),
            (Some(current), None) => match blocked {
                Some((reason, until_ms)) => {
                    self.keep(wanted, current);
                    self.wake(until_ms);
                    if self.status.state == State::Running {
                        self.say(State::RolledBack, &reason);
                    }
                }
                None => self.replace(wanted, current),
            },
            (None, Some(previous))
                if blocked.is_some()
                    || self.fits(previous, spec)
                    || !self.world.images.contains(&wanted.image.local()) =>
            {
                self.say(
                    State::Starting,
                    blocked.map_or(String::new(), |b| b.0).as_str(),
                );
                self.restore(previous);
            }
            (None, Some(previous)) if previous.seen.run.is_active() => {
                self.say(State::OnTrial, "");
                self.stop(previous);
            }
            (None, Some(_)) => self.introduce(wanted, spec),
            (Some(current), Some(previous)) => {
                if self.fits(current, spec) && blocked.is_none() {
                    self.judge(wanted, spec, current, previous);
                } else if self.has_passed(current) {
                    // It is what the next one comes back to; the one before is only still there.
                    self.keep(wanted, current);
                    self.discard(previous);
                } else {
                    self.say(
                        State::Starting,
                        blocked.map_or(String::new(), |b| b.0).as_str(),
                    );
                    self.discard(current);
                }
            }
        }
    }

    fn fits(&self, ours: Ours<'_>, spec: Digest) -> bool {
        ours.spec == Some(spec) && self.item.replace.as_ref() != Some(&ours.seen.id)
    }

    fn has_passed(&self, ours: Ours<'_>) -> bool {
        let trial = self.item.trial.as_ref();
        trial.is_some_and(|trial| trial.passed && trial.id == ours.seen.id)
    }

    /// There is none under the current name.
    fn introduce(&mut self, wanted: &Workload, spec: Digest) {
        (self.status.image, self.status.spec) = (Some(wanted.image.digest()), Some(spec));
        if !self.has_image(wanted) {
            return;
        }
        self.say(State::Starting, "");
        if let Some(previous) = self.fleet.previous
            && self.refused_too_often(spec)
        {
            return self.restore(previous);
        }
        self.act(Action::Create(Box::new(wanted.clone())));
    }

    /// Another one runs, and goes on until the image is there.
    fn replace(&mut self, wanted: &Workload, current: Ours<'_>) {
        if !self.has_image(wanted) {
            let (state, reason) = (self.status.state, self.status.reason.clone());
            let pulls = self.action.is_some();
            // What can't be started doesn't hold the pull up.
            if let Run::Exited { code, .. } = current.seen.run
                && !self.is_over(wanted, current, code)
                && !(pulls && self.item.engine.is_some())
            {
                self.start(wanted, current);
            }
            return self.say(state, &reason);
        }
        self.say(State::Starting, "");
        self.item.trial = None;
        if current.seen.run.is_active() {
            return self.stop(current);
        }
        // What never ran is nothing to come back to.
        if current.seen.run == Run::Created {
            return self.remove(current);
        }
        self.act(Action::SetAside {
            workload: self.name.clone(),
            id: current.seen.id.clone(),
        });
    }

    /// Whether the image is there; if not, it is fetched.
    fn has_image(&mut self, wanted: &Workload) -> bool {
        if self.world.images.contains(&wanted.image.local()) {
            return true;
        }
        self.say(State::Pulling, "");
        self.act(Action::Pull {
            workload: self.name.clone(),
            image: wanted.image.clone(),
        });
        false
    }

    /// It is what is declared, or the best there is.
    fn keep(&mut self, wanted: &Workload, current: Ours<'_>) {
        match &current.seen.run {
            Run::Running { health, .. } => match health {
                Health::Unhealthy => self.say(State::Unhealthy, "its health check fails"),
                _ => self.say(State::Running, ""),
            },
            Run::Paused => self.say(State::Unhealthy, "somebody has paused it"),
            Run::Restarting => self.say(State::Restarting, ""),
            // Not reached: such a workload has no turn.
            Run::Unclear => {}
            Run::Dead => {
                self.say(State::Failed, "Docker could not remove it");
                self.remove(current);
            }
            Run::Exited { code, oom } if self.is_over(wanted, current, *code) => {
                self.say(State::Finished, &ended(*code, *oom));
            }
            Run::Exited { code, oom } => {
                self.say(State::Starting, &ended(*code, *oom));
                self.start(wanted, current);
            }
            Run::Created => {
                self.say(State::Starting, "");
                self.start(wanted, current);
            }
        }
    }

    /// A new one has to prove itself.
    fn judge(&mut self, wanted: &Workload, spec: Digest, current: Ours<'_>, previous: Ours<'_>) {
        self.say(State::OnTrial, "");
        let now = self.world.now_ms;
        let id = &current.seen.id;
        let mut trial = self
            .item
            .trial
            .take()
            .filter(|trial| trial.id == *id)
            .unwrap_or_else(|| Trial {
                id: id.clone(),
                began_ms: None,
                run: None,
                passed: false,
            });
        let verdict = if trial.passed {
            Some(Ok(()))
        } else {
            self.verdict(wanted, current, &mut trial)
        };
        match verdict {
            None => self.item.trial = Some(trial),
            Some(Ok(())) => {
                trial.passed = true;
                self.item.trial = Some(trial);
                self.item.failed.retain(|failed| failed.spec != spec);
                self.item.replace = None;
                self.keep(wanted, current);
                self.discard(previous);
            }
            Some(Err(reason)) if wanted.update.rollback => {
                self.item.fail(spec, &reason, now);
                self.say(State::Starting, &reason);
                self.discard(current);
            }
            Some(Err(reason)) => {
                trial.passed = true;
                self.item.trial = Some(trial);
                self.say(State::Unhealthy, &reason);
                self.discard(previous);
            }
        }
    }

    /// Whether it is healthy, if that can be told. Its time counts from its first start.
    fn verdict(
        &mut self,
        wanted: &Workload,
        current: Ours<'_>,
        trial: &mut Trial,
    ) -> Option<Result<(), String>> {
        let now = self.world.now_ms;
        let limit = u64::from(wanted.update.healthy_seconds) * 1000;
        let since = match &current.seen.run {
            Run::Created | Run::Dead => None,
            Run::Exited { code, oom } if self.is_over(wanted, current, *code) => {
                return Some(match code {
                    0 => Ok(()),
                    code => Err(ended(*code, *oom)),
                });
            }
            Run::Exited { .. } => None,
            Run::Running { health, since } => match health {
                Health::Healthy => return Some(Ok(())),
                Health::Unhealthy => return Some(Err("its health check fails".to_owned())),
                Health::Unchecked => Some(since.clone()),
                Health::Starting => Some(String::new()),
            },
            Run::Paused | Run::Restarting | Run::Unclear => Some(String::new()),
        };
        let Some(since) = since else {
            if let Some(wait) = &self.item.engine
                && wait.refused >= REFUSALS
            {
                return Some(Err(wait.reason.clone()));
            }
            self.start(wanted, current);
            return None;
        };
        if current.seen.restarts >= RESTARTS {
            let times = current.seen.restarts;
            return Some(Err(format!(
                "it ended, and was started again {times} times"
            )));
        }
        if !since.is_empty() {
            let began_ms = match &trial.run {
                Some((run, began_ms)) if *run == since => *began_ms,
                _ => now,
            };
            trial.run = Some((since, began_ms));
            let settled = began_ms + SETTLE_MS.min(limit);
            if now >= settled {
                return Some(Ok(()));
            }
            self.wake(settled);
            // The deadline may have passed while nobody looked; one that keeps ending is told by its restarts.
            return None;
        }
        let began_ms = *trial.began_ms.get_or_insert(now);
        let deadline = began_ms.saturating_add(limit);
        if now >= deadline {
            let seconds = wanted.update.healthy_seconds;
            return Some(Err(format!("it wasn't healthy within {seconds} s")));
        }
        self.wake(deadline);
        None
    }

    /// Whether Docker won't have the new one; then the one before comes back.
    fn refused_too_often(&mut self, spec: Digest) -> bool {
        let Some(wait) = self.item.engine.as_ref() else {
            return false;
        };
        if wait.refused < REFUSALS || wait.about != Some(spec) {
            return false;
        }
        let reason = wait.reason.clone();
        self.item.fail(spec, &reason, self.world.now_ms);
        self.say(State::Starting, &reason);
        true
    }

    /// Whether it ended by itself, and isn't to be started again.
    fn is_over(&self, wanted: &Workload, ours: Ours<'_>, code: i64) -> bool {
        let over = match wanted.restart {
            Restart::Always => false,
            Restart::OnFailure => code == 0,
            Restart::Never => true,
        };
        over && !self.item.stopped.contains(&ours.seen.id)
    }

    fn discard(&mut self, ours: Ours<'_>) {
        if ours.seen.run.is_active() {
            self.stop(ours);
        } else {
            self.remove(ours);
        }
    }

    fn start(&mut self, wanted: &Workload, ours: Ours<'_>) {
        self.act(Action::Start {
            workload: self.name.clone(),
            id: ours.seen.id.clone(),
            restart: wanted.restart,
        });
    }

    /// Stops it; when it is the current one again, it runs again.
    fn stop(&mut self, ours: Ours<'_>) {
        self.item.stopped.insert(ours.seen.id.clone());
        self.act(Action::Stop {
            workload: self.name.clone(),
            id: ours.seen.id.clone(),
        });
    }

    /// Gives the one before its name again.
    fn restore(&mut self, ours: Ours<'_>) {
        self.act(Action::Restore {
            workload: self.name.clone(),
            id: ours.seen.id.clone(),
        });
    }

    fn remove(&mut self, ours: Ours<'_>) {
        self.act(Action::Remove {
            workload: self.name.clone(),
            id: ours.seen.id.clone(),
        });
    }

    /// Does it, unless what failed before has to wait.
    fn act(&mut self, action: Action) {
        let about = self.item.last.as_ref().map(|last| last.spec());
        let wait = match action {
            Action::Pull { .. } => &self.item.pull,
            _ => &self.item.engine,
        };
        let wait = wait
            .as_ref()
            .filter(|wait| wait.about == about)
            .map(|wait| (wait.reason.clone(), wait.until_ms));
        if let Some((reason, until_ms)) = wait {
            let hopeless = matches!(action, Action::Create(_) | Action::Start { .. })
                && self.status.state == State::Starting;
            let state = if hopeless {
                State::Failed
            } else {
                self.status.state
            };
            self.say(state, &reason);
            if self.world.now_ms < until_ms {
                return self.wake(until_ms);
            }
        }
        self.action = Some(action);
    }

    fn say(&mut self, state: State, reason: &str) {
        (self.status.state, self.status.reason) = (state, reason.to_owned());
    }

    fn wake(&mut self, at_ms: u64) {
        self.wake_ms = self.wake_ms.into_iter().chain([at_ms]).min();
    }
}

fn ended(code: i64, oom: bool) -> String {
    let memory = if oom { ", out of memory" } else { "" };
    format!("it ended with {code}{memory}")
}

/// The digest in what an image was called.
fn image(name: &str) -> Option<Digest> {
    name.split_once("@sha256:")?.1.parse().ok()
}
