//! Whole updates over the fake world.

mod cuts;
mod damage;
mod fetch;
mod near;
mod resume;
mod site;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cairn_boot_state::Tries;
use cairn_release::{Digest, DowngradeOrder, Timestamp};
use cairn_wire::report::FailureKind;
use cairn_wire::{ReleaseOrder, UpdateState, When};
use tokio::sync::{mpsc, watch};

use super::executor::{Ends, Executor};
use super::fake::{
    Behaviour, End, Fake, Fault, Net, Trouble, World, installed, order, release_key, root_key,
    trust_root, version,
};
use super::settings::{Check, ControlPlane, Settings};
use super::status::Status;
use crate::shutdown;

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.rules.reserve = 0;
    settings.health.soak = Duration::from_secs(6);
    settings.health.deadline = Duration::from_secs(60);
    settings.health.checks = vec![Check {
        name: "web".into(),
        command: vec!["true".into()],
        timeout: Duration::from_secs(1),
    }];
    settings
}

/// A node and whoever orders it about.
struct Node {
    fake: Fake,
    settings: Settings,
}

impl Node {
    fn new() -> Self {
        Self::with(World::new())
    }

    fn with(world: World) -> Self {
        Self {
            fake: Fake(Arc::new(Mutex::new(world))),
            settings: settings(),
        }
    }

    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.fake.world()
    }

    /// One life of the agent, until the order has come to its end and nothing is left to do. `None`: it lives on.
    fn life(&self, order: Option<&ReleaseOrder>, settled: impl Fn(&Status) -> bool) -> Option<End> {
        let (orders, orders_end) = watch::channel(None);
        let (forgiven_end, forgiven) = mpsc::channel(1);
        let (status, mut status_end) = watch::channel(Status::default());
        let (_trigger, shutdown) = shutdown::pair();
        let fake = self.fake.clone();
        let settings = self.settings.clone();
        let run = async {
            let executor = Executor::new(
                fake,
                settings,
                Ends {
                    orders: orders_end,
                    forgiven,
                    status,
                },
            );
            let work = executor.run(shutdown);
            let watch = async {
                // As it is on a node: the order comes when the agent has started.
                status_end
                    .wait_for(|status| status.managed.is_some())
                    .await
                    .unwrap();
                orders.send_replace(order.cloned());
                let mut patience = 200_000;
                while !settled(&status_end.borrow_and_update()) {
                    patience -= 1;
                    assert!(
                        patience > 0,
                        "nothing happens any more: {:?}\n{:?}",
                        status_end.borrow(),
                        self.world().log
                    );
                    tokio::task::yield_now().await;
                }
                // All effects are immediate, so this is time enough for what is left.
                for _ in 0..300 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                () = work => {}
                () = watch => {}
            }
            drop(forgiven_end);
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        match catch_unwind(AssertUnwindSafe(|| runtime.block_on(run))) {
            Ok(()) => None,
            Err(end) => match end.downcast::<End>() {
                Ok(end) => Some(*end),
                Err(other) => resume_unwind(other),
            },
        }
    }

    /// Lives until `order` is done.
    fn obeys(&self, order: &ReleaseOrder) -> Status {
        let last = Arc::new(Mutex::new(Status::default()));
        for _ in 0..60 {
            let seen = last.clone();
            let id = order.id.clone();
            let end = self.life(Some(order), move |status| {
                *seen.lock().unwrap() = status.clone();
                status.update.is_none() && status.last.as_ref().is_some_and(|last| last.order == id)
            });
            match end {
                None => return last.lock().unwrap().clone(),
                Some(End::Killed) => {}
                Some(End::PowerCut | End::Restart) => self.world().reboot(),
            }
            // A fault happens once.
            let mut world = self.world();
            if !matches!(world.fault, Some(Fault::FailsFromOn(..))) && end != Some(End::Restart) {
                world.fault = None;
            }
        }
        panic!("it never ends: {:?}", self.world().boot_state());
    }

    fn failure(&self, id: &str) -> Option<FailureKind> {
        let world = self.world();
        let last = world
            .reports
            .iter()
            .rev()
            .find(|report| report.order == id)
            .expect("a report");
        assert!(last.state.is_final(), "{last:?}");
        let failure = last.failure.as_ref();
        assert!(failure.is_none_or(|failure| !failure.reason.is_empty()));
        failure.map(|failure| failure.kind)
    }
}

#[test]
fn a_good_update() {
    let node = Node::new();
    let status = node.obeys(&order("o1", "2.0", 2));
    assert_eq!(node.failure("o1"), None);
    assert_eq!(status.good, Some(version("2.0")));
    let world = node.world();
    use UpdateState as S;
    let expected = [
        S::Checking,
        S::Planned,
        S::Fetching,
        S::Verified,
        S::Placed,
        S::Armed,
        S::OnTrial,
        S::Good,
    ];
    assert_eq!(world.states("o1"), expected);
    let boot = world.boot_state();
    assert_eq!(
        (boot.good, boot.good_tries, boot.trial),
        (Some(version("2.0")), Tries::Left(9), None)
    );
    assert_eq!(world.boot[0], world.boot[1]);
    assert!(world.declared && world.partial.is_empty());
    assert_eq!(installed(&world).len(), 2, "the release before is kept");
}

#[test]
fn releases_that_do_not_work_are_left_and_remembered_with_evidence() {
    for (behaviour, kind) in [
        (Behaviour::Panics, FailureKind::FellBack),
        (Behaviour::GivenUp, FailureKind::FellBack),
        (Behaviour::Unhealthy, FailureKind::Unhealthy),
        (Behaviour::NoNetwork, FailureKind::Unhealthy),
    ] {
        let node = Node::new();
        node.world().publish("3.0", 3, behaviour);
        node.obeys(&order("o1", "3.0", 3));
        assert_eq!(node.failure("o1"), Some(kind), "{behaviour:?}");
        {
            let world = node.world();
            let report = world
                .reports
                .iter()
                .find(|report| report.state == UpdateState::Failed)
                .unwrap();
            let evidence = report.failure.as_ref().unwrap().evidence.as_ref().unwrap();
            assert!(world.evidence.contains_key(evidence), "{behaviour:?}");
            if behaviour == Behaviour::GivenUp {
                assert!(
                    report
                        .failure
                        .as_ref()
                        .unwrap()
                        .reason
                        .contains("root.erofs cannot be used")
                );
            }
        }
        // The failing life asked for a restart, which the next life finds done.
        node.life(None, |status| status.managed.is_some());
        assert_eq!(node.world().running, version("1.0"), "{behaviour:?}");
        node.obeys(&order("o2", "3.0", 3));
        assert_eq!(node.failure("o2"), Some(FailureKind::FailedBefore));
        node.world()
            .behaviour
            .insert(version("3.0"), Behaviour::Works);
        node.obeys(&ReleaseOrder {
            forgive: true,
            ..order("o3", "3.0", 3)
        });
        assert_eq!(node.failure("o3"), None, "{behaviour:?}");
    }
}

#[test]
fn a_control_plane_that_is_gone_counts_as_the_profile_says() {
    for (counts, expected) in [
        (ControlPlane::Required, Some(FailureKind::Unhealthy)),
        (ControlPlane::Ignored, None),
    ] {
        let mut node = Node::new();
        node.settings.health.control_plane = counts;
        node.world().control_plane = false;
        node.obeys(&order("o1", "2.0", 2));
        assert_eq!(node.failure("o1"), expected);
    }
}

#[test]
fn a_full_disk_is_refused_before_a_byte_is_written() {
    let node = Node::new();
    node.world().free = 1000;
    node.obeys(&order("o1", "2.0", 2));
    assert_eq!(node.failure("o1"), Some(FailureKind::Space));
    {
        let world = node.world();
        assert!(
            world.partial.is_empty() && world.asked.iter().all(|(url, _)| !url.ends_with("erofs"))
        );
        assert!(
            !world
                .log
                .iter()
                .any(|line| line.contains("reserve") || line.contains("remove"))
        );
    }
    node.world().free = 1 << 30;
    node.obeys(&order("o2", "2.0", 2));
    assert_eq!(node.failure("o2"), None);
}

#[test]
fn known_bad_releases_make_room() {
    let node = Node::new();
    node.world().publish("3.0", 3, Behaviour::Panics);
    node.world().publish("4.0", 4, Behaviour::Works);
    node.obeys(&order("o1", "3.0", 3));
    // Both are there, and the next doesn't fit beside them.
    node.world()
        .installed
        .entry(version("3.0"))
        .or_insert_with(|| super::fake::release("3.0", 3, &release_key()).1);
    node.world().free = (1 << 20) + 20_000;
    node.obeys(&order("o2", "4.0", 4));
    assert_eq!(node.failure("o2"), None);
    assert!(!installed(&node.world()).contains("3.0"));
}

#[test]
fn a_downgrade_needs_a_signed_order() {
    let node = Node::new();
    node.world().publish("3.0", 3, Behaviour::Works);
    node.obeys(&order("o1", "3.0", 3));
    node.obeys(&order("o2", "2.0", 2));
    assert_eq!(node.failure("o2"), Some(FailureKind::Downgrade));
    let signed = |key: &cairn_release::SecretKey, release: &Digest, not_after| {
        let allowed = DowngradeOrder {
            format: cairn_release::order::FORMAT,
            release: *release,
            devices: vec!["node-1".into()],
            not_after: Timestamp::from_unix(not_after).unwrap(),
        };
        let mut envelope = allowed.to_envelope();
        envelope.sign(key);
        Some(envelope)
    };
    let digest = order("x", "2.0", 2).digest;
    let later = 1_900_000_000;
    for (id, downgrade, expected) in [
        (
            "root-key",
            signed(&root_key(), &digest, later),
            Some(FailureKind::Downgrade),
        ),
        (
            "other-release",
            signed(&release_key(), &Digest::of(b"other"), later),
            Some(FailureKind::Downgrade),
        ),
        (
            "over",
            signed(&release_key(), &digest, 1_700_000_000),
            Some(FailureKind::Downgrade),
        ),
        ("right", signed(&release_key(), &digest, later), None),
    ] {
        node.obeys(&ReleaseOrder {
            downgrade,
            ..order(id, "2.0", 2)
        });
        assert_eq!(node.failure(id), expected, "{id}");
    }
    assert_eq!(node.world().running, version("2.0"));
}

#[test]
fn a_new_trust_root_is_taken_over_and_a_foreign_one_is_not() {
    let new_key = cairn_release::SecretKey::from_seed(&[9; 32]);
    let node = Node::new();
    {
        let mut world = node.world();
        for (part, bytes) in super::fake::release("5.0", 5, &new_key).1 {
            world
                .store
                .insert(format!("/releases/stable/5.0/{}", part.name()), bytes);
        }
    }
    let wanted = |id: &str| order(id, "5.0", 5);
    node.obeys(&wanted("o1"));
    assert_eq!(node.failure("o1"), Some(FailureKind::Refused));
    let mut foreign = cairn_release::Envelope::parse(
        &trust_root(2, &new_key),
        cairn_release::trust::PAYLOAD_TYPE,
    )
    .unwrap();
    foreign.signatures.clear();
    foreign.sign(&new_key);
    node.world().store.insert(
        "/releases/stable/trust/2.dsse.json".into(),
        foreign.to_json(),
    );
    node.obeys(&wanted("o2"));
    assert_eq!(
        (node.failure("o2"), node.world().trust.len()),
        (Some(FailureKind::Refused), 1)
    );
    node.world().store.insert(
        "/releases/stable/trust/2.dsse.json".into(),
        trust_root(2, &new_key),
    );
    node.obeys(&wanted("o3"));
    assert_eq!((node.failure("o3"), node.world().trust.len()), (None, 2));
}

#[test]
fn the_node_waits_for_its_window_and_needs_a_clock_for_that() {
    for (wall, expected) in [(Some(1_800_000_000), true), (None, false)] {
        let mut node = Node::new();
        node.settings.windows = vec!["02:00-03:00".parse().unwrap()];
        node.world().wall = wall;
        let wanted = ReleaseOrder {
            when: When::Window,
            ..order("o1", "2.0", 2)
        };
        // Two days of waiting.
        let uptime = node.world().uptime_ms;
        let fake = node.fake.clone();
        let end = node.life(Some(&wanted), move |_| {
            fake.world().uptime_ms > uptime + 2 * 86_400_000
        });
        assert_eq!(end == Some(End::Restart), expected);
        let world = node.world();
        let minute = (1_800_000_000 + i64::try_from(world.uptime_ms / 1000).unwrap()) % 86_400 / 60;
        assert!(
            !expected || (120..180).contains(&minute),
            "restarted at minute {minute}"
        );
    }
}

#[test]
fn a_state_that_cannot_be_read_stops_nothing() {
    let node = Node::new();
    node.world().state = Some(b"{\"format\": 1".to_vec());
    node.obeys(&order("o1", "2.0", 2));
    assert_eq!(node.failure("o1"), None);
    // Even if it is lost in the middle of a trial.
    node.world().publish("3.0", 3, Behaviour::Works);
    let end = node.life(Some(&order("o2", "3.0", 3)), |_| false);
    assert_eq!(end, Some(End::Restart));
    node.world().state = None;
    node.world().reboot();
    node.obeys(&order("o2", "3.0", 3));
    assert_eq!(node.world().boot_state().good, Some(version("3.0")));
}
