//! Nodes that lose their power at random moments of an update, again and again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use super::*;
use cairn_tests::Node;
use cairn_tests::power_cut::Random;

/// Power cuts in all.
const KILLS: (usize, usize) = (2, 100);
/// Power cuts that one node goes through in one update, at most. It has more tries.
const IN_ONE_UPDATE: usize = 5;
/// How long a node runs at most before it is cut off: an update takes about as long.
const LONGEST: Duration = Duration::from_secs(90);
/// How often it is asked whether the update has ended before.
const GLANCE: Duration = Duration::from_secs(2);
/// Nodes at once.
const NODES: u64 = 2;

#[test]
fn a_node_that_is_cut_off_at_random_goes_on_by_itself() -> Result<()> {
    let seed = seed()?;
    let fleet = Fleet::ensure()?;
    let left = AtomicUsize::new(number(KILLS));
    thread::scope(|scope| {
        let fleet = &fleet;
        let left = &left;
        let nodes = (0..NODES).map(|node| {
            scope.spawn(move || -> Result<()> {
                let name = format!("power-cut-{node}");
                let site = Site::start(fleet, &name)?;
                site.upload(&[SECOND])?;
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

/// One node, from its first start to the end of an update that is interrupted.
fn live(site: &Site, name: &str, random: &mut Random, left: &AtomicUsize) -> Result<()> {
    let mut node = Node::flash(site, name, &[FIRST])?;
    // Power cuts use tries up as failures do, and there shall be enough of them.
    let more_tries = "[update]\ntries = 9\n";
    node.disk()
        .write_data_file("/agent/agent.d/60-tries.toml", more_tries.as_bytes())?;
    node.start()?;
    node.is_up(FIRST, "good")?;
    let device = site.online(&node)?;
    let rollout = site.roll_out(SECOND, &device, &[])?;
    let (mut running, mut up) = (Instant::now(), true);
    let mut moments = Vec::new();
    while moments.len() < IN_ONE_UPDATE && take_one(left) {
        let moment = Duration::from_millis(random.number() % LONGEST.as_millis() as u64);
        if !up {
            let left = moment.saturating_sub(running.elapsed());
            up = comes_up(&node, left)?.is_some();
        }
        if up {
            // Here the time that passes is what is tested.
            while running.elapsed() < moment && !ended(site, &rollout, &device) {
                thread::sleep(GLANCE.min(moment.saturating_sub(running.elapsed())));
            }
        }
        moments.push(format!(
            "{:.1} s{}",
            running.elapsed().as_secs_f32(),
            if up { "" } else { " (booting)" }
        ));
        println!("{name}: cut off after {}", moments.join(", "));
        node.cut_power();
        node.start()?;
        (running, up) = (Instant::now(), false);
        if ended(site, &rollout, &device) {
            break;
        }
    }
    let came = comes_up(&node, BOOT)?;
    let came = came.context("neither release came up after the last power cut")?;
    site.succeeds(&rollout, &device)
        .with_context(|| format!("came up as {came}; cut off after {moments:?}"))?;
    // And it stays: this one boots as the good release.
    node.cut_power();
    node.start()?;
    node.is_up(SECOND, "good")
}

/// Whether the old or the new release comes up in this time; which one.
fn comes_up(node: &Node, within: Duration) -> Result<Option<String>> {
    let serial = node.vm()?.serial();
    let Ok(up) = serial.expect(Regex::new(UP)?, within) else {
        return Ok(None);
    };
    let (release, slot) = (&up.groups[1], &up.groups[2]);
    let known = [FIRST, SECOND].contains(&release.as_str());
    ensure!(known, "{release} came up as {slot}");
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
