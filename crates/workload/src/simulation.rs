//! A Docker Engine that fails, crashes and answers late, and a node that is killed at any place: whatever happens, it comes to what
//! is declared, and never does what it must not.

mod container;

use std::collections::{BTreeMap, BTreeSet};

use cairn_wire::workload::{Name, Restart, Workloads};
use proptest::prelude::*;
use serde_json::json;

use container::{Container, GOOD, foreign};

use crate::action::Action;
use crate::seen::{self, Health, Run, Seen};
use crate::{Allowed, Memory, Missing, Trouble, World, step};

/// What a container does once it is started, by its command.
const COMMANDS: [&str; 6] = [
    "good-a",
    "good-b",
    "checked",
    "sick",
    "crashes",
    "unstartable",
];

/// Each workload has one of them.
const RULES: [Restart; 3] = [Restart::Always, Restart::OnFailure, Restart::Never];

#[derive(Debug, Clone)]
enum Happening {
    /// The agent does a turn; each of its actions ends so.
    Turn(Vec<End>),
    /// The agent is killed after its turn's memory was stored, or before; each action got done or not.
    Killed { stored: bool, done: Vec<bool> },
    /// Another command is declared for a workload, or it isn't any more.
    Declare(usize, Option<usize>),
    /// Time passes, in ms.
    Wait(u64),
    /// Docker ends, and starts again.
    DockerRestarts,
    /// A container's process ends.
    Ends(usize),
    /// The node starts again.
    Reboot,
    /// Somebody removes all images that nobody uses.
    Prune,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Done,
    /// It was done, and the answer got lost.
    Unheard,
    Refused,
    Unreachable,
}

struct Sim {
    /// Which rule the first workload has.
    shift: usize,
    declared: BTreeMap<usize, usize>,
    containers: Vec<Container>,
    images: BTreeSet<String>,
    memory: Memory,
    now_ms: u64,
    boots: u32,
    made: u32,
}

fn name(index: usize) -> Name {
    format!("w{index}").parse().unwrap()
}

impl Sim {
    fn new(shift: usize) -> Self {
        Self {
            shift,
            declared: BTreeMap::new(),
            containers: foreign(),
            images: BTreeSet::new(),
            memory: Memory::default(),
            now_ms: 0,
            boots: 0,
            made: 0,
        }
    }

    fn workloads(&self) -> Workloads {
        let items: Vec<_> = self
            .declared
            .iter()
            .map(|(index, command)| {
                json!({
                    "name": name(*index),
                    "owner": { "customer": "acme", "business": "vod" },
                    "image": format!("x.y/app@sha256:{}", format!("{command:x}").repeat(64)),
                    "command": [COMMANDS[*command]],
                    "restart": RULES[(index + self.shift) % RULES.len()],
                    "update": { "healthy_seconds": 30 },
                })
            })
            .collect();
        serde_json::from_value(json!(items)).unwrap()
    }

    fn plan(&self) -> (Memory, Vec<Action>, Option<u64>) {
        let declared = self.workloads();
        let seen: Vec<Seen> = self.containers.iter().map(|c| c.seen.clone()).collect();
        let world = World {
            node: "n",
            declared: Some(&declared),
            allowed: &Allowed::default(),
            missing: &Missing::default(),
            seen: &seen,
            images: &self.images,
            now_ms: self.now_ms,
        };
        let (memory, turn) = step(&world, &self.memory);
        let (again, same) = step(&world, &memory);
        // Asked twice it says the same.
        assert_eq!(same.actions, turn.actions);
        assert_eq!(again, memory);
        (memory, turn.actions, turn.wake_ms)
    }

    fn perform(&mut self, action: &Action) -> Result<(), Trouble> {
        let refused = |why: &str| Err(Trouble::Refused(why.to_owned()));
        let id = match action {
            Action::Pull { image, .. } => {
                self.images.insert(image.local());
                return Ok(());
            }
            Action::Create(workload) => {
                let called = seen::current_name(&workload.name);
                if self.containers.iter().any(|c| c.seen.name == called) {
                    return refused("the name is in use");
                }
                if !self.images.contains(&workload.image.local()) {
                    return refused("no such image");
                }
                self.made += 1;
                let seen = Seen {
                    id: format!("c{}", self.made),
                    name: called,
                    labels: seen::labels("n", workload),
                    image_id: workload.image.local(),
                    image: workload.image.reference(),
                    run: Run::Created,
                    restarts: 0,
                };
                self.containers.push(Container {
                    seen,
                    command: workload.command.as_ref().unwrap()[0].to_string(),
                    rule: workload.restart,
                    ended: false,
                });
                return Ok(());
            }
            Action::Start { id, .. }
            | Action::Stop { id, .. }
            | Action::SetAside { id, .. }
            | Action::Restore { id, .. }
            | Action::Remove { id, .. } => id.clone(),
        };
        assert!(
            !id.starts_with('f'),
            "somebody else's container: {action:?}"
        );
        let Some(at) = self.containers.iter().position(|c| c.seen.id == id) else {
            return refused("no such container");
        };
        let now = self.now_ms;
        let taken = |called: &str, all: &[Container]| {
            all.iter().any(|c| c.seen.name == called && c.seen.id != id)
        };
        match action {
            Action::Start { restart, .. } => {
                let container = &mut self.containers[at];
                container.rule = *restart;
                if container.command == "unstartable" {
                    return refused("no such file");
                }
                container.start(now);
            }
            Action::Stop { .. } => {
                let container = &mut self.containers[at];
                container.rule = Restart::Never;
                // Some take the signal for what it is, some die of it.
                let code = if container.command == "good-b" {
                    143
                } else {
                    0
                };
                container.seen.run = Run::Exited { code, oom: false };
            }
            Action::Remove { .. } => {
                if self.containers[at].seen.run.is_active() {
                    return refused("it runs");
                }
                self.containers.remove(at);
            }
            Action::SetAside { workload, .. } => {
                let called = seen::previous_name(workload);
                if taken(&called, &self.containers) {
                    return refused("the name is in use");
                }
                self.containers[at].rule = Restart::Never;
                self.containers[at].seen.name = called;
            }
            Action::Restore { workload, .. } => {
                let called = seen::current_name(workload);
                if taken(&called, &self.containers) {
                    return refused("the name is in use");
                }
                self.containers[at].seen.name = called;
            }
            Action::Pull { .. } | Action::Create(_) => {}
        }
        Ok(())
    }

    fn happen(&mut self, happening: &Happening) {
        match happening {
            Happening::Turn(ends) => self.turn(ends),
            Happening::Killed { stored, done } => {
                let (memory, actions, _) = self.plan();
                if *stored {
                    self.memory = memory;
                    for (at, action) in actions.iter().enumerate() {
                        if done.get(at).copied().unwrap_or(false) {
                            let _ = self.perform(action);
                        }
                    }
                }
            }
            Happening::Declare(index, command) => {
                match command {
                    Some(command) => self.declared.insert(*index, *command),
                    None => self.declared.remove(index),
                };
            }
            Happening::Wait(ms) => self.pass(*ms),
            Happening::DockerRestarts => {
                let now = self.now_ms;
                let ours = self.containers.iter_mut().filter(|c| c.is_ours());
                ours.for_each(|container| container.docker_restarts(now));
            }
            Happening::Ends(at) => {
                let now = self.now_ms;
                let mut ours = self.containers.iter_mut().filter(|c| c.is_ours());
                if let Some(container) = ours.nth(*at) {
                    container.end(now + 1);
                }
            }
            Happening::Reboot => {
                self.boots += 1;
                self.now_ms = 0;
                self.memory.begin(&self.boots.to_string());
                self.happen(&Happening::DockerRestarts);
            }
            Happening::Prune => {
                let used: BTreeSet<&String> =
                    self.containers.iter().map(|c| &c.seen.image_id).collect();
                self.images.retain(|image| used.contains(image));
            }
        }
        self.check();
    }

    fn turn(&mut self, ends: &[End]) {
        let (memory, actions, _) = self.plan();
        self.memory = memory;
        let mut workloads = BTreeSet::new();
        for (at, action) in actions.iter().enumerate() {
            assert!(
                workloads.insert(action.workload().clone()),
                "two at once: {actions:?}"
            );
            let result = match ends.get(at).copied().unwrap_or(End::Done) {
                End::Done => self.perform(action),
                End::Unheard => {
                    let _ = self.perform(action);
                    Err(Trouble::Unreachable("time-out".into()))
                }
                End::Refused => Err(Trouble::Refused("no".into())),
                End::Unreachable => Err(Trouble::Unreachable("no answer".into())),
            };
            self.memory
                .note(action, result.as_ref().err(), self.now_ms, 0.5);
            self.check();
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        let now = self.now_ms;
        for container in &mut self.containers {
            let Run::Running { health, .. } = &mut container.seen.run else {
                continue;
            };
            match container.command.as_str() {
                "checked" => *health = Health::Healthy,
                "sick" => *health = Health::Unhealthy,
                "crashes" => {
                    container.end(now);
                    if container.seen.run.is_active() {
                        container.seen.restarts += 1;
                        container.seen.run = Run::Restarting;
                    }
                }
                _ => {}
            }
        }
    }

    /// What holds at any time.
    fn check(&self) {
        let mut running = BTreeMap::new();
        for Container { seen, .. } in &self.containers {
            if let Some(workload) = seen.workload("n")
                && seen.run.is_active()
            {
                *running.entry(workload).or_insert(0) += 1;
            }
        }
        assert!(
            running.values().all(|count| *count < 2),
            "two run: {:?}",
            self.containers
        );
        let theirs = self.containers.iter().filter(|c| !c.is_ours());
        assert_eq!(theirs.count(), 4);
    }

    /// Nothing fails any more: it comes to rest.
    fn settle(&mut self) {
        let begun = self.now_ms;
        for _ in 0..400 {
            let (memory, actions, wake) = self.plan();
            if !actions.is_empty() {
                self.turn(&[]);
                continue;
            }
            self.memory = memory;
            match wake {
                // A spec that failed is tried again only after minutes: that is rest.
                Some(wake) if wake < self.now_ms + 120_000 && self.now_ms < begun + 600_000 => {
                    let ms = (wake - self.now_ms.min(wake)).max(1);
                    self.pass(ms);
                }
                _ => return,
            }
        }
        panic!("no rest: {:?}\n{:?}", self.containers, self.memory);
    }

    /// What runs, or has run to its end by itself.
    fn runs(&self, index: usize) -> Option<&str> {
        let called = seen::current_name(&name(index));
        let found = self
            .containers
            .iter()
            .find(|c| c.seen.name == called && (c.seen.run.is_active() || c.ended));
        found.map(|c| c.command.as_str())
    }
}

fn ends() -> impl Strategy<Value = Vec<End>> {
    let end = prop_oneof![
        4 => Just(End::Done),
        1 => Just(End::Unheard),
        1 => Just(End::Refused),
        1 => Just(End::Unreachable),
    ];
    prop::collection::vec(end, 0..4)
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        10 => ends().prop_map(Happening::Turn),
        3 => (any::<bool>(), prop::collection::vec(any::<bool>(), 0..4))
            .prop_map(|(stored, done)| Happening::Killed { stored, done }),
        4 => (0..3usize, prop::option::weighted(0.8, 0..COMMANDS.len()))
            .prop_map(|(index, command)| Happening::Declare(index, command)),
        4 => prop_oneof![0u64..3_000, 0u64..40_000, 0u64..2_000_000].prop_map(Happening::Wait),
        1 => Just(Happening::DockerRestarts),
        1 => (0..4usize).prop_map(Happening::Ends),
        1 => Just(Happening::Reboot),
        1 => Just(Happening::Prune),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_happens_it_comes_to_what_is_declared(
        shift in 0..RULES.len(),
        happenings in prop::collection::vec(happening(), 0..60),
    ) {
        let mut sim = Sim::new(shift);
        for happening in &happenings {
            sim.happen(happening);
        }
        // Long enough that nothing is remembered as failed just now.
        sim.pass(100_000_000);
        sim.settle();
        for index in 0..3 {
            match sim.declared.get(&index).map(|command| COMMANDS[*command]) {
                None => prop_assert!(!sim.containers.iter().any(|c| c.seen.workload("n") == Some(name(index)))),
                Some(command) if GOOD.contains(&command) => {
                    prop_assert_eq!(sim.runs(index), Some(command));
                    let all = sim.containers.iter().filter(|c| c.seen.workload("n") == Some(name(index)));
                    prop_assert_eq!(all.count(), 1, "{:?}", sim.containers);
                }
                Some(_) => {}
            }
        }
    }

    #[test]
    fn a_bad_one_never_costs_the_good_one(
        shift in 0..RULES.len(),
        good in 0..3usize,
        bad in 3..COMMANDS.len(),
        happenings in prop::collection::vec(happening(), 0..40),
    ) {
        let mut sim = Sim::new(shift);
        sim.declared.insert(0, good);
        sim.settle();
        sim.declared.insert(0, bad);
        for happening in happenings.iter().filter(|h| !matches!(h, Happening::Declare(..))) {
            sim.happen(happening);
        }
        sim.settle();
        prop_assert_eq!(sim.runs(0), Some(COMMANDS[good]), "{:?}\n{:?}", sim.containers, sim.memory);
    }
}
