//! What metering knows, on the disk: replaced whole, so that a power cut leaves the one before.

use std::io;
use std::path::{Path, PathBuf};

use cairn_traffic::Ledger;
use serde::{Deserialize, Serialize};

use super::meters::Owners;
use crate::files;

/// No book is longer, in bytes.
const LIMIT: u64 = 64 << 20;

/// The book.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Book {
    /// Bytes, by meter and slot.
    pub ledger: Ledger,
    /// Whose the bridges' ports are, in this boot.
    pub owners: Owners,
    /// The boot.
    pub boot: String,
    /// Whether ports may have counted for a book that is lost: it has billed that, and this one doesn't.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_behind: bool,
}

impl Book {
    /// As it is kept.
    ///
    /// # Errors
    /// None that are known of.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec(self)?)
    }
}

/// Where it lies.
#[derive(Debug, Clone)]
pub struct Shelf(PathBuf);

impl Shelf {
    /// In this folder.
    pub fn new(folder: &Path) -> Self {
        Self(folder.join("traffic.json"))
    }

    /// The book that was kept, or a new one. One that can't be read is put aside: what it knew of the last minutes is lost,
    /// and the new chain of records says so.
    ///
    /// # Errors
    /// If the disk can't be read.
    pub fn open(&self, boot: &str) -> io::Result<Book> {
        let kept = match files::read(&self.0, LIMIT)? {
            None => None,
            Some(bytes) => match serde_json::from_slice::<Book>(&bytes) {
                Ok(book) => Some(book),
                Err(error) => {
                    let aside = self.0.with_extension("damaged");
                    tracing::error!(file = %self.0.display(), %error, aside = %aside.display(), "what was metered last is lost");
                    std::fs::rename(&self.0, aside)?;
                    None
                }
            },
        };
        Ok(match kept {
            Some(book) if book.boot == boot => book,
            Some(book) => Book {
                owners: Owners::default(),
                boot: boot.to_owned(),
                // The counters have begun anew.
                is_behind: false,
                ..book
            },
            None => Book {
                ledger: Ledger::begin(format!("{:032x}", rand::random::<u128>())),
                owners: Owners::default(),
                boot: boot.to_owned(),
                is_behind: true,
            },
        })
    }

    /// Keeps the book.
    ///
    /// # Errors
    /// If the disk doesn't take it; the one before is still there.
    pub fn keep(&self, book: &[u8]) -> io::Result<()> {
        files::replace(&self.0, book)
    }
}

#[cfg(test)]
mod tests {
    use cairn_traffic::{Kind, Meter};
    use cairn_traffic::{Moment, Reading};

    use super::*;

    #[test]
    fn what_was_kept_is_there_again_and_damage_begins_a_new_chain() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(folder.path());
        let mut book = shelf.open("b1").unwrap();
        let meter = Meter {
            kind: Kind::Interface,
            name: "eth0".into(),
            customer: None,
            business: None,
        };
        let at = Moment {
            boot: "b1".into(),
            steady_ms: 5,
            wall_ms: 1_800_000_000_000,
        };
        let reading = Reading {
            meter,
            epoch: "link 2".into(),
            rx: 1,
            tx: 2,
        };
        book.ledger.read(&at, vec![reading]);
        shelf.keep(&book.to_bytes().unwrap()).unwrap();
        assert_eq!(shelf.open("b1").unwrap(), book);
        assert!(book.is_behind);
        let rebooted = shelf.open("b2").unwrap();
        assert!(!rebooted.is_behind);
        assert_eq!(
            (rebooted.boot.as_str(), &rebooted.ledger),
            ("b2", &book.ledger)
        );

        std::fs::write(folder.path().join("traffic.json"), b"{half").unwrap();
        let fresh = shelf.open("b1").unwrap();
        assert_ne!(fresh.ledger, book.ledger);
        assert!(folder.path().join("traffic.damaged").exists());
    }
}
