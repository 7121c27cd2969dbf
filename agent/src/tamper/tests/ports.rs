//! Who listens: real sockets of a namespace, and what a node's processes say of theirs.

use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::Path;

use cairn_tamper::Finding;
use cairn_wire::workload::{Workloads, parts};
use serde_json::json;

use super::{At, Guard, Node, SHOWN, at, clock, subjects};
use crate::netns::{Space, within};
use crate::tamper::ports::{Expected, Ports};
use crate::tamper::published;
use crate::workloads::Running;

/// The texts of a namespace's sockets, and this process as the one that holds them.
fn sockets_of(space: &Space, node: &Node, name: &str) {
    within(name, || {
        for file in ["tcp", "tcp6", "udp", "udp6"] {
            let text = fs::read_to_string(Path::new("/proc/thread-self/net").join(file)).unwrap();
            node.write(&format!("proc/net/{file}"), &text);
        }
    });
    let own = node.path(&format!("proc/{}", std::process::id()));
    if !own.exists() {
        symlink("/proc/self", own).unwrap();
    }
    assert!(space.path().exists());
}

#[test]
fn real_sockets_are_found_with_their_programs() {
    let node = Node::new();
    let name = format!("tamper{}", std::process::id());
    let space = Space::new(name.clone());
    let (open, local, asking) = within(&name, || {
        (
            TcpListener::bind("0.0.0.0:4444").unwrap(),
            TcpListener::bind("127.0.0.1:5555").unwrap(),
            UdpSocket::bind("0.0.0.0:40000").unwrap(),
        )
    });
    sockets_of(&space, &node, &name);
    let sources = node.sources();
    let mut ports = Ports::default();
    let mut expected = Expected {
        containers: Some(BTreeSet::new()),
        ..Expected::default()
    };
    let program = fs::read_to_string("/proc/self/comm").unwrap();
    let found = ports.look(&sources, &expected).unwrap();
    assert_eq!(subjects(&found), [("ports", "tcp/4444 0.0.0.0")]);
    assert_eq!(found[0].evidence["program"], program.trim());
    let found = ports.look(&sources, &expected).unwrap();
    assert_eq!(
        subjects(&found),
        [
            ("ports", "tcp/4444 0.0.0.0"),
            ("ports", "udp/40000 0.0.0.0")
        ],
        "who asks has his answer by now"
    );
    expected.ports = ["tcp/4444", "udp/40000"]
        .map(|port| port.parse().unwrap())
        .into();
    assert_eq!(ports.look(&sources, &expected).unwrap(), []);
    drop((open, local, asking));
    sockets_of(&space, &node, &name);
    assert_eq!(ports.look(&sources, &Expected::default()).unwrap(), []);
}

#[test]
fn ports_of_services_and_workloads_are_expected() {
    let node = Node::new();
    let id = "c".repeat(64);
    let processes = [
        (1, "systemd", "/init.scope".to_owned(), 100),
        (10, "sshd", "/system.slice/sshd.service".to_owned(), 101),
        (
            11,
            "docker-proxy",
            "/system.slice/docker.service".to_owned(),
            102,
        ),
        (12, "app", format!("/system.slice/docker-{id}.scope"), 103),
        (
            13,
            "nc",
            "/user.slice/user-0.slice/session-1.scope".to_owned(),
            104,
        ),
        (14, "web", "/system.slice/web.service".to_owned(), 105),
        (15, "bash", "/system.slice/sshd.service".to_owned(), 106),
        (
            16,
            "nc2",
            "/system.slice/system-getty.slice/getty@tty1.service".to_owned(),
            107,
        ),
    ];
    let mut sockets = "head\n".to_owned();
    for (pid, program, group, inode) in &processes {
        node.write(&format!("proc/{pid}/comm"), &format!("{program}\n"));
        node.write(&format!("proc/{pid}/cgroup"), &format!("0::{group}\n"));
        node.link(&format!("proc/{pid}/fd/3"), &format!("socket:[{inode}]"));
        sockets += &format!("0: 00000000:{inode:04X} 0:0 0A 0:0 0:0 0 0 0 {inode}\n");
    }
    // systemd hands the socket of a service over, and keeps it.
    node.link("proc/14/fd/4", "socket:[100]");
    sockets += "0: 00000000:0800 0:0 0A 0:0 0:0 0 0 0 0\n";
    node.write("proc/net/tcp", &sockets);
    let mut expected = Expected {
        units: ["sshd.service", "docker.service", "getty@tty1.service"]
            .map(str::to_owned)
            .into(),
        containers: Some(BTreeSet::new()),
        ..Expected::default()
    };
    let mut ports = Ports::default();
    let programs = |found: &[Finding]| -> Vec<String> {
        let program = |finding: &Finding| {
            let program = finding.evidence.get("program").cloned();
            program.unwrap_or_else(|| "kernel".to_owned())
        };
        found.iter().map(program).collect()
    };
    let found = ports.look(&node.sources(), &expected).unwrap();
    assert_eq!(
        programs(&found),
        ["docker-proxy", "app", "nc", "web", "bash", "nc2", "kernel"]
    );
    expected.published = ["tcp/102".parse().unwrap()].into();
    expected.containers = Some([id].into());
    let found = ports.look(&node.sources(), &expected).unwrap();
    assert_eq!(programs(&found), ["nc", "web", "bash", "nc2", "kernel"]);
}

#[tokio::test]
async fn before_docker_was_asked_its_sockets_are_as_they_were() {
    let (node, clock) = (Node::new(), clock());
    node.write("proc/11/comm", "docker-proxy\n");
    node.write("proc/11/cgroup", "0::/system.slice/docker.service\n");
    node.link("proc/11/fd/3", "socket:[7]");
    node.link("proc/11/fd/4", "socket:[8]");
    let listens = |inodes: &[u32]| {
        let line = |inode: &u32| format!("0: 00000000:{inode:04X} 0:0 0A 0:0 0:0 0 0 0 {inode}\n");
        let lines: String = inodes.iter().map(line).collect();
        node.write("proc/net/tcp", &format!("head\n{lines}"));
    };
    let deps = node.deps("", &clock);
    let asked = || at(&clock, SHOWN);
    let not_yet = || At {
        containers: None,
        ..asked()
    };
    let mut guard = Guard::new(&deps);
    listens(&[7]);
    assert!(guard.look(not_yet()).is_empty());
    let change = guard.look(asked());
    assert_eq!(subjects(&change.appeared), [("ports", "tcp/7 0.0.0.0")]);
    // The next agent neither takes it back nor tells of more.
    guard.look(asked());
    let mut guard = Guard::new(&deps);
    listens(&[7, 8]);
    assert!(guard.look(not_yet()).is_empty());
    assert_eq!(guard.shown().sample["tamper.ports"], 1);
    let change = guard.look(asked());
    assert_eq!(subjects(&change.appeared), [("ports", "tcp/8 0.0.0.0")]);
}

#[test]
fn workloads_ports_are_those_that_they_publish_or_published_and_run_with() {
    let workload = json!([{
        "name": "cdn", "owner": { "customer": "c", "business": "b" },
        "image": format!("registry.example/cdn@sha256:{}", "a".repeat(64)),
        "ports": [{ "host": 8080, "container": 80 }, { "host": 53, "container": 53, "protocol": "udp" }],
    }]);
    let workloads: Workloads = serde_json::from_value(workload).unwrap();
    // Declared with another port, and not pulled yet.
    let running = [Running {
        id: "1".into(),
        workload: "cdn".parse().unwrap(),
        customer: "c".into(),
        business: "b".into(),
        namespace: "/run/docker/netns/1".into(),
        ports: [(parts::Protocol::Tcp, 8079)].into(),
    }];
    let ports = |declared, running| -> Vec<String> {
        let ports = published(declared, running);
        ports.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        ports(Some(&workloads), Some(&running)),
        ["tcp/8079", "tcp/8080", "udp/53"]
    );
    assert_eq!(ports(None, Some(&running)), ["tcp/8079"]);
    assert_eq!(ports(Some(&workloads), None), ["tcp/8080", "udp/53"]);
}
