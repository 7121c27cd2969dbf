//! What a start of the agent means: nothing new, a trial, a fall back, or a release that nobody knows.

use cairn_boot_state::Slot;
use cairn_release::Version;
use cairn_wire::report::{Failure, FailureKind};
use cairn_wire::{ReleaseOrder, When};

use super::{MAX_RESUMES, MAX_RESUMES_FETCHING, Machine};
use crate::memory::Entry;
use crate::state::{ADOPTED, Action, Boot, BootView, Cause, Phase, Running, Update};

impl Machine<'_> {
    pub(super) fn started(&mut self, boot: Boot) {
        let new_boot = self.state.boot_id.as_ref() != Some(&boot.boot_id);
        self.state.boot_id = Some(boot.boot_id.clone());
        self.state.running = Some(boot.running.clone());
        let is_good = self.is_good(&boot);
        // Before the update's own affairs: what isn't on trial needs no rescue.
        if is_good || boot.slot != Slot::Trial {
            self.actions.push(Action::Declare);
        }
        if is_good {
            self.actions.push(Action::Rearm {
                version: boot.running.version.clone(),
                tries: self.rules.good_tries,
            });
            self.state.good = Some(boot.running.clone());
        }
        self.repeat_report();
        match &self.state.update {
            None => self.at_rest(&boot),
            Some(_) => self.resumed(&boot, new_boot),
        }
    }

    /// A start with nothing under way.
    fn at_rest(&mut self, boot: &Boot) {
        let digest = boot.running.digest;
        if self.is_good(boot) {
            self.state.restarts = 0;
            self.actions.push(Action::Tidy {
                keep: self.rules.keep,
            });
            self.reconcile();
        } else if self.state.failed.get(&digest).is_some() && self.may_restart() {
            // It was told that this release failed, or can't tell: it must not stay.
            let reason = format!(
                "{} runs again, although it failed before",
                boot.running.version
            );
            self.adopt(boot);
            self.fail_with(
                Cause::lasting(FailureKind::FailedBefore, reason),
                true,
                true,
            );
        } else {
            self.good_is_lost(boot);
            self.adopt(boot);
            self.work();
        }
    }

    /// Whether what runs is the good release: started as that, or started on trial and made good since.
    fn is_good(&self, boot: &Boot) -> bool {
        let proven = self
            .state
            .good
            .as_ref()
            .is_some_and(|good| good.digest == boot.running.digest);
        let named = boot
            .view
            .as_ref()
            .is_some_and(|view| view.good.as_ref() == Some(&boot.running.version));
        boot.slot == Slot::Good || (boot.slot == Slot::Trial && proven && named)
    }

    /// The good release doesn't boot any more.
    fn good_is_lost(&mut self, boot: &Boot) {
        let lost = |good: &Running| {
            let named = boot
                .view
                .as_ref()
                .is_some_and(|view| view.good.as_ref() == Some(&good.version));
            named && good.digest != boot.running.digest && boot.slot == Slot::Other
        };
        let Some(good) = self.state.good.clone().filter(lost) else {
            return;
        };
        let reason = format!(
            "{} was good and doesn't boot any more; {} runs",
            good.version, boot.running.version
        );
        let order = match &self.state.last {
            Some(last) if last.digest == good.digest => last.order.clone(),
            _ => ADOPTED.to_owned(),
        };
        self.state.failed.remember(Entry {
            digest: good.digest,
            version: good.version.clone(),
            kind: FailureKind::FellBack,
            reason: reason.clone(),
            evidence: None,
        });
        let failure = Failure {
            kind: FailureKind::FellBack,
            reason,
            retry: false,
            evidence: None,
        };
        self.finish(order, good.version, good.digest, Some(failure));
    }

    /// What runs is judged like a trial, since nobody knows that it is good.
    fn adopt(&mut self, boot: &Boot) {
        self.state.update = Some(Update {
            order: ReleaseOrder {
                id: ADOPTED.into(),
                version: boot.running.version.clone(),
                sequence: boot.running.sequence,
                digest: boot.running.digest,
                url: String::new(),
                when: When::Now,
                forgive: false,
                downgrade: None,
            },
            phase: Phase::OnTrial,
            facts: None,
            from: boot.running.version.clone(),
            baseline: None,
            resumes: 0,
            refetched: false,
        });
    }

    /// A start with an update under way.
    fn resumed(&mut self, boot: &Boot, new_boot: bool) {
        let Some(update) = &mut self.state.update else {
            return;
        };
        update.resumes += 1;
        let (order, phase, resumes) = (update.order.clone(), update.phase.clone(), update.resumes);
        let runs = boot.running.digest == order.digest;
        let trial_booted = runs && boot.slot == Slot::Trial;
        let limit = if phase == Phase::Fetching {
            MAX_RESUMES_FETCHING
        } else {
            MAX_RESUMES
        };
        match phase {
            Phase::Failing(_) => {
                // Whatever runs now, there is nothing to leave if it isn't this release.
                if let Some(Update {
                    phase: Phase::Failing(ending),
                    ..
                }) = &mut self.state.update
                {
                    ending.restart &= runs;
                }
                self.work();
            }
            // The power went while the boot state was being told, or right after.
            Phase::Placed | Phase::Armed if trial_booted => self.on_trial(boot),
            Phase::Placed if was_tried(boot, &order.version, self.rules.tries) => {
                self.fell_back(boot)
            }
            Phase::Armed if new_boot => self.fell_back(boot),
            Phase::OnTrial | Phase::Proven if !runs => self.fell_back(boot),
            Phase::Proven if boot.slot == Slot::Good => self.good(),
            _ if resumes > limit => {
                let name = phase.name();
                let reason = format!(
                    "the agent began {limit} times in the state {name} and never got further"
                );
                self.fail(Cause::lasting(FailureKind::Storage, reason));
            }
            _ => self.work(),
        }
    }

    /// The trial runs. It counts only if the bootloader took a try for it: a kexec takes none.
    fn on_trial(&mut self, boot: &Boot) {
        let tries_left = |view: &BootView| view.trial.as_ref().map(|(_, tries)| *tries);
        let by_firmware = boot
            .view
            .as_ref()
            .and_then(tries_left)
            .is_none_or(|left| left < self.rules.tries);
        if by_firmware {
            self.enter(Phase::OnTrial);
        } else if let Some(update) = &mut self.state.update {
            update.phase = Phase::Armed;
            self.restart();
        }
    }

    fn fell_back(&mut self, boot: &Boot) {
        let Some(update) = &self.state.update else {
            return;
        };
        let version = &update.order.version;
        let untouched = boot.view.as_ref().is_some_and(|view| {
            view.trial.as_ref() == Some(&(version.clone(), self.rules.tries))
                && !view.failed.contains(version)
        });
        let mut reason = if untouched {
            format!(
                "the bootloader didn't start {version}; {} runs",
                boot.running.version
            )
        } else {
            format!(
                "{version} was started and didn't come up; {} runs",
                boot.running.version
            )
        };
        if let Some(trace) = &boot.trace {
            reason += &format!(": {trace}");
        }
        self.fail_with(Cause::lasting(FailureKind::FellBack, reason), true, false);
    }
}

/// Whether the bootloader has started `version` since it was armed with `tries`, or the initramfs has given it up.
fn was_tried(boot: &Boot, version: &Version, tries: u8) -> bool {
    boot.view.as_ref().is_some_and(|view| {
        view.failed.contains(version)
            || view
                .trial
                .as_ref()
                .is_some_and(|(trial, left)| trial == version && *left < tries)
    })
}
