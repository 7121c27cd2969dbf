//! A factory reset: the node forgets what was changed on it.
//!
//! What was changed lies in the upper layers of `/etc` and `/var`, in DATA's `state/`. They are moved aside, which a power cut can't do
//! by halves, and the node restarts; the hook then makes empty ones. What was moved aside is deleted after that. A mark says that a reset is under way,
//! so that one which a power cut ended is taken up again.
//!
//! With the identity goes what was the old owner's: what Docker has, named volumes, and what was ordered. Without it they stay, as the node
//! is still the same.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files;

/// The upper layers.
const LAYERS: [&str; 2] = ["etc", "var"];
/// The old owner's on DATA: what Docker has, if its settings put it there, and volumes.
const WORKLOADS: [&str; 2] = ["docker", "workloads"];
/// What the old owner ordered, in the agent's folder, and what is remembered of it.
const ORDERS: [&str; 5] = [
    "order.json",
    "workloads.json",
    "workloads-memory.json",
    "registries.json",
    "disks.json",
];

/// Where things lie.
#[derive(Debug, Clone)]
pub struct Reset {
    /// DATA.
    pub data: PathBuf,
    /// DATA's `state`.
    pub state: PathBuf,
    /// The agent's own folder.
    pub agent: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    identity: bool,
}

impl Reset {
    /// With DATA mounted at `data`.
    pub fn new(data: &Path) -> Self {
        Self {
            data: data.to_owned(),
            state: data.join("state"),
            agent: data.join("agent"),
        }
    }

    fn mark(&self) -> PathBuf {
        self.agent.join("factory-reset.json")
    }

    /// What is moved aside, and where to.
    fn moves(&self, identity: bool) -> Vec<(PathBuf, PathBuf)> {
        let aside = |folder: &Path, name: &str| {
            (folder.join(name), folder.join(format!("{name}.discarded")))
        };
        let layers = LAYERS.iter().map(|layer| aside(&self.state, layer));
        if !identity {
            return layers.collect();
        }
        // The identity is the last: while it lies aside, orders may have been written again.
        let workloads = WORKLOADS.iter().map(|folder| aside(&self.data, folder));
        let identity = aside(&self.agent, "identity");
        workloads.chain(layers).chain([identity]).collect()
    }

    /// Moves everything aside. The node must restart at once after this.
    ///
    /// # Errors
    /// If the disk doesn't take it; then it is taken up again at the next start.
    pub fn order(&self, identity: bool) -> io::Result<()> {
        // What an earlier one left must not be taken for done.
        self.clean_up()?;
        let mark = serde_json::to_vec(&Mark { identity })?;
        files::replace(&self.mark(), &mark)?;
        self.carry_out(identity)
    }

    fn carry_out(&self, identity: bool) -> io::Result<()> {
        for (from, aside) in self.moves(identity) {
            // Once it is there, `from` is the new one.
            if aside.exists() || !from.exists() {
                continue;
            }
            std::fs::rename(&from, &aside)?;
            if let Some(folder) = from.parent() {
                files::sync_folder(folder)?;
            }
        }
        if identity {
            self.forget_orders()?;
        }
        files::remove(&self.mark())?;
        files::sync_folder(&self.agent)
    }

    fn forget_orders(&self) -> io::Result<()> {
        ORDERS
            .iter()
            .try_for_each(|file| files::remove(&self.agent.join(file)))
    }

    /// Deletes what a reset moved aside. It may take a while.
    ///
    /// # Errors
    /// If the disk doesn't take it.
    pub fn clean_up(&self) -> io::Result<()> {
        self.moves(true)
            .iter()
            .try_for_each(|(_, aside)| remove(aside))
    }

    /// At the agent's start: takes up a reset that was cut short. `true`: the node must restart.
    ///
    /// # Errors
    /// If the disk doesn't take it.
    pub fn take_up(&self) -> io::Result<bool> {
        let Some(mark) = files::read(&self.mark(), 4096)? else {
            // The agent that carried it out may have written some again before the node restarted.
            if self.agent.join("identity.discarded").exists() {
                self.forget_orders()?;
            }
            return Ok(false);
        };
        // A mark is written whole; whatever it says, a reset was wanted.
        let identity = serde_json::from_slice::<Mark>(&mark).is_ok_and(|mark| mark.identity);
        let left = self
            .moves(identity)
            .iter()
            .any(|(from, aside)| from.exists() && !aside.exists());
        self.carry_out(identity)?;
        Ok(left)
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn node() -> (tempfile::TempDir, Reset) {
        let data = tempfile::tempdir().unwrap();
        for file in [
            "state/etc/upper/hostname",
            "state/var/upper/log",
            "agent/identity/key.pem",
            "agent/outbox/segment",
            "agent/workloads-node",
            "agent/workloads.json",
            "agent/registries.json",
            "docker/containers/1",
            "workloads/web/cache/1",
        ] {
            fs::create_dir_all(data.path().join(file).parent().unwrap()).unwrap();
            fs::write(data.path().join(file), "x").unwrap();
        }
        let reset = Reset::new(data.path());
        (data, reset)
    }

    /// What the hook does at a boot.
    fn boot(data: &Path) {
        for layer in LAYERS {
            fs::create_dir_all(data.join("state").join(layer).join("upper")).unwrap();
        }
    }

    fn is_fresh(data: &Path) -> bool {
        LAYERS.iter().all(|layer| {
            fs::read_dir(data.join("state").join(layer).join("upper"))
                .unwrap()
                .next()
                .is_none()
        })
    }

    #[test]
    fn changes_go_and_the_identity_stays() {
        let (data, reset) = node();
        reset.order(false).unwrap();
        boot(data.path());
        assert!(!reset.take_up().unwrap());
        reset.clean_up().unwrap();
        assert!(is_fresh(data.path()));
        assert!(data.path().join("agent/identity/key.pem").exists());
        assert!(data.path().join("agent/outbox/segment").exists());
        assert!(!data.path().join("state/etc.discarded").exists());
        // What runs is still ours.
        for kept in [
            "agent/workloads-node",
            "agent/workloads.json",
            "docker/containers/1",
            "workloads/web/cache/1",
        ] {
            assert!(data.path().join(kept).exists(), "{kept}");
        }
    }

    #[test]
    fn the_identity_goes_when_told_and_what_was_its_owners() {
        let (data, reset) = node();
        reset.order(true).unwrap();
        // The agent runs until the node restarts, and writes what it knows.
        fs::write(data.path().join("agent/workloads.json"), "x").unwrap();
        boot(data.path());
        assert!(!reset.take_up().unwrap());
        reset.clean_up().unwrap();
        for gone in [
            "agent/identity",
            "agent/identity.discarded",
            "agent/workloads.json",
            "agent/registries.json",
            "docker",
            "docker.discarded",
            "workloads",
            "workloads.discarded",
        ] {
            assert!(!data.path().join(gone).exists(), "{gone}");
        }
    }

    #[test]
    fn one_cut_short_at_any_step_ends_fresh() {
        for cut in 0..6 {
            let (data, reset) = node();
            files::replace(&reset.mark(), br#"{"identity":true}"#).unwrap();
            for (from, aside) in reset.moves(true).into_iter().take(cut) {
                fs::rename(from, aside).unwrap();
            }
            boot(data.path());
            // The next start takes it up, restarts if it had to, and then nothing is left to do.
            for _ in 0..2 {
                if !reset.take_up().unwrap() {
                    break;
                }
                boot(data.path());
            }
            assert!(!reset.take_up().unwrap(), "cut {cut}");
            reset.clean_up().unwrap();
            assert!(is_fresh(data.path()), "cut {cut}");
            for gone in [
                "agent/identity",
                "docker",
                "workloads",
                "state/etc.discarded",
            ] {
                assert!(!data.path().join(gone).exists(), "cut {cut}: {gone}");
            }
        }
    }
}
