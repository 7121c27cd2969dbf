//! A partition table of ours, as bytes (UEFI Specification 2.11, chapter 5). Read is only what has the form that we write: a table of
//! any other form is somebody else's.

use std::collections::BTreeMap;

use crate::guid::{self, Guid};
use crate::shape::Shape;
use crate::write::Write;

const SIGNATURE: &[u8; 8] = b"EFI PART";
const REVISION: u32 = 0x0001_0000;
const HEADER: usize = 92;
const ENTRY: usize = 128;
/// Entries of a table.
const ENTRIES: usize = 128;
/// Bytes of all entries.
const ARRAY: usize = ENTRY * ENTRIES;
/// UTF-16 units of a partition's name.
const NAME: usize = 36;

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its type.
    pub kind: Guid,
    /// Its own id.
    pub id: Guid,
    /// Where it begins, in bytes.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// Its name, for people.
    pub name: String,
}

impl Entry {
    /// Whether it has no whole file system yet.
    pub fn is_unfinished(&self) -> bool {
        self.kind == guid::UNFINISHED
    }

    /// Where it ends, in bytes.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.size)
    }
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The disk's id.
    pub disk: Guid,
    /// Partitions by their numbers, from 1.
    pub entries: BTreeMap<u32, Entry>,
}

/// A table as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The table.
    pub table: Table,
    /// Both copies and the protective MBR are there, and say the same.
    pub whole: bool,
}

impl Table {
    /// The writes that make it the disk's table, in groups: each group is on the disk before the next begins. The second copy comes
    /// first, so that one is whole at any moment, and the MBR last: it takes the claim's place.
    pub fn writes(&self, shape: Shape) -> Vec<Vec<Write>> {
        let sector = shape.sector();
        let array = self.array(sector);
        let header =
            |own: u64, other: u64, entries: u64| self.header(shape, &array, [own, other, entries]);
        let last = shape.last();
        let behind = last - sectors(sector);
        let second = [array.clone(), header(last, 1, behind)].concat();
        let first = [header(1, last, 2), array.clone()].concat();
        let write = |sector_number: u64, bytes: Vec<u8>| {
            vec![Write {
                at: sector_number * sector,
                bytes,
            }]
        };
        vec![
            write(behind, second),
            write(1, first),
            write(0, protective_mbr(shape)),
        ]
    }

    fn array(&self, sector: u64) -> Vec<u8> {
        let mut array = vec![0; ARRAY];
        for (number, entry) in &self.entries {
            let slot = (*number as usize)
                .checked_sub(1)
                .and_then(|at| array.chunks_exact_mut(ENTRY).nth(at));
            let Some(slot) = slot else { continue };
            let (first, last) = (entry.start / sector, entry.end() / sector);
            slot[0..16].copy_from_slice(&entry.kind.to_gpt());
            slot[16..32].copy_from_slice(&entry.id.to_gpt());
            slot[32..40].copy_from_slice(&first.to_le_bytes());
            slot[40..48].copy_from_slice(&last.saturating_sub(1).to_le_bytes());
            for (place, unit) in slot[56..]
                .chunks_exact_mut(2)
                .zip(entry.name.encode_utf16())
            {
                place.copy_from_slice(&unit.to_le_bytes());
            }
        }
        array
    }

    /// A header for the copy at `own`, filled up to a sector.
    fn header(&self, shape: Shape, array: &[u8], [own, other, entries]: [u64; 3]) -> Vec<u8> {
        let mut header = Vec::with_capacity(4096);
        let room = (
            2 + sectors(shape.sector()),
            shape.last() - 1 - sectors(shape.sector()),
        );
        header.extend_from_slice(SIGNATURE);
        header.extend_from_slice(&REVISION.to_le_bytes());
        header.extend_from_slice(&(HEADER as u32).to_le_bytes());
        header.extend_from_slice(&[0; 8]);
        for number in [own, other, room.0, room.1] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        header.extend_from_slice(&self.disk.to_gpt());
        header.extend_from_slice(&entries.to_le_bytes());
        header.extend_from_slice(&(ENTRIES as u32).to_le_bytes());
        header.extend_from_slice(&(ENTRY as u32).to_le_bytes());
        header.extend_from_slice(&crc32fast::hash(array).to_le_bytes());
        let crc = crc32fast::hash(&header);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        header.resize(usize::try_from(shape.sector()).unwrap_or(512), 0);
        header
    }

    /// A copy whose header begins `bytes[header..]`, and its array `bytes[array..]`. By making it anew and comparing, so that nothing
    /// that isn't as we write it is taken for ours.
    fn read(
        shape: Shape,
        bytes: &[u8],
        header: usize,
        array: usize,
        numbers: [u64; 3],
    ) -> Option<Self> {
        let sector = shape.sector();
        let head = bytes.get(header..header.checked_add(usize::try_from(sector).ok()?)?)?;
        let array = bytes.get(array..array.checked_add(ARRAY)?)?;
        let mut table = Self {
            disk: guid_at(head, 56)?,
            entries: BTreeMap::new(),
        };
        for (number, slot) in (1u32..).zip(array.chunks_exact(ENTRY)) {
            if slot.iter().all(|b| *b == 0) {
                continue;
            }
            let (first, last) = (number_at(slot, 32)?, number_at(slot, 40)?);
            let sectors = last.checked_sub(first)?.checked_add(1)?;
            if last > shape.last() {
                return None;
            }
            let units = slot
                .get(56..)?
                .chunks_exact(2)
                .map(|b| u16::from_le_bytes([b[0], b[1]]));
            let units: Vec<u16> = units.take(NAME).take_while(|unit| *unit != 0).collect();
            let entry = Entry {
                kind: guid_at(slot, 0)?,
                id: guid_at(slot, 16)?,
                start: first.checked_mul(sector)?,
                size: sectors.checked_mul(sector)?,
                name: String::from_utf16(&units).ok()?,
            };
            table.entries.insert(number, entry);
        }
        let same = table.array(sector) == array && table.header(shape, array, numbers) == head;
        same.then_some(table)
    }

    /// What the margins of a disk say: `head` is the one at its beginning, `tail` the one at its end.
    pub fn find(shape: Shape, head: &[u8], tail: &[u8]) -> Option<Found> {
        let sector = usize::try_from(shape.sector()).ok()?;
        let (last, behind) = (shape.last(), shape.last() - sectors(shape.sector()));
        let first = Self::read(shape, head, sector, 2 * sector, [1, last, 2]);
        let from_end = tail.len().checked_sub(sector)?;
        let second = from_end
            .checked_sub(ARRAY)
            .and_then(|array| Self::read(shape, tail, from_end, array, [last, 1, behind]));
        let mbr = head.get(..sector)? == protective_mbr(shape);
        let whole = mbr && first.is_some() && first == second;
        let table = match (first, second) {
            (Some(first), Some(second)) => first.merged(second)?,
            (first, second) => first.or(second)?,
        };
        Some(Found { table, whole })
    }

    /// The copies differ: a change was interrupted. The second one is the newer; what either calls finished is.
    fn merged(self, mut newer: Self) -> Option<Self> {
        if self.disk != newer.disk {
            return None;
        }
        for (number, old) in self.entries {
            match newer.entries.get_mut(&number) {
                Some(new) if new.id != old.id || new.start != old.start || new.size != old.size => {
                    return None;
                }
                Some(new) if new.is_unfinished() => new.kind = old.kind,
                Some(_) => {}
                None => return None,
            }
        }
        Some(newer)
    }
}

/// Sectors of all entries.
fn sectors(sector: u64) -> u64 {
    ARRAY as u64 / sector
}

/// One partition of type 0xEE over the whole disk.
fn protective_mbr(shape: Shape) -> Vec<u8> {
    let mut mbr = vec![0; usize::try_from(shape.sector()).unwrap_or(512)];
    let length = u32::try_from(shape.last()).unwrap_or(u32::MAX);
    mbr[446..454].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff]);
    mbr[454..458].copy_from_slice(&1u32.to_le_bytes());
    mbr[458..462].copy_from_slice(&length.to_le_bytes());
    mbr[510..512].copy_from_slice(&[0x55, 0xaa]);
    mbr
}

fn number_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + 8)?.try_into().ok()?;
    Some(u64::from_le_bytes(bytes))
}

fn guid_at(bytes: &[u8], at: usize) -> Option<Guid> {
    let bytes = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(Guid::from_gpt(bytes))
}
