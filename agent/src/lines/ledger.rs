//! What speed tests have taken, on the disk.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use cairn_line::{Budget, Spent};
use serde::{Deserialize, Serialize};

use crate::files;

/// No ledger is longer, in bytes.
const LIMIT: u64 = 64 << 10;
/// Lines that are remembered: those of the configuration, and some that it had before.
const LINES: usize = 64;

/// Who may test, and what that has cost so far. There is one for a node, so that no test disturbs another.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    lines: BTreeMap<String, Entry>,
}

/// Of one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    spent: Spent,
    /// When it was tested last, in milliseconds since 1970.
    tested_ms: Option<i64>,
}

impl Ledger {
    /// The one that was kept in this folder. One that can't be read is begun anew.
    pub fn open(folder: &Path) -> Self {
        let path = folder.join("lines.json");
        let kept = files::read(&path, LIMIT).and_then(|bytes| match bytes {
            None => Ok(BTreeMap::new()),
            Some(bytes) => Ok(serde_json::from_slice(&bytes)?),
        });
        let lines = kept.unwrap_or_else(|error| {
            tracing::error!(file = %path.display(), %error, "what speed tests have taken is forgotten");
            BTreeMap::new()
        });
        Self { path, lines }
    }

    /// When a line was tested last, in milliseconds since 1970.
    pub fn tested_ms(&self, line: &str) -> Option<i64> {
        self.lines.get(line)?.tested_ms
    }

    /// What a line has left of its budget at this moment, in milliseconds since 1970.
    pub fn left(&mut self, line: &str, budget: Budget, wall_ms: i64) -> u64 {
        self.entry(line, budget, wall_ms)
            .spent
            .left(budget, wall_ms)
    }

    /// Takes bytes of it, and keeps that before they are used.
    ///
    /// # Errors
    /// If the disk doesn't take it; then they may not be used.
    pub async fn take(
        &mut self,
        line: &str,
        budget: Budget,
        wall_ms: i64,
        bytes: u64,
    ) -> io::Result<()> {
        let entry = self.entry(line, budget, wall_ms);
        entry.spent.take(bytes);
        entry.tested_ms = Some(wall_ms);
        self.keep().await
    }

    /// Gives back what wasn't used. If the disk doesn't take it, it is spent all the same.
    pub async fn give_back(&mut self, line: &str, bytes: u64) {
        if let Some(entry) = self.lines.get_mut(line) {
            entry.spent.give_back(bytes);
        }
        if let Err(error) = self.keep().await {
            tracing::warn!(%error, "what a speed test has taken cannot be kept");
        }
    }

    fn entry(&mut self, line: &str, budget: Budget, wall_ms: i64) -> &mut Entry {
        if self.lines.len() >= LINES && !self.lines.contains_key(line) {
            let oldest = self.lines.iter().min_by_key(|(_, entry)| entry.tested_ms);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.lines.remove(&oldest);
            }
        }
        self.lines.entry(line.to_owned()).or_insert_with(|| Entry {
            spent: Spent::nothing(budget, wall_ms),
            tested_ms: None,
        })
    }

    async fn keep(&self) -> io::Result<()> {
        let (bytes, path) = (serde_json::to_vec(&self.lines)?, self.path.clone());
        tokio::task::spawn_blocking(move || files::replace(&path, &bytes))
            .await
            .map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use cairn_line::Per;

    use super::*;

    const NOW: i64 = 1_800_000_000_000;
    const BUDGET: Budget = Budget {
        bytes: 1000,
        per: Per::Month,
    };

    #[tokio::test]
    async fn a_restart_forgets_nothing_and_damage_all() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(folder.path());
        assert_eq!(ledger.left("wan", BUDGET, NOW), 1000);
        ledger.take("wan", BUDGET, NOW, 700).await.unwrap();
        // Killed in the middle of a test: it has paid.
        let mut ledger = Ledger::open(folder.path());
        assert_eq!(ledger.left("wan", BUDGET, NOW), 300);
        assert_eq!(ledger.tested_ms("wan"), Some(NOW));
        assert_eq!(ledger.left("lte", BUDGET, NOW), 1000);
        ledger.give_back("wan", 600).await;
        assert_eq!(Ledger::open(folder.path()).left("wan", BUDGET, NOW), 900);

        std::fs::write(folder.path().join("lines.json"), "{half").unwrap();
        assert_eq!(Ledger::open(folder.path()).left("wan", BUDGET, NOW), 1000);
    }

    #[tokio::test]
    async fn what_the_disk_does_not_take_may_not_be_used() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(&folder.path().join("gone"));
        assert!(ledger.take("wan", BUDGET, NOW, 1).await.is_err());
    }
}
