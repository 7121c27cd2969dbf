//! What a rollout does, case by case.

use crate::fleet::{Fleet, failed, report};
use cairn_rollout::{DeviceState, Event, Illegal, Plan, Seconds, Status};
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
fn waves_follow_each_other_after_outcomes_and_soak() {
    let mut fleet = Fleet::started(
        Plan {
            soak: Seconds(300),
            ..plan(&["1", "50%"])
        },
        10,
    );
    fleet.arrive(0..10);
    assert_eq!(fleet.devices.len(), 1, "the canary only");
    fleet.wait(10_000 / 4);
    fleet.arrive(0..10);
    assert_eq!(fleet.devices.len(), 1, "no outcome yet");
    fleet.good(0);
    fleet.wait(0);
    fleet.wait(299);
    fleet.arrive(0..10);
    assert_eq!(fleet.devices.len(), 1, "it soaks");
    fleet.wait(1);
    fleet.arrive(0..10);
    assert_eq!(fleet.devices.len(), 5, "wave 2 counts the canary");
    (1..5).for_each(|device| fleet.good(device));
    fleet.wait(0);
    fleet.wait(300);
    fleet.arrive(0..10);
    assert_eq!(fleet.devices.len(), 10);
    (5..10).for_each(|device| fleet.good(device));
    fleet.wait(0);
    assert_eq!(fleet.rollout.status, Status::Finished);
    assert_eq!(fleet.rollout.ended, Some(fleet.now));
}

#[test]
fn silence_ends_at_the_deadline_of_each_state() {
    let states = [
        UpdateState::Checking,
        UpdateState::Planned,
        UpdateState::Fetching,
        UpdateState::Verified,
        UpdateState::Placed,
        UpdateState::Armed,
        UpdateState::OnTrial,
    ];
    let mut fleet = Fleet::started(
        Plan {
            max_failures: Some(99),
            ..plan(&["100%"])
        },
        8,
    );
    fleet.arrive(0..8);
    for (device, state) in states.into_iter().enumerate() {
        fleet.report(device, 0, &report(state, "2"));
    }
    for device in 0..8 {
        let assignment = &fleet.devices[&device];
        assert_eq!(
            assignment.due,
            Some(
                fleet
                    .rollout
                    .plan
                    .deadlines
                    .of(assignment.state)
                    .unwrap()
                    .after(fleet.now)
            )
        );
    }
    fleet.wait(60 * 86_400);
    assert!(
        fleet
            .devices
            .values()
            .all(|a| a.state == DeviceState::Expired && a.due.is_none())
    );
    assert_eq!(
        fleet.rollout.status,
        Status::Finished,
        "not proceeding for ever"
    );
    assert_eq!(fleet.rollout.counts.failures(), 8);
    assert!(
        fleet.devices[&7]
            .reason
            .as_ref()
            .unwrap()
            .text
            .contains("no word from the device for 1h")
    );
    // It was alive after all; its own word counts, late as it is.
    fleet.good(3);
    assert_eq!(
        (fleet.state(3), fleet.rollout.counts.failures()),
        (Some(DeviceState::Good), 7)
    );
    // But nothing begins again in a rollout that has ended.
    fleet.report(4, 0, &report(UpdateState::Armed, "2"));
    assert_eq!(fleet.state(4), Some(DeviceState::Expired));
}

#[test]
fn it_halts_at_a_count_and_takes_back_what_has_not_armed() {
    let mut fleet = Fleet::started(plan(&["100%"]), 6);
    fleet.arrive(0..6);
    fleet.report(2, 0, &report(UpdateState::Fetching, "2"));
    fleet.report(3, 0, &report(UpdateState::Armed, "2"));
    fleet.report(0, 0, &failed(FailureKind::FellBack, false));
    assert_eq!(fleet.rollout.status, Status::Running);
    fleet.report(1, 0, &failed(FailureKind::FellBack, false));
    assert!(
        matches!(&fleet.rollout.status, Status::Halted { reason } if reason.contains("2 failed, the limit is 2"))
    );
    assert_eq!(fleet.state(2), Some(DeviceState::Held));
    assert_eq!(fleet.state(3), Some(DeviceState::Armed));
    assert!(!fleet.orders.contains_key(&2) && fleet.orders.contains_key(&3));
    // It confirms that it called off, and nothing more is admitted.
    fleet.report(2, 0, &failed(FailureKind::Withdrawn, false));
    assert_eq!(fleet.state(2), Some(DeviceState::Held));
    fleet.wait(86_400 * 30);
    fleet.arrive(0..10);
    assert_eq!(
        (fleet.state(2), fleet.devices.len()),
        (Some(DeviceState::Held), 6)
    );
    // An operator goes on: the old failures don't halt it again, held ones get a new order.
    fleet.take(None, Event::Resume).unwrap();
    fleet.wait(1);
    fleet.arrive(0..6);
    assert_eq!(fleet.rollout.status, Status::Running);
    assert_eq!(
        (fleet.state(2), fleet.orders[&2]),
        (Some(DeviceState::Offered), 2)
    );
    fleet.report(2, 0, &failed(FailureKind::FellBack, false));
    assert_eq!(fleet.rollout.status, Status::Running);
    fleet.report(4, 0, &failed(FailureKind::FellBack, false));
    assert!(
        matches!(fleet.rollout.status, Status::Halted { .. }),
        "two new ones are too many again"
    );
}

#[test]
fn it_halts_at_a_rate_only_after_enough_outcomes() {
    let rate = Plan {
        max_failures: None,
        max_failure_rate: Some("30%".parse().unwrap()),
        min_outcomes: 5,
        ..plan(&["100%"])
    };
    let mut fleet = Fleet::started(rate, 20);
    fleet.arrive(0..20);
    (0..2).for_each(|device| fleet.report(device, 0, &failed(FailureKind::Unhealthy, false)));
    (2..4).for_each(|device| fleet.good(device));
    assert_eq!(
        fleet.rollout.status,
        Status::Running,
        "2 of 4, but 4 are too few to tell"
    );
    fleet.good(4);
    assert!(
        matches!(&fleet.rollout.status, Status::Halted { reason } if reason.contains("2 of 5 failed"))
    );
}

#[test]
fn without_any_limit_the_first_failure_halts() {
    let mut fleet = Fleet::started(Plan::default(), 2);
    fleet.arrive(0..2);
    fleet.report(0, 0, &failed(FailureKind::Space, false));
    assert!(matches!(fleet.rollout.status, Status::Halted { .. }));
}

#[test]
fn a_pause_lets_go_on_who_has_begun() {
    let mut fleet = Fleet::started(
        Plan {
            retries: 1,
            retry_delay: Seconds(1),
            ..plan(&["100%"])
        },
        4,
    );
    fleet.arrive(0..2);
    fleet.take(None, Event::Pause).unwrap();
    fleet.arrive(2..4);
    assert_eq!(fleet.devices.len(), 2);
    assert_eq!(fleet.orders.len(), 2, "orders stay");
    fleet.good(0);
    fleet.report(1, 0, &failed(FailureKind::Fetch, true));
    fleet.wait(10);
    assert_eq!(
        fleet.state(1),
        Some(DeviceState::Retrying),
        "a retry waits for the end of the pause"
    );
    fleet.take(None, Event::Resume).unwrap();
    fleet.wait(120);
    fleet.arrive(2..4);
    assert_eq!(
        (fleet.state(1), fleet.devices.len()),
        (Some(DeviceState::Offered), 4)
    );
}

#[test]
fn after_an_abort_the_last_words_are_still_taken() {
    let mut fleet = Fleet::started(plan(&["100%"]), 6);
    fleet.arrive(0..5);
    fleet.report(0, 0, &report(UpdateState::Armed, "2"));
    fleet.report(1, 0, &report(UpdateState::OnTrial, "3"));
    fleet.take(None, Event::Abort).unwrap();
    fleet.arrive(0..6);
    assert_eq!(fleet.devices.len(), 5);
    assert_eq!(fleet.orders.keys().copied().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(fleet.state(2), Some(DeviceState::Withdrawn));
    // One armed before it heard; it says so, and then what became of it.
    fleet.report(2, 0, &report(UpdateState::Armed, "2"));
    assert_eq!(fleet.state(2), Some(DeviceState::Withdrawn));
    assert_eq!(fleet.remarks.len(), 1);
    fleet.good(2);
    fleet.report(3, 0, &failed(FailureKind::Withdrawn, false));
    fleet.report(4, 0, &failed(FailureKind::FellBack, false));
    assert_eq!(fleet.state(2), Some(DeviceState::Good));
    assert_eq!(fleet.state(3), Some(DeviceState::Withdrawn));
    assert_eq!(fleet.state(4), Some(DeviceState::Failed));
    fleet.good(1);
    // The armed one is silent, and isn't waited for for ever.
    fleet.wait(86_400 * 3);
    assert_eq!(fleet.state(0), Some(DeviceState::Expired));
    assert_eq!(
        (fleet.rollout.counts.open(), &fleet.rollout.status),
        (0, &Status::Aborted)
    );
    assert!(fleet.take(None, Event::Abort).is_err());
    assert!(fleet.take(None, Event::Resume).is_err());
}

#[test]
fn a_wave_does_not_wait_for_ever_for_devices_that_are_away() {
    let mut fleet = Fleet::started(
        Plan {
            fill: Seconds(86_400),
            ..plan(&["4", "100%"])
        },
        10,
    );
    fleet.arrive(0..2);
    (0..2).for_each(|device| fleet.good(device));
    fleet.wait(86_399);
    assert_eq!(fleet.rollout.wave, 0);
    fleet.wait(1);
    assert_eq!(
        fleet.rollout.wave, 1,
        "two of four were there, and are good"
    );
    fleet.wait(86_400);
    assert_eq!(fleet.rollout.status, Status::Finished);
    // But a canary that nobody was in proves nothing.
    let mut nobody = Fleet::started(
        Plan {
            fill: Seconds(60),
            ..plan(&["1", "100%"])
        },
        10,
    );
    nobody.wait(60);
    assert!(
        matches!(&nobody.rollout.status, Status::Halted { reason } if reason == "wave 1 has ended without one good device")
    );
    nobody.take(None, Event::Resume).unwrap();
    nobody.wait(60);
    assert_eq!(
        (&nobody.rollout.status, nobody.rollout.wave),
        (&Status::Running, 1),
        "an operator has seen it"
    );
}

#[test]
fn a_canary_that_fails_within_the_limit_leads_no_further() {
    let mut fleet = Fleet::started(
        Plan {
            max_failures: Some(5),
            ..plan(&["1", "100%"])
        },
        10,
    );
    fleet.arrive(0..1);
    fleet.report(0, 0, &failed(FailureKind::FellBack, false));
    assert_eq!(fleet.rollout.status, Status::Running);
    fleet.wait(1);
    assert!(matches!(fleet.rollout.status, Status::Halted { .. }));
}

#[test]
fn devices_are_admitted_in_the_window_only() {
    let windowed = Plan {
        windows: vec!["02:00-05:00".parse().unwrap()],
        not_before: Some(crate::fleet::START + 86_400),
        ..plan(&["100%"])
    };
    let mut fleet = Fleet::started(windowed, 3);
    let midnight = crate::fleet::START / 86_400 * 86_400;
    for (hour, devices) in [(2, 0), (23, 0), (24 + 1, 0), (24 + 5, 0), (48 + 3, 3)] {
        fleet.now = midnight + hour * 3_600;
        fleet.arrive(0..3);
        assert_eq!(fleet.devices.len(), devices, "hour {hour}");
    }
}

#[test]
fn what_is_not_possible_is_said() {
    let mut fleet = Fleet::new(plan(&["100%"]));
    assert_eq!(
        fleet.take(None, Event::Start { matched: 0 }),
        Err(Illegal::NoDevice)
    );
    let error = fleet.take(None, Event::Pause).unwrap_err().to_string();
    assert_eq!(error, "a rollout that is draft can't be paused");
    fleet.take(None, Event::Start { matched: 1 }).unwrap();
    assert!(fleet.take(None, Event::Start { matched: 1 }).is_err());
    assert!(fleet.take(None, Event::Resume).is_err());
}

#[test]
fn it_is_the_same_after_it_was_written_and_read() {
    let mut fleet = Fleet::started(
        Plan {
            soak: Seconds(90),
            max_failure_rate: Some("2.5%".parse().unwrap()),
            ..plan(&["1", "10%"])
        },
        50,
    );
    fleet.arrive(0..1);
    fleet.report(0, 0, &failed(FailureKind::Verify, false));
    let json = serde_json::to_string(&fleet.rollout).unwrap();
    assert_eq!(
        serde_json::from_str::<cairn_rollout::Rollout>(&json).unwrap(),
        fleet.rollout
    );
    let halted = Status::Halted {
        reason: "2 failed".into(),
    };
    let json = serde_json::to_string(&cairn_rollout::Rollout {
        status: halted,
        ..fleet.rollout.clone()
    })
    .unwrap();
    assert!(json.contains(r#""status":"halted""#), "{json}");
    assert!(serde_json::from_str::<cairn_rollout::Rollout>(&json).is_ok());
}
