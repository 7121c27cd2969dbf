//! The second half: a control plane on this machine, two nodes that enrol there, take
//! release 2, are given a release 3 that panics, and fall back by themselves.

use std::path::Path;

use anyhow::{Result, ensure};
use cairn_tests::fleet::{self, FIRST, PANICS, SECOND};
use cairn_tests::operator::UPDATE;
use cairn_tests::site::GROUP;
use cairn_tests::{Fleet, Node, Site, Workshop};

use crate::report::Report;

/// Does all of it, and gives each node's timeline.
///
/// # Errors
/// If anything goes another way than it should.
pub fn run(report: &mut Report, dir: &Path, workshop: Workshop) -> Result<Vec<(String, String)>> {
    let programs = report.step("compile the agent and the control plane", || {
        fleet::Programs::build(true)
    })?;
    let fleet = Fleet::empty(&dir.join("fleet"), workshop, programs);
    report.step("makepkg; build three releases with the agent", || {
        fleet.make(&[FIRST, SECOND, PANICS])
    })?;
    let site = report.step("start a control plane, with an account", || {
        Site::start(&fleet, "demo")
    })?;
    let mut nodes = Vec::new();
    report.step("make tokens, flash two nodes, switch them on", || {
        for name in ["node-1", "node-2"] {
            let mut node = Node::flash(&site, name, &[FIRST])?;
            node.start()?;
            nodes.push(node);
        }
        Ok(())
    })?;
    report.step("upload the releases, signatures checked", || {
        site.upload(&[SECOND, PANICS])
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
    for (node, device) in nodes.iter_mut().zip(&devices) {
        ensure!(node.boots(PANICS)? == 1, "it was tried once");
        let text = timeline(&site, device)?;
        timelines.push((format!("{}, device {device}", node.name()), text));
        node.power_off()?;
    }
    Ok(timelines)
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
