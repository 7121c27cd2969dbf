mod damage;

use std::collections::BTreeSet;

use cairn_release::Sequence;

use cairn_boot_state::Slot;
use cairn_release::Digest;
use cairn_wire::When;
use cairn_wire::report::{Failure, UpdateState};

use super::*;
use crate::memory::Entry;
use crate::state::{ADOPTED, Boot, BootView, Facts, Image, Running};
use crate::survey::{Installed, Survey};

pub(crate) fn version(text: &str) -> Version {
    text.parse().unwrap()
}

pub(crate) fn running(name: &str, sequence: u64) -> Running {
    Running {
        version: version(name),
        sequence: Sequence(sequence),
        digest: Digest::of(format!("manifest {name}").as_bytes()),
        architecture: "x86_64".into(),
        compatible: vec!["generic-x86_64".into()],
    }
}

pub(crate) fn facts(name: &str, sequence: u64) -> Facts {
    let image = Image {
        size: 1 << 20,
        sha256: Digest::of(name.as_bytes()),
    };
    let running = running(name, sequence);
    Facts {
        version: running.version,
        digest: running.digest,
        sequence: running.sequence,
        minimum_sequence: Sequence(0),
        architecture: running.architecture,
        compatible: running.compatible,
        created: sequence as i64,
        manifest_size: 2000,
        kernel: image.clone(),
        root: image,
        downgrade_allowed: false,
    }
}

fn order(id: &str, name: &str, sequence: u64) -> ReleaseOrder {
    let release = running(name, sequence);
    ReleaseOrder {
        id: id.into(),
        version: release.version,
        sequence: release.sequence,
        digest: release.digest,
        url: format!("/releases/stable/{name}/"),
        when: When::Now,
        forgive: false,
        downgrade: None,
    }
}

struct Node {
    state: State,
    actions: Vec<Action>,
}

impl Node {
    fn new() -> Self {
        let mut node = Self {
            state: State::default(),
            actions: Vec::new(),
        };
        node.boots("boot-1", Slot::Good, "1.0", 1);
        node
    }

    fn take(&mut self, event: Event) -> &[Action] {
        let (state, actions) = step(&self.state, &Rules::default(), event);
        (self.state, self.actions) = (state, actions);
        &self.actions
    }

    fn boots(&mut self, boot_id: &str, slot: Slot, name: &str, sequence: u64) -> &[Action] {
        let tries = if slot == Slot::Trial { 2 } else { 0 };
        let trial = (slot == Slot::Trial).then(|| (version(name), tries));
        self.boots_with(
            boot_id,
            slot,
            name,
            sequence,
            BootView {
                good: Some(version("1.0")),
                trial,
                failed: vec![],
            },
        )
    }

    fn boots_with(
        &mut self,
        id: &str,
        slot: Slot,
        name: &str,
        sequence: u64,
        view: BootView,
    ) -> &[Action] {
        self.take(Event::Started(Box::new(Boot {
            boot_id: id.into(),
            slot,
            running: running(name, sequence),
            view: Some(view),
            trace: None,
        })))
    }

    fn ordered(&mut self, order: ReleaseOrder) -> &[Action] {
        self.take(Event::Ordered(Some(Box::new(order))))
    }

    fn checked(&mut self, facts: Facts) -> &[Action] {
        let survey = Survey {
            free: 1 << 30,
            installed: vec![Installed {
                version: version("1.0"),
                digest: Some(running("1.0", 1).digest),
                bytes: 1 << 20,
                created: 1,
                whole: true,
            }],
            fetched: 0,
        };
        self.take(Event::Checked(Box::new(Checked { facts, survey })))
    }

    fn until_armed(&mut self, order: ReleaseOrder) {
        let facts = facts(order.version.as_str(), order.sequence.0);
        self.ordered(order);
        self.checked(facts);
        for event in [
            Event::Prepared,
            Event::Fetched,
            Event::Verified,
            Event::Placed,
        ] {
            self.take(event);
        }
        self.take(Event::Measured {
            baseline: BTreeSet::from(["web".into()]),
        });
        self.take(Event::Armed);
        assert_eq!(self.phase(), "Armed");
    }

    fn phase(&self) -> &'static str {
        self.state
            .update
            .as_ref()
            .map_or("Idle", |update| update.phase.name())
    }

    fn has(&self, wanted: &Action) -> bool {
        self.actions.contains(wanted)
    }

    fn last(&self) -> (&str, Option<FailureKind>) {
        let last = self.state.last.as_ref().unwrap();
        (
            &last.order,
            last.failure.as_ref().map(|failure| failure.kind),
        )
    }

    fn failure(&self) -> &Failure {
        self.state.last.as_ref().unwrap().failure.as_ref().unwrap()
    }

    fn told(&self) -> Vec<UpdateState> {
        let told = |action: &Action| match action {
            Action::Report(report) => Some(report.state),
            _ => None,
        };
        self.actions.iter().filter_map(told).collect()
    }
}

#[test]
fn a_good_update() {
    let mut node = Node::new();
    node.until_armed(order("o1", "2.0", 2));
    node.take(Event::RestartAllowed);
    assert!(node.has(&Action::Restart));
    node.boots("boot-2", Slot::Trial, "2.0", 2);
    assert!(node.has(&Action::Judge {
        baseline: BTreeSet::from(["web".into()])
    }));
    assert!(!node.has(&Action::Declare));
    node.take(Event::Healthy);
    assert!(node.has(&Action::MakeGood {
        version: version("2.0"),
        tries: 9
    }));
    node.take(Event::MadeGood);
    assert_eq!(
        (node.phase(), node.last(), node.told()),
        ("Idle", ("o1", None), vec![UpdateState::Good])
    );
    assert!(node.has(&Action::Declare));
    // Said again until the outbox has it, and not after.
    assert_eq!(node.boots("boot-3", Slot::Good, "2.0", 2).len(), 4);
    assert_eq!(node.told(), [UpdateState::Good]);
    node.take(Event::Reported);
    node.boots("boot-4", Slot::Good, "2.0", 2);
    assert_eq!(node.told(), []);
    assert!(node.has(&Action::Rearm {
        version: version("2.0"),
        tries: 9
    }));
    // The same order again is done already, another one for the same release too.
    assert_eq!(node.ordered(order("o1", "2.0", 2)), []);
    node.ordered(order("o2", "2.0", 2));
    assert_eq!((node.phase(), node.last()), ("Idle", ("o2", None)));
}

#[test]
fn a_release_that_does_not_boot_is_refused_until_it_is_forgiven() {
    let mut node = Node::new();
    node.until_armed(order("o1", "2.0", 2));
    node.take(Event::RestartAllowed);
    node.boots("boot-2", Slot::Good, "1.0", 1);
    assert_eq!(node.phase(), "Failing");
    node.take(Event::Settled);
    assert_eq!(node.last(), ("o1", Some(FailureKind::FellBack)));
    assert!(!node.has(&Action::Restart));
    assert!(node.failure().evidence.is_some());
    node.ordered(order("o2", "2.0", 2));
    assert_eq!(node.last(), ("o2", Some(FailureKind::FailedBefore)));
    node.ordered(ReleaseOrder {
        forgive: true,
        ..order("o3", "2.0", 2)
    });
    assert_eq!(node.phase(), "Checking");
    node.take(Event::Failed(Cause::passing(FailureKind::Fetch, "404")));
    node.take(Event::Settled);
    node.state.failed.remember(Entry {
        digest: running("3.0", 3).digest,
        version: version("3.0"),
        kind: FailureKind::Unhealthy,
        reason: String::new(),
        evidence: None,
    });
    node.take(Event::Forgiven(running("3.0", 3).digest));
    node.ordered(order("o4", "3.0", 3));
    assert_eq!(node.phase(), "Checking");
}

#[test]
fn an_unhealthy_trial_is_condemned_and_left() {
    let mut node = Node::new();
    node.until_armed(order("o1", "2.0", 2));
    node.boots("boot-2", Slot::Trial, "2.0", 2);
    node.take(Event::Failed(Cause::lasting(
        FailureKind::Unhealthy,
        "web: inactive",
    )));
    let settle = node.actions.iter().find_map(|action| match action {
        Action::Settle { ending, .. } => Some(ending.clone()),
        _ => None,
    });
    assert!(settle.is_some_and(|ending| ending.condemn && ending.restart));
    node.take(Event::Settled);
    assert!(node.has(&Action::Restart) && !node.has(&Action::Declare));
    // The power went before the restart, and the bootloader could not be told.
    node.boots("boot-3", Slot::Trial, "2.0", 2);
    assert_eq!(node.phase(), "Failing");
    node.take(Event::Settled);
    assert!(node.has(&Action::Restart));
    let kept = node.state.failed.get(&running("2.0", 2).digest).unwrap();
    assert_eq!(kept.reason, "web: inactive");
}

#[test]
fn a_loop_of_restarts_ends() {
    let mut node = Node::new();
    node.until_armed(order("o1", "2.0", 2));
    node.boots("boot", Slot::Trial, "2.0", 2);
    node.take(Event::Failed(Cause::lasting(
        FailureKind::Unhealthy,
        "web: inactive",
    )));
    let mut restarts = 0;
    for n in 0..50 {
        node.take(Event::Settled);
        if !node.has(&Action::Restart) {
            break;
        }
        restarts += 1;
        node.boots(&format!("boot-{n}"), Slot::Trial, "2.0", 2);
    }
    assert_eq!(restarts, MAX_RESTARTS);
}

#[test]
fn a_kexec_is_no_trial() {
    let mut node = Node::new();
    node.until_armed(order("o1", "2.0", 2));
    node.take(Event::RestartAllowed);
    let view = BootView {
        good: Some(version("1.0")),
        trial: Some((version("2.0"), 3)),
        failed: vec![],
    };
    node.boots_with("boot-2", Slot::Trial, "2.0", 2, view);
    assert_eq!(node.phase(), "Armed");
    assert!(node.has(&Action::Restart));
}

#[test]
fn power_cuts_around_arming() {
    // The trial was named, but nobody could note that.
    let mut node = Node::new();
    node.until_armed(order("o1", "2.0", 2));
    {
        let update = node.state.update.as_mut().unwrap();
        update.phase = Phase::Placed;
    }
    let placed = node.state.clone();
    node.boots("boot-2", Slot::Trial, "2.0", 2);
    assert_eq!(node.phase(), "OnTrial");
    // It was even tried, in vain.
    node.state = placed.clone();
    let tried = BootView {
        good: Some(version("1.0")),
        trial: Some((version("2.0"), 0)),
        failed: vec![],
    };
    node.boots_with("boot-2", Slot::Good, "1.0", 1, tried);
    assert_eq!(node.phase(), "Failing");
    // It was not.
    node.state = placed;
    node.boots("boot-2", Slot::Good, "1.0", 1);
    assert!(node.has(&Action::Arm {
        version: version("2.0"),
        tries: 3
    }));
}

#[test]
fn an_agent_that_restarts_goes_on_waiting() {
    let mut node = Node::new();
    node.until_armed(ReleaseOrder {
        when: When::Window,
        ..order("o1", "2.0", 2)
    });
    node.boots("boot-1", Slot::Good, "1.0", 1);
    assert!(node.has(&Action::AwaitRestart(When::Window)));
    node.ordered(order("o1", "2.0", 2));
    assert!(node.has(&Action::AwaitRestart(When::Now)));
}

#[test]
fn orders_come_and_go() {
    let mut node = Node::new();
    node.ordered(order("o1", "2.0", 2));
    node.take(Event::Ordered(None));
    assert_eq!(node.phase(), "Failing");
    node.take(Event::Settled);
    assert_eq!(node.last(), ("o1", Some(FailureKind::Withdrawn)));
    node.ordered(order("o2", "2.0", 2));
    node.ordered(order("o3", "3.0", 3));
    node.take(Event::Settled);
    assert_eq!((node.last().0, node.phase()), ("o2", "Checking"));
    assert_eq!(node.state.update.as_ref().unwrap().order.id, "o3");
    // While the boot state is being written nothing is called off; right after it is.
    node.checked(facts("3.0", 3));
    for event in [
        Event::Prepared,
        Event::Fetched,
        Event::Verified,
        Event::Placed,
    ] {
        node.take(event);
    }
    assert_eq!(node.take(Event::Ordered(None)), []);
    node.take(Event::Measured {
        baseline: BTreeSet::new(),
    });
    node.take(Event::Armed);
    assert_eq!(node.phase(), "Failing");
    assert!(
        !node
            .actions
            .iter()
            .any(|action| matches!(action, Action::AwaitRestart(_)))
    );
}

#[test]
fn what_was_called_off_may_still_answer() {
    let mut node = Node::new();
    node.ordered(order("o1", "2.0", 2));
    let before = node.state.clone();
    for event in [
        Event::Fetched,
        Event::MadeGood,
        Event::Healthy,
        Event::Settled,
        Event::RestartAllowed,
    ] {
        assert_eq!(node.take(event), []);
    }
    assert_eq!(node.state, before);
}

#[test]
fn downgrades_and_strangers_are_refused() {
    let kind = |node: &mut Node, facts: Facts| {
        node.checked(facts);
        node.take(Event::Settled);
        node.last().1
    };
    let mut node = Node::new();
    node.boots("boot-2", Slot::Good, "5.0", 5);
    node.ordered(order("o1", "2.0", 2));
    assert_eq!(node.last(), ("o1", Some(FailureKind::Downgrade)));
    // An order that lies about its sequence.
    node.ordered(ReleaseOrder {
        sequence: Sequence(9),
        ..order("o2", "2.0", 2)
    });
    assert_eq!(
        kind(&mut node, facts("2.0", 2)),
        Some(FailureKind::Downgrade)
    );
    node.ordered(ReleaseOrder {
        sequence: Sequence(9),
        ..order("o3", "2.0", 2)
    });
    node.checked(Facts {
        downgrade_allowed: true,
        ..facts("2.0", 2)
    });
    assert_eq!(node.phase(), "Planned");
    for (id, wrong) in [
        (
            "o4",
            Facts {
                digest: Digest::of(b"other"),
                ..facts("6.0", 6)
            },
        ),
        (
            "o5",
            Facts {
                version: version("7.0"),
                ..facts("6.0", 6)
            },
        ),
        (
            "o6",
            Facts {
                architecture: "aarch64".into(),
                ..facts("6.0", 6)
            },
        ),
        (
            "o7",
            Facts {
                compatible: vec!["other".into()],
                ..facts("6.0", 6)
            },
        ),
        (
            "o8",
            Facts {
                minimum_sequence: Sequence(6),
                ..facts("6.0", 6)
            },
        ),
    ] {
        node.ordered(order(id, "6.0", 6));
        node.take(Event::Settled);
        assert_eq!(kind(&mut node, wrong), Some(FailureKind::Refused), "{id}");
    }
    // Another release under the name of the one that runs.
    node.ordered(ReleaseOrder {
        digest: Digest::of(b"other"),
        ..order("o9", "5.0", 6)
    });
    assert_eq!(node.last().1, Some(FailureKind::Refused));
}

#[test]
fn the_last_that_boots_stays_even_if_it_is_not_healthy() {
    let mut node = Node::new();
    node.boots("boot-2", Slot::Other, "0.9", 0);
    assert_eq!(node.phase(), "OnTrial");
    assert!(node.has(&Action::Declare));
    assert_eq!(node.last(), (ADOPTED, Some(FailureKind::FellBack)));
    assert!(node.state.failed.get(&running("1.0", 1).digest).is_some());
    node.take(Event::Failed(Cause::lasting(
        FailureKind::Unhealthy,
        "web: inactive",
    )));
    node.take(Event::Settled);
    assert!(!node.has(&Action::Restart));
    assert!(node.state.failed.get(&running("0.9", 0).digest).is_none());
}

#[test]
fn an_agent_that_never_gets_further_gives_up() {
    let mut node = Node::new();
    node.ordered(order("o1", "2.0", 2));
    for _ in 0..MAX_RESUMES {
        node.boots("boot-1", Slot::Good, "1.0", 1);
        assert_eq!(node.phase(), "Checking");
    }
    node.boots("boot-1", Slot::Good, "1.0", 1);
    assert_eq!(node.phase(), "Failing");
}

#[test]
fn the_state_survives_being_written_and_read() {
    let mut node = Node::new();
    node.until_armed(order("o1", "2.0", 2));
    node.boots("boot-2", Slot::Good, "1.0", 1);
    let json = serde_json::to_vec(&node.state).unwrap();
    assert_eq!(serde_json::from_slice::<State>(&json).unwrap(), node.state);
}
