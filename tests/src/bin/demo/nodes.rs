//! The second half: a control plane on this machine, two nodes that enrol there, take
//! release 2, are given a release 3 that panics, and fall back by themselves; then one of
//! them goes to work.

use std::path::Path;

use anyhow::{Result, ensure};
use cairn_tests::fleet::{self, DOCKER, FIRST, PANICS, SECOND};
use cairn_tests::operator::UPDATE;
use cairn_tests::site::GROUP;
use cairn_tests::{Fleet, Node, Site, Workshop};

use crate::report::Report;
use crate::work::Work;

/// Does all of it, and gives the report's pages: what customers' traffic came to, and each node's timeline.
///
/// # Errors
/// If anything goes another way than it should.
pub fn run(report: &mut Report, dir: &Path, workshop: Workshop) -> Result<Vec<(String, String)>> {
    let programs = report.step("compile the agent and the control plane", || {
        fleet::Programs::build(true)
    })?;
    let fleet = Fleet::empty(&dir.join("fleet"), workshop, programs);
    report.step("makepkg; build four releases with the agent", || {
        fleet.make(&[FIRST, SECOND, PANICS, DOCKER])
    })?;
    let site = report.step("start a control plane, with an account", || {
        Site::start(&fleet, "demo")
    })?;
    let (mut nodes, work) = report.step("make tokens, flash two nodes, switch them on", || {
        let names = ["node-1", "node-2"];
        let nodes = names.map(|name| Node::flash(&site, name, &[FIRST]));
        let mut nodes = nodes.into_iter().collect::<Result<Vec<_>>>()?;
        let work = Work::prepare(&mut nodes[0])?;
        for node in &mut nodes {
            node.start()?;
        }
        Ok((nodes, work))
    })?;
    report.step("upload the releases, signatures checked", || {
        site.upload(&[SECOND, PANICS, DOCKER])
    })?;
    let devices = report.step("both boot, enrol and are online", || {
        nodes
            .iter()
            .map(|node| site.online(node))
            .collect::<Result<Vec<_>>>()
    })?;

    report.step(
        &format!("rollout of {SECOND} to the group: both good"),
        || {
            let rollout = roll_out(&site, SECOND)?;
            for device in &devices {
                site.succeeds(&rollout, device)?;
            }
            Ok(())
        },
    )?;
    report.step(&format!("rollout of {PANICS}: both fall back"), || {
        let rollout = roll_out(&site, PANICS)?;
        for device in &devices {
            site.fails(&rollout, device, "fell-back")?;
        }
        site.eventually("the rollout halts", UPDATE, |site| {
            Ok((site.status(&rollout)? == "halted").then_some(()))
        })
    })?;
    report.note("the rollout halted".to_owned());

    let mut timelines = Vec::new();
    let mut leave = |node: &mut Node, device: &str| -> Result<()> {
        ensure!(node.boots(PANICS)? == 1, "it was tried once");
        let text = timeline(&site, device)?;
        timelines.push((format!("{}, device {device}", node.name()), text));
        node.power_off()
    };
    leave(&mut nodes[1], &devices[1])?;
    let mut pages = work.run(report, &site, &nodes[0], &devices[0])?;
    leave(&mut nodes[0], &devices[0])?;
    pages.extend(timelines);
    Ok(pages)
}

fn roll_out(site: &Site, version: &str) -> Result<String> {
    let plan = ["--soak", "1s", "--retries", "0", "--max-failures", "2"];
    site.create_rollout(version, &["--group", GROUP], &plan)
}

/// One line an event, as `cairnctl` shows it to people.
fn timeline(site: &Site, device: &str) -> Result<String> {
    let shown = site.ctl_command(&["device", "timeline", device])?;
    Ok(shown.run()?.text())
}
