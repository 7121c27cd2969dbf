//! The whole: waves, soak, halt, pause, abort.
//!
//! ```text
//!  Draft ── start ──▶ Running ◀── resume ──▶ Paused        nobody new begins, who has begun goes on
//!                       │  ▲  ╰── too many failures ──▶ Halted   and who hasn't armed gives the order back
//!                       │  ╰──────── resume ─────────────╯
//!                       ├── all waves have ended ──▶ Finished
//!                       ╰── abort (from each but Finished) ──▶ Aborted   who hasn't armed gives the order back for good
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::device::{Assignment, Change, DeviceEvent, Order};
use crate::plan::Plan;
use crate::state::{DeviceState, Status};

/// How many devices are in which state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Counts(BTreeMap<DeviceState, u64>);

impl Counts {
    /// In one state.
    pub fn of(&self, state: DeviceState) -> u64 {
        self.0.get(&state).copied().unwrap_or(0)
    }

    /// In those states that fit.
    pub fn sum(&self, fits: impl Fn(DeviceState) -> bool) -> u64 {
        self.0
            .iter()
            .filter(|(state, _)| fits(**state))
            .map(|(_, count)| count)
            .sum()
    }

    /// All that got a slot.
    pub fn admitted(&self) -> u64 {
        self.0.values().sum()
    }

    /// Those that something is still to come of.
    pub fn open(&self) -> u64 {
        self.sum(DeviceState::is_open)
    }

    /// Those that count against the rollout.
    pub fn failures(&self) -> u64 {
        self.sum(DeviceState::is_failure)
    }

    /// Good ones and failures.
    pub fn outcomes(&self) -> u64 {
        self.failures() + self.of(DeviceState::Good)
    }

    fn add(&mut self, state: DeviceState, count: u64) {
        if count > 0 {
            *self.0.entry(state).or_insert(0) += count;
        }
    }

    fn take(&mut self, state: DeviceState, count: u64) {
        if let Some(have) = self.0.get_mut(&state) {
            *have = have.saturating_sub(count);
            if *have == 0 {
                self.0.remove(&state);
            }
        }
    }

    /// All unarmed ones become `to`.
    fn gather(&mut self, to: DeviceState) -> u64 {
        let mut moved = 0;
        for state in DeviceState::ALL
            .into_iter()
            .filter(|state| state.is_unarmed() && *state != to)
        {
            moved += self.0.remove(&state).unwrap_or(0);
        }
        self.add(to, moved);
        moved
    }
}

/// A rollout. Of devices it holds the numbers only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// What was asked for.
    pub plan: Plan,
    /// Where it stands.
    #[serde(flatten)]
    pub status: Status,
    /// Devices that matched at the start.
    pub matched: u64,
    /// Devices that have a slot by the end of each wave.
    pub targets: Vec<u64>,
    /// The wave, from 0.
    pub wave: usize,
    /// When the wave began, or the rollout was resumed.
    pub wave_since: i64,
    /// Since when all of the wave have an outcome.
    pub settled_since: Option<i64>,
    /// How many devices are where.
    pub counts: Counts,
    /// Failures that an operator has seen and gone on from.
    pub forgiven_failures: u64,
    /// Outcomes up to then.
    pub forgiven_outcomes: u64,
    /// The wave that it last halted after because no device was good.
    pub unproven_wave: Option<usize>,
    /// When it was started.
    pub started: Option<i64>,
    /// When it came to its end.
    pub ended: Option<i64>,
}

/// Something that happens to a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// An operator starts it.
    Start {
        /// How many devices match.
        matched: u64,
    },
    /// An operator pauses it.
    Pause,
    /// An operator lets it go on.
    Resume,
    /// An operator ends it.
    Abort,
    /// Time passes. Once in a while, and in any case after other events.
    Tick,
    /// A device that matches is there, and no rollout has it: it gets a slot, if there is one.
    Admit,
    /// A device that matches is there, but a newer rollout has given it an order: it takes a slot without an order.
    Supersede,
    /// Something happened to a device that has a slot.
    Device(&'a Assignment, DeviceEvent),
}

/// What to do, in this order and in one transaction with the rollout's new state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Store the device's assignment.
    Store(Assignment),
    /// Give the device this order: its attempt's number makes a new one.
    Give {
        /// Which.
        attempt: u32,
    },
    /// Give the device no order any more.
    TakeBack,
    /// Something for the device's timeline.
    Remark(String),
    /// Every unarmed device of the rollout: store it as this ([`DeviceState::Held`] or [`DeviceState::Withdrawn`], nothing due), take its order back. From those
    /// that expired before they armed take the order back, too.
    TakeBackUnarmed {
        /// What they become.
        state: DeviceState,
        /// How many they are.
        count: u64,
    },
    /// Every held device of the rollout is due at this moment.
    HeldUntil(i64),
    /// Something for the rollout's own timeline.
    Log(String),
}

/// An operator asks for what isn't possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    /// In this state it isn't.
    #[error("a rollout that is {status} can't be {asked}")]
    Status {
        /// The state.
        status: &'static str,
        /// What was asked for.
        asked: &'static str,
    },
    /// It would do nothing.
    #[error("no device matches the rollout")]
    NoDevice,
}

/// What an event does.
///
/// # Errors
/// If an operator asks for what isn't possible. Events of devices and of time always are.
pub fn step(
    rollout: &Rollout,
    event: Event<'_>,
    now: i64,
) -> Result<(Rollout, Vec<Effect>), Illegal> {
    let mut next = rollout.clone();
    let mut effects = Vec::new();
    next.apply(event, now, &mut effects)?;
    Ok((next, effects))
}

/// How many devices may get a slot now.
pub fn admit(rollout: &Rollout, now: i64) -> u64 {
    if rollout.status != Status::Running || !rollout.plan.open_at(now) {
        return 0;
    }
    rollout.target().saturating_sub(rollout.counts.admitted())
}

impl Rollout {
    /// A new one, not started.
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            status: Status::Draft,
            matched: 0,
            targets: Vec::new(),
            wave: 0,
            wave_since: 0,
            settled_since: None,
            counts: Counts::default(),
            forgiven_failures: 0,
            forgiven_outcomes: 0,
            unproven_wave: None,
            started: None,
            ended: None,
        }
    }

    /// How many devices have a slot by the end of the wave that it is in.
    pub fn target(&self) -> u64 {
        self.targets.get(self.wave).copied().unwrap_or(0)
    }

    fn apply(
        &mut self,
        event: Event<'_>,
        now: i64,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Illegal> {
        match event {
            Event::Start { matched } => self.start(matched, now, effects)?,
            Event::Pause => {
                self.only("paused", |status| *status == Status::Running)?;
                self.status = Status::Paused;
            }
            Event::Resume => self.resume(now, effects)?,
            Event::Abort => {
                self.only("aborted", |status| {
                    !matches!(status, Status::Finished | Status::Aborted)
                })?;
                self.status = Status::Aborted;
                self.ended = Some(now);
                self.take_back(DeviceState::Withdrawn, effects);
            }
            Event::Tick => self.tick(now, effects),
            Event::Admit if admit(self, now) > 0 => {
                let assignment = Assignment::offered(&self.plan, now);
                self.counts.add(assignment.state, 1);
                let attempt = assignment.attempt;
                effects.extend([Effect::Store(assignment), Effect::Give { attempt }]);
            }
            Event::Supersede if admit(self, now) > 0 => {
                let assignment = Assignment::superseded(now);
                self.counts.add(assignment.state, 1);
                effects.push(Effect::Store(assignment));
            }
            Event::Admit | Event::Supersede => {}
            Event::Device(before, event) => {
                let change = before.step(&event, &self.plan, &self.status, now);
                self.take_over(before, change, effects);
                self.judge(effects);
            }
        }
        Ok(())
    }

    fn only(&self, asked: &'static str, allowed: impl Fn(&Status) -> bool) -> Result<(), Illegal> {
        if allowed(&self.status) {
            Ok(())
        } else {
            Err(Illegal::Status {
                status: self.status.as_str(),
                asked,
            })
        }
    }

    fn start(&mut self, matched: u64, now: i64, effects: &mut Vec<Effect>) -> Result<(), Illegal> {
        self.only("started", |status| *status == Status::Draft)?;
        if matched == 0 {
            return Err(Illegal::NoDevice);
        }
        self.status = Status::Running;
        self.matched = matched;
        self.targets = self.plan.targets(matched);
        (self.started, self.wave_since) = (Some(now), now);
        effects.push(Effect::Log(format!(
            "{matched} devices match; {}",
            self.wave_text()
        )));
        Ok(())
    }

    fn resume(&mut self, now: i64, effects: &mut Vec<Effect>) -> Result<(), Illegal> {
        self.only("resumed", |status| {
            matches!(status, Status::Paused | Status::Halted { .. })
        })?;
        if matches!(self.status, Status::Halted { .. }) {
            // Who goes on has seen these; only new ones count.
            (self.forgiven_failures, self.forgiven_outcomes) =
                (self.counts.failures(), self.counts.outcomes());
            effects.push(Effect::HeldUntil(self.plan.fill.after(now)));
        }
        self.status = Status::Running;
        self.wave_since = now;
        Ok(())
    }

    fn take_over(&mut self, before: &Assignment, change: Change, effects: &mut Vec<Effect>) {
        let after = change.assignment;
        if after.state != before.state {
            self.counts.take(before.state, 1);
            self.counts.add(after.state, 1);
        }
        let attempt = after.attempt;
        if after != *before {
            effects.push(Effect::Store(after));
        }
        match change.order {
            Order::Keep => {}
            Order::Give => effects.push(Effect::Give { attempt }),
            Order::TakeBack => effects.push(Effect::TakeBack),
        }
        effects.extend(change.remark.map(Effect::Remark));
    }

    /// Halts, if too many failed.
    fn judge(&mut self, effects: &mut Vec<Effect>) {
        if !matches!(self.status, Status::Running | Status::Paused) {
            return;
        }
        let failures = self
            .counts
            .failures()
            .saturating_sub(self.forgiven_failures);
        let outcomes = self
            .counts
            .outcomes()
            .saturating_sub(self.forgiven_outcomes);
        if let Some(reason) = self.plan.too_many(failures, outcomes) {
            self.halt(reason, effects);
        }
    }

    fn halt(&mut self, reason: String, effects: &mut Vec<Effect>) {
        effects.push(Effect::Log(format!("halted: {reason}")));
        self.status = Status::Halted { reason };
        self.take_back(DeviceState::Held, effects);
    }

    fn take_back(&mut self, to: DeviceState, effects: &mut Vec<Effect>) {
        self.settled_since = None;
        let count = self.counts.gather(to);
        effects.push(Effect::TakeBackUnarmed { state: to, count });
    }

    fn wave_text(&self) -> String {
        format!(
            "wave {} of {}: {} devices",
            self.wave + 1,
            self.targets.len(),
            self.target()
        )
    }

    fn tick(&mut self, now: i64, effects: &mut Vec<Effect>) {
        if self.status != Status::Running {
            return;
        }
        self.judge(effects);
        if self.status != Status::Running {
            return;
        }
        let admitted = self.counts.admitted();
        let full = admitted >= self.target();
        if self.counts.open() > 0 || !(full || self.plan.fill.passed(self.wave_since, now)) {
            self.settled_since = None;
            return;
        }
        let last = self.wave + 1 >= self.targets.len();
        if last {
            let missing = self.matched.saturating_sub(admitted);
            self.status = Status::Finished;
            self.ended = Some(now);
            let good = self.counts.of(DeviceState::Good);
            effects.push(Effect::Log(format!(
                "finished: {good} good, {} failed, {missing} never seen",
                self.counts.failures()
            )));
            return;
        }
        // A wave without one good device proves nothing, and the next one is larger. Whoever resumes has seen it.
        let unproven =
            self.counts.of(DeviceState::Good) == 0 && (self.counts.outcomes() > 0 || !full);
        if unproven && self.unproven_wave != Some(self.wave) {
            self.unproven_wave = Some(self.wave);
            self.halt(
                format!("wave {} has ended without one good device", self.wave + 1),
                effects,
            );
            return;
        }
        let settled = *self.settled_since.get_or_insert(now);
        if self.plan.soak.passed(settled, now) {
            self.wave += 1;
            self.wave_since = now;
            self.settled_since = None;
            effects.push(Effect::Log(self.wave_text()));
        }
    }
}
