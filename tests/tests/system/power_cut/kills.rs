//! Nodes that lose their power at random moments of an update, again and again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use super::*;
use cairn_tests::Node;
use cairn_tests::power_cut::Random;

/// Updates in all; each is cut off once at least.
const UPDATES: (usize, usize) = (10, 100);
/// The updates that one node goes through.
const PATH: [&str; 3] = [FIRST, SECOND, THIRD];
/// Of so many updates one is cut off once more, on its way back.
const TWICE: u64 = 4;
/// How long a node runs at most before it is cut off: an update takes about as long.
const LONGEST: Duration = Duration::from_secs(90);
/// How often it is asked whether the update has ended before.
const GLANCE: Duration = Duration::from_secs(2);
/// Nodes at once.
const NODES: u64 = 3;

#[test]
fn a_node_that_is_cut_off_at_random_goes_on_by_itself() -> Result<()> {
    let seed = seed()?;
    let fleet = Fleet::ensure()?;
    let left = AtomicUsize::new(number(UPDATES));
    thread::scope(|scope| {
        let fleet = &fleet;
        let left = &left;
        let nodes = (0..NODES).map(|node| {
            scope.spawn(move || -> Result<()> {
                let name = format!("power-cut-{node}");
                let site = Site::start(fleet, &name)?;
                site.upload(&PATH[1..])?;
                let mut random = Random::new(seed.wrapping_add(node));
                for life in 0.. {
                    if left.load(Ordering::Relaxed) == 0 {
                        break;
                    }
                    let name = format!("{name}-{life}");
                    let told = live(&site, &name, &mut random, left);
                    told.with_context(|| format!("{name}, CAIRN_SEED={seed}"))?;
                }
                Ok(())
            })
        });
        let nodes: Vec<_> = nodes.collect();
        for node in nodes {
            match node.join() {
                Ok(result) => result?,
                Err(_) => bail!("a node's thread died"),
            }
        }
        Ok(())
    })
}

/// One node, from its first start through updates that are all interrupted.
fn live(site: &Site, name: &str, random: &mut Random, left: &AtomicUsize) -> Result<()> {
    let mut node = Node::flash(site, name, &PATH[..1])?;
    // Power cuts use tries up as failures do, and there shall be enough of them.
    let more_tries = "[update]\ntries = 9\n";
    node.disk()
        .write_data_file("/agent/agent.d/60-tries.toml", more_tries.as_bytes())?;
    node.start()?;
    node.is_up(FIRST, "good")?;
    let device = site.online(&node)?;
    let mut last = FIRST;
    for next in &PATH[1..] {
        if !take_one(left) {
            break;
        }
        update(site, &mut node, &device, [last, *next], random)
            .with_context(|| format!("from {last} to {next}"))?;
        last = next;
    }
    // And it stays: this one boots as the good release.
    node.cut_power();
    node.start()?;
    node.is_up(last, "good")
}

/// An update that is cut off at random moments, and comes to its end all the same.
fn update(
    site: &Site,
    node: &mut Node,
    device: &str,
    releases: [&str; 2],
    random: &mut Random,
) -> Result<()> {
    let rollout = site.roll_out(releases[1], device, &[])?;
    let cuts = if random.number().is_multiple_of(TWICE) {
        2
    } else {
        1
    };
    let (mut running, mut up) = (Instant::now(), true);
    let mut moments = Vec::new();
    for _ in 0..cuts {
        let moment = Duration::from_millis(random.number() % LONGEST.as_millis() as u64);
        if !up {
            let left = moment.saturating_sub(running.elapsed());
            up = comes_up(node, releases, left)?.is_some();
        }
        if up {
            // Here the time that passes is what is tested.
            while running.elapsed() < moment && !ended(site, &rollout, device) {
                thread::sleep(GLANCE.min(moment.saturating_sub(running.elapsed())));
            }
        }
        moments.push(format!(
            "{:.1} s{}",
            running.elapsed().as_secs_f32(),
            if up { "" } else { " (booting)" }
        ));
        println!(
            "{} to {}: cut off after {}",
            node.name(),
            releases[1],
            moments.join(", ")
        );
        node.cut_power();
        node.start()?;
        (running, up) = (Instant::now(), false);
    }
    let came = comes_up(node, releases, BOOT)?;
    let came = came.context("neither release came up after the last power cut")?;
    site.succeeds(&rollout, device)
        .with_context(|| format!("came up as {came}; cut off after {moments:?}"))
}

/// Whether the old or the new release comes up in this time; which one.
fn comes_up(node: &Node, releases: [&str; 2], within: Duration) -> Result<Option<String>> {
    let serial = node.vm()?.serial();
    let Ok(up) = serial.expect(Regex::new(UP)?, within) else {
        return Ok(None);
    };
    let (release, slot) = (&up.groups[1], &up.groups[2]);
    ensure!(
        releases.contains(&release.as_str()),
        "{release} came up as {slot}"
    );
    Ok(Some(format!("{release} as {slot}")))
}

fn ended(site: &Site, rollout: &str, device: &str) -> bool {
    let progress = site.progress(rollout, device).ok().flatten();
    progress.is_some_and(|progress| progress.is_final())
}

fn take_one(left: &AtomicUsize) -> bool {
    let less = |left: usize| left.checked_sub(1);
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
        .is_ok()
}
