//! Nothing that was promised to be kept is lost: the real agent and the real control plane, killed with -9 at random, with a
//! link that is down for a while. What a program of the node reported, and was told is kept, is in the database once. With a
//! real Docker Engine: each byte of a customer's is billed once, and workloads run on.

mod agent;
mod clock;
mod docker;
mod netns;
mod traffic;
mod workloads;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cairn_system::Command;
use cairn_tests::site::Site;
use cairn_tests::{Fleet, Workshop, fleet, operator};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use agent::Agent;

/// Records while the link is down: an hour at one a second, as fast as the disk takes them.
const HOUR: u64 = 3_600;
const WITHIN: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Sent {
    /// Told to be kept.
    kept: Vec<u64>,
    /// The agent died before it answered: kept or not.
    unknown: Vec<u64>,
}

/// What the database has of a key: how often each value is there.
fn stored(site: &Site, key: &str) -> Result<BTreeMap<u64, u64>> {
    const QUERY: &str = "import sqlite3,sys,json\n\
        rows = sqlite3.connect('file:'+sys.argv[1]+'?mode=ro', uri=True, timeout=30).execute('SELECT value, count(*) FROM sample WHERE key=? GROUP BY value', [sys.argv[2]])\n\
        print(json.dumps([[int(v), n] for v, n in rows]))";
    let output = Command::new("python3")
        .args(["-c", QUERY])
        .arg(site.data().join("cairn.db"))
        .arg(key)
        .run()?;
    let rows: Vec<(u64, u64)> = serde_json::from_slice(&output.stdout)?;
    Ok(rows.into_iter().collect())
}

/// Programs and keys; nobody boots here, so there are no releases.
fn programs() -> Result<Fleet> {
    let programs = fleet::Programs::build(false)?;
    Ok(Fleet::empty(
        std::path::Path::new(""),
        Workshop::ensure()?,
        programs,
    ))
}

/// Waits until the agent has nothing left to send.
fn drained(agent: &Agent) -> Result<()> {
    let deadline = Instant::now() + WITHIN;
    loop {
        let status = agent.status()?;
        let records = status["outbox"]["records"].as_u64();
        if records == Some(0) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "the outbox isn't empty: {status:#}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Waits until the site's only device is connected, and gives its id.
fn online(site: &Site) -> Result<String> {
    site.eventually("the agent is online", WITHIN, |site| {
        let list = site.ctl(&["device", "list", "--online"])?;
        let device = operator::items(&list).first();
        Ok(device.and_then(|device| device["id"].as_str().map(str::to_owned)))
    })
}

fn report(agent: &mut Agent, sent: &mut Sent, n: u64) -> Result<()> {
    match agent.report(&json!({ "n": n }), "sample") {
        Ok(()) => sent.kept.push(n),
        Err(_) if !agent.runs() => {
            sent.unknown.push(n);
            agent.start()?;
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

#[test]
fn each_record_arrives_once_whoever_is_killed() -> Result<()> {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let fleet = programs()?;
    let mut site = Site::local(&fleet, "loss")?;
    let mut agent = Agent::new(&site, "loss", "")?;
    agent.start()?;
    online(&site)?;

    site.kill();
    let mut sent = Sent::default();
    for n in 0..HOUR {
        if random.gen_ratio(1, 600) {
            agent.kill_soon(Duration::from_micros(random.gen_range(0..3_000)));
        }
        report(&mut agent, &mut sent, n)?;
    }
    // It may have died behind its last answer.
    if !agent.runs() {
        agent.start()?;
    }
    site.serve()?;
    // While it is sent, both die again and again, and new records come.
    for n in 0..6 {
        let before = stored(&site, "n")?.len();
        site.eventually("more has arrived", WITHIN, |site| {
            let now = stored(site, "n")?.len() as u64;
            Ok((now > before as u64 || now >= sent.kept.len() as u64).then_some(()))
        })?;
        report(&mut agent, &mut sent, HOUR + n)?;
        if random.gen_bool(0.5) {
            agent.kill();
            agent.start()?;
        } else {
            site.kill();
            site.serve()?;
        }
    }
    drained(&agent)?;
    let stored = stored(&site, "n")?;
    for n in &sent.kept {
        let times = stored.get(n).copied().unwrap_or(0);
        ensure!(times == 1, "record {n} is in the database {times} times");
    }
    let unexpected = stored
        .iter()
        .find(|(n, times)| **times > 1 || !(sent.kept.contains(n) || sent.unknown.contains(n)));
    ensure!(unexpected.is_none(), "{unexpected:?} was never reported so");
    println!(
        "{} records kept, the agent died in the middle of {}",
        sent.kept.len(),
        sent.unknown.len()
    );
    agent.end()
}

#[test]
fn an_outbox_over_its_budget_drops_the_oldest_samples_and_says_how_many() -> Result<()> {
    const SAMPLES: u64 = 2_000;
    const EVENTS: u64 = 20;
    let fleet = programs()?;
    let mut site = Site::local(&fleet, "budget")?;
    let mut agent = Agent::new(&site, "budget", "[outbox]\nbudget = \"64KiB\"\n")?;
    agent.start()?;
    online(&site)?;
    site.kill();
    for n in 0..EVENTS {
        agent.report(&json!({ "happened": n }), "event")?;
    }
    for n in 0..SAMPLES {
        agent.report(&json!({ "measured": n, "more": "x".repeat(100) }), "sample")?;
    }
    site.serve()?;
    drained(&agent)?;
    let events = stored(&site, "happened")?;
    ensure!(
        events == (0..EVENTS).map(|n| (n, 1)).collect(),
        "events were lost: {events:?}"
    );
    let arrived = stored(&site, "measured")?;
    ensure!(arrived.values().all(|times| *times == 1), "{arrived:?}");
    let (first, last) = (
        arrived.keys().next().context("nothing")?,
        arrived.keys().last().context("nothing")?,
    );
    ensure!(
        *last == SAMPLES - 1 && arrived.len() as u64 == last - first + 1,
        "not the newest: {first} to {last}, {}",
        arrived.len()
    );
    // It has dropped samples of its own too, so at least those of ours.
    let lost = SAMPLES - arrived.len() as u64;
    ensure!(lost > 0, "64 KiB held everything");
    let told = site.eventually("the loss is reported", WITHIN, |site| {
        Ok(stored(site, "outbox_dropped")?
            .keys()
            .last()
            .copied()
            .filter(|told| *told >= lost))
    })?;
    let own = agent.status()?["outbox"]["dropped"].clone();
    ensure!(
        own == told,
        "the agent counts {own}, the control plane was told {told}"
    );
    ensure!(
        told <= lost + 50,
        "{told} reported, {lost} of the {SAMPLES} are missing"
    );
    agent.end()
}
