use serde_json::{Value, json};

use super::declared::MAX;
use super::*;
use crate::Desired;

fn minimal(name: &str) -> Value {
    json!({
        "name": name,
        "owner": { "customer": "acme", "business": "vod" },
        "image": format!("127.0.0.1:5000/app:1@sha256:{}", "ab".repeat(32)),
    })
}

fn full() -> Value {
    let more = json!({
        "entrypoint": ["/bin/app"], "command": ["--port", "80"],
        "environment": { "MODE": "edge" }, "user": "1000:1000",
        "limits": { "memory": 67_108_864, "cpus": 0.5, "pids": 64 },
        "devices": [{ "path": "/dev/dri", "write": true }],
        "capabilities": ["NET_BIND_SERVICE"],
        "volumes": [{ "volume": "cache", "target": "/cache" }, { "host_path": "/srv/www", "target": "/www", "read_only": true }],
        "read_only": true,
        "network": { "named": "edge" },
        "ports": [{ "host": 8080, "container": 80, "address": "127.0.0.1" }],
        "health": { "command": ["/bin/check"], "interval_seconds": 5, "timeout_seconds": 2, "retries": 2, "start_period_seconds": 1 },
        "restart": "on-failure",
        "update": { "healthy_seconds": 30, "rollback": false },
        "stop": { "grace_seconds": 5, "order": -1 },
    });
    let mut full = minimal("web");
    let object = full.as_object_mut().unwrap();
    object.extend(more.as_object().unwrap().clone());
    full
}

fn with(field: &str, value: Value) -> Value {
    let mut workload = full();
    workload[field] = value;
    workload
}

fn read(items: Vec<Value>) -> Vec<Declared> {
    let document = json!({ "revision": 1, "workloads": items });
    let desired: Desired = serde_json::from_value(document).unwrap();
    desired.workloads.unwrap().iter().cloned().collect()
}

fn usable(value: Value) -> Workload {
    match read(vec![value]).remove(0) {
        Declared::Usable(workload) => *workload,
        other => panic!("{other:?}"),
    }
}

fn reason(value: Value) -> String {
    match read(vec![value]).remove(0) {
        Declared::Unusable { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_that_can_be_said_comes_back_as_it_was() {
    for value in [minimal("a"), full()] {
        assert_eq!(serde_json::to_value(usable(value.clone())).unwrap(), value);
    }
    assert_eq!(usable(full()).limits.cpus.unwrap().nano(), 500_000_000);
}

#[test]
fn one_that_is_wrong_hides_no_other() {
    let mut long = minimal("long");
    long["command"] = json!(vec!["x"; 65]);
    let items = vec![
        minimal("a"),
        json!("nonsense"),
        json!({ "name": "b" }),
        long,
        minimal("twice"),
        minimal("twice"),
        minimal("z"),
    ];
    let read = read(items);
    let states: Vec<_> = read
        .iter()
        .map(|item| {
            let usable = matches!(item, Declared::Usable(_));
            (item.name().map(Name::as_str), usable)
        })
        .collect();
    let expected = [
        (Some("a"), true),
        (None, false),
        (Some("b"), false),
        (Some("long"), false),
        (Some("twice"), false),
        (Some("z"), true),
    ];
    assert_eq!(states, expected);
    // As it is kept on the disk.
    let kept = Workloads::new(read);
    let again: Workloads = serde_json::from_value(serde_json::to_value(&kept).unwrap()).unwrap();
    assert_eq!(again, kept);
}

#[test]
fn a_list_is_bounded() {
    let items = (0..MAX + 3).map(|n| minimal(&format!("w{n}"))).collect();
    let read = read(items);
    assert_eq!(read.len(), MAX + 1);
    assert_eq!(
        read[MAX],
        Declared::Unusable {
            name: None,
            reason: "3 more than the 128 that a node runs".into()
        }
    );
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        (
            with("privileged", json!(true)),
            "unknown field `privileged`",
        ),
        (with("image", json!("x.y/a:1")), "expected an image as"),
        (
            with("limits", json!({ "memory": 4096 })),
            "limits.memory: expected 6291456 to ",
        ),
        (
            with("limits", json!({ "cpus": 0 })),
            "expected 0.01 to 1024 processors, got \"0\"",
        ),
        (
            with("network", json!("host")),
            "ports: this network has none",
        ),
        (
            with("volumes", json!([{ "volume": "../x", "target": "/a" }])),
            "expected 1 to 64 of A-Za-z0-9._-",
        ),
        (
            with(
                "volumes",
                json!([{ "host_path": "/a/../b", "target": "/a" }]),
            ),
            "expected an absolute path",
        ),
        (
            with(
                "volumes",
                json!([{ "volume": "a", "target": "/a" }, { "volume": "b", "target": "/a" }]),
            ),
            "volumes: /a is there twice",
        ),
        (
            with("health", json!({ "command": [] })),
            "health.command: expected a program",
        ),
        (
            with("stop", json!({ "grace_seconds": 4000 })),
            "stop.grace_seconds: expected 0 to 3600, got 4000",
        ),
        (
            with("ports", json!([{ "host": 0, "container": 80 }])),
            "ports: expected numbers",
        ),
    ];
    for (value, expected) in cases {
        let reason = reason(value);
        assert!(reason.contains(expected), "{reason}");
    }
}

#[test]
fn a_document_without_a_list_says_nothing_of_workloads() {
    let desired: Desired = serde_json::from_str(r#"{"revision":1}"#).unwrap();
    assert_eq!(desired.workloads, None);
    let none: Desired = serde_json::from_str(r#"{"revision":1,"workloads":[]}"#).unwrap();
    assert_eq!(none.workloads, Some(Workloads::default()));
}

/// If this fails, an update of the agent would replace every Docker container in the field.
#[test]
fn the_spec_of_a_workload_stays_what_it_was() {
    let spec = |value| usable(value).spec().to_string()[..16].to_owned();
    assert_eq!(spec(minimal("a")), "9c9c9ce756b986e2");
    assert_eq!(spec(full()), "c02b949cc0ad9743");
}

#[test]
fn a_tag_and_the_rules_of_an_update_are_no_other_spec() {
    let spec = |field: &str, value| usable(with(field, value)).spec();
    let base = usable(full()).spec();
    let image = |tag: &str| {
        json!(format!(
            "127.0.0.1:5000/app{tag}@sha256:{}",
            "ab".repeat(32)
        ))
    };
    assert_eq!(spec("image", image("")), base);
    assert_eq!(spec("image", image(":2")), base);
    assert_eq!(spec("update", json!({})), base);
    assert_ne!(spec("command", json!(["x"])), base);
    assert_ne!(
        spec("owner", json!({ "customer": "b", "business": "c" })),
        base
    );
    assert_ne!(spec("limits", json!({ "memory": 67_108_865 })), base);
}
