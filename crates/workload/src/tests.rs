use std::collections::BTreeSet;

use cairn_wire::workload::{Name, WorkloadState as State, Workloads};
use serde_json::{Value, json};

use crate::action::Action;
use crate::memory::Command;
use crate::seen::{self, Health, Run, Seen};
use crate::turn::Turn;
use crate::{Allowed, Memory, Missing, Trouble, World, step};

/// A node whose Docker does what a test says.
#[derive(Default)]
struct Node {
    declared: Option<Workloads>,
    allowed: Allowed,
    missing: Missing,
    seen: Vec<Seen>,
    images: BTreeSet<String>,
    memory: Memory,
    now_ms: u64,
}

fn workload(name: &str, command: &str) -> Value {
    json!({
        "name": name,
        "owner": { "customer": "acme", "business": "vod" },
        "image": format!("x.y/app@sha256:{}", "ab".repeat(32)),
        "command": [command],
        "update": { "healthy_seconds": 60 },
    })
}

fn list(items: Value) -> Option<Workloads> {
    Some(serde_json::from_value(items).unwrap())
}

impl Node {
    fn with_image() -> Self {
        let image = format!("x.y/app@sha256:{}", "ab".repeat(32));
        Self {
            images: [image].into(),
            ..Self::default()
        }
    }

    fn turn(&mut self) -> Turn {
        let world = World {
            node: "n",
            declared: self.declared.as_ref(),
            allowed: &self.allowed,
            missing: &self.missing,
            seen: &self.seen,
            images: &self.images,
            now_ms: self.now_ms,
        };
        let (memory, turn) = step(&world, &self.memory);
        self.memory = memory;
        turn
    }

    /// Does what is ordered until nothing is; gives the words for it.
    fn work(&mut self) -> Vec<String> {
        let mut done = Vec::new();
        for _ in 0..50 {
            let turn = self.turn();
            if turn.actions.is_empty() {
                return done;
            }
            for action in turn.actions {
                done.push(self.perform(&action));
                self.memory.note(&action, None, self.now_ms, 1.0);
            }
        }
        panic!("it doesn't come to rest: {done:?}");
    }

    fn find(&mut self, id: &str) -> &mut Seen {
        self.seen.iter_mut().find(|seen| seen.id == id).unwrap()
    }

    fn perform(&mut self, action: &Action) -> String {
        match action {
            Action::Pull { image, .. } => {
                self.images.insert(image.local());
                "pull".to_owned()
            }
            Action::Create(workload) => {
                let id = format!("c{}", self.now_ms + self.seen.len() as u64);
                self.now_ms += 1;
                self.seen.push(Seen {
                    id,
                    name: seen::current_name(&workload.name),
                    labels: seen::labels("n", workload),
                    image_id: "i".into(),
                    image: workload.image.reference(),
                    run: Run::Created,
                    restarts: 0,
                });
                format!("create {}", workload.name)
            }
            Action::Start { id, .. } => {
                let since = self.now_ms.to_string();
                let health = Health::Unchecked;
                self.find(id).run = Run::Running { health, since };
                format!("start {id}")
            }
            Action::Stop { id, .. } => {
                self.find(id).run = Run::Exited {
                    code: 0,
                    oom: false,
                };
                format!("stop {id}")
            }
            Action::SetAside { workload, id } => {
                self.find(id).name = seen::previous_name(workload);
                "set aside".to_owned()
            }
            Action::Restore { workload, id } => {
                self.find(id).name = seen::current_name(workload);
                "restore".to_owned()
            }
            Action::Remove { id, .. } => {
                self.seen.retain(|seen| seen.id != *id);
                format!("remove {id}")
            }
        }
    }

    fn state(&mut self, name: &str) -> (State, String) {
        let status = self.turn().status.remove(&name.parse::<Name>().unwrap());
        status.map(|status| (status.state, status.reason)).unwrap()
    }
}

#[test]
fn it_is_pulled_made_and_started_and_then_left_alone() {
    let mut node = Node {
        declared: list(json!([workload("web", "a")])),
        ..Node::default()
    };
    assert_eq!(node.work(), ["pull", "create web", "start c0"]);
    assert_eq!(node.state("web"), (State::Running, String::new()));
    // With nothing remembered it is adopted.
    node.memory = Memory::default();
    assert!(node.work().is_empty());
}

#[test]
fn an_update_keeps_the_old_one_until_the_new_one_has_settled() {
    let mut node = Node::with_image();
    node.declared = list(json!([workload("web", "a")]));
    node.work();
    node.declared = list(json!([workload("web", "b")]));
    let done = node.work();
    assert_eq!(done, ["stop c0", "set aside", "create web", "start c2"]);
    assert_eq!(node.state("web").0, State::OnTrial);
    let wake = node.turn().wake_ms.unwrap();
    assert!(wake <= node.now_ms + 10_000);
    node.now_ms = wake;
    assert_eq!(node.work(), ["remove c0"]);
    assert_eq!(node.state("web").0, State::Running);
}

#[test]
fn one_that_fails_gives_way_to_the_old_one_and_isnt_tried_again_at_once() {
    let mut node = Node::with_image();
    node.declared = list(json!([workload("web", "a")]));
    node.work();
    node.declared = list(json!([workload("web", "b")]));
    node.work();
    let failing = Run::Running {
        health: Health::Unhealthy,
        since: "x".into(),
    };
    node.find("c2").run = failing.clone();
    assert_eq!(node.work(), ["stop c2", "remove c2", "restore", "start c0"]);
    let (state, reason) = node.state("web");
    assert_eq!(
        (state, reason.as_str()),
        (State::RolledBack, "its health check fails")
    );
    assert!(node.work().is_empty());
    // After a while it is.
    node.now_ms = node.turn().wake_ms.unwrap();
    assert_eq!(node.work().len(), 4);
    // What is declared again needs no new one.
    let trial = node
        .seen
        .iter()
        .find(|seen| seen.name == "cairn-web")
        .unwrap()
        .id
        .clone();
    node.declared = list(json!([workload("web", "a")]));
    assert_eq!(
        node.work(),
        [
            format!("stop {trial}"),
            format!("remove {trial}"),
            "restore".into(),
            "start c0".into()
        ]
    );
}

#[test]
fn one_that_has_proved_itself_is_what_a_third_comes_back_to() {
    let mut node = Node::with_image();
    for command in ["a", "b"] {
        node.declared = list(json!([workload("web", command)]));
        node.work();
    }
    // It passes, and Docker doesn't remove the one before.
    node.now_ms += 10_000;
    let turn = node.turn();
    let stuck = Trouble::Refused("device or resource busy".into());
    node.memory
        .note(&turn.actions[0], Some(&stuck), node.now_ms, 1.0);
    node.declared = list(json!([workload("web", "c")]));
    assert_eq!(
        node.work(),
        [
            "remove c0",
            "stop c2",
            "set aside",
            "create web",
            "start c10003"
        ]
    );
}

#[test]
fn one_that_docker_refuses_three_times_gives_way_too() {
    let mut node = Node::with_image();
    node.declared = list(json!([workload("web", "a")]));
    node.work();
    node.declared = list(json!([workload("web", "b")]));
    let mut refused = 0;
    for _ in 0..40 {
        let turn = node.turn();
        for action in &turn.actions {
            if matches!(action, Action::Create(_)) {
                refused += 1;
                let trouble = Trouble::Refused("no such device".into());
                node.memory.note(action, Some(&trouble), node.now_ms, 1.0);
            } else {
                node.perform(action);
                node.memory.note(action, None, node.now_ms, 1.0);
            }
        }
        if turn.actions.is_empty() && node.state("web").0 != State::RolledBack {
            node.now_ms = turn.wake_ms.unwrap().max(node.now_ms);
        }
    }
    assert_eq!(refused, 3);
    assert_eq!(
        node.state("web"),
        (State::RolledBack, "no such device".to_owned())
    );
}

#[test]
fn what_isnt_declared_goes_in_order_and_nobody_elses_does() {
    let mut node = Node::with_image();
    let mut last = workload("db", "a");
    last["stop"] = json!({ "order": -1 });
    node.declared = list(json!([last, workload("web", "a")]));
    node.work();
    let mut foreign = node.seen[0].clone();
    foreign.id = "foreign".into();
    foreign.labels.insert(seen::NODE.into(), "somebody".into());
    let mut copy = node.seen[0].clone();
    (copy.id, copy.name) = ("copy".into(), "somebodys-copy".into());
    node.seen.extend([foreign.clone(), copy.clone()]);
    node.declared = list(json!([]));
    let stops: Vec<String> = node
        .work()
        .into_iter()
        .filter(|done| done.starts_with("stop"))
        .collect();
    assert_eq!(stops, ["stop c2", "stop c0"]);
    assert_eq!(node.seen, [foreign, copy]);
    assert_eq!(node.memory, Memory::default());
}

#[test]
fn without_a_word_all_goes_on() {
    let mut node = Node::with_image();
    node.declared = list(json!([workload("web", "a")]));
    node.work();
    for unclear in [None, list(json!([{ "nonsense": 1 }]))] {
        node.declared = unclear;
        assert!(node.work().is_empty());
        node.seen[0].run = Run::Exited { code: 1, oom: true };
        assert_eq!(node.state("web").1, "it ended with 1, out of memory");
        assert_eq!(node.work(), ["start c0"]);
    }
}

#[test]
fn one_of_which_docker_says_nothing_is_left_alone_and_the_others_go_on() {
    let mut node = Node::with_image();
    node.declared = list(json!([workload("web", "a"), workload("other", "a")]));
    node.work();
    let hung = node.seen.iter().find(|seen| seen.name == "cairn-web");
    let (hung, ran) = hung
        .map(|seen| (seen.id.clone(), seen.run.clone()))
        .unwrap();
    let memory = node.memory.clone();
    for declared in [json!([workload("web", "b")]), json!([])] {
        node.declared = list(declared);
        node.find(&hung).run = Run::Unclear;
        let done = node.work();
        assert!(!done.iter().any(|done| done.contains(&hung)), "{done:?}");
        let web: Name = "web".parse().unwrap();
        assert!(!node.turn().status.contains_key(&web));
        assert_eq!(node.memory.items[&web], memory.items[&web]);
        assert_eq!(node.seen.len(), 1);
    }
    // Docker says it again.
    node.find(&hung).run = ran;
    node.work();
    assert!(node.seen.is_empty());
}

#[test]
fn what_is_refused_leaves_the_one_before_running() {
    let mut node = Node::with_image();
    node.declared = list(json!([workload("web", "a"), workload("other", "a")]));
    node.work();
    let mut host = workload("web", "b");
    host["network"] = json!("host");
    node.declared = list(json!([host, workload("other", "a")]));
    assert!(node.work().is_empty());
    let (state, reason) = node.state("web");
    assert_eq!(
        (state, reason.as_str()),
        (
            State::Refused,
            "this node doesn't allow the host's network (workloads.host-network)"
        )
    );
    assert_eq!(node.state("other").0, State::Running);
    // What was allowed once and isn't any more goes.
    node.allowed.host_network = true;
    node.work();
    node.now_ms += 60_000;
    node.work();
    node.allowed.host_network = false;
    node.work();
    assert!(!node.seen.iter().any(|seen| seen.name == "cairn-web"));
}

#[test]
fn a_stop_lasts_and_a_redeployment_makes_another() {
    let mut node = Node::with_image();
    node.declared = list(json!([workload("web", "a")]));
    node.work();
    let name: Name = "web".parse().unwrap();
    node.memory.command(&name, Command::Stop, None);
    assert_eq!(node.work(), ["stop c0"]);
    node.memory.begin("another boot");
    assert!(node.work().is_empty());
    assert_eq!(node.state("web").0, State::Stopped);
    node.memory.command(&name, Command::Start, None);
    assert_eq!(node.work(), ["start c0"]);
    node.memory.command(&name, Command::Restart, Some("c0"));
    assert_eq!(node.work(), ["stop c0", "start c0"]);
    assert!(node.work().is_empty());
    assert_eq!(node.state("web").0, State::Running);
    node.memory.command(&name, Command::Redeploy, Some("c0"));
    assert_eq!(
        node.work(),
        ["stop c0", "set aside", "create web", "start c2"]
    );
    node.now_ms += 10_000;
    assert_eq!(node.work(), ["remove c0"]);
    assert!(node.work().is_empty());
}

#[test]
fn what_was_stopped_here_runs_again_whatever_its_rule() {
    for rule in ["on-failure", "never"] {
        let declared = |command| {
            let mut web = workload("web", command);
            web["restart"] = json!(rule);
            list(json!([web]))
        };
        let mut node = Node::with_image();
        node.declared = declared("a");
        node.work();
        node.declared = declared("b");
        node.work();
        node.find("c2").run = Run::Running {
            health: Health::Unhealthy,
            since: "x".into(),
        };
        assert_eq!(node.work(), ["stop c2", "remove c2", "restore", "start c0"]);
        let name: Name = "web".parse().unwrap();
        node.memory.command(&name, Command::Stop, None);
        assert_eq!(node.work(), ["stop c0"]);
        node.memory.command(&name, Command::Start, None);
        assert_eq!(node.work(), ["start c0"]);
        // What ended by itself doesn't.
        node.declared = declared("a");
        node.find("c0").run = Run::Exited {
            code: 0,
            oom: false,
        };
        for command in [Command::Stop, Command::Start] {
            node.memory.command(&name, command, None);
            assert!(node.work().is_empty());
        }
        assert_eq!(node.state("web").0, State::Finished);
    }
}

#[test]
fn what_needs_a_disk_that_is_missing_waits_for_it() {
    let mut web = workload("web", "a");
    web["volumes"] = json!([{ "host_path": "/srv/cache/web", "target": "/cache" }]);
    web["restart"] = json!("never");
    let mut named = workload("named", "a");
    named["volumes"] = json!([{ "volume": "v", "target": "/v" }]);
    let mut node = Node::with_image();
    node.declared = list(json!([web, named, workload("other", "a")]));
    node.allowed.host_paths = vec!["/srv".parse().unwrap()];
    node.missing.folders = ["/srv/cache".parse().unwrap()].into();
    node.missing.volumes = Some("/data/workloads".parse().unwrap());
    let made = node.work();
    assert!(!made.contains(&"create web".to_owned()) && made.contains(&"create named".to_owned()));
    let waits = (
        State::Stopped,
        "the disk at /srv/cache is missing".to_owned(),
    );
    assert_eq!(node.state("web"), waits);

    // It comes, goes, and comes back; what ran runs again, though its rule is never to be started again.
    node.missing.folders.clear();
    node.work();
    assert_eq!(node.state("web").0, State::Running);
    node.missing.folders = ["/srv/cache", "/data"]
        .map(|path| path.parse().unwrap())
        .into();
    node.work();
    assert_eq!(node.state("web"), waits);
    assert_eq!(node.state("named").1, "the disk at /data is missing");
    assert_eq!(node.state("other").0, State::Running);
    node.missing.folders.clear();
    node.work();
    for name in ["web", "named", "other"] {
        assert_eq!(node.state(name).0, State::Running, "{name}");
    }
}
