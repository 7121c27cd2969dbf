//! An hour of two customers' traffic, of which their clients know each byte, while the agent and the control plane are killed
//! again and again: every party's bill has these bytes, both ways, and no other. The hour takes 40 seconds, by a [`Clock`].
//!
//! The clients come over a line, in a namespace of their own, and talk UDP, of which each datagram costs what it is long and
//! [`HEADERS`]. Each datagram is answered, and they wait for all answers: one that is lost on the way shows as that, and not
//! as a wrong bill.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use cairn_system::Command;
use cairn_tests::Fleet;
use cairn_tests::site::Site;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::agent::Agent;
use super::clock::Clock;
use super::docker::Docker;
use super::netns::Space;
use super::{WITHIN, online, programs};

const HOUR: Duration = Duration::from_secs(3600);
/// How often each of the two is killed at least.
const KILLS: u32 = 10;
/// How long one is up, or away, at most.
const TURN: Duration = Duration::from_secs(2);
/// Bytes of IPv4 and UDP before a datagram's own.
const HEADERS: u64 = 28;
/// Bytes of Ethernet before these.
const FRAME: u64 = 14;
/// The longest datagram on a line.
const LONGEST: u16 = 1472;
/// A client's next datagrams come within this time.
const PAUSE: Duration = Duration::from_millis(40);

/// The node's end of the line.
const NODE: &str = "198.51.100.1";
/// A customer, its clients' address, and how many answers of how many bytes each datagram asks for at most.
const CUSTOMERS: [(&str, Ipv4Addr, (u8, u16)); 2] = [
    ("acme", Ipv4Addr::new(198, 51, 100, 11), (6, LONGEST)),
    ("zenith", Ipv4Addr::new(198, 51, 100, 12), (1, 100)),
];

const SETTINGS: &str = "\
[traffic]
interfaces = [\"wan0\"]
interval = \"1s\"
keep = \"1s\"
";

#[test]
fn each_byte_is_billed_once_whoever_is_killed() -> Result<()> {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let fleet = programs()?;
    let (node, away) = line()?;
    node.within(|| an_hour(&fleet, &away, StdRng::seed_from_u64(seed)))
}

/// A node and its customers' clients, with a line between. Each end knows the other's address, so nobody asks on the line.
fn line() -> Result<(Space, Space)> {
    let (node, away) = (Space::new("node")?, Space::new("away")?);
    let (near, far) = ("02:00:00:00:00:01", "02:00:00:00:00:02");
    node.ip(&format!(
        "link add wan0 address {near} type veth peer name eth0 address {far} netns {}",
        away.name()
    ))?;
    node.ip(&format!("addr add {NODE}/24 dev wan0"))?;
    node.ip("link set wan0 up")?;
    for (_, client, _) in CUSTOMERS {
        away.ip(&format!("addr add {client}/24 dev eth0"))?;
        node.ip(&format!("neigh add {client} lladdr {far} dev wan0"))?;
    }
    away.ip("link set eth0 up")?;
    away.ip(&format!("neigh add {NODE} lladdr {near} dev eth0"))?;
    away.ip(&format!("route add default via {NODE}"))?;
    Ok((node, away))
}

fn an_hour(fleet: &Fleet, away: &Space, mut random: StdRng) -> Result<()> {
    let mut clock = Clock::new()?;
    let mut site = Site::local_with(fleet, "traffic", clock.environment())?;
    let docker = Docker::start()?;
    let image = docker.publish()?;
    let socket = format!("[workloads]\nsocket = \"{}\"\n", docker.socket().display());
    let agent = Agent::new(&site, "traffic", &format!("{SETTINGS}{socket}"))?;
    let mut agent = agent.with(clock.environment());
    agent.start()?;
    let device = online(&site)?;
    site.ctl(&["device", "set", &device, "--supplier", "north"])?;
    for (customer, ..) in CUSTOMERS {
        let workload = json!({
            "place": { "on": { "devices": [device] } },
            "owner": { "customer": customer, "business": "live" },
            "image": image,
            "command": ["/bin/answer"],
            "stop": { "grace_seconds": 0 },
        });
        let set = site.ctl_command(&["workload", "set", customer, "-"])?;
        set.stdin(workload.to_string()).run()?;
    }
    let mut services = Vec::new();
    for (customer, ..) in CUSTOMERS {
        let address = site.eventually("its service is ready", WITHIN, |_| {
            ensure!(docker.logs(customer)? == "ready", "not ready");
            docker
                .inspect(
                    customer,
                    "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
                )
                .map(Some)
        })?;
        services.push(address.parse::<Ipv4Addr>()?);
    }

    clock.start();
    let begun = clock.now()?;
    let (counted, killed) = thread::scope(|scope| {
        let (failed, failure) = mpsc::channel();
        let mut clients = Vec::new();
        for ((_, own, answers), service) in CUSTOMERS.into_iter().zip(services) {
            let (stop, stopped) = mpsc::channel();
            let client = Client {
                own,
                service,
                answers,
                random: StdRng::seed_from_u64(random.r#gen()),
                failed: failed.clone(),
            };
            let thread = scope.spawn(move || away.enter().and_then(|()| client.run(&stopped)));
            clients.push((stop, thread));
        }
        let killed = kill_at_random(&mut site, &mut agent, &clock, &failure, &mut random);
        let counted: Result<Vec<Counted>> = clients.into_iter().map(end).collect();
        Ok::<_, anyhow::Error>((counted?, killed?))
    })?;
    let ended = clock.now()?;
    booked(&site, &device, ended)?;

    let span = [begun - 300, ended + 3600].map(|time| time.to_string());
    let billed = |subject: &[&str]| bill(&site, subject, &span);
    let mut both = Counted::default();
    for ((customer, ..), counted) in CUSTOMERS.into_iter().zip(counted) {
        println!("{customer}: {counted:?}");
        ensure!(
            counted.sent.bytes > 0 && counted.received.bytes > 0,
            "no traffic"
        );
        let own = (counted.sent.bytes, counted.received.bytes);
        let all = billed(&["device", &device, "--kind", "container"])?;
        let billed = billed(&["customer", customer])?;
        ensure!(
            billed == own,
            "{customer}: {billed:?}, not {own:?}; the node has {all:?}"
        );
        both.sent.add(&counted.sent);
        both.received.add(&counted.received);
    }
    let all = (both.sent.bytes, both.received.bytes);
    let node = billed(&["device", &device, "--kind", "container"])?;
    ensure!(node == all, "containers of the node: {node:?}, not {all:?}");
    let frames = |way: Way| way.bytes + way.datagrams * FRAME;
    let whole = (frames(both.sent), frames(both.received));
    let line = billed(&["supplier", "north"])?;
    ensure!(
        line == whole,
        "the supplier's line: {line:?}, not {whole:?}"
    );

    let check = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/system/loss/records.py");
    let check = Command::new("python3").arg(check);
    let records = check.arg(site.data().join("cairn.db")).run()?.text();
    let (agents, servers) = killed;
    println!(
        "{records} records; the agent was killed {agents} times, the control plane {servers} times"
    );
    agent.end()
}

/// Kills the agent and the server at random until the hour is over, each at least [`KILLS`] times. Gives how often each was.
fn kill_at_random(
    site: &mut Site,
    agent: &mut Agent,
    clock: &Clock,
    failure: &Receiver<()>,
    random: &mut StdRng,
) -> Result<(u32, u32)> {
    #[derive(Clone, Copy)]
    struct Turn {
        ends: Instant,
        killed: u32,
        away: bool,
    }
    // First the agent sees whose the containers are; what is nobody's for six readings is billed to nobody.
    let mut turns = [Turn {
        ends: Instant::now() + 2 * TURN,
        killed: 0,
        away: false,
    }; 2];
    while clock.passed() < HOUR || turns.iter().any(|turn| turn.killed < KILLS || turn.away) {
        let whose = usize::from(turns[1].ends < turns[0].ends);
        let turn = &mut turns[whose];
        let left = turn.ends.saturating_duration_since(Instant::now());
        let waited = failure.recv_timeout(left);
        ensure!(
            waited == Err(RecvTimeoutError::Timeout),
            "a client has failed"
        );
        turn.away = !turn.away;
        turn.killed += u32::from(turn.away);
        match (whose, turn.away) {
            (0, true) => agent.kill(),
            (0, false) => agent.start()?,
            (_, true) => site.kill(),
            (_, false) => site.serve()?,
        }
        turn.ends = Instant::now() + random.gen_range(Duration::ZERO..TURN);
    }
    Ok((turns[0].killed, turns[1].killed))
}

/// Waits until all that was counted before `moment` must be booked: a later slot is over, and nothing before it is missing.
fn booked(site: &Site, device: &str, moment: i64) -> Result<()> {
    let later = moment - moment.rem_euclid(300) + 300;
    let sent = site.eventually("what was counted is booked", WITHIN, |site| {
        let sent = site.ctl(&["traffic", "records", device])?;
        let last = sent["chains"][0]["last"].as_i64();
        Ok(last.is_some_and(|last| last >= later).then_some(sent))
    })?;
    let chains = sent["chains"].as_array().context("no chains")?;
    ensure!(chains.len() == 1 && chains[0]["missing"] == 0, "{sent:#}");
    ensure!(sent["faults"] == json!([]), "{sent:#}");
    Ok(())
}

/// What the control plane has of somebody: bytes received and sent, of all slots in a span.
fn bill(site: &Site, subject: &[&str], [from, to]: &[String; 2]) -> Result<(u64, u64)> {
    let span = ["--from", from, "--to", to];
    let series = site.ctl(&[&["traffic", "series"], subject, &span].concat())?;
    let slots = series["slots"].as_array().context("no slots")?;
    let sum = |key: &str| {
        slots
            .iter()
            .filter_map(|slot: &Value| slot[key].as_u64())
            .sum()
    };
    Ok((sum("rx_bytes"), sum("tx_bytes")))
}

/// One way of a client's traffic.
#[derive(Debug, Clone, Copy, Default)]
struct Way {
    datagrams: u64,
    /// Of IPv4.
    bytes: u64,
}

impl Way {
    fn count(&mut self, payload: usize) {
        self.datagrams += 1;
        self.bytes += payload as u64 + HEADERS;
    }

    fn add(&mut self, other: &Self) {
        self.datagrams += other.datagrams;
        self.bytes += other.bytes;
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    sent: Way,
    received: Way,
}

struct Client {
    own: Ipv4Addr,
    service: Ipv4Addr,
    answers: (u8, u16),
    random: StdRng,
    failed: Sender<()>,
}

impl Client {
    /// Talks until told to stop.
    fn run(mut self, stopped: &Receiver<()>) -> Result<Counted> {
        let result = self.talk(stopped);
        if result.is_err() {
            let _ = self.failed.send(());
        }
        result
    }

    fn talk(&mut self, stopped: &Receiver<()>) -> Result<Counted> {
        let socket = UdpSocket::bind((self.own, 0))?;
        socket.connect((self.service, 7000))?;
        socket.set_read_timeout(Some(WITHIN))?;
        let (mut counted, mut answer) = (Counted::default(), [0; 2048]);
        while stopped.recv_timeout(self.random.gen_range(Duration::ZERO..PAUSE))
            == Err(RecvTimeoutError::Timeout)
        {
            let mut expected = Vec::new();
            for _ in 0..self.random.gen_range(1..8) {
                let mut datagram = vec![0; self.random.gen_range(3..=usize::from(LONGEST))];
                let (most, longest) = self.answers;
                let answers = self.random.gen_range(1..=most);
                let length = self.random.gen_range(1..=longest);
                let [high, low] = length.to_be_bytes();
                datagram[..3].copy_from_slice(&[answers, high, low]);
                counted.sent.count(socket.send(&datagram)?);
                expected.extend(vec![usize::from(length); answers.into()]);
            }
            for length in expected {
                let got = socket.recv(&mut answer).context("an answer is missing")?;
                ensure!(got == length, "an answer of {got} bytes, not {length}");
                counted.received.count(got);
            }
        }
        Ok(counted)
    }
}

fn end((stop, thread): (Sender<()>, ScopedJoinHandle<'_, Result<Counted>>)) -> Result<Counted> {
    drop(stop);
    thread
        .join()
        .map_err(|_| anyhow!("a client's thread died"))?
}
