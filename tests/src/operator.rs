//! What an operator does with a [`Site`] and sees there, through `cairnctl`.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::Node;
use crate::node::BOOT;
use crate::site::Site;

/// An update from the order to its end: a download, two restarts, a soak time or a
/// health deadline, all of it under emulation beside other machines.
pub const UPDATE: Duration = Duration::from_secs(480);

/// Where one device is in a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Its state's name.
    pub state: String,
    /// Why it failed, as a word.
    pub kind: String,
    /// Why it failed, as a sentence.
    pub reason: String,
    /// Name of the evidence that it has sent, or nothing.
    pub evidence: String,
}

impl Progress {
    /// Whether nothing follows.
    pub fn is_final(&self) -> bool {
        ["good", "failed", "expired", "withdrawn", "superseded"].contains(&&*self.state)
    }
}

/// The items of a list, whether it comes in pages or not.
pub fn items(list: &Value) -> &[Value] {
    let list = list.get("items").unwrap_or(list);
    list.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

impl Site {
    /// The device that a node has become, once it is connected: its id.
    ///
    /// # Errors
    /// If it doesn't enrol or connect.
    pub fn online(&self, node: &Node) -> Result<String> {
        let what = format!("{} comes online", node.name());
        self.eventually(&what, BOOT, |site| {
            let list = site.ctl(&["device", "list", "--tag", node.name()])?;
            match items(&list) {
                [device] if device["online"] == true => Ok(Some(text(device, "id"))),
                [] | [_] => Ok(None),
                many => bail!("{} devices of one node", many.len()),
            }
        })
    }

    /// Starts a rollout of a release to one device, which is to restart at once: its id.
    ///
    /// # Errors
    /// If the control plane says no.
    pub fn roll_out(&self, version: &str, device: &str, more: &[&str]) -> Result<String> {
        let plan = ["--soak", "1s", "--retries", "0", "--max-failures", "1"];
        self.create_rollout(version, &["--device", device], &[&plan, more].concat())
    }

    /// Starts a rollout to those that `whom` says; they are to restart at once: its id.
    ///
    /// # Errors
    /// If the control plane says no.
    pub fn create_rollout(&self, version: &str, whom: &[&str], plan: &[&str]) -> Result<String> {
        let what = ["rollout", "create", "--release", version];
        let how = ["--when", "now", "--start"];
        let made = self.ctl(&[&what, whom, plan, &how].concat())?;
        let id = made.get("id").context("a rollout without an id")?;
        Ok(id.as_str().map_or_else(|| id.to_string(), str::to_owned))
    }

    /// Where a device is in a rollout; `None` before it is assigned.
    ///
    /// # Errors
    /// If the control plane doesn't say.
    pub fn progress(&self, rollout: &str, device: &str) -> Result<Option<Progress>> {
        let shown = self.ctl(&["rollout", "show", rollout])?;
        let slot = items(&shown["devices"])
            .iter()
            .find(|slot| slot["device"] == device)
            .map(|slot| Progress {
                state: text(slot, "state"),
                kind: text(&slot["reason"], "code"),
                reason: text(&slot["reason"], "text"),
                evidence: text(&slot["reason"], "evidence"),
            });
        Ok(slot)
    }

    /// The status of a rollout as a whole: `running`, `halted` and so on.
    ///
    /// # Errors
    /// If the control plane doesn't say.
    pub fn status(&self, rollout: &str) -> Result<String> {
        Ok(text(&self.ctl(&["rollout", "show", rollout])?, "status"))
    }

    /// Waits until a device has come so far.
    ///
    /// # Errors
    /// If it doesn't, or the rollout ends before.
    pub fn reaches(&self, rollout: &str, device: &str, state: &str) -> Result<()> {
        let what = format!("{device} is {state} in rollout {rollout}");
        let end = self.eventually(&what, UPDATE, |site| {
            let progress = site.progress(rollout, device)?;
            Ok(progress.filter(|progress| progress.state == state || progress.is_final()))
        })?;
        ensure!(end.state == state, "expected {state}, got {end:?}");
        Ok(())
    }

    /// Waits until nothing more will come of a device in a rollout.
    ///
    /// # Errors
    /// If it takes too long.
    pub fn settles(&self, rollout: &str, device: &str) -> Result<Progress> {
        let what = format!("{device} comes to an end in rollout {rollout}");
        self.eventually(&what, UPDATE, |site| {
            let progress = site.progress(rollout, device)?;
            Ok(progress.filter(Progress::is_final))
        })
    }

    /// Waits until a device runs the rollout's release, healthy and for good.
    ///
    /// # Errors
    /// If it fails.
    pub fn succeeds(&self, rollout: &str, device: &str) -> Result<()> {
        let end = self.settles(rollout, device)?;
        ensure!(end.state == "good", "the update failed: {end:?}");
        Ok(())
    }

    /// Waits until a device's update has failed for this kind of reason, and gives the
    /// last look.
    ///
    /// # Errors
    /// If it doesn't fail, or for another.
    pub fn fails(&self, rollout: &str, device: &str, kind: &str) -> Result<Progress> {
        let end = self.settles(rollout, device)?;
        ensure!(
            (end.state.as_str(), end.kind.as_str()) == ("failed", kind),
            "expected a failure of the kind {kind}, got {end:?}"
        );
        Ok(end)
    }

    /// Names of the evidence that a device has sent.
    ///
    /// # Errors
    /// If the control plane doesn't say.
    pub fn evidence(&self, device: &str) -> Result<Vec<String>> {
        let list = self.ctl(&["device", "evidence", device])?;
        Ok(items(&list).iter().map(|one| text(one, "name")).collect())
    }
}
