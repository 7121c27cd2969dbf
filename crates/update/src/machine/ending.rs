//! How an update ends, and what is told of it.

use cairn_release::{Digest, Version};
use cairn_wire::ReleaseOrder;
use cairn_wire::report::{Failure, FailureKind, UpdateReport, UpdateState};

use super::{MAX_DONE, MAX_RESTARTS, Machine};
use crate::memory::Entry;
use crate::state::{ADOPTED, Action, Cause, Ending, Finished, Phase};

impl Machine<'_> {
    pub(super) fn may_restart(&self) -> bool {
        self.state.restarts < MAX_RESTARTS
    }

    pub(super) fn restart(&mut self) {
        if self.may_restart() {
            self.state.restarts += 1;
            self.actions.push(Action::Restart);
        } else {
            let reason = format!(
                "the node was restarted {MAX_RESTARTS} times and the bootloader never started it"
            );
            self.fail_with(Cause::lasting(FailureKind::FellBack, reason), true, false);
        }
    }

    pub(super) fn fail(&mut self, cause: Cause) {
        let Some(update) = &self.state.update else {
            return;
        };
        let on_trial = matches!(update.phase, Phase::OnTrial | Phase::Proven);
        // A boot state that can't be written is not the release's fault, but it can't stay either.
        let condemn = on_trial && cause.kind != FailureKind::Storage;
        self.fail_with(cause, condemn, on_trial);
    }

    pub(super) fn fail_with(&mut self, cause: Cause, condemn: bool, restart: bool) {
        let Some(update) = &mut self.state.update else {
            return;
        };
        // Nobody ordered it, it is the last that boots, and there may be nothing else: it stays.
        let last_resort = update.order.id == ADOPTED && cause.kind == FailureKind::Unhealthy;
        let (condemn, restart) = (condemn && !last_resort, restart && !last_resort);
        let worth_keeping = condemn
            || restart
            || matches!(cause.kind, FailureKind::FellBack | FailureKind::Unhealthy);
        let evidence = worth_keeping.then(|| evidence_name(&update.order));
        // The first reason is the one that says something.
        if condemn && cause.kind != FailureKind::FailedBefore {
            self.state.failed.remember(Entry {
                digest: update.order.digest,
                version: update.order.version.clone(),
                kind: cause.kind,
                reason: cause.reason.clone(),
                evidence: evidence.clone(),
            });
        }
        update.phase = Phase::Failing(Ending {
            cause,
            condemn,
            restart,
            evidence,
        });
        update.resumes = 0;
        self.actions.retain(|action| {
            matches!(
                action,
                Action::Declare | Action::Rearm { .. } | Action::Report(_)
            )
        });
        self.work();
    }

    pub(super) fn settled(&mut self, ending: Ending) {
        let Some(update) = self.state.update.take() else {
            return;
        };
        let order = update.order;
        // A release that failed and ran once more is no news; the word on it was said.
        if order.id != ADOPTED || ending.cause.kind != FailureKind::FailedBefore {
            let failure = told(&ending.cause, ending.evidence.clone());
            self.finish(order.id, order.version, order.digest, Some(failure));
        }
        if ending.restart && self.may_restart() {
            self.state.restarts += 1;
            self.actions.push(Action::Restart);
        } else {
            self.actions.push(Action::Declare);
            self.reconcile();
        }
    }

    pub(super) fn good(&mut self) {
        let Some(update) = self.state.update.take() else {
            return;
        };
        self.state.good = self.state.running.clone();
        self.state.restarts = 0;
        self.state.failed.forget(&update.order.digest);
        let order = update.order;
        self.actions.push(Action::Declare);
        self.finish(order.id, order.version, order.digest, None);
        self.actions.push(Action::Tidy {
            keep: self.rules.keep,
        });
        self.reconcile();
    }

    pub(super) fn finish(
        &mut self,
        order: String,
        version: Version,
        digest: Digest,
        failure: Option<Failure>,
    ) {
        self.state.done.retain(|done| *done != order);
        self.state.done.push(order.clone());
        let excess = self.state.done.len().saturating_sub(MAX_DONE);
        self.state.done.drain(..excess);
        self.state.last = Some(Finished {
            order,
            version,
            digest,
            failure,
            reported: false,
        });
        self.repeat_report();
    }

    /// The final word is said again until it is in the outbox.
    pub(super) fn repeat_report(&mut self) {
        let Some(last) = self.state.last.clone().filter(|last| !last.reported) else {
            return;
        };
        let state = if last.failure.is_some() {
            UpdateState::Failed
        } else {
            UpdateState::Good
        };
        self.report(
            &last.order,
            &last.version,
            last.digest,
            state,
            last.failure,
            None,
        );
    }

    pub(super) fn report(
        &mut self,
        order: &str,
        version: &Version,
        digest: Digest,
        state: UpdateState,
        failure: Option<Failure>,
        note: Option<String>,
    ) {
        self.actions.push(Action::Report(Box::new(UpdateReport {
            order: order.to_owned(),
            version: version.clone(),
            digest,
            state,
            running: self
                .state
                .running
                .as_ref()
                .map(|running| running.version.clone()),
            failure,
            note,
        })));
    }
}

pub(super) fn told(cause: &Cause, evidence: Option<String>) -> Failure {
    Failure {
        kind: cause.kind,
        reason: cause.reason.clone(),
        retry: cause.retry,
        evidence,
    }
}

/// One name for each release and order, so that a repeated collection replaces the first.
fn evidence_name(order: &ReleaseOrder) -> String {
    let digest = order.digest.to_string();
    let id: String = order
        .id
        .bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() {
                char::from(b)
            } else {
                '-'
            }
        })
        .take(32)
        .collect();
    format!("update-{}-{id}.txt", &digest[..12])
}
