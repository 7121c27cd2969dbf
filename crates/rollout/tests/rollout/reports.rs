//! What reports do: from the wrong release, twice, late, in any order.

use crate::fleet::{Fleet, failed, report};
use cairn_rollout::{DeviceEvent, DeviceState, Plan, Seconds};
use cairn_wire::UpdateState;
use cairn_wire::report::FailureKind;

fn plan(waves: &[&str]) -> Plan {
    Plan {
        waves: waves.iter().map(|wave| wave.parse().unwrap()).collect(),
        max_failures: Some(2),
        ..Plan::default()
    }
}

#[test]
fn good_counts_only_from_the_release_itself() {
    let mut fleet = Fleet::started(plan(&["100%"]), 3);
    fleet.arrive(0..3);
    // The old image says good after a fallback.
    fleet.report(0, 0, &report(UpdateState::Good, "2"));
    assert_eq!(fleet.state(0), Some(DeviceState::Failed));
    assert_eq!(fleet.devices[&0].reason.as_ref().unwrap().code, "fell-back");
    // Good about something else, and good of something that isn't said.
    let mut other = report(UpdateState::Good, "3");
    other.digest = cairn_release::Digest::of(b"another 3");
    fleet.report(1, 0, &other);
    fleet.report(
        1,
        0,
        &cairn_wire::UpdateReport {
            running: None,
            ..report(UpdateState::Good, "3")
        },
    );
    assert_eq!(fleet.state(1), Some(DeviceState::Offered));
    assert_eq!(fleet.remarks.len(), 2);
    // An order that was never given.
    fleet.event(
        1,
        DeviceEvent::report(
            &crate::fleet::target(),
            &report(UpdateState::Good, "3"),
            2,
            true,
        ),
    );
    fleet.event(
        1,
        DeviceEvent::report(
            &crate::fleet::target(),
            &report(UpdateState::Good, "3"),
            0,
            true,
        ),
    );
    assert_eq!(fleet.state(1), Some(DeviceState::Offered));
    fleet.good(1);
    assert_eq!(fleet.state(1), Some(DeviceState::Good));
}

#[test]
fn reports_in_any_order_only_lead_forward() {
    let mut fleet = Fleet::started(plan(&["100%"]), 2);
    fleet.arrive(0..2);
    fleet.report(0, 0, &report(UpdateState::Armed, "2"));
    let since = fleet.devices[&0].since;
    fleet.now += 5;
    for late in [
        UpdateState::Checking,
        UpdateState::Fetching,
        UpdateState::Armed,
    ] {
        fleet.report(0, 0, &report(late, "2"));
    }
    assert_eq!(
        (fleet.state(0), fleet.devices[&0].since),
        (Some(DeviceState::Armed), since)
    );
    fleet.good(0);
    let after = fleet.clone();
    fleet.good(0);
    fleet.report(0, 0, &report(UpdateState::OnTrial, "3"));
    assert_eq!(
        (&after.rollout, &after.devices),
        (&fleet.rollout, &fleet.devices)
    );
    fleet.report(0, 0, &failed(FailureKind::Unhealthy, false));
    assert_eq!(fleet.state(0), Some(DeviceState::Good));
    assert!(
        fleet.remarks[0].1.contains("after good"),
        "{:?}",
        fleet.remarks
    );
}

#[test]
fn only_a_failure_that_may_pass_is_tried_again_and_not_for_ever() {
    let mut fleet = Fleet::started(
        Plan {
            retries: 2,
            retry_delay: Seconds(60),
            ..plan(&["100%"])
        },
        2,
    );
    fleet.arrive(0..2);
    for attempt in 1..=2 {
        fleet.report(0, 0, &failed(FailureKind::Fetch, true));
        assert_eq!(fleet.state(0), Some(DeviceState::Retrying));
        // The same report again isn't another failure.
        fleet.report(0, 0, &failed(FailureKind::Fetch, true));
        fleet.wait(59);
        assert_eq!(fleet.state(0), Some(DeviceState::Retrying));
        fleet.wait(1);
        assert_eq!(fleet.state(0), Some(DeviceState::Offered));
        assert_eq!(fleet.orders[&0], attempt + 1);
        // Nor is it one of the new order.
        fleet.report(0, 1, &failed(FailureKind::Fetch, true));
        assert_eq!(fleet.state(0), Some(DeviceState::Offered));
    }
    fleet.report(0, 0, &failed(FailureKind::Fetch, true));
    assert_eq!(fleet.state(0), Some(DeviceState::Failed));
    fleet.report(1, 0, &failed(FailureKind::Unhealthy, false));
    assert_eq!(fleet.state(1), Some(DeviceState::Failed));
}

#[test]
fn who_comes_back_late_goes_on_while_the_rollout_runs_and_owns_it() {
    let mut fleet = Fleet::started(
        Plan {
            max_failures: Some(99),
            ..plan(&["100%"])
        },
        3,
    );
    fleet.arrive(0..2);
    fleet.wait(3_600);
    assert_eq!(fleet.state(0), Some(DeviceState::Expired));
    let fetching = report(UpdateState::Fetching, "2");
    fleet.event(
        1,
        DeviceEvent::report(&crate::fleet::target(), &fetching, 1, false),
    );
    assert_eq!(
        fleet.state(1),
        Some(DeviceState::Expired),
        "a newer rollout has it"
    );
    fleet.report(0, 0, &fetching);
    assert_eq!(fleet.state(0), Some(DeviceState::Fetching));
    assert_eq!(fleet.rollout.counts.failures(), 1);
    assert!(fleet.devices[&0].due.is_some());
}
