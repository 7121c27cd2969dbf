//! The transitions: orders and the work of each phase here, starts of the agent in `start`, ends in `ending`.
//!
//! Each phase names the work that comes next, so that after a crash the state alone says what to do. An event that
//! doesn't belong to the phase changes nothing: work that was called off may still answer.

mod ending;
mod start;

use std::collections::BTreeSet;

use cairn_release::Version;
use cairn_wire::ReleaseOrder;
use cairn_wire::report::FailureKind;

use crate::state::{Action, Cause, Checked, Event, Phase, Rules, State, Update};
use crate::{guard, plan};
use ending::told;

/// After how many restarts without anything getting better a node stays where it is.
pub const MAX_RESTARTS: u32 = 8;
/// How often the agent may begin again in one phase.
pub const MAX_RESUMES: u32 = 20;
/// As [`MAX_RESUMES`], for the phase that takes hours on a slow line.
pub const MAX_RESUMES_FETCHING: u32 = 500;

/// How many ended orders are remembered, so that none begins again.
pub const MAX_DONE: usize = 16;

/// The state after `event`, and what to do once it is stored.
pub fn step(state: &State, rules: &Rules, event: Event) -> (State, Vec<Action>) {
    let mut machine = Machine {
        state: state.clone(),
        rules,
        actions: Vec::new(),
    };
    machine.take(event);
    (machine.state, machine.actions)
}

struct Machine<'r> {
    state: State,
    rules: &'r Rules,
    actions: Vec<Action>,
}

impl Machine<'_> {
    fn take(&mut self, event: Event) {
        match event {
            Event::Started(boot) => self.started(*boot),
            Event::Ordered(order) => {
                self.state.wanted = order.map(|order| *order);
                self.reconcile();
            }
            Event::Forgiven(digest) => {
                self.state.failed.forget(&digest);
            }
            Event::Reported => {
                if let Some(last) = &mut self.state.last {
                    last.reported = true;
                }
            }
            event => self.progress(event),
        }
    }

    /// The answer to the work of a phase.
    fn progress(&mut self, event: Event) {
        let Some(update) = &self.state.update else {
            return;
        };
        match (update.phase.clone(), event) {
            (Phase::Failing(ending), Event::Settled) => self.settled(ending),
            // Its own failure must not lead back to it.
            (Phase::Failing(_), _) => {}
            (_, Event::Failed(cause)) => self.fail(cause),
            (Phase::Checking, Event::Checked(checked)) => self.checked(*checked),
            (Phase::Planned { .. }, Event::Prepared) => self.enter(Phase::Fetching),
            (Phase::Fetching, Event::Fetched) => self.enter(Phase::Verifying),
            (Phase::Verifying, Event::Damaged(what)) => self.damaged(what),
            (Phase::Verifying, Event::Verified) => self.enter(Phase::Verified),
            (Phase::Verified, Event::Placed) => self.enter(Phase::Placed),
            // Stored before the boot state is told: the trial may run at any moment from then on.
            (Phase::Placed, Event::Measured { baseline }) => {
                if let Some(update) = &mut self.state.update {
                    update.baseline = Some(baseline);
                }
                self.work_with(false, None);
            }
            (Phase::Placed, Event::Armed) => {
                self.enter(Phase::Armed);
                // What was ordered while it couldn't be called off.
                self.reconcile();
            }
            (Phase::Armed, Event::RestartAllowed) => self.restart(),
            (Phase::OnTrial, Event::Healthy) => self.enter(Phase::Proven),
            (Phase::Proven, Event::MadeGood) => self.good(),
            _ => {}
        }
    }

    /// Brings what is under way in line with what is wanted.
    fn reconcile(&mut self) {
        let Some(wanted) = self.state.wanted.clone() else {
            self.withdraw("the order was taken back");
            return;
        };
        match &mut self.state.update {
            Some(update) if update.order.id == wanted.id => {
                let hurry = update.order.when != wanted.when;
                update.order.when = wanted.when;
                if hurry && update.phase == Phase::Armed {
                    self.actions.push(Action::AwaitRestart(wanted.when));
                }
            }
            Some(_) => self.withdraw(&format!("another order came: {}", wanted.id)),
            None => self.admit(wanted),
        }
    }

    /// Calls the update off, if that is still possible.
    fn withdraw(&mut self, reason: &str) {
        let Some(update) = &self.state.update else {
            return;
        };
        match update.phase {
            Phase::Checking
            | Phase::Planned { .. }
            | Phase::Fetching
            | Phase::Verifying
            | Phase::Armed => {
                let cause = Cause::passing(FailureKind::Withdrawn, reason);
                self.fail_with(cause, false, false);
            }
            // Files are being renamed or the boot state is being written, or the release runs: let it come to its end.
            Phase::Verified
            | Phase::Placed
            | Phase::OnTrial
            | Phase::Proven
            | Phase::Failing(_) => {}
        }
    }

    fn admit(&mut self, order: ReleaseOrder) {
        if self.state.done.contains(&order.id) {
            return;
        }
        let Some(running) = self.state.running.clone() else {
            return;
        };
        if order.forgive {
            self.state.failed.forget(&order.digest);
        }
        self.state.restarts = 0;
        let runs = order.digest == running.digest;
        if runs
            && self
                .state
                .good
                .as_ref()
                .is_some_and(|good| good.digest == order.digest)
        {
            self.finish(order.id, order.version, order.digest, None);
            return;
        }
        let failed_before = self.state.failed.get(&order.digest).map(|entry| {
            let reason = format!(
                "it failed here before and wasn't forgiven: {}",
                entry.reason
            );
            Cause::lasting(FailureKind::FailedBefore, reason)
        });
        if let Some(cause) =
            failed_before.or_else(|| guard::order(&order, &running).err().filter(|_| !runs))
        {
            let failure = told(&cause, None);
            self.finish(order.id, order.version, order.digest, Some(failure));
            return;
        }
        self.state.update = Some(Update {
            order,
            // What runs already only has to prove itself.
            phase: if runs {
                Phase::OnTrial
            } else {
                Phase::Checking
            },
            facts: None,
            from: running.version,
            baseline: None,
            resumes: 0,
            refetched: false,
        });
        self.work();
    }

    fn checked(&mut self, checked: Checked) {
        let (Some(update), Some(running)) = (&self.state.update, &self.state.running) else {
            return;
        };
        let Checked { facts, survey } = checked;
        if let Err(cause) = guard::release(&update.order, &facts, running) {
            return self.fail(cause);
        }
        match plan::plan(
            &facts,
            &survey,
            &self.state_protects(),
            &self.state.failed,
            self.rules,
        ) {
            Err(cause) => self.fail(cause),
            Ok(plan) => {
                if let Some(update) = &mut self.state.update {
                    update.facts = Some(facts);
                }
                let note = plan.describe();
                self.enter_with(
                    Phase::Planned {
                        remove: plan.remove,
                    },
                    Some(note),
                );
            }
        }
    }

    /// Lines and caches flip bits: what is damaged is fetched once more, and not again.
    fn damaged(&mut self, what: String) {
        let Some(update) = &mut self.state.update else {
            return;
        };
        if update.refetched {
            let reason = format!("damaged, fetched once more, and damaged again: {what}");
            return self.fail(Cause::passing(FailureKind::Verify, reason));
        }
        update.refetched = true;
        update.phase = Phase::Fetching;
        update.resumes = 0;
        self.work_with(true, Some(format!("damaged, fetched once more: {what}")));
    }

    /// What must stay. The release to come isn't among it: a leftover of its name may be another one.
    fn state_protects(&self) -> BTreeSet<Version> {
        let mut protected = self.state.protected();
        if let (Some(update), Some(running)) = (&self.state.update, &self.state.running) {
            protected.insert(update.from.clone());
            if update.order.version != running.version {
                protected.remove(&update.order.version);
            }
        }
        protected
    }

    fn enter(&mut self, phase: Phase) {
        self.enter_with(phase, None);
    }

    fn enter_with(&mut self, phase: Phase, note: Option<String>) {
        let Some(update) = &mut self.state.update else {
            return;
        };
        let told = update.phase.outside() != phase.outside();
        update.phase = phase;
        update.resumes = 0;
        self.work_with(told, note);
    }

    /// What the phase has to do, from the state alone.
    fn work(&mut self) {
        self.work_with(true, None);
    }

    fn work_with(&mut self, tell: bool, note: Option<String>) {
        let Some(update) = self.state.update.clone() else {
            return;
        };
        let version = update.order.version.clone();
        if tell && !matches!(update.phase, Phase::Failing(_)) {
            self.report(
                &update.order.id,
                &version,
                update.order.digest,
                update.phase.outside(),
                None,
                note,
            );
        }
        let facts = || update.facts.clone().map(Box::new);
        let action = match update.phase {
            Phase::Checking => Some(Action::Check(Box::new(update.order))),
            Phase::Planned { remove } => Some(Action::Prepare { version, remove }),
            Phase::Fetching => facts().map(|facts| Action::Fetch {
                url: update.order.url.clone(),
                facts,
            }),
            Phase::Verifying => facts().map(|facts| Action::Verify { facts }),
            Phase::Verified => facts().map(|facts| Action::Place { facts }),
            Phase::Placed if update.baseline.is_none() => Some(Action::Measure),
            Phase::Placed => Some(Action::Arm {
                version,
                tries: self.rules.tries,
            }),
            Phase::Armed => Some(Action::AwaitRestart(update.order.when)),
            Phase::OnTrial => Some(Action::Judge {
                baseline: update.baseline.unwrap_or_default(),
            }),
            Phase::Proven => Some(Action::MakeGood {
                version,
                tries: self.rules.good_tries,
            }),
            Phase::Failing(ending) => Some(Action::Settle {
                version,
                ending: Box::new(ending),
            }),
        };
        match action {
            Some(action) => self.actions.push(action),
            // The state was made by something else than this code.
            None => self.fail(Cause::passing(
                FailureKind::Storage,
                "the stored state lacks the manifest's facts",
            )),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
