//! The pairs of releases, built by `imgtool build` from real packages: for each pair the
//! release that a node has, and one that all of them go to.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use cairn_tests::workshop::{EPOCH, Programs, Workshop, copy_tree};
use cairn_tests::{ExtraRepo, PacmanRepo};

use super::packages::{MONTH, MORE, Older, REBUILT, SECURITY, Shelf};

/// What a pair starts from was built 30 days earlier; every release has its own time.
const BEFORE: &str = "1787408000";
/// The release that all pairs go to.
const NEW: &str = "2.0.0";

/// An update from one release to another.
#[derive(Debug, Clone)]
pub struct Pair {
    /// A word for tables and folders.
    pub name: &'static str,
    /// What it is.
    pub what: &'static str,
    /// The release that the node has.
    pub old: PathBuf,
    /// The release that it goes to.
    pub new: PathBuf,
    /// The image that the pair is about; the other changes only in its times.
    pub images: &'static [&'static str],
}

const ROOT: &[&str] = &["root.erofs"];
const KERNEL: &[&str] = &["kernel.squashfs"];
const BOTH: &[&str] = &["root.erofs", "kernel.squashfs"];

type Kind = (&'static str, &'static str, Older, &'static [&'static str]);

const KINDS: [Kind; 5] = [
    ("security", "a security fix in OpenSSL", SECURITY, ROOT),
    (
        "monthly",
        "a month's updates, some 30 packages",
        MONTH,
        ROOT,
    ),
    (
        "kernel",
        "a kernel update, drivers for QEMU only",
        Older::Kernel,
        KERNEL,
    ),
    (
        "rebuilt",
        "snapd built again by Debian from the same source",
        REBUILT,
        ROOT,
    ),
    (
        "again",
        "the same packages, another SOURCE_DATE_EPOCH",
        Older::Nothing,
        BOTH,
    ),
];

/// Builds them all in `dir`.
///
/// # Errors
/// If packages can't be had or a build fails.
pub fn build(dir: &Path) -> Result<Vec<Pair>> {
    let repo = PacmanRepo::ensure()?;
    let shelf = Shelf::new(repo.clone())?;
    let workshop = Workshop::empty(dir, Programs::build(true)?, repo);
    workshop.make_keys()?;
    workshop.make_profile(&[])?;
    let newest = shelf.newest(dir)?;
    let new = release(&workshop, NEW, EPOCH, &[&newest])?;
    KINDS
        .iter()
        .map(|(name, what, older, images)| {
            let older = shelf.older(dir, name, *older)?;
            let first: Vec<&ExtraRepo> = older.iter().chain([&newest]).collect();
            Ok(Pair {
                name,
                what,
                old: release(&workshop, name, BEFORE, &first)?,
                new: new.clone(),
                images,
            })
        })
        .collect()
}

/// A release from a profile of its own, whose pacman.conf names `first` before the base.
/// Both profiles of a pair have one name, as an update's have.
fn release(
    workshop: &Workshop,
    version: &str,
    epoch: &str,
    first: &[&ExtraRepo],
) -> Result<PathBuf> {
    let profile = workshop.dir().join("profiles").join(version);
    copy_tree(&workshop.profile(), &profile)?;
    let list = profile.join("packages.x86_64");
    let packages = fs::read_to_string(&list)? + &MORE.join("\n") + "\n";
    fs::write(&list, packages)?;
    fs::write(
        profile.join("pacman.conf"),
        workshop.repo.pacman_conf(first),
    )?;
    let releases = workshop.dir().join("releases");
    let hook = workshop.programs.hook.display().to_string();
    let sequence = if version == NEW { 2 } else { 1 };
    workshop
        .imgtool(workshop.build_args_of(&profile, version, sequence, &releases))
        .args(["--hook", &hook])
        .env("SOURCE_DATE_EPOCH", epoch)
        .run()?;
    Ok(releases.join(version))
}
