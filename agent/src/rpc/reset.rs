//! A factory reset: the node forgets what was changed on it.
//!
//! What was changed lies in the upper layers of `/etc` and `/var`, in DATA's `state/`. They are moved aside, which a power cut can't do
//! by halves, and the node restarts; the hook then makes empty ones. What was moved aside is deleted after that. A mark says that a reset is under way,
//! so that one which a power cut ended is taken up again.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files;

/// The upper layers.
const LAYERS: [&str; 2] = ["etc", "var"];

/// Where things lie.
#[derive(Debug, Clone)]
pub struct Reset {
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
        let mut moves: Vec<_> = LAYERS
            .iter()
            .map(|layer| aside(&self.state, layer))
            .collect();
        if identity {
            moves.push(aside(&self.agent, "identity"));
        }
        moves
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
            // What the old owner ordered.
            files::remove(&self.agent.join("order.json"))?;
        }
        files::remove(&self.mark())?;
        files::sync_folder(&self.agent)
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
    }

    #[test]
    fn the_identity_goes_when_told() {
        let (data, reset) = node();
        reset.order(true).unwrap();
        boot(data.path());
        assert!(!reset.take_up().unwrap());
        reset.clean_up().unwrap();
        assert!(!data.path().join("agent/identity").exists());
        assert!(!data.path().join("agent/identity.discarded").exists());
    }

    #[test]
    fn one_cut_short_at_any_step_ends_fresh() {
        for cut in 0..4 {
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
            assert!(!data.path().join("agent/identity").exists(), "cut {cut}");
            assert!(
                !data.path().join("state/etc.discarded").exists(),
                "cut {cut}"
            );
        }
    }
}
