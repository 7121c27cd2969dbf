//! Which disk is meant, and what becomes of all of them.

use std::collections::{BTreeMap, BTreeSet};

use cairn_wire::Disks;
use cairn_wire::disk::{Declared, Disk as Wanted, Find, Name};

use crate::plan::{Plan, plan};
use crate::seen::Disk;

/// What becomes of a declared disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Course<'s> {
    /// The disk, if it was found.
    pub disk: Option<&'s Disk>,
    /// What is left to do.
    pub plan: Plan,
}

/// All that is declared, each with its disk. `folders` are those that the node's settings allow to mount in.
pub fn courses<'s>(
    declared: &Disks,
    seen: &'s [Disk],
    folders: &[String],
) -> BTreeMap<Name, Course<'s>> {
    let mut courses = BTreeMap::new();
    let mut taken: BTreeSet<&str> = BTreeSet::new();
    // Who names a disk has it before who only names a size.
    let (by_size, named): (Vec<_>, Vec<_>) = declared
        .usable()
        .partition(|wanted| matches!(wanted.find, Find::Size(_)));
    let names: Vec<&Name> = declared.usable().map(|wanted| &wanted.name).collect();
    for wanted in named.into_iter().chain(by_size) {
        let found = find(wanted, seen, &names, &taken);
        let disk = found.as_ref().ok().copied();
        let plan = match found {
            Err(reason) => Plan::refuse(reason),
            Ok(disk) if !taken.insert(&disk.node) => {
                Plan::refuse("its disk is another one's of those that are declared")
            }
            Ok(disk) => match outside(wanted, folders) {
                Some(reason) => Plan::refuse(reason),
                None => plan(wanted, disk),
            },
        };
        courses.insert(wanted.name.clone(), Course { disk, plan });
    }
    for item in declared.iter() {
        if let Declared::Unusable {
            name: Some(name),
            reason,
        } = item
        {
            courses.entry(name.clone()).or_insert_with(|| Course {
                disk: None,
                plan: Plan::refuse(reason),
            });
        }
    }
    courses
}

/// Where it would be mounted, and mustn't.
fn outside(wanted: &Wanted, folders: &[String]) -> Option<String> {
    let allowed = |at: &&cairn_wire::disk::MountPoint| {
        folders
            .iter()
            .any(|folder| at.as_str() != folder && at.is_in(folder))
    };
    let mount = wanted.mounts().find(|at| !allowed(at))?;
    Some(format!(
        "this node doesn't allow to mount at {mount} (disks.mount-folders)"
    ))
}

fn find<'s>(
    wanted: &Wanted,
    seen: &'s [Disk],
    names: &[&Name],
    taken: &BTreeSet<&str>,
) -> Result<&'s Disk, String> {
    let only = |found: Vec<&'s Disk>, what: String| match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(format!("no disk here has {what}")),
        several => {
            let nodes: Vec<&str> = several.iter().map(|disk| disk.node.as_str()).collect();
            Err(format!("several disks have {what}: {}", nodes.join(", ")))
        }
    };
    match &wanted.find {
        Find::Serial(serial) => {
            let has = |disk: &&Disk| disk.serial.as_deref() == Some(serial.as_str());
            only(
                seen.iter().filter(has).collect(),
                format!("the serial number {serial}"),
            )
        }
        Find::Path(path) => {
            let has = |disk: &&Disk| disk.links.iter().any(|link| link == path.as_str());
            only(
                seen.iter().filter(has).collect(),
                format!("the path {path}"),
            )
        }
        Find::Size(span) => {
            let range = span.least.bytes()..=span.most.bytes();
            let others = |disk: &Disk| {
                let other = |name: &&&Name| **name != &wanted.name && disk.is_ours(name);
                names.iter().any(|name| other(&name))
            };
            let fits: Vec<&Disk> = seen
                .iter()
                .filter(|disk| range.contains(&disk.shape.size()))
                .filter(|disk| !taken.contains(disk.node.as_str()) && !others(disk))
                .filter(|disk| disk.is_ours(&wanted.name) || disk.taboo().is_none())
                .collect();
            // One that came later doesn't make it doubtful which one it was.
            let ours: Vec<&Disk> = fits
                .iter()
                .copied()
                .filter(|disk| disk.is_ours(&wanted.name))
                .collect();
            let fits = if ours.len() == 1 { ours } else { fits };
            only(fits, format!("{} to {}", span.least, span.most))
        }
    }
}
