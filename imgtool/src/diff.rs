//! `imgtool diff`: what changed from one release to another, and what an update
//! would cost on the wire.

use crate::console::Console;
use crate::contents::{self, Image, Record};
use crate::error::Result;
use crate::release_folder::ReleaseFolder;
use crate::sbom::{self, Package};
use crate::size::bytes;
use cairn_release::name;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Options of `imgtool diff`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The release folder to come from
    old: PathBuf,
    /// The release folder to go to
    new: PathBuf,
    /// List every file, not only the largest
    #[arg(long)]
    files: bool,
}

/// How many files are listed without `--files`.
const LARGEST: usize = 10;

#[derive(Debug, Serialize)]
struct Diff {
    old: Side,
    new: Side,
    packages: Changes<PackageChange>,
    files: Changes<FileChange>,
    wire: Wire,
}

#[derive(Debug, Serialize)]
struct Side {
    version: String,
    sequence: u64,
    kernel_version: String,
    kernel_bytes: u64,
    root_bytes: u64,
}

/// What came, went and changed.
#[derive(Debug, Serialize)]
struct Changes<T> {
    added: Vec<T>,
    removed: Vec<T>,
    changed: Vec<T>,
}

#[derive(Debug, Serialize)]
struct PackageChange {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    old: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new: Option<String>,
}

#[derive(Debug, Serialize)]
struct FileChange {
    image: Image,
    path: String,
    old_bytes: u64,
    new_bytes: u64,
}

/// Bytes that a node with the old release fetches.
#[derive(Debug, Serialize)]
struct Wire {
    /// Manifest and both images, whole.
    whole: u64,
    /// Manifest, both indexes, and the blocks that the old images don't have.
    blocks: u64,
    /// The blocks of the kernel container alone.
    kernel_blocks: u64,
    /// The blocks of the root image alone.
    root_blocks: u64,
}

/// Runs `imgtool diff`.
///
/// # Errors
/// If either release can't be read.
pub fn run(args: Args, console: &Console) -> Result<()> {
    let (old, new) = (
        ReleaseFolder::open(&args.old)?,
        ReleaseFolder::open(&args.new)?,
    );
    let diff = Diff {
        packages: packages(read_packages(&old)?, read_packages(&new)?),
        files: files(read_records(&old)?, read_records(&new)?),
        wire: wire(&old, &new)?,
        old: side(&old),
        new: side(&new),
    };
    console.result(&diff, || text(&diff, args.files))
}

fn side(folder: &ReleaseFolder) -> Side {
    let manifest = &folder.manifest;
    Side {
        version: manifest.version.to_string(),
        sequence: manifest.sequence.0,
        kernel_version: manifest.kernel.kernel_version.clone(),
        kernel_bytes: manifest.kernel.image.size,
        root_bytes: manifest.root.size,
    }
}

fn read_packages(folder: &ReleaseFolder) -> Result<Vec<Package>> {
    sbom::packages(&folder.read(name::SBOM)?, &folder.file(name::SBOM))
}

fn read_records(folder: &ReleaseFolder) -> Result<Vec<Record>> {
    contents::parse(
        &folder.read(name::CONTENTS)?[..],
        &folder.file(name::CONTENTS),
    )
}

fn wire(old: &ReleaseFolder, new: &ReleaseFolder) -> Result<Wire> {
    // A block may have moved from one image to the other; both are seeds for both.
    let seeds = [old.index(name::KERNEL_INDEX)?, old.index(name::ROOT_INDEX)?];
    let seeds = [&seeds[0], &seeds[1]];
    let (kernel, root) = (new.index(name::KERNEL_INDEX)?, new.index(name::ROOT_INDEX)?);
    let kernel_blocks = kernel.bytes_missing_from(&seeds);
    let root_blocks = root.bytes_missing_from(&[seeds[0], seeds[1], &kernel]);
    let manifest = new.envelope_bytes.len() as u64;
    let indexes = (kernel.as_bytes().len() + root.as_bytes().len()) as u64;
    Ok(Wire {
        whole: manifest + new.manifest.kernel.image.size + new.manifest.root.size,
        blocks: manifest + indexes + kernel_blocks + root_blocks,
        kernel_blocks,
        root_blocks,
    })
}

fn packages(old: Vec<Package>, new: Vec<Package>) -> Changes<PackageChange> {
    let by_name = |packages: Vec<Package>| -> BTreeMap<String, String> {
        packages
            .into_iter()
            .map(|package| (package.name, package.version))
            .collect()
    };
    compare(by_name(old), by_name(new), |name, old, new| PackageChange {
        name,
        old,
        new,
    })
}

fn files(old: Vec<Record>, new: Vec<Record>) -> Changes<FileChange> {
    let by_path = |records: Vec<Record>| -> BTreeMap<(Image, String), Record> {
        records
            .into_iter()
            .map(|record| ((record.image, record.path.clone()), record))
            .collect()
    };
    let size = |record: Option<Record>| record.map_or(0, |record| record.size);
    compare(by_path(old), by_path(new), |(image, path), old, new| {
        FileChange {
            image,
            path,
            old_bytes: size(old),
            new_bytes: size(new),
        }
    })
}

fn compare<K: Ord + Clone, V: PartialEq, T>(
    mut old: BTreeMap<K, V>,
    new: BTreeMap<K, V>,
    change: impl Fn(K, Option<V>, Option<V>) -> T,
) -> Changes<T> {
    let mut changes = Changes {
        added: Vec::new(),
        removed: Vec::new(),
        changed: Vec::new(),
    };
    for (key, new) in new {
        match old.remove(&key) {
            None => changes.added.push(change(key, None, Some(new))),
            Some(old) if old != new => changes.changed.push(change(key, Some(old), Some(new))),
            Some(_) => {}
        }
    }
    changes.removed = old
        .into_iter()
        .map(|(key, old)| change(key, Some(old), None))
        .collect();
    changes
}

fn text(diff: &Diff, all: bool) -> String {
    let (old, new) = (&diff.old, &diff.new);
    let mut out = format!("{} → {}\n\n", old.version, new.version);
    out += &format!("sequence        {} → {}\n", old.sequence, new.sequence);
    out += &format!(
        "kernel          {} → {}\n",
        old.kernel_version, new.kernel_version
    );
    for (name, old, new) in [
        (name::KERNEL, old.kernel_bytes, new.kernel_bytes),
        (name::ROOT, old.root_bytes, new.root_bytes),
    ] {
        out += &format!("{name:15} {} → {}\n", bytes(old), bytes(new));
    }
    let wire = &diff.wire;
    out += &format!(
        "\nan update fetches {} by blocks, or {} whole\n",
        bytes(wire.blocks),
        bytes(wire.whole)
    );
    out += &format!(
        "  blocks of {} {}, of {} {}\n",
        name::KERNEL,
        bytes(wire.kernel_blocks),
        name::ROOT,
        bytes(wire.root_blocks)
    );

    let packages = &diff.packages;
    out += &format!("\npackages: {}\n", counts(packages));
    for change in &packages.added {
        out += &format!(
            "  + {} {}\n",
            change.name,
            change.new.as_deref().unwrap_or_default()
        );
    }
    for change in &packages.removed {
        out += &format!(
            "  - {} {}\n",
            change.name,
            change.old.as_deref().unwrap_or_default()
        );
    }
    for change in &packages.changed {
        let version = |version: &Option<String>| version.clone().unwrap_or_default();
        let (old, new) = (version(&change.old), version(&change.new));
        out += &format!("  ~ {} {old} → {new}\n", change.name);
    }
    out += &format!("\nfiles: {}\n", counts(&diff.files));
    out + &list(&diff.files, all)
}

fn list(files: &Changes<FileChange>, all: bool) -> String {
    let kinds = [
        ('+', &files.added),
        ('-', &files.removed),
        ('~', &files.changed),
    ];
    let mut lines: Vec<(char, &FileChange)> = kinds
        .into_iter()
        .flat_map(|(mark, changes)| changes.iter().map(move |change| (mark, change)))
        .collect();
    let left = if all {
        0
    } else {
        lines.len().saturating_sub(LARGEST)
    };
    if all {
        lines.sort_by(|(_, a), (_, b)| (a.image, &a.path).cmp(&(b.image, &b.path)));
    } else {
        // A stable sort: equal sizes stay in the order of their paths.
        lines.sort_by_key(|(_, change)| std::cmp::Reverse(change.old_bytes.max(change.new_bytes)));
        lines.truncate(LARGEST);
    }
    let mut out: String = lines
        .iter()
        .map(|(mark, change)| {
            let size = match mark {
                '+' => bytes(change.new_bytes),
                '-' => bytes(change.old_bytes),
                _ => format!("{} → {}", bytes(change.old_bytes), bytes(change.new_bytes)),
            };
            let image = match change.image {
                Image::Kernel => "kernel",
                Image::Root => "root",
            };
            format!("  {mark} {image:6} {}  {size}\n", change.path)
        })
        .collect();
    if left > 0 {
        out += &format!("  and {left} smaller ones; --files lists all\n");
    }
    out
}

fn counts<T>(changes: &Changes<T>) -> String {
    let Changes {
        added,
        removed,
        changed,
    } = changes;
    format!(
        "{} added, {} removed, {} changed",
        added.len(),
        removed.len(),
        changed.len()
    )
}
