//! Whatever happens in whatever order.

use crate::fleet::{Fleet, failed, report};
use cairn_rollout::{DeviceEvent, DeviceState, Event, Plan, Rate, Seconds, Share, Status, admit};
use cairn_wire::UpdateState;
use cairn_wire::report::FailureKind;
use proptest::prelude::*;

const DEVICES: usize = 12;

#[derive(Debug, Clone)]
enum Happens {
    Arrive(usize),
    Superseded(usize),
    Report(usize, u32, UpdateState),
    Good(usize, u32),
    OldGood(usize, u32),
    Fail(usize, u32, bool, bool),
    Wait(i64),
    Pause,
    Resume,
    Abort,
}

fn happens() -> impl Strategy<Value = Happens> {
    use UpdateState::{Armed, Checking, Fetching, OnTrial, Placed, Planned, Verified};
    let device = || 0..DEVICES;
    let state = prop::sample::select(vec![
        Checking, Planned, Fetching, Verified, Placed, Armed, OnTrial,
    ]);
    prop_oneof![
        6 => device().prop_map(Happens::Arrive),
        1 => device().prop_map(Happens::Superseded),
        8 => (device(), 0..3_u32, state).prop_map(|(d, back, state)| Happens::Report(d, back, state)),
        4 => (device(), 0..3_u32).prop_map(|(d, back)| Happens::Good(d, back)),
        1 => (device(), 0..3_u32).prop_map(|(d, back)| Happens::OldGood(d, back)),
        2 => (device(), 0..3_u32, any::<bool>(), any::<bool>()).prop_map(|(d, b, retry, off)| Happens::Fail(d, b, retry, off)),
        4 => prop_oneof![Just(1), Just(60), Just(3_600), Just(86_400), Just(8 * 86_400)].prop_map(Happens::Wait),
        1 => Just(Happens::Pause),
        2 => Just(Happens::Resume),
        1 => Just(Happens::Abort),
    ]
}

fn plans() -> impl Strategy<Value = Plan> {
    let waves = prop::collection::vec(1..=10_000_u32, 1..4).prop_map(|mut shares| {
        shares.sort_unstable();
        shares.into_iter().map(Share::Percent).collect()
    });
    (
        waves,
        0..600_u32,
        prop::option::of(1..4_u64),
        prop::option::of(1..10_000_u32),
        1..6_u64,
        0..3_u32,
    )
        .prop_map(
            |(waves, soak, max_failures, rate, min_outcomes, retries)| Plan {
                waves,
                soak: Seconds(soak),
                max_failures,
                max_failure_rate: rate.map(Rate),
                min_outcomes,
                retries,
                ..Plan::default()
            },
        )
}

/// Does one thing; whether the release itself said that it is good.
fn happen(fleet: &mut Fleet, what: &Happens) -> Option<usize> {
    match *what {
        Happens::Arrive(device) => fleet.arrive(device..device + 1),
        Happens::Superseded(device) => {
            if !fleet.devices.contains_key(&device) {
                fleet.take(Some(device), Event::Supersede).unwrap();
            } else {
                fleet.event(device, DeviceEvent::TakenOver);
            }
        }
        Happens::Report(device, back, state) => fleet.report(device, back, &report(state, "2")),
        Happens::Good(device, back) => {
            let order = fleet.devices.get(&device).is_some_and(|a| a.attempt > back);
            fleet.report(device, back, &report(UpdateState::Good, "3"));
            return order.then_some(device);
        }
        Happens::OldGood(device, back) => {
            fleet.report(device, back, &report(UpdateState::Good, "2"))
        }
        Happens::Fail(device, back, retry, off) => {
            let kind = if off {
                FailureKind::Withdrawn
            } else {
                FailureKind::Fetch
            };
            fleet.report(device, back, &failed(kind, retry));
        }
        Happens::Wait(seconds) => fleet.wait(seconds),
        Happens::Pause => drop(fleet.take(None, Event::Pause)),
        Happens::Resume => drop(fleet.take(None, Event::Resume)),
        Happens::Abort => drop(fleet.take(None, Event::Abort)),
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_hold(plan in plans(), matched in 1..=DEVICES as u64, events in prop::collection::vec(happens(), 1..120)) {
        let mut fleet = Fleet::started(plan, matched);
        let mut proven = std::collections::BTreeSet::new();
        for what in &events {
            let before = fleet.clone();
            proven.extend(happen(&mut fleet, what));
            let rollout = &fleet.rollout;

            // The numbers are those of the devices.
            prop_assert_eq!(&fleet.counted(), &rollout.counts);
            // Slots are never over the wave's target, nor that over the matching ones.
            prop_assert!(rollout.counts.admitted() <= rollout.target());
            prop_assert!(rollout.target() <= rollout.matched);
            prop_assert!(rollout.wave >= before.rollout.wave);
            // The next wave comes when all have an outcome, and after the soak.
            if rollout.wave > before.rollout.wave {
                prop_assert_eq!(rollout.wave, before.rollout.wave + 1);
                prop_assert_eq!(rollout.counts.open(), 0);
                let soak = rollout.plan.soak;
                prop_assert!(soak == Seconds(0) || before.rollout.settled_since.is_some_and(|since| soak.passed(since, fleet.now)));
            }
            // A rollout that doesn't run gives no orders.
            if !matches!(before.rollout.status, Status::Running) && !matches!(what, Happens::Resume) {
                prop_assert_eq!(fleet.given, before.given);
                prop_assert_eq!(admit(&before.rollout, fleet.now), 0);
            }
            for (device, assignment) in &fleet.devices {
                // Good is the release's own word and nothing else, and is never lost.
                prop_assert!(assignment.state != DeviceState::Good || proven.contains(device));
                if before.state(*device) == Some(DeviceState::Good) {
                    prop_assert_eq!(assignment.state, DeviceState::Good);
                }
                // What is open ends by itself, unless an operator has to say something first.
                if assignment.state.is_open() && assignment.due.is_none() {
                    prop_assert!(assignment.state == DeviceState::Held && matches!(rollout.status, Status::Halted { .. }), "{assignment:?}");
                }
                prop_assert!(assignment.state.is_open() || assignment.due.is_none());
                prop_assert!(assignment.retries <= rollout.plan.retries);
                // Who is held, was called off or has failed has no order.
                let none = [DeviceState::Held, DeviceState::Withdrawn, DeviceState::Superseded, DeviceState::Failed];
                if none.contains(&assignment.state) {
                    prop_assert!(!fleet.orders.contains_key(device), "{device} {assignment:?}");
                }
                // Who has an order has the last one.
                if let Some(order) = fleet.orders.get(device) {
                    prop_assert_eq!(*order, assignment.attempt);
                }
            }
            // Too many failures, and it doesn't run.
            let failures = rollout.counts.failures().saturating_sub(rollout.forgiven_failures);
            let outcomes = rollout.counts.outcomes().saturating_sub(rollout.forgiven_outcomes);
            if rollout.plan.too_many(failures, outcomes).is_some() {
                prop_assert!(!matches!(rollout.status, Status::Running | Status::Paused));
            }
            // The same report twice is as good as once.
            if matches!(what, Happens::Report(..) | Happens::Good(..) | Happens::OldGood(..)) {
                let mut again = fleet.clone();
                happen(&mut again, what);
                prop_assert_eq!(&again.rollout, &fleet.rollout);
                prop_assert_eq!(&again.devices, &fleet.devices);
            }
            if matches!(before.rollout.status, Status::Finished | Status::Aborted) {
                prop_assert_eq!(&before.rollout.status, &rollout.status);
            }
        }
    }

    /// With silent devices, and nobody who does anything but to resume, every rollout ends.
    #[test]
    fn every_rollout_ends(plan in plans(), matched in 1..=DEVICES as u64, events in prop::collection::vec(happens(), 0..60), present in 0..DEVICES) {
        let mut fleet = Fleet::started(plan, matched);
        for what in &events {
            happen(&mut fleet, what);
        }
        for _ in 0..200 {
            if matches!(fleet.rollout.status, Status::Finished | Status::Aborted) && fleet.rollout.counts.open() == 0 {
                return Ok(());
            }
            drop(fleet.take(None, Event::Resume));
            fleet.arrive(0..present + 1);
            fleet.wait(8 * 86_400);
        }
        prop_assert!(false, "{:?}", fleet.rollout);
    }
}
