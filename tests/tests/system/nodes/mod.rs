//! Whole nodes, updated and at work: a real control plane on the host, real agents in QEMU.
//!
//! A machine under emulation is slow, so a test takes its node through all that can be
//! asked of one and the same node, in order.

mod away;
mod broken;
mod clock;
mod good;
mod sick;
mod space;
mod work;

use anyhow::{Context, Result, ensure};
use cairn_tests::fleet::*;
use cairn_tests::node::SOON;
use cairn_tests::operator::Progress;
use cairn_tests::{Fleet, Node, Site};

/// A control plane with these releases, and a node that has enrolled there and runs
/// [`FIRST`]. Both bear the name.
struct Bench {
    site: Site,
    node: Node,
    device: String,
}

impl Bench {
    fn new(name: &str, releases: &[&str]) -> Result<Self> {
        Self::with(name, &[FIRST], releases)
    }

    /// As [`Bench::new`], with more than one release on the disk.
    fn with(name: &str, on_disk: &[&str], releases: &[&str]) -> Result<Self> {
        let site = Site::start(&Fleet::ensure()?, name)?;
        let mut node = Node::flash(&site, &format!("node-{name}"), on_disk)?;
        node.start()?;
        // While the node boots.
        site.upload(releases)?;
        node.is_up(FIRST, "good")?;
        let device = site.online(&node)?;
        Ok(Self { site, node, device })
    }

    fn roll_out(&self, version: &str, more: &[&str]) -> Result<String> {
        self.site.roll_out(version, &self.device, more)
    }

    /// Updates the node and sees it through to the end.
    fn updates(&self, version: &str, more: &[&str]) -> Result<()> {
        let rollout = self.roll_out(version, more)?;
        self.node.is_up(version, "trial")?;
        self.site.succeeds(&rollout, &self.device)
    }

    /// Waits for the evidence of this name, which the node sends by itself.
    fn sends(&self, evidence: &str) -> Result<()> {
        ensure!(!evidence.is_empty(), "a failure without evidence");
        let what = format!("the evidence {evidence} arrives");
        self.site.eventually(&what, SOON, |site| {
            let there = site.evidence(&self.device)?;
            Ok(there.iter().any(|name| name == evidence).then_some(()))
        })
    }
}
