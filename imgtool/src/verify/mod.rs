//! `imgtool verify`: every claim that a release makes, checked against its bytes.

mod kernel;

use crate::console::Console;
use crate::error::{Error, Result};
use crate::keys::{self, BootPublic};
use crate::release_folder::{Reading, ReleaseFolder};
use crate::{contents, sbom, trust};
use cairn_release::index::BlockIndex;
use cairn_release::manifest::Image;
use cairn_release::{Digest, KeyId, TrustRoot, name};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Options of `imgtool verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The release folder
    release: PathBuf,
    /// Trust roots, oldest first, or the folder that they lie in (repeatable)
    #[arg(long, value_name = "PATH", required = true)]
    trust: Vec<PathBuf>,
    /// Public boot key: also check what GRUB will check
    #[arg(long, value_name = "FILE")]
    boot_pub: Option<PathBuf>,
}

/// One claim and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// Which file of the release.
    pub file: &'static str,
    /// What was checked.
    pub check: String,
    /// Whether it holds.
    pub ok: bool,
    /// What was found.
    pub found: String,
}

impl Check {
    fn new(file: &'static str, check: impl Into<String>, found: Result<String>) -> Self {
        let (ok, found) = match found {
            Ok(found) => (true, found),
            Err(error) => (false, error.chain().join(": ")),
        };
        Self {
            file,
            check: check.into(),
            ok,
            found,
        }
    }

    fn digest(file: &'static str, check: &str, expected: Digest, got: Digest) -> Self {
        let found = if expected == got {
            Ok(got.to_string())
        } else {
            Err(Error::refused(format!("expected {expected}, got {got}")))
        };
        Self::new(file, check, found)
    }
}

/// All checks of one release.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The release's version, as its manifest states it.
    pub version: String,
    /// The release keys that signed it.
    pub signers: Vec<KeyId>,
    /// Every check, in the order of the files.
    pub checks: Vec<Check>,
}

impl Report {
    /// How many checks failed.
    pub fn failures(&self) -> usize {
        self.checks.iter().filter(|check| !check.ok).count()
    }

    /// An error if any check failed, with the first as its cause.
    ///
    /// # Errors
    /// Exactly then.
    pub fn verdict(&self, release: &Path) -> Result<()> {
        let Some(first) = self.checks.iter().find(|check| !check.ok) else {
            return Ok(());
        };
        let (failed, all) = (self.failures(), self.checks.len());
        let text = format!("{}: {failed} of {all} checks failed", release.display());
        let cause = format!("{}: {}: {}", first.file, first.check, first.found);
        Err(Error::refused(text).because(Error::refused(cause)))
    }

    fn text(&self) -> String {
        let line = |check: &Check| {
            let verdict = if check.ok { "ok  " } else { "FAIL" };
            format!(
                "{verdict}  {:21} {:15} {}\n",
                check.file, check.check, check.found
            )
        };
        let mut out: String = self.checks.iter().map(line).collect();
        out += &match self.failures() {
            0 => format!("release {} is whole and trusted\n", self.version),
            failed => format!("release {}: {failed} checks failed\n", self.version),
        };
        out
    }
}

/// Runs `imgtool verify`.
///
/// # Errors
/// If anything can't be read, or is wrong.
pub fn run(args: Args, console: &Console) -> Result<()> {
    let trust = trust::newest(&args.trust)?;
    let boot = args.boot_pub.as_deref().map(load_boot).transpose()?;
    let folder = ReleaseFolder::open(&args.release)?;
    let report = check(&folder, &trust, boot.as_ref(), console)?;
    console.result(&report, || report.text())?;
    report.verdict(&args.release)
}

fn load_boot(path: &Path) -> Result<BootPublic> {
    let bytes = keys::KeySource::File(path.to_owned()).read()?;
    keys::boot_public(&bytes)
        .map_err(|e| Error::input(format!("cannot use {}", path.display())).because(e))
}

/// Checks a release: both images are read once, side by side.
///
/// # Errors
/// If a file can't be read; what is wrong in it is in the report.
pub fn check(
    folder: &ReleaseFolder,
    trust: &TrustRoot,
    boot: Option<&BootPublic>,
    console: &Console,
) -> Result<Report> {
    if let Some(warning) = trust::expired(trust) {
        console.warn(&warning);
    }
    let signed = trust.verify(&folder.envelope);
    let signers = signed.as_ref().map(Clone::clone).unwrap_or_default();
    let signed = signed
        .map_err(|e| Error::refused("not to be trusted").because(e))
        .map(|ids| {
            let ids: Vec<String> = ids.iter().map(KeyId::short).collect();
            format!("by {}", ids.join(", "))
        });
    let mut checks = vec![Check::new(name::MANIFEST, "signatures", signed)];

    let images = folder.images();
    let total = images.iter().map(|(_, _, image)| image.size).sum();
    let step = console.step(
        &format!("checking {}", folder.manifest.version),
        Some(total),
    );
    let [first, second] = images;
    let read = |(file, index, image): (&'static str, &'static str, &Image)| {
        check_image(folder, file, index, image, &step)
    };
    let (kernel, root) = std::thread::scope(|scope| {
        let other = scope.spawn(|| read(second));
        let one = read(first);
        (one, other.join())
    });
    checks.extend(kernel?);
    checks.extend(root.map_err(|_| Error::failed("a thread ended early"))??);
    step.done();

    let bill = folder.read(name::SBOM)?;
    checks.push(Check::digest(
        name::SBOM,
        "SHA-256",
        folder.manifest.sbom,
        Digest::of(&bill),
    ));
    let packages = sbom::packages(&bill, Path::new(name::SBOM));
    checks.push(Check::new(
        name::SBOM,
        "content",
        packages.map(|packages| format!("{} packages", packages.len())),
    ));
    let list = folder.read(name::CONTENTS)?;
    let digest = Digest::of(&list);
    checks.push(Check::digest(
        name::CONTENTS,
        "SHA-256",
        folder.manifest.contents,
        digest,
    ));
    let records = contents::parse(&list[..], Path::new(name::CONTENTS));
    checks.push(Check::new(
        name::CONTENTS,
        "content",
        records.map(|records| format!("{} files", records.len())),
    ));
    if let Some(boot) = boot {
        checks.push(kernel::fingerprint(trust, boot));
        checks.extend(kernel::signatures(&folder.file(name::KERNEL), boot));
    }
    Ok(Report {
        version: folder.manifest.version.to_string(),
        signers,
        checks,
    })
}

fn check_image(
    folder: &ReleaseFolder,
    file: &'static str,
    index_file: &'static str,
    image: &Image,
    step: &crate::console::Step,
) -> Result<Vec<Check>> {
    let stored = folder.read(index_file)?;
    let index_ok = Digest::of(&stored) == image.index;
    let mut checks = vec![Check::digest(
        index_file,
        "SHA-256",
        image.index,
        Digest::of(&stored),
    )];
    let facts = match folder.read_image(file, image, step)? {
        Reading::Size(got) => {
            let found = format!("expected {} bytes, got {got}", image.size);
            checks.insert(0, Check::new(file, "size", Err(Error::refused(found))));
            return Ok(checks);
        }
        Reading::Whole(facts) => facts,
    };
    let named = BlockIndex::parse(stored).ok().filter(|_| index_ok);
    let place = named
        .and_then(|named| facts.first_difference(&named))
        .map(|(at, blocks)| {
            let end = at + cairn_release::BLOCK as u64 - 1;
            format!("; {blocks} blocks differ, the first is bytes {at} to {end}")
        });
    let mut digest = Check::digest(file, "SHA-256", image.sha256, facts.sha256);
    if let Some(place) = place {
        digest.found += &place;
    }
    let tree = if facts.tree_matches {
        Ok("belongs to the data".to_owned())
    } else {
        Err(Error::refused(
            "the tree in the file is not the one of its data",
        ))
    };
    let size = Check::new(file, "size", Ok(format!("{} bytes", image.size)));
    let root = Check::digest(file, "verity root", image.verity.root_hash, facts.root_hash);
    let index = Check::digest(
        file,
        "block index",
        image.index,
        Digest::of(facts.index.as_bytes()),
    );
    let mut all = vec![
        size,
        digest,
        root,
        Check::new(file, "verity tree", tree),
        index,
    ];
    all.append(&mut checks);
    Ok(all)
}

/// Reads one file out of a squashfs.
fn cat(container: &Path, file: &str) -> Result<Vec<u8>> {
    let command = cairn_system::Command::new("unsquashfs")
        .arg("-cat")
        .arg(container)
        .arg(file);
    let output = command.run().map_err(|e| {
        Error::failed(format!("cannot read /{file} in {}", container.display())).because(e)
    })?;
    Ok(output.stdout)
}
