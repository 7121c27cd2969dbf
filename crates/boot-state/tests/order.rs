//! The order in which releases are tried, and how the state changes.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are tests, which clippy can't see"
)]

use cairn_boot_state::block::{MAX_FAILED, MAX_GENERATION, NAMES};
use cairn_boot_state::transition::Reason;
use cairn_boot_state::{BootState, Event, Slot, Tries, candidates, step};
use cairn_release::Version;

fn v(text: &str) -> Version {
    text.parse().unwrap()
}

/// A state in words: `good:tries trial:tries failed…`; `_` is none.
fn state(good: &str, trial: &str, failed: &[&str]) -> BootState {
    let split = |text: &str| {
        let (version, tries) = text.split_once(':').unwrap();
        (version.parse().ok(), tries.to_owned())
    };
    let ((good, good_tries), (trial, trial_tries)) = (split(good), split(trial));
    BootState {
        generation: 5,
        good,
        good_tries: match good_tries.as_str() {
            "-" => Tries::Unlimited,
            n => Tries::Left(n.parse().unwrap()),
        },
        trial,
        trial_tries: trial_tries.parse().unwrap(),
        failed: failed.iter().map(|text| v(text)).collect(),
    }
}

#[test]
fn releases_are_tried_in_the_order_of_grub() {
    let installed = ["3", "2", "1", "0.partial"].map(v);
    let table: [(&str, &str, &[&str], &str); 13] = [
        ("1:-", "2:3", &[], "trial 2, good 1, other 3"),
        ("1:2", "2:1", &["3"], "trial 2, good 1"),
        ("1:-", "2:0", &[], "good 1, other 3"),
        ("1:-", "2:3", &["2"], "good 1, other 3"),
        ("1:-", "_:0", &[], "good 1, other 3, other 2"),
        ("1:0", "_:0", &[], "other 3, other 2, good 1"),
        ("1:-", "_:0", &["1"], "other 3, other 2, good 1"),
        ("1:-", "_:0", &["3", "1", "2"], "good 1"),
        ("_:0", "_:0", &[], "other 3, other 2, other 1"),
        ("_:0", "_:0", &["2"], "other 3, other 1"),
        ("_:0", "_:0", &["3", "2", "1"], ""),
        ("9:-", "8:3", &[], "other 3, other 2, other 1"),
        ("2:-", "2:1", &[], "trial 2, good 2, other 3, other 1"),
    ];
    for (good, trial, failed, expected) in table {
        let list: Vec<_> = candidates(&state(good, trial, failed), &installed)
            .iter()
            .map(|candidate| format!("{} {}", candidate.slot, candidate.version))
            .collect();
        assert_eq!(list.join(", "), expected, "{good} {trial} {failed:?}");
    }
}

#[test]
fn slots_are_read_as_they_are_written() {
    for slot in [Slot::Trial, Slot::Good, Slot::Other] {
        assert_eq!(slot.as_str().parse(), Ok(slot));
    }
    assert!("Good".parse::<Slot>().is_err());
}

#[test]
fn an_event_changes_what_boots_next() {
    let chosen = |version: &str, tries| Event::TrialChosen {
        version: v(version),
        tries,
    };
    let good = |version: &str, tries| Event::GoodChosen {
        version: v(version),
        tries,
    };
    let failed = |version: &str| Event::BootFailed {
        version: v(version),
    };
    let forgiven = |version: &str| Event::FailureForgiven {
        version: v(version),
    };
    let table: [(BootState, Event, Result<BootState, Reason>); 19] = [
        (
            BootState::default(),
            good("1", Tries::Unlimited),
            Ok(state("1:-", "_:0", &[])),
        ),
        (
            state("1:-", "_:0", &[]),
            chosen("2", 3),
            Ok(state("1:-", "2:3", &[])),
        ),
        (
            state("1:-", "2:1", &[]),
            chosen("3", 9),
            Ok(state("1:-", "3:9", &[])),
        ),
        (
            state("1:-", "_:0", &[]),
            chosen("1", 3),
            Err(Reason::GoodAlready),
        ),
        (
            state("1:-", "_:0", &["2"]),
            chosen("2", 3),
            Err(Reason::FailedBefore),
        ),
        (
            state("1:-", "_:0", &[]),
            chosen("2", 0),
            Err(Reason::Tries(0)),
        ),
        (
            state("1:-", "_:0", &[]),
            chosen("2", 10),
            Err(Reason::Tries(10)),
        ),
        (
            state("1:-", "2:2", &["0"]),
            Event::TrialWithdrawn,
            Ok(state("1:-", "_:0", &["0"])),
        ),
        (
            state("1:-", "_:0", &[]),
            Event::TrialWithdrawn,
            Err(Reason::NoTrial),
        ),
        (
            state("1:1", "2:0", &[]),
            good("2", Tries::Left(3)),
            Ok(state("2:3", "_:0", &[])),
        ),
        (
            state("1:1", "2:3", &[]),
            good("1", Tries::Left(3)),
            Ok(state("1:3", "2:3", &[])),
        ),
        (
            state("1:1", "_:0", &["2"]),
            good("2", Tries::Left(3)),
            Err(Reason::FailedBefore),
        ),
        (
            state("1:1", "_:0", &[]),
            good("1", Tries::Left(0)),
            Err(Reason::Tries(0)),
        ),
        (
            state("1:1", "2:2", &["0"]),
            failed("2"),
            Ok(state("1:1", "_:0", &["2", "0"])),
        ),
        (
            state("1:1", "2:2", &["0"]),
            failed("1"),
            Ok(state("1:1", "2:2", &["1", "0"])),
        ),
        (
            state("1:1", "_:0", &["0", "1"]),
            failed("1"),
            Ok(state("1:1", "_:0", &["1", "0"])),
        ),
        (
            state("1:1", "_:0", &[]),
            failed("7"),
            Ok(state("1:1", "_:0", &["7"])),
        ),
        (
            state("1:1", "_:0", &["3", "2"]),
            forgiven("2"),
            Ok(state("1:1", "_:0", &["3"])),
        ),
        (
            state("1:1", "_:0", &[]),
            forgiven("2"),
            Err(Reason::NotFailed),
        ),
    ];
    for (before, event, expected) in table {
        let expected = expected.map(|after| BootState {
            generation: before.generation + 1,
            ..after
        });
        let after = step(&before, event).map_err(|illegal| {
            assert_eq!(illegal.state, before);
            illegal.reason
        });
        assert_eq!(after, expected);
        if let Ok(after) = after {
            assert_eq!(BootState::parse(&after.to_block()), Ok(after));
        }
    }
}

#[test]
fn only_the_newest_failures_are_remembered() {
    let mut now = BootState::default();
    for n in 0..9 {
        let version = v(&n.to_string());
        now = step(&now, Event::BootFailed { version }).unwrap();
    }
    assert_eq!(now.failed, ["8", "7", "6", "5"].map(v));
    assert_eq!(now.failed.len(), MAX_FAILED);
}

#[test]
fn the_generation_stops_at_its_end() {
    let last = BootState {
        generation: MAX_GENERATION,
        ..state("1:-", "2:3", &[])
    };
    let after = step(&last, Event::TrialWithdrawn).unwrap();
    assert_eq!(after.generation, MAX_GENERATION);
    assert_eq!(after.trial, None);
}

#[test]
fn an_illegal_event_says_why_once() {
    let illegal = step(&BootState::default(), Event::TrialWithdrawn).unwrap_err();
    let source = std::error::Error::source(&illegal).unwrap().to_string();
    assert_eq!(source, "there is no trial");
    assert!(!illegal.to_string().contains(&source));
}

/// GRUB's script states the same limits a second time.
#[test]
fn grub_reads_the_same_block() {
    let script = include_str!("../../../bootloader-entries/grub.cfg");
    let names = NAMES.join(" ");
    for expected in [
        format!("boot-$1.env\" {names}; then"),
        "regexp '^[0-9]{1,9}$' \"$cairn_gen\"".to_owned(),
        "regexp '^[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}$' \"$1\"".to_owned(),
        "regexp '^(-|x{0,9})$' \"$cairn_good_tries\"".to_owned(),
        "regexp '^x{0,9}$' \"$cairn_trial_tries\"".to_owned(),
        format!("{{0,{}}}$' \"$cairn_failed\"", MAX_FAILED * 65 - 1),
    ] {
        assert!(script.contains(&expected), "{expected}");
    }
}
