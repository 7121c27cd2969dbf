//! The course of alarms, step by step and whatever happens in whatever order.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use cairn_alarm::{Effect, Event, Notice, Seconds, Status, Template, Track, Verdict, step};
use proptest::prelude::*;
use serde_json::{Value, json};

const S: i64 = 1000;

fn template(change: Value) -> Template {
    let mut template = json!({
        "name": "storage", "resource": "storage-use", "key": "disk.*.used_percent", "severity": "warning",
        "when": { "above": { "limit": 90, "clear": 85 } }, "for": "60s", "clear_for": "30s",
        "escalate": [{ "after": "10m", "severity": "critical" }, { "after": "20m", "channels": ["boss"] }],
    });
    for (key, value) in change.as_object().unwrap() {
        template[key] = value.clone();
    }
    let template: Template = serde_json::from_value(template).unwrap();
    template.check().unwrap();
    template
}

/// A track, and all that was ever said.
struct World {
    template: Template,
    track: Track,
    now: i64,
    silenced: Option<i64>,
    said: Vec<Effect>,
}

impl World {
    fn new(template: Template) -> Self {
        Self {
            template,
            track: Track::default(),
            now: 1_000_000 * S,
            silenced: None,
            said: Vec::new(),
        }
    }

    fn take(&mut self, event: Event) -> Vec<Effect> {
        let (track, effects) = step(&self.template, &self.track, event, self.now, self.silenced);
        // What is kept is text: as if the program ended after each step.
        let text = serde_json::to_string(&track).unwrap();
        self.track = serde_json::from_str(&text).unwrap();
        assert_eq!(self.track, track);
        self.said.extend(&effects);
        effects
    }

    fn sample(&mut self, value: f64) -> Vec<Effect> {
        let verdict = self.template.when.judge(&json!(value)).unwrap();
        self.take(Event::Sample {
            ts: self.now,
            verdict,
        })
    }

    /// Waits, and lets time do what it does.
    fn wait(&mut self, seconds: i64, heard: Option<i64>) -> Vec<Effect> {
        let end = self.now + seconds * S;
        let mut all = Vec::new();
        while let Some(due) = self.track.due().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            let before = (self.track.clone(), self.now);
            all.extend(self.take(Event::Tick { heard }));
            assert_ne!(before, (self.track.clone(), self.now - 1));
            assert!(
                self.track.due().is_none_or(|due| due > self.now),
                "{:?}",
                self.track
            );
        }
        self.now = end;
        all
    }

    fn notices(&self) -> Vec<(u64, Notice)> {
        self.said
            .iter()
            .filter_map(|effect| match effect {
                Effect::Notify { life, notice } => Some((*life, *notice)),
                _ => None,
            })
            .collect()
    }
}

fn fired(life: u64) -> Effect {
    Effect::Notify {
        life,
        notice: Notice::Fired,
    }
}

fn resolved(life: u64) -> Effect {
    Effect::Notify {
        life,
        notice: Notice::Resolved,
    }
}

#[test]
fn it_fires_after_its_time_and_resolves_after_its_time() {
    let mut world = World::new(template(json!({})));
    assert_eq!(world.sample(95.0), [Effect::Began]);
    assert_eq!(world.track.status(), Some(Status::Pending));
    assert_eq!(world.wait(59, None), []);
    assert_eq!(world.wait(1, None), [Effect::Fired, fired(1)]);
    assert_eq!(
        world.sample(88.0),
        [],
        "between the two limits nothing changes"
    );
    world.wait(60, None);
    assert_eq!(world.sample(84.0), []);
    assert_eq!(world.wait(29, None), []);
    world.sample(91.0);
    assert_eq!(world.wait(60, None), [], "it was not well for long enough");
    world.sample(84.0);
    assert_eq!(world.wait(30, None), [Effect::Resolved, resolved(1)]);
    assert_eq!(world.track.status(), None);
    world.wait(1, None);
    assert_eq!(world.sample(95.0), [Effect::Began]);
    assert_eq!(world.track.life(), 2);
}

#[test]
fn what_passes_soon_was_nothing() {
    let mut world = World::new(template(json!({})));
    world.sample(95.0);
    world.wait(30, None);
    assert_eq!(world.sample(88.0), [Effect::Lapsed]);
    assert_eq!(world.wait(600, None), []);
    assert_eq!(world.notices(), []);
}

#[test]
fn a_backlog_is_judged_by_its_own_time() {
    let mut world = World::new(template(json!({})));
    let start = world.now - 3600 * S;
    for n in 0..=6 {
        let effects = world.take(Event::Sample {
            ts: start + n * 10 * S,
            verdict: Verdict::Crosses,
        });
        match n {
            0 => assert_eq!(effects, [Effect::Began]),
            6 => assert_eq!(effects, [Effect::Fired, fired(1)]),
            _ => assert_eq!(effects, []),
        }
    }
}

#[test]
fn an_acknowledged_alarm_escalates_no_more() {
    let mut world = World::new(template(json!({ "for": "0s" })));
    world.sample(95.0);
    let escalated = |level| Effect::Notify {
        life: 1,
        notice: Notice::Escalated(level),
    };
    assert_eq!(world.wait(600, None), [Effect::Escalated(1), escalated(1)]);
    assert_eq!(
        world.template.severity_at(world.track.level()).as_str(),
        "critical"
    );
    assert_eq!(world.take(Event::Acknowledge), [Effect::Acknowledged]);
    assert_eq!(world.track.status(), Some(Status::Acknowledged));
    assert_eq!(world.take(Event::Acknowledge), []);
    assert_eq!(world.wait(86_400, None), []);
    world.sample(10.0);
    assert_eq!(world.wait(30, None), [Effect::Resolved, resolved(1)]);
}

#[test]
fn what_flaps_is_kept_firing_until_it_is_quiet() {
    let mut world = World::new(template(json!({
        "for": "0s", "clear_for": "0s", "escalate": [], "flapping": { "changes": 4, "within": "10m", "quiet": "5m" },
    })));
    for _ in 0..10 {
        world.sample(95.0);
        world.wait(10, None);
        world.sample(10.0);
        world.wait(10, None);
    }
    use Notice::{Fired, Resolved};
    assert_eq!(world.notices(), [(1, Fired), (1, Resolved), (2, Fired)]);
    assert!(world.track.flapping());
    assert_eq!(world.wait(280, None), []);
    assert_eq!(world.wait(20, None), [Effect::Resolved, resolved(2)]);
    world.sample(95.0);
    assert!(!world.track.flapping(), "it has begun anew");
}

#[test]
fn a_silence_hides_the_notice_and_not_the_life() {
    let mut world = World::new(template(
        json!({ "for": "0s", "clear_for": "0s", "escalate": [] }),
    ));
    world.silenced = Some(world.now + 100 * S);
    assert_eq!(world.sample(95.0), [Effect::Began, Effect::Fired]);
    world.wait(50, None);
    assert_eq!(world.sample(10.0), [Effect::Resolved], "nobody knew of it");
    world.wait(10, None);
    world.sample(95.0);
    assert_eq!(world.wait(39, None), []);
    world.silenced = None;
    assert_eq!(
        world.wait(1, None),
        [fired(2)],
        "it still fires at the silence's end"
    );
    world.silenced = Some(world.now + 100 * S);
    assert_eq!(world.sample(10.0), [Effect::Resolved]);
    world.silenced = None;
    assert_eq!(
        world.wait(100, None),
        [resolved(2)],
        "who was told that it fires is told that it is over"
    );
    assert_eq!(world.wait(1000, None), []);
}

#[test]
fn absence_is_a_condition() {
    let mut world = World::new(template(
        json!({ "when": "absent", "for": "60s", "clear_for": "0s", "escalate": [] }),
    ));
    let last = world.now;
    assert_eq!(world.take(Event::Heard(last)), []);
    assert_eq!(world.track.due(), Some(last + 60 * S));
    world.now += 30 * S;
    let newest = world.now;
    assert_eq!(world.take(Event::Heard(newest)), []);
    assert_eq!(world.wait(30, Some(newest)), [], "something came meanwhile");
    assert_eq!(
        world.wait(30, Some(newest)),
        [Effect::Began, Effect::Fired, fired(1)]
    );
    assert_eq!(
        world.take(Event::Heard(last)),
        [],
        "a late sample is no sign of life"
    );
    assert_eq!(
        world.take(Event::Heard(world.now)),
        [Effect::Resolved, resolved(1)]
    );
    assert_eq!(
        world.track.due(),
        Some(world.now + 60 * S),
        "it waits again"
    );
}

#[test]
fn what_is_withdrawn_is_over_and_nobody_is_told() {
    let mut world = World::new(template(json!({ "for": "0s" })));
    world.sample(95.0);
    assert_eq!(world.take(Event::Withdraw), [Effect::Withdrawn]);
    assert_eq!((world.track.status(), world.track.due()), (None, None));
    assert_eq!(world.take(Event::Withdraw), []);
}

#[derive(Debug, Clone)]
enum Happens {
    Sample(f64),
    /// A sample that came before, or is as old.
    Again(usize),
    Late(i64, f64),
    Wait(i64),
    Acknowledge,
    Silence(i64),
    Tick,
}

fn happens() -> impl Strategy<Value = Happens> {
    let value = || prop::sample::select(vec![80.0, 85.0, 88.0, 90.0, 91.0, 99.0]);
    prop_oneof![
        8 => value().prop_map(Happens::Sample),
        3 => (0..8_usize).prop_map(Happens::Again),
        2 => (1..7200_i64, value()).prop_map(|(back, value)| Happens::Late(back, value)),
        6 => prop::sample::select(vec![1, 15, 30, 60, 300, 900]).prop_map(Happens::Wait),
        1 => Just(Happens::Acknowledge),
        1 => (1..600_i64).prop_map(Happens::Silence),
        1 => Just(Happens::Tick),
    ]
}

fn templates() -> impl Strategy<Value = Template> {
    let seconds = || prop::sample::select(vec![0_u32, 15, 60]);
    (seconds(), seconds(), any::<bool>(), any::<bool>()).prop_map(
        |(hold, clear_for, flaps, escalates)| {
            let mut template = template(json!({}));
            template.hold = Seconds(hold);
            template.clear_for = Seconds(clear_for);
            if flaps {
                let rule = json!({ "changes": 4, "within": "5m", "quiet": "2m" });
                template.flapping = serde_json::from_value(rule).unwrap();
            }
            if !escalates {
                template.escalate.clear();
            }
            template
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn each_life_fires_once_and_is_over_once(template in templates(), all in prop::collection::vec(happens(), 1..60)) {
        let mut world = World::new(template);
        let mut sent: Vec<Event> = Vec::new();
        for happens in all {
            let at = world.said.len();
            match happens {
                Happens::Sample(value) => {
                    world.now += 1;
                    let verdict = world.template.when.judge(&json!(value)).unwrap();
                    let event = Event::Sample { ts: world.now, verdict };
                    sent.push(event);
                    world.take(event);
                    let before = world.track.clone();
                    prop_assert_eq!(world.take(event), [], "the same again");
                    prop_assert_eq!(&world.track, &before);
                }
                Happens::Again(back) => {
                    if let Some(event) = sent.iter().rev().nth(back).copied() {
                        let before = world.track.clone();
                        let effects = world.take(event);
                        // Time may have come round meanwhile; the sample itself says nothing.
                        if before.due().is_none_or(|due| due > world.now) && world.silenced.is_none() {
                            prop_assert_eq!(effects, []);
                            prop_assert_eq!(&world.track, &before);
                        }
                    }
                }
                Happens::Late(back, value) if !sent.is_empty() => {
                    let verdict = world.template.when.judge(&json!(value)).unwrap();
                    let newest = sent.iter().rev().find_map(|event| match event {
                        Event::Sample { ts, .. } => Some(*ts),
                        _ => None,
                    });
                    let (status, life) = (world.track.status(), world.track.life());
                    world.take(Event::Sample { ts: newest.unwrap() - back * S, verdict });
                    prop_assert_eq!((status, life), (world.track.status(), world.track.life()));
                }
                Happens::Late(..) => {}
                Happens::Wait(seconds) => {
                    world.wait(seconds, None);
                }
                Happens::Acknowledge => {
                    world.take(Event::Acknowledge);
                }
                Happens::Silence(seconds) => world.silenced = Some(world.now + seconds * S),
                Happens::Tick => {
                    world.take(Event::Tick { heard: None });
                    let before = world.track.clone();
                    prop_assert_eq!(world.take(Event::Tick { heard: None }), []);
                    prop_assert_eq!(&world.track, &before);
                }
            }
            if world.silenced.is_some_and(|until| until > world.now) {
                let told = world.said[at..].iter().any(|effect| matches!(effect, Effect::Notify { .. }));
                let waited = matches!(happens, Happens::Wait(_));
                prop_assert!(!told || waited, "somebody was told in a silence");
            }
        }
        // It is well in the end, and time passes: everything comes to its end.
        world.silenced = None;
        for _ in 0..20 {
            world.now += 1;
            let now = world.now;
            world.take(Event::Sample { ts: now, verdict: Verdict::Clears });
            world.wait(60, None);
        }
        world.take(Event::Tick { heard: None });
        prop_assert_eq!(world.track.status(), None);
        prop_assert_eq!(world.track.due(), None);

        let mut lives: BTreeMap<u64, Vec<Notice>> = BTreeMap::new();
        for (life, notice) in world.notices() {
            lives.entry(life).or_default().push(notice);
        }
        for (life, notices) in &lives {
            prop_assert!(*life >= 1 && *life <= world.track.life());
            prop_assert_eq!(notices.first(), Some(&Notice::Fired), "life {}", life);
            prop_assert_eq!(notices.last(), Some(&Notice::Resolved), "life {}", life);
            for (n, notice) in notices[1..notices.len() - 1].iter().enumerate() {
                prop_assert_eq!(*notice, Notice::Escalated(n + 1));
            }
        }
        let count = |wanted: Effect| world.said.iter().filter(|effect| **effect == wanted).count();
        prop_assert_eq!(count(Effect::Fired), count(Effect::Resolved));
        prop_assert_eq!(count(Effect::Began), count(Effect::Fired) + count(Effect::Lapsed));
        prop_assert_eq!(u64::try_from(count(Effect::Began)).unwrap(), world.track.life());
    }

    #[test]
    fn waiting_for_samples_ends_when_they_come(gaps in prop::collection::vec(1..200_i64, 1..40)) {
        let mut world = World::new(template(json!({ "when": "absent", "for": "60s", "clear_for": "0s", "escalate": [] })));
        let mut heard = world.now;
        world.take(Event::Heard(heard));
        let mut wanted = 0;
        for gap in gaps {
            world.wait(gap, Some(heard));
            wanted += usize::from(gap >= 60);
            heard = world.now;
            world.take(Event::Heard(heard));
            prop_assert_eq!(world.track.status(), None);
            prop_assert!(world.track.due().is_some());
        }
        use Notice::{Fired, Resolved};
        let expected: Vec<_> = (1..=wanted as u64).flat_map(|life| [(life, Fired), (life, Resolved)]).collect();
        prop_assert_eq!(world.notices(), expected);
    }
}
