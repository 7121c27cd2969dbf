//! What is known of a disk.

use std::fmt::Write as _;

use cairn_release::Digest;
use cairn_wire::disk::Name;

use crate::claim::Claim;
use crate::gpt::{Found, Table};
use crate::guid::Guid;
use crate::shape::Shape;
use crate::signature::Signature;

/// A partition as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its number.
    pub number: u32,
    /// Where it begins, in bytes.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// What is in it.
    pub signatures: Vec<Signature>,
    /// Where it is mounted.
    pub mounts: Vec<String>,
    /// Who else has it, for people: `dm-0`, swap.
    pub holders: Vec<String>,
}

/// What the margins of a disk, and the places between that were looked at, say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surface {
    /// The claim in its first sector.
    pub claim: Option<Claim>,
    /// A table in the form that we write.
    pub table: Option<Found>,
    /// Both margins are zero, but for the first sector.
    pub is_clear: bool,
    /// All that was looked at is zero.
    pub is_blank: bool,
}

impl Surface {
    /// `head` and `tail` are the margins, `between` is whether all other places that were looked at are zero.
    pub fn read(shape: Shape, head: &[u8], tail: &[u8], between: bool) -> Self {
        let sector = usize::try_from(shape.sector()).unwrap_or(0);
        let (first, rest) = head.split_at_checked(sector).unwrap_or((head, &[]));
        let is_clear = is_zero(rest) && is_zero(tail);
        Self {
            claim: Claim::read(first),
            table: Table::find(shape, head, tail),
            is_clear,
            is_blank: is_clear && is_zero(first) && between,
        }
    }
}

/// Whether all of it is zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    let zero = |piece: &[u8]| ZEROS.starts_with(piece);
    bytes.chunks(ZEROS.len()).all(zero)
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// What the kernel calls it in this boot: `sdb`.
    pub node: String,
    /// udev's links to it.
    pub links: Vec<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its size.
    pub shape: Shape,
    /// What lies on it as a whole.
    pub signatures: Vec<Signature>,
    /// What it says.
    pub surface: Surface,
    /// Its partitions as the kernel knows them.
    pub parts: Vec<Part>,
    /// Where it is mounted as a whole.
    pub mounts: Vec<String>,
    /// Who else has it as a whole.
    pub holders: Vec<String>,
    /// It is the one that the system runs from.
    pub is_system: bool,
    /// Somebody has it, or a part of it: it can't be opened exclusively.
    pub is_busy: bool,
    /// It can't be written to.
    pub is_read_only: bool,
    /// A digest of the bytes that were looked at: its margins, those of its partitions, places between.
    pub print: Digest,
    /// How often this node has erased it by an order. Part of the word, so that none holds twice.
    pub erasures: u32,
}

impl Disk {
    /// The id that it has if it is laid out under this name.
    pub fn id(&self, name: &Name) -> Guid {
        Guid::disk(self.serial.as_deref(), name)
    }

    /// Whether it is laid out under this name, be it in part.
    pub fn is_ours(&self, name: &Name) -> bool {
        let id = self.id(name);
        let claimed = self.surface.claim.as_ref().map(|claim| claim.disk);
        let laid_out = self.surface.table.as_ref().map(|found| found.table.disk);
        claimed.or(laid_out) == Some(id)
    }

    /// What is on it and in its partitions.
    pub fn all_signatures(&self) -> impl Iterator<Item = &Signature> {
        let inside = self.parts.iter().flat_map(|part| &part.signatures);
        self.signatures.iter().chain(inside)
    }

    /// Whether there is nothing on it, as far as one can see.
    pub fn is_empty(&self) -> bool {
        self.surface.is_blank && self.all_signatures().next().is_none() && self.parts.is_empty()
    }

    /// Why it must not be touched whatever it holds.
    pub fn taboo(&self) -> Option<String> {
        if self.is_system {
            return Some("it is the disk that the system runs from".to_owned());
        }
        if self.is_read_only {
            return Some("it can't be written to".to_owned());
        }
        let parts = &self.parts;
        let mounts = self
            .mounts
            .iter()
            .chain(parts.iter().flat_map(|part| &part.mounts));
        let holders = self
            .holders
            .iter()
            .chain(parts.iter().flat_map(|part| &part.holders));
        if let Some(mount) = mounts.into_iter().next() {
            return Some(format!("it is mounted at {mount}"));
        }
        if let Some(holder) = holders.into_iter().next() {
            return Some(format!("it is in use by {holder}"));
        }
        self.is_busy.then(|| "somebody has it open".to_owned())
    }

    /// The word for what it holds.
    pub fn word(&self) -> String {
        let (serial, size, print) = (&self.serial, self.shape.size(), self.print);
        let mut text = format!("{serial:?}\0{size}\0{}\0{print}", self.erasures);
        for signature in self.all_signatures() {
            // Writing to a string can't fail.
            let _ = write!(text, "\0{signature:?}");
        }
        Digest::of(text.as_bytes()).to_string()[..16].to_owned()
    }

    /// What it holds, for people.
    pub fn content(&self) -> String {
        let mut words: Vec<String> = Vec::new();
        for signature in self.all_signatures() {
            let word = match &signature.label {
                Some(label) => format!("{} {label:?}", signature.kind),
                None => signature.kind.clone(),
            };
            if !words.contains(&word) {
                words.push(word);
            }
        }
        if words.is_empty() {
            words.push("bytes that nothing here knows".to_owned());
        }
        words.join(", ")
    }

    /// Which disk it is, for people.
    pub fn title(&self) -> String {
        let serial = self.serial.as_deref().unwrap_or("unknown");
        let gigabytes = self.shape.size() / 1_000_000_000;
        format!("{}, serial {serial}, {gigabytes} GB", self.node)
    }
}
