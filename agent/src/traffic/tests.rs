//! Real counters: a bridge with two workloads behind it, in network namespaces (needs root, iproute2 and nftables).

use std::net::UdpSocket;
use std::sync::Arc;

use super::*;
use crate::netns::{Space, run, within};

/// Bytes of IPv4 and UDP before a datagram's own.
const HEADERS: u64 = 28;

/// A node and its workloads, each in a namespace.
struct World {
    node: Space,
    workloads: Vec<Space>,
}

impl World {
    fn new(name: &str) -> Self {
        let prefix = format!("cairn{}-{name}", std::process::id());
        let node = Space::quiet(format!("{prefix}-node"));
        run(&format!("ip -n {} link add br0 type bridge", node.0));
        run(&format!("ip -n {} link set br0 up", node.0));
        let mut world = Self {
            node,
            workloads: Vec::new(),
        };
        for number in 1..=2 {
            world
                .workloads
                .push(Space::quiet(format!("{prefix}-{number}")));
            world.plug(number);
        }
        world
    }

    /// Gives a workload its port.
    fn plug(&self, number: usize) {
        let (node, space) = (&self.node.0, &self.workloads[number - 1].0);
        run(&format!(
            "ip -n {node} link add port{number} type veth peer name eth0 netns {space}"
        ));
        run(&format!(
            "ip -n {space} addr add 10.88.0.{number}/24 dev eth0"
        ));
        run(&format!(
            "ip -n {space} link set eth0 addr 02:00:00:00:00:0{number} up"
        ));
        run(&format!("ip -n {node} link set port{number} master br0 up"));
        run(&format!("ip -n {space} route add 224.0.0.0/4 dev eth0"));
    }

    /// A workload tells its neighbours on the link of itself; nobody pays for that.
    fn announce(&self, number: usize) {
        let space = &self.workloads[number - 1].0;
        let out = within(space, || UdpSocket::bind("0.0.0.0:0")).unwrap();
        out.send_to(&[7; 500], "224.0.0.251:5353").unwrap();
    }

    /// Takes it away, as Docker does when a container ends.
    fn unplug(&self, number: usize) {
        run(&format!("ip -n {} link del port{number}", self.node.0));
    }

    fn running(&self) -> Runs {
        let running = (1..).zip(&self.workloads).map(|(number, space)| Running {
            id: number.to_string(),
            workload: format!("w{number}").parse().unwrap(),
            customer: format!("c{number}"),
            business: "vod".into(),
            namespace: space.path(),
            ports: Default::default(),
        });
        Some(Arc::new(running.collect()))
    }

    fn counters(&self, running: Runs) -> Counters {
        within(&self.node.0, || Counters::read(Some(running))).unwrap()
    }

    /// Datagrams from one workload to the other; gives how many bytes of IP that is.
    fn send(&self, from: usize, count: u64, size: u16) -> u64 {
        let (sender, receiver) = (&self.workloads[from - 1].0, &self.workloads[2 - from].0);
        let to = format!("10.88.0.{}:7000", 3 - from);
        let socket = within(receiver, || UdpSocket::bind("0.0.0.0:7000")).unwrap();
        let out = within(sender, || UdpSocket::bind("0.0.0.0:0")).unwrap();
        let (datagram, mut got) = (vec![7; usize::from(size)], vec![0; 65_536]);
        for _ in 0..count {
            out.send_to(&datagram, &to).unwrap();
            assert_eq!(socket.recv(&mut got).unwrap(), datagram.len());
        }
        count * (u64::from(size) + HEADERS)
    }
}

/// A metering agent, as it is after it was started.
struct Node {
    metering: Metering,
    steady_ms: i64,
}

impl Node {
    async fn start(folder: &std::path::Path, steady_ms: i64) -> Self {
        let clock = Clock::manual("b", 1_800_000_000, 0);
        let outbox = Outbox::open(
            &folder.join("outbox"),
            &crate::outbox::Settings::default(),
            clock.clone(),
        );
        let deps = Deps {
            settings: Settings::default(),
            folder: folder.to_owned(),
            clock,
            outbox: outbox.unwrap(),
            standing: watch::channel(Standing::default()).1,
            workloads: None,
        };
        Self {
            metering: Metering::open(deps).await.unwrap(),
            steady_ms,
        }
    }

    fn take(&mut self, counters: Counters) -> Vec<u32> {
        self.steady_ms += 10_000;
        let at = Moment {
            boot: "b".into(),
            steady_ms: self.steady_ms,
            wall_ms: 1_800_000_000_000 + self.steady_ms,
        };
        self.metering.take(&at, counters)
    }

    /// Bytes received and sent by a customer, in all records.
    fn records(&mut self, customer: &str) -> (u64, u64) {
        // The slot ends.
        let end = Moment {
            boot: "b".into(),
            steady_ms: self.steady_ms + 600_000,
            wall_ms: 1_800_000_600_000 + self.steady_ms,
        };
        let mut ledger = self.metering.book.ledger.clone();
        ledger.read(&end, Vec::new());
        let usage = ledger.pending().iter().flat_map(|record| &record.usage);
        let of = usage.filter(|usage| usage.meter.customer.as_deref() == Some(customer));
        of.fold((0, 0), |(rx, tx), usage| (rx + usage.rx, tx + usage.tx))
    }
}

#[tokio::test]
async fn every_byte_of_a_workload_is_booked_though_it_ends_and_the_agent_is_killed() {
    let (world, folder) = (World::new("all"), tempfile::tempdir().unwrap());
    let mut node = Node::start(folder.path(), 0).await;
    node.take(world.counters(world.running()));
    let mut sent = world.send(1, 300, 1000);
    world.announce(1);
    node.take(world.counters(world.running()));
    node.metering.keep().await.unwrap();
    assert_eq!(node.records("c1"), (0, sent));
    assert_eq!(node.records("c2"), (sent, 0));

    // Killed, and while nobody looks a workload goes on, and ends.
    let steady_ms = node.steady_ms;
    drop(node);
    sent += world.send(1, 50, 1400);
    let back = world.send(2, 7, 100);
    world.unplug(2);
    let mut node = Node::start(folder.path(), steady_ms).await;
    let only_first = world
        .running()
        .map(|running| Arc::new(running[..1].to_vec()));
    let gone = node.take(world.counters(only_first.clone()));
    assert_eq!(gone.len(), 1);
    assert_eq!(node.records("c1"), (back, sent));
    assert_eq!(node.records("c2"), (sent, back));
    node.metering.keep().await.unwrap();
    within(&world.node.0, || ports::forget(&gone)).unwrap();
    node.metering.book.owners.forget(&gone);

    // Started again it has another port, and what it had before isn't counted twice.
    world.plug(2);
    assert_eq!(node.take(world.counters(world.running())), [0; 0]);
    let again = world.send(2, 10, 500);
    node.take(world.counters(world.running()));
    assert_eq!(node.records("c2"), (sent, back + again));
    assert_eq!(node.records("c1"), (back + again, sent));
}

#[tokio::test]
async fn a_life_between_two_readings_is_billed_though_the_agent_is_killed() {
    let (world, folder) = (World::new("short"), tempfile::tempdir().unwrap());
    let (runs, workloads) = watch::channel(None);
    let (_trigger, shutdown) = crate::shutdown::pair();
    // A runtime's threads are in the namespace of the one that made it.
    let agent = async {
        let mut node = Node::start(folder.path(), 0).await;
        node.metering.deps.workloads = Some(workloads);
        node.metering.deps.settings.interval = Duration::from_secs(3600);
        let metering = tokio::spawn(node.metering.run(shutdown));
        let shelf = Shelf::new(folder.path());
        let kept = async {
            // The first reading is also the last for an hour.
            while shelf.open("b").unwrap().is_behind {
                tokio::task::yield_now().await;
            }
            runs.send_replace(world.running());
            while shelf.open("b").unwrap().owners == meters::Owners::default() {
                tokio::task::yield_now().await;
            }
        };
        let kept = tokio::time::timeout(Duration::from_secs(60), kept).await;
        metering.abort();
        kept.unwrap();
    };
    within(&world.node.0, || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(agent);
    });

    let sent = world.send(1, 30, 700);
    world.unplug(1);
    world.unplug(2);
    let mut node = Node::start(folder.path(), 10_000).await;
    assert_eq!(node.take(world.counters(Some(Arc::default()))).len(), 2);
    assert_eq!(node.records("c1"), (0, sent));
    assert_eq!(node.records("c2"), (sent, 0));
}

#[tokio::test]
async fn a_book_that_is_lost_bills_nothing_again() {
    let (world, folder) = (World::new("lost"), tempfile::tempdir().unwrap());
    let mut node = Node::start(folder.path(), 0).await;
    node.take(world.counters(world.running()));
    world.send(1, 40, 900);
    node.take(world.counters(world.running()));
    node.metering.keep().await.unwrap();
    let steady_ms = node.steady_ms;
    drop(node);
    std::fs::remove_file(folder.path().join("traffic.json")).unwrap();

    // The next agent reads interfaces before there is Docker, is killed, and meters ports before it knows whose they are.
    let links = || within(&world.node.0, links::links).unwrap();
    let mut node = Node::start(folder.path(), steady_ms).await;
    node.take(Counters {
        links: links(),
        ports: None,
    });
    node.metering.keep().await.unwrap();
    drop(node);
    let mut node = Node::start(folder.path(), steady_ms + 10_000).await;
    node.take(world.counters(None));
    let sent = world.send(1, 3, 300);
    node.take(world.counters(world.running()));
    assert_eq!(node.records("c1"), (0, sent));
    assert_eq!(node.records("c2"), (sent, 0));
}

#[test]
fn bytes_are_counted_once_whoever_else_made_the_table() {
    let world = World::new("twice");
    for _ in 0..2 {
        within(&world.node.0, ports::make).unwrap();
    }
    let sent = world.send(1, 10, 500);
    let counted = within(&world.node.0, ports::counted).unwrap();
    assert_eq!(counted.values().map(|port| port.from).sum::<u64>(), sent);
    assert_eq!(counted.values().map(|port| port.to).sum::<u64>(), sent);
}
