//! The first sector of a disk that is being laid out. It takes the place of whatever was in sector 0, and in the end the table's
//! protective MBR takes its place.
//!
//! ```text
//! CAIRN CLAIM 1 <CRC-32 of the JSON, 8 digits>\n
//! {"disk":"<the disk's id>","was":["<8 digits for each signature that was on it>"]}
//! zeros to the end of the sector
//! ```
//!
//! Between the claim and the table somebody may put the disk into another machine, and use it there without touching sector 0. So what
//! was on it is noted: a signature that wasn't there then stops everything.

use std::collections::BTreeSet;

use cairn_release::Digest;
use serde::{Deserialize, Serialize};

use crate::guid::Guid;
use crate::signature::Signature;

const MAGIC: &str = "CAIRN CLAIM 1 ";
/// Bytes of a claim, at most; no disk's sectors are smaller.
const LIMIT: usize = 512;
/// The most signatures that a claim can note.
pub const MAX_SIGNATURES: usize = 32;

/// A claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The id that the disk gets.
    pub disk: Guid,
    /// What was on it.
    was: BTreeSet<String>,
}

impl Claim {
    /// On a disk that holds these. None if they are too many.
    pub fn new<'s>(disk: Guid, held: impl Iterator<Item = &'s Signature>) -> Option<Self> {
        let was: BTreeSet<String> = held.map(note).collect();
        (was.len() <= MAX_SIGNATURES).then_some(Self { disk, was })
    }

    /// Whether this was on the disk when it was claimed.
    pub fn knows(&self, signature: &Signature) -> bool {
        self.was.contains(&note(signature))
    }

    /// As a sector of so many bytes.
    pub fn to_sector(&self, sector: u64) -> Vec<u8> {
        // Texts and lists always have a JSON form.
        let json = serde_json::to_string(self).unwrap_or_default();
        let crc = crc32fast::hash(json.as_bytes());
        let mut bytes = format!("{MAGIC}{crc:08x}\n{json}").into_bytes();
        bytes.resize(usize::try_from(sector).unwrap_or(LIMIT), 0);
        bytes
    }

    /// What the first sector of a disk says, if it is a claim.
    pub fn read(sector: &[u8]) -> Option<Self> {
        let text = sector.get(..LIMIT)?.strip_prefix(MAGIC.as_bytes())?;
        let end = text.iter().position(|b| *b == 0)?;
        let (crc, json) = std::str::from_utf8(text.get(..end)?)
            .ok()?
            .split_once('\n')?;
        let right = format!("{:08x}", crc32fast::hash(json.as_bytes())) == crc;
        serde_json::from_str(json).ok().filter(|_| right)
    }
}

fn note(signature: &Signature) -> String {
    let uuid = signature.uuid.as_deref().unwrap_or_default();
    let text = format!("{}\0{uuid}", signature.kind);
    Digest::of(text.as_bytes()).to_string()[..8].to_owned()
}
