//! What to do about one disk.

use std::collections::{BTreeMap, BTreeSet};

use cairn_wire::Disk as Declared;
use cairn_wire::disk::{Extent, Partition};

use crate::claim::{Claim, MAX_SIGNATURES};
use crate::gpt::{Entry, Found, Table};
use crate::guid::{self, Guid};
use crate::seen::{Disk, Part};
use crate::shape::MEBIBYTE;
use crate::signature::Signature;
use crate::step::{Change, Place, Step};

/// What is left to do. Both may be there: what is right goes on being mounted beside what is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// All steps, in their order.
    pub steps: Vec<Step>,
    /// What isn't done, and why.
    pub refused: Option<String>,
}

impl Plan {
    pub(crate) fn refuse(reason: impl Into<String>) -> Self {
        Self {
            steps: Vec::new(),
            refused: Some(reason.into()),
        }
    }
}

/// Steps, or why there are none.
type Steps = Result<Vec<Step>, String>;

/// What is left to do so that `disk` is laid out as `declared`.
pub fn plan(declared: &Declared, disk: &Disk) -> Plan {
    let id = disk.id(&declared.name);
    let begun = match (&disk.surface.claim, &disk.surface.table) {
        (Some(claim), _) if claim.disk == id => resume(declared, disk, claim),
        (None, Some(found)) if found.table.disk == id => return go_on(declared, disk, found),
        _ if disk.is_empty() => begin(declared, disk),
        _ => erase(declared, disk),
    };
    match begun {
        Ok(steps) => Plan {
            steps,
            refused: None,
        },
        Err(reason) => Plan::refuse(reason),
    }
}

/// It is empty, or may be erased.
fn begin(declared: &Declared, disk: &Disk) -> Steps {
    if let Some(taboo) = disk.taboo() {
        return Err(taboo);
    }
    // That there is room is known before anything is touched.
    let made = make(declared, disk)?;
    let claim = Claim::new(disk.id(&declared.name), disk.all_signatures())
        .ok_or_else(|| format!("it holds more than {MAX_SIGNATURES} things; erase it by hand"))?;
    let clear = (!disk.surface.is_clear).then_some(Step::Clear);
    Ok([Step::Claim(claim)]
        .into_iter()
        .chain(clear)
        .chain(made)
        .collect())
}

fn erase(declared: &Declared, disk: &Disk) -> Steps {
    let (content, word) = (disk.content(), disk.word());
    let Some(serial) = &disk.serial else {
        return Err(format!(
            "it holds {content}, and has no serial number, so that no order can erase it"
        ));
    };
    let how = format!(
        "to destroy all of it, order \"erase\": {{\"serial\": {serial:?}, \"word\": \"{word}\"}}"
    );
    match &declared.erase {
        None => Err(format!("it holds {content}; {how}")),
        Some(erase) if erase.serial.as_str() != serial => Err(format!(
            "it holds {content}, and the order to erase is for the serial number {}; {how}",
            erase.serial
        )),
        Some(erase) if erase.word.as_str() != word => Err(format!(
            "it holds {content}, and the order to erase is for something else; {how}"
        )),
        Some(_) => begin(declared, disk),
    }
}

/// It was claimed, and has no table of ours yet.
fn resume(declared: &Declared, disk: &Disk, claim: &Claim) -> Steps {
    if let Some(taboo) = disk.taboo() {
        return Err(taboo);
    }
    let ours = disk
        .surface
        .table
        .as_ref()
        .is_some_and(|found| found.table.disk == claim.disk);
    let known = |signature: &Signature| claim.knows(signature) || ours && signature.is_table();
    let strange = disk.all_signatures().find(|signature| !known(signature));
    if let Some(strange) = strange {
        return Err(format!(
            "it was being laid out, and has got {} from somebody else since; erase it by hand",
            strange.kind
        ));
    }
    let clear = (!disk.surface.is_clear).then_some(Step::Clear);
    Ok(clear.into_iter().chain(make(declared, disk)?).collect())
}

/// The table and all that comes after it, on a disk without one.
fn make(declared: &Declared, disk: &Disk) -> Steps {
    let id = disk.id(&declared.name);
    let empty = Table {
        disk: id,
        entries: BTreeMap::new(),
    };
    let (table, names) = extended(declared, disk, &empty)?;
    let mut steps = vec![
        Step::Table {
            table: table.clone(),
            change: Change::Make(names),
        },
        Step::Refresh,
    ];
    steps.extend(fill(declared, table, |_| false));
    Ok(steps)
}

/// The table with those partitions behind the others that it lacks, and their names.
fn extended(
    declared: &Declared,
    disk: &Disk,
    table: &Table,
) -> Result<(Table, Vec<cairn_wire::disk::Name>), String> {
    let (mut table, mut names) = (table.clone(), Vec::new());
    let room = disk.shape.room();
    for partition in &declared.partitions {
        let id = table.disk.partition(&partition.name);
        if table.entries.values().any(|entry| entry.id == id) {
            continue;
        }
        let ends = table.entries.values().map(Entry::end);
        let start = ends.fold(room.start, u64::max).next_multiple_of(MEBIBYTE);
        let left = room.end.saturating_sub(start);
        let least = partition.file_system.least();
        let size = match partition.size {
            Extent::Size(size) => size.bytes(),
            Extent::Rest => left.max(least),
        };
        if size > left {
            return Err(format!(
                "partition {} needs {} MiB, and {} MiB are left",
                partition.name,
                size >> 20,
                left >> 20
            ));
        }
        let number = table.entries.keys().max().map_or(1, |most| most + 1);
        let entry = Entry {
            kind: guid::UNFINISHED,
            id,
            start,
            size,
            name: partition.name.as_str().chars().take(36).collect(),
        };
        table.entries.insert(number, entry);
        names.push(partition.name.clone());
    }
    Ok((table, names))
}

/// File systems for what has none, and mounts for what isn't mounted.
fn fill(
    declared: &Declared,
    mut table: Table,
    is_mounted: impl Fn(&Partition) -> bool,
) -> Vec<Step> {
    let (mut steps, mut mounts) = (Vec::new(), Vec::new());
    for partition in &declared.partitions {
        let id = table.disk.partition(&partition.name);
        let Some((number, entry)) = table.entries.iter_mut().find(|(_, entry)| entry.id == id)
        else {
            continue;
        };
        let place = Place {
            number: *number,
            name: partition.name.clone(),
            id,
            start: entry.start,
            size: entry.size,
        };
        if entry.is_unfinished() {
            entry.kind = guid::LINUX;
            steps.push(Step::Format {
                partition: place.clone(),
                file_system: partition.file_system,
                label: partition.label.clone(),
                finished: table.clone(),
            });
        }
        if let Some(at) = &partition.mount
            && !is_mounted(partition)
        {
            mounts.push(Step::Mount {
                partition: place,
                file_system: partition.file_system,
                at: at.clone(),
                options: partition.options.clone(),
            });
        }
    }
    steps.extend(mounts);
    steps
}

/// It has our table.
fn go_on(declared: &Declared, disk: &Disk, found: &Found) -> Plan {
    let table = &found.table;
    let mut wrong: Vec<String> = Vec::new();
    let mut right: BTreeSet<Guid> = BTreeSet::new();
    let mut mounted: BTreeSet<Guid> = BTreeSet::new();
    let of_kernel = |number: u32, entry: &Entry| {
        let same = |part: &&Part| {
            (part.number, part.start, part.size) == (number, entry.start, entry.size)
        };
        disk.parts.iter().find(same)
    };
    if disk.is_system || disk.is_read_only {
        return Plan::refuse(disk.taboo().unwrap_or_default());
    }
    let declared_ids: BTreeSet<Guid> = declared
        .partitions
        .iter()
        .map(|partition| table.disk.partition(&partition.name))
        .collect();
    let mut signatures = disk.signatures.iter();
    let strange = signatures.find(|signature| !signature.is_table());
    if let Some(strange) = strange {
        wrong.push(format!("it holds {}, which wasn't made here", strange.kind));
    }
    for entry in table.entries.values() {
        if !declared_ids.contains(&entry.id) {
            wrong.push(format!(
                "partition {:?} is on it and isn't declared; nothing is ever deleted",
                entry.name
            ));
        }
    }
    for partition in &declared.partitions {
        let id = table.disk.partition(&partition.name);
        let Some((number, entry)) = table.entries.iter().find(|(_, entry)| entry.id == id) else {
            continue;
        };
        let part = of_kernel(*number, entry);
        match judge(partition, entry, part) {
            Ok(is_mounted) => {
                if part.is_some() && !entry.is_unfinished() {
                    right.insert(id);
                }
                mounted.extend(is_mounted.then_some(id));
            }
            Err(reason) => wrong.push(format!("partition {}: {reason}", partition.name)),
        }
    }
    let is_mounted =
        |partition: &Partition| mounted.contains(&table.disk.partition(&partition.name));
    if !wrong.is_empty() {
        let mut steps = fill(declared, table.clone(), is_mounted);
        // What is finished and right is mounted; nothing is written.
        steps.retain(
            |step| matches!(step, Step::Mount { partition, .. } if right.contains(&partition.id)),
        );
        return Plan {
            steps,
            refused: Some(wrong.join("; ")),
        };
    }
    let (wanted, names) = match extended(declared, disk, table) {
        Ok(extended) => extended,
        Err(reason) => {
            wrong.push(reason);
            (table.clone(), Vec::new())
        }
    };
    let mut steps = Vec::new();
    if !names.is_empty() || !found.whole {
        let change = if names.is_empty() {
            Change::Mend
        } else {
            Change::Add(names)
        };
        let table = wanted.clone();
        steps.push(Step::Table { table, change });
    }
    let as_wanted = |(number, entry): (&u32, &Entry)| of_kernel(*number, entry).is_some();
    if disk.parts.len() != wanted.entries.len() || !wanted.entries.iter().all(as_wanted) {
        steps.push(Step::Refresh);
    }
    steps.extend(fill(declared, wanted, is_mounted));
    Plan {
        steps,
        refused: wrong.pop(),
    }
}

/// Whether a partition of ours is as declared as far as it goes, and whether it is mounted where it belongs. `part` is none while
/// the kernel has yet to read the table.
fn judge(partition: &Partition, entry: &Entry, part: Option<&Part>) -> Result<bool, String> {
    if let Extent::Size(size) = partition.size
        && size.bytes() != entry.size
    {
        return Err(format!(
            "it has {} MiB, and {} are declared; no size is ever changed",
            entry.size >> 20,
            size.bytes() >> 20
        ));
    }
    let Some(part) = part else { return Ok(false) };
    if let Some(holder) = part.holders.first() {
        return Err(format!("it is in use by {holder}"));
    }
    let place = partition.mount.as_ref().map(|at| at.as_str());
    if let Some(other) = part.mounts.iter().find(|at| Some(at.as_str()) != place) {
        return Err(format!("it is mounted at {other}"));
    }
    if entry.is_unfinished() {
        return match part.mounts.first() {
            Some(at) => Err(format!("it is unfinished, and somebody mounted it at {at}")),
            None => Ok(false),
        };
    }
    let fs = partition.file_system.as_str();
    let uuid = entry.id.file_system().to_string();
    match part.signatures.as_slice() {
        [one] if one.kind == fs && one.uuid.as_deref() == Some(&uuid) => {
            let label = partition.label.as_ref().map(|label| label.as_str());
            if one.label.as_deref().unwrap_or_default() == label.unwrap_or_default() {
                Ok(!part.mounts.is_empty())
            } else {
                Err(format!(
                    "its label is {:?}, and {:?} is declared; no label is ever changed",
                    one.label.as_deref().unwrap_or_default(),
                    label.unwrap_or_default()
                ))
            }
        }
        [] => Err(format!(
            "its {fs} is gone; it is left for somebody to repair"
        )),
        [one] if one.kind != fs => Err(format!(
            "it holds {}, and {fs} is declared; no file system is ever replaced",
            one.kind
        )),
        _ => Err("it holds something that wasn't made here".to_owned()),
    }
}
