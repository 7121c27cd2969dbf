//! Cut at every side effect, and with every side effect failing.

use super::*;

/// The side effects of an undisturbed update.
fn log(behaviour: Behaviour) -> Vec<String> {
    let node = Node::new();
    node.world().publish("3.0", 3, behaviour);
    node.obeys(&order("o1", "3.0", 3));
    node.world().log.clone()
}

/// How many they are.
fn effects(behaviour: Behaviour) -> u64 {
    log(behaviour).len() as u64
}

fn disturbed(behaviour: Behaviour, fault: Fault) -> Node {
    let node = Node::new();
    node.world().publish("3.0", 3, behaviour);
    node.world().fault = Some(fault);
    node.obeys(&order("o1", "3.0", 3));
    node.world().assert_bootable();
    node
}

#[test]
fn cut_at_every_side_effect_a_good_release_becomes_good() {
    let count = effects(Behaviour::Works);
    assert!(count > 40);
    for at in 1..=count {
        for fault in [
            Fault::Before(at, End::Killed),
            Fault::After(at, End::Killed),
            Fault::Before(at, End::PowerCut),
            Fault::After(at, End::PowerCut),
            Fault::Torn(at),
        ] {
            let node = disturbed(Behaviour::Works, fault);
            assert_eq!(
                node.failure("o1"),
                None,
                "{fault:?}: {:?}",
                node.world().log
            );
            let boot = node.world().boot_state();
            assert_eq!(
                (boot.good, boot.trial),
                (Some(version("3.0")), None),
                "{fault:?}"
            );
        }
    }
}

#[test]
fn cut_at_every_side_effect_a_bad_release_is_left() {
    for behaviour in [Behaviour::Panics, Behaviour::Unhealthy, Behaviour::GivenUp] {
        let count = effects(behaviour);
        for at in 1..=count {
            for fault in [
                Fault::Before(at, End::Killed),
                Fault::After(at, End::PowerCut),
                Fault::Torn(at),
            ] {
                let node = disturbed(behaviour, fault);
                let kind = node
                    .failure("o1")
                    .unwrap_or_else(|| panic!("{behaviour:?} became good: {fault:?}"));
                assert!(
                    matches!(kind, FailureKind::FellBack | FailureKind::Unhealthy),
                    "{kind:?} {fault:?}"
                );
                node.life(None, |status| status.managed.is_some());
                node.world().reboot();
                assert_eq!(
                    node.world().running,
                    version("1.0"),
                    "{behaviour:?} {fault:?}"
                );
            }
        }
    }
}

#[test]
fn with_every_side_effect_failing_it_ends_with_a_reason_and_recovers() {
    let network = [
        Net::TimeOut,
        Net::NotFound,
        Net::Truncated,
        Net::WrongRange,
        Net::RangeIgnored,
        Net::Endless,
        Net::BeyondEnd,
        Net::ServerError,
    ];
    let network = network.map(Trouble::Net).to_vec();
    let disk = vec![Trouble::Full, Trouble::Broken, Trouble::Short];
    let (mut good, mut failed) = (0, 0);
    for (at, effect) in (1..).zip(log(Behaviour::Works)) {
        let on_network = effect.contains(" get ") || effect.ends_with(" chunk");
        for trouble in if on_network { &network } else { &disk } {
            for fault in [Fault::Fails(at, *trouble), Fault::FailsFromOn(at, *trouble)] {
                let node = Node::new();
                node.world().publish("3.0", 3, Behaviour::Works);
                node.world().fault = Some(fault);
                let ended = node.obeys(&order("o1", "3.0", 3));
                node.world().assert_bootable();
                match ended.last.unwrap().failure {
                    None => good += 1,
                    Some(failure) => {
                        assert!(!failure.reason.is_empty(), "{fault:?}");
                        failed += 1;
                    }
                }
                // Whatever it was: when it is over, the node can be updated.
                node.world().fault = None;
                node.obeys(&ReleaseOrder {
                    forgive: true,
                    ..order("o2", "3.0", 3)
                });
                let world = node.world();
                assert_eq!(
                    world.boot_state().good,
                    Some(version("3.0")),
                    "{fault:?}: {:?}",
                    world.log
                );
            }
        }
    }
    assert!(good > 0 && failed > 0);
}
