//! Random orders, failures, cuts and restarts over a model of a node: there is always a release that boots, what is being tried is
//! whole, and every update comes to an end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cairn_boot_state::transition::Event as BootEvent;
use cairn_boot_state::{BootState, Slot, Tries, candidates};
use cairn_release::{Digest, Sequence, Version};
use cairn_update::state::{Checked, Facts, Image, Running};
use cairn_update::survey::{Installed, Survey};
use cairn_update::{Action, Boot, BootView, Cause, Event, Rules, State, step};
use cairn_wire::report::FailureKind;
use cairn_wire::{ReleaseOrder, When};
use proptest::prelude::*;

const RELEASES: usize = 6;

/// What happens next.
#[derive(Debug, Clone)]
enum Happening {
    /// The next action is done; it works or fails.
    Act { works: bool },
    /// The power goes while the next action is done: before it, within it, or after it.
    Cut { done: bool },
    /// The agent is killed.
    Kill,
    /// An order comes.
    Order {
        release: usize,
        id: u8,
        forgive: bool,
    },
    /// The order is taken back.
    Withdraw,
    /// An operator forgives.
    Forgive(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        12 => Just(Happening::Act { works: true }),
        2 => Just(Happening::Act { works: false }),
        2 => any::<bool>().prop_map(|done| Happening::Cut { done }),
        1 => Just(Happening::Kill),
        2 => (0..RELEASES, 0u8..20, any::<bool>()).prop_map(|(release, id, forgive)| Happening::Order { release, id, forgive }),
        1 => Just(Happening::Withdraw),
        1 => (0..RELEASES).prop_map(Happening::Forgive),
    ]
}

fn version(release: usize) -> Version {
    format!("{release}.0").parse().unwrap()
}

fn running(release: usize) -> Running {
    Running {
        version: version(release),
        sequence: Sequence(release as u64 + 1),
        digest: Digest::of(&[release as u8]),
        architecture: "x86_64".into(),
        compatible: vec!["generic-x86_64".into()],
    }
}

fn facts(release: usize) -> Facts {
    let it = running(release);
    let image = Image {
        size: 1 << 20,
        sha256: Digest::of(b"image"),
    };
    Facts {
        version: it.version,
        digest: it.digest,
        sequence: it.sequence,
        minimum_sequence: Sequence(0),
        architecture: it.architecture,
        compatible: it.compatible,
        created: release as i64,
        manifest_size: 100,
        kernel: image.clone(),
        root: image,
        downgrade_allowed: true,
    }
}

fn order(release: usize, id: u8, forgive: bool) -> ReleaseOrder {
    let it = running(release);
    ReleaseOrder {
        id: format!("o{id}-{release}"),
        version: it.version,
        // A claim that isn't too low, so that the order reaches the manifest.
        sequence: Sequence(u64::MAX),
        digest: it.digest,
        url: "/".into(),
        when: When::Now,
        forgive,
        downgrade: None,
    }
}

/// A node whose release 0 works, and of whose other releases some don't boot and some aren't healthy.
struct World {
    stored: State,
    state: State,
    queue: VecDeque<Action>,
    boot: BootState,
    installed: BTreeMap<Version, usize>,
    fetched: BTreeSet<usize>,
    runs: usize,
    slot: Slot,
    boots: u32,
    boots_fine: [bool; RELEASES],
    healthy: [bool; RELEASES],
    rules: Rules,
}

impl World {
    fn new(boots_fine: [bool; RELEASES], healthy: [bool; RELEASES]) -> Self {
        let mut world = Self {
            stored: State::default(),
            state: State::default(),
            queue: VecDeque::new(),
            boot: BootState {
                good: Some(version(0)),
                good_tries: Tries::Unlimited,
                ..BootState::default()
            },
            installed: BTreeMap::from([(version(0), 0)]),
            fetched: BTreeSet::new(),
            runs: 0,
            slot: Slot::Good,
            boots: 0,
            boots_fine,
            healthy,
            rules: Rules {
                reserve: 0,
                ..Rules::default()
            },
        };
        world.boots_fine[0] = true;
        world.healthy[0] = true;
        world.start();
        world
    }

    fn newest_first(&self) -> Vec<Version> {
        let mut installed: Vec<_> = self.installed.iter().collect();
        installed.sort_by_key(|(_, release)| std::cmp::Reverse(**release));
        installed
            .into_iter()
            .map(|(version, _)| version.clone())
            .collect()
    }

    fn check(&self) {
        let candidates = candidates(&self.boot, &self.newest_first());
        let boots = candidates
            .iter()
            .any(|candidate| self.boots_fine[self.installed[&candidate.version]]);
        assert!(
            boots,
            "nothing boots: {:?}, installed {:?}",
            self.boot, self.installed
        );
        let good = self.boot.good.as_ref().map(|good| self.installed[good]);
        let earned = good.is_some_and(|good| self.boots_fine[good] && self.healthy[good]);
        assert!(earned, "{good:?} is called good");
    }

    /// The bootloader, until something runs.
    fn reboot(&mut self) {
        loop {
            self.boots += 1;
            let candidate = candidates(&self.boot, &self.newest_first())
                .into_iter()
                .next()
                .unwrap();
            match (candidate.slot, self.boot.good_tries) {
                (Slot::Trial, _) => self.boot.trial_tries -= 1,
                (Slot::Good, Tries::Left(n)) => {
                    self.boot.good_tries = Tries::Left(n.saturating_sub(1))
                }
                _ => {}
            }
            let release = self.installed[&candidate.version];
            if self.boots_fine[release] {
                (self.runs, self.slot) = (release, candidate.slot);
                break;
            }
            if candidate.slot == Slot::Other {
                // The initramfs gives it up.
                self.tell(BootEvent::BootFailed {
                    version: candidate.version,
                });
            }
        }
        self.state = self.stored.clone();
        self.start();
    }

    fn start(&mut self) {
        self.state = self.stored.clone();
        self.queue.clear();
        let view = BootView {
            good: self.boot.good.clone(),
            trial: self
                .boot
                .trial
                .clone()
                .map(|trial| (trial, self.boot.trial_tries)),
            failed: self.boot.failed.clone(),
        };
        self.take(Event::Started(Box::new(Boot {
            boot_id: self.boots.to_string(),
            slot: self.slot,
            running: running(self.runs),
            view: Some(view),
            trace: None,
        })));
    }

    fn take(&mut self, event: Event) {
        let (next, actions) = step(&self.state, &self.rules, event);
        // Twice the same: nothing but the arguments decides.
        self.stored = next.clone();
        let ended = self.state.update.is_some() && next.update.is_none();
        self.state = next;
        if ended || actions.iter().any(is_work) {
            self.queue.retain(|action| !is_work(action));
        }
        self.queue.extend(actions);
    }

    fn tell(&mut self, event: BootEvent) -> bool {
        match cairn_boot_state::step(&self.boot, event) {
            Ok(next) => {
                self.boot = next;
                true
            }
            Err(_) => false,
        }
    }

    /// Does an action; what came of it.
    fn act(&mut self, action: &Action) -> Option<Event> {
        let refused = || {
            Event::Failed(Cause::passing(
                FailureKind::Storage,
                "the boot state doesn't allow it",
            ))
        };
        Some(match action {
            Action::Report(report) => return report.state.is_final().then_some(Event::Reported),
            Action::Check(order) => {
                let release = (0..RELEASES)
                    .find(|release| version(*release) == order.version)
                    .unwrap();
                let installed = self.installed.iter().map(|(version, release)| Installed {
                    version: version.clone(),
                    digest: Some(running(*release).digest),
                    bytes: 2 << 20,
                    created: *release as i64,
                    whole: true,
                });
                let survey = Survey {
                    free: 1 << 30,
                    installed: installed.collect(),
                    fetched: 0,
                };
                Event::Checked(Box::new(Checked {
                    facts: facts(release),
                    survey,
                }))
            }
            Action::Prepare { version, remove } => {
                self.installed
                    .retain(|version, _| !remove.contains(version));
                self.tell(BootEvent::FailureForgiven {
                    version: version.clone(),
                });
                Event::Prepared
            }
            Action::Fetch { facts, .. } => {
                self.fetched.insert(usize::try_from(facts.created).unwrap());
                Event::Fetched
            }
            Action::Verify { .. } => Event::Verified,
            Action::Place { facts } => {
                let release = usize::try_from(facts.created).unwrap();
                assert!(
                    self.installed.contains_key(&facts.version) || self.fetched.contains(&release)
                );
                self.installed.insert(facts.version.clone(), release);
                Event::Placed
            }
            Action::Measure => Event::Measured {
                baseline: BTreeSet::new(),
            },
            Action::Arm { version, tries } => {
                assert!(
                    self.installed.contains_key(version),
                    "a trial that isn't there"
                );
                let armed =
                    self.boot.trial.as_ref() == Some(version) && self.boot.trial_tries == *tries;
                if armed
                    || self.tell(BootEvent::TrialChosen {
                        version: version.clone(),
                        tries: *tries,
                    })
                {
                    Event::Armed
                } else {
                    refused()
                }
            }
            Action::AwaitRestart(_) => Event::RestartAllowed,
            Action::Restart => {
                self.reboot();
                return None;
            }
            Action::Judge { .. } if self.healthy[self.runs] => Event::Healthy,
            Action::Judge { .. } => {
                Event::Failed(Cause::lasting(FailureKind::Unhealthy, "a check fails"))
            }
            Action::MakeGood { version, tries } => {
                self.tell(BootEvent::FailureForgiven {
                    version: version.clone(),
                });
                self.tell(BootEvent::GoodChosen {
                    version: version.clone(),
                    tries: Tries::Left(*tries),
                });
                Event::MadeGood
            }
            Action::Settle { version, ending } => {
                if ending.condemn {
                    self.condemn(version);
                } else if self.boot.trial.as_ref() == Some(version) {
                    self.tell(BootEvent::TrialWithdrawn);
                }
                Event::Settled
            }
            Action::Rearm { version, tries } => {
                self.tell(BootEvent::GoodChosen {
                    version: version.clone(),
                    tries: Tries::Left(*tries),
                });
                return None;
            }
            Action::Declare => return None,
            Action::Tidy { .. } => {
                let protected = self.state.protected();
                self.installed
                    .retain(|version, _| protected.contains(version));
                return None;
            }
        })
    }

    fn condemn(&mut self, version: &Version) {
        let next = cairn_boot_state::step(
            &self.boot,
            BootEvent::BootFailed {
                version: version.clone(),
            },
        )
        .unwrap();
        let others = candidates(&next, &self.newest_first());
        if others
            .iter()
            .any(|candidate| !next.has_failed(&candidate.version))
        {
            self.boot = next;
        }
    }

    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Act { works } => {
                let Some(action) = self.queue.pop_front() else {
                    return;
                };
                let event = if works
                    || !is_work(&action)
                    || matches!(action, Action::Settle { .. } | Action::Restart)
                {
                    self.act(&action)
                } else {
                    Some(Event::Failed(Cause::passing(FailureKind::Storage, "EIO")))
                };
                if let Some(event) = event {
                    self.take(event);
                }
            }
            Happening::Cut { done } => {
                if done && let Some(action) = self.queue.pop_front() {
                    // What came of it is never heard.
                    self.act(&action);
                }
                self.reboot();
            }
            Happening::Kill => self.start(),
            Happening::Order {
                release,
                id,
                forgive,
            } => self.take(Event::Ordered(Some(Box::new(order(release, id, forgive))))),
            Happening::Withdraw => self.take(Event::Ordered(None)),
            Happening::Forgive(release) => self.take(Event::Forgiven(running(release).digest)),
        }
        self.check();
    }
}

fn is_work(action: &Action) -> bool {
    !matches!(
        action,
        Action::Report(_) | Action::Rearm { .. } | Action::Declare | Action::Tidy { .. }
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn there_is_always_a_release_that_boots_and_every_update_ends(
        happenings in prop::collection::vec(happening(), 0..150),
        boots_fine in any::<[bool; RELEASES]>(),
        healthy in any::<[bool; RELEASES]>(),
    ) {
        let mut world = World::new(boots_fine, healthy);
        for happening in happenings {
            world.happens(happening);
        }
        // Left alone, it comes to rest.
        for _ in 0..400 {
            world.happens(Happening::Act { works: true });
        }
        prop_assert!(world.queue.is_empty(), "never at rest: {:?}", world.queue);
        prop_assert!(world.state.update.is_none());
        prop_assert!(world.boots_fine[world.runs]);
        // A release that doesn't work is tried once, and then no more.
        let bad = RELEASES - 2;
        if world.runs != bad && world.boot.good != Some(version(bad)) {
            (world.boots_fine[bad], world.healthy[bad]) = if boots_fine[bad] { (true, false) } else { (false, true) };
            for (id, forgive) in [(201, true), (202, false)] {
                let boots = world.boots;
                world.happens(Happening::Order { release: bad, id, forgive });
                for _ in 0..400 {
                    world.happens(Happening::Act { works: true });
                }
                let failure = world.state.last.clone().and_then(|last| last.failure).map(|failure| failure.kind);
                if forgive {
                    prop_assert!(matches!(failure, Some(FailureKind::Unhealthy | FailureKind::FellBack)), "{:?}", failure);
                    prop_assert!((2..=6).contains(&(world.boots - boots)), "{} restarts", world.boots - boots);
                } else {
                    prop_assert_eq!(failure, Some(FailureKind::FailedBefore));
                    prop_assert_eq!(world.boots, boots);
                }
                prop_assert!(world.runs != bad && world.boot.trial.is_none());
            }
        }
        // And a release that works can still be brought to it.
        world.boots_fine[RELEASES - 1] = true;
        world.healthy[RELEASES - 1] = true;
        world.happens(Happening::Order { release: RELEASES - 1, id: 200, forgive: true });
        for _ in 0..200 {
            world.happens(Happening::Act { works: true });
        }
        prop_assert_eq!(&world.boot.good, &Some(version(RELEASES - 1)), "{:?}", world.state);
        prop_assert_eq!(world.runs, RELEASES - 1);
    }
}
