//! The picture in docs/state-machine.md is what the code does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;

use cairn_boot_state::Slot;
use cairn_release::{Digest, Sequence, Version};
use cairn_update::memory::Entry;
use cairn_update::state::{Checked, Ending, Facts, Image, Running};
use cairn_update::survey::Survey;
use cairn_update::{Boot, BootView, Cause, Event, Phase, Rules, State, Update, drawing, step};
use cairn_wire::report::FailureKind;
use cairn_wire::{ReleaseOrder, When};

fn version(text: &str) -> Version {
    text.parse().unwrap()
}

fn running(name: &str, sequence: u64) -> Running {
    Running {
        version: version(name),
        sequence: Sequence(sequence),
        digest: Digest::of(name.as_bytes()),
        architecture: "x86_64".into(),
        compatible: vec!["generic-x86_64".into()],
    }
}

fn facts() -> Facts {
    let new = running("2.0", 2);
    let image = Image {
        size: 4096,
        sha256: Digest::of(b"image"),
    };
    Facts {
        version: new.version,
        digest: new.digest,
        sequence: new.sequence,
        minimum_sequence: Sequence(0),
        architecture: new.architecture,
        compatible: new.compatible,
        created: 2,
        manifest_size: 100,
        kernel: image.clone(),
        root: image,
        downgrade_allowed: false,
    }
}

fn order(id: &str) -> ReleaseOrder {
    let new = running("2.0", 2);
    ReleaseOrder {
        id: id.into(),
        version: new.version,
        sequence: new.sequence,
        digest: new.digest,
        url: "/2.0/".into(),
        when: When::Now,
        forgive: false,
        downgrade: None,
    }
}

fn phases() -> Vec<Option<Phase>> {
    let ending = Ending {
        cause: Cause::passing(FailureKind::Fetch, "404"),
        condemn: false,
        restart: false,
        evidence: None,
    };
    vec![
        None,
        Some(Phase::Checking),
        Some(Phase::Planned { remove: vec![] }),
        Some(Phase::Fetching),
        Some(Phase::Verifying),
        Some(Phase::Verified),
        Some(Phase::Placed),
        Some(Phase::Armed),
        Some(Phase::OnTrial),
        Some(Phase::Proven),
        Some(Phase::Failing(ending)),
    ]
}

fn state(phase: Option<Phase>) -> State {
    let update = phase.map(|phase| Update {
        order: order("o1"),
        phase,
        facts: Some(facts()),
        from: version("1.0"),
        baseline: Some(BTreeSet::new()),
        resumes: 0,
        refetched: false,
    });
    State {
        running: Some(running("1.0", 1)),
        good: Some(running("1.0", 1)),
        boot_id: Some("boot-1".into()),
        wanted: update.as_ref().map(|update| update.order.clone()),
        update,
        ..State::default()
    }
}

fn started(boot_id: &str, slot: Slot, runs: Running, trial: Option<u8>, failed: bool) -> Event {
    Event::Started(Box::new(Boot {
        boot_id: boot_id.into(),
        slot,
        running: runs,
        view: Some(BootView {
            good: Some(version("1.0")),
            trial: trial.map(|tries| (version("2.0"), tries)),
            failed: if failed { vec![version("2.0")] } else { vec![] },
        }),
        trace: None,
    }))
}

fn events() -> Vec<Event> {
    let mut events = vec![
        Event::Ordered(None),
        Event::Ordered(Some(Box::new(order("o1")))),
        Event::Ordered(Some(Box::new(order("o2")))),
        Event::Forgiven(Digest::of(b"2.0")),
        Event::Checked(Box::new(Checked {
            facts: facts(),
            survey: Survey {
                free: 1 << 30,
                ..Survey::default()
            },
        })),
        Event::Checked(Box::new(Checked {
            facts: facts(),
            survey: Survey::default(),
        })),
        Event::Prepared,
        Event::Fetched,
        Event::Verified,
        Event::Damaged("root.erofs".into()),
        Event::Placed,
        Event::Measured {
            baseline: BTreeSet::new(),
        },
        Event::Armed,
        Event::RestartAllowed,
        Event::Healthy,
        Event::MadeGood,
        Event::Settled,
        Event::Reported,
        Event::Failed(Cause::passing(FailureKind::Storage, "EIO")),
        Event::Failed(Cause::lasting(FailureKind::Unhealthy, "web")),
    ];
    for boot_id in ["boot-1", "boot-2"] {
        for (slot, runs) in [
            (Slot::Good, running("1.0", 1)),
            (Slot::Trial, running("2.0", 2)),
            (Slot::Good, running("2.0", 2)),
            (Slot::Other, running("0.9", 0)),
        ] {
            for trial in [None, Some(0), Some(2), Some(3)] {
                for failed in [false, true] {
                    events.push(started(boot_id, slot, runs.clone(), trial, failed));
                }
            }
        }
    }
    events
}

/// The same with another order waiting, and with a release that failed before.
fn variants(state: State) -> [State; 3] {
    let mut waiting = state.clone();
    waiting.wanted = Some(ReleaseOrder {
        version: version("3.0"),
        digest: Digest::of(b"3.0"),
        ..order("o3")
    });
    let mut failed = state.clone();
    failed.failed.remember(Entry {
        digest: Digest::of(b"2.0"),
        version: version("2.0"),
        kind: FailureKind::Unhealthy,
        reason: "web".into(),
        evidence: None,
    });
    [state, waiting, failed]
}

fn name(state: &State) -> &'static str {
    state
        .update
        .as_ref()
        .map_or("Idle", |update| update.phase.name())
}

#[test]
fn every_transition_is_drawn_and_every_drawn_one_exists() {
    let mut found = BTreeSet::new();
    for phase in phases() {
        for restarts in [0, 100] {
            for event in events() {
                for before in variants(State {
                    restarts,
                    ..state(phase.clone())
                }) {
                    let (after, _) = step(&before, &Rules::default(), event.clone());
                    let id =
                        |state: &State| state.update.as_ref().map(|update| update.order.id.clone());
                    if id(&before).is_some() && id(&after).is_some() && id(&before) != id(&after) {
                        // One ended and the next began in the same step.
                        found.insert((name(&before), "Idle"));
                        found.insert(("Idle", name(&after)));
                    } else if name(&before) != name(&after) {
                        found.insert((name(&before), name(&after)));
                    }
                }
            }
        }
    }
    let drawn: BTreeSet<_> = drawing::EDGES
        .iter()
        .map(|(from, to, _)| (*from, *to))
        .collect();
    let missing: Vec<_> = found.difference(&drawn).collect();
    let invented: Vec<_> = drawn.difference(&found).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "not drawn: {missing:?}; not in the code: {invented:?}"
    );
}

#[test]
fn the_document_has_this_picture() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/state-machine.md");
    let text = std::fs::read_to_string(path).unwrap();
    let picture = format!("```mermaid\n{}```\n", drawing::mermaid());
    assert!(
        text.contains(&picture),
        "docs/state-machine.md has another picture than:\n{picture}"
    );
}
