//! `imgtool publish`: a release into a folder that any HTTP server can serve.
//!
//! ```text
//! DIR/<channel>/<version>/…          the release's seven files
//! DIR/<channel>/<version>/patches/…  patches from the releases before it
//! DIR/<channel>/trust/<n>.dsse.json  the trust roots
//! DIR/<channel>/latest.dsse.json     a copy of the newest release's manifest
//! ```
//!
//! The release is copied into a folder of another name, flushed, read back and
//! compared, and renamed; patches follow; `latest` is replaced last. Cut at any point,
//! a client sees the old state or the new one.

mod patches;

use crate::console::{Console, Step};
use crate::error::{Error, Result};
use crate::files;
use crate::interrupt;
use crate::release_folder::{FILES, ReleaseFolder, fill};
use crate::trust::{self, TrustFile};
use crate::verify;
use cairn_release::digest::Hasher;
use cairn_release::{Digest, Envelope, Manifest, Sequence, Version, manifest, name};
use rustix::fs::Advice;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Options of `imgtool publish`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The release folder
    release: PathBuf,
    /// Folder that the HTTP server serves
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Channel within it, such as stable
    #[arg(long)]
    channel: Version,
    /// Trust roots, oldest first, or the folder that they lie in (repeatable)
    #[arg(long, value_name = "PATH", required = true)]
    trust: Vec<PathBuf>,
    /// Leave `latest` as it is; allows an older release, too
    #[arg(long)]
    keep_latest: bool,
    /// Keep patches from so many of the releases before it in this channel; 0 for none
    ///
    /// They lie in `patches` of the published release. One that lies in `patches` of the
    /// release folder is taken if it gives the image; the others are made, which takes
    /// minutes and holds both images in memory. A patch that saves less than a tenth of what
    /// a node fetches without it isn't kept. If one can't be made the release is
    /// published without it; publishing again makes what is missing. Patches that are there
    /// stay.
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u8).range(..=8))]
    patches: u8,
}

/// Name of the pointer to the newest release.
const LATEST: &str = "latest.dsse.json";
/// Name of the folder of trust roots.
const TRUST: &str = "trust";
const LIMIT: u64 = 4 * 1024 * 1024;

/// What was done.
#[derive(Debug, serde::Serialize)]
struct Done {
    version: Version,
    folder: PathBuf,
    /// Whether the same bytes were there already.
    unchanged: bool,
    /// The release that `latest` names now.
    latest: Version,
    /// What became of the patches from the releases before it.
    patches: Vec<patches::Kept>,
}

/// Runs `imgtool publish`.
///
/// # Errors
/// If the release isn't trusted or whole, would replace another one, is older than
/// the latest, or can't be written.
pub fn run(args: Args, console: &Console) -> Result<()> {
    let release = ReleaseFolder::open(&args.release)?;
    let chain = trust::chain(&args.trust)?;
    let Some(newest) = chain.last() else {
        return Err(Error::input("expected a trust root, got none"));
    };
    verify::check(&release, &newest.trust, None, console)?
        .verdict(&args.release)
        .map_err(|e| {
            Error::refused(format!("cannot publish {}", args.release.display())).because(e)
        })?;

    let channel = args.to.join(args.channel.as_str());
    let version = &release.manifest.version;
    let folder = channel.join(version.as_str());
    // All that could refuse is looked at before a byte is written.
    if [TRUST, LATEST].contains(&version.as_str()) {
        return Err(Error::input(format!(
            "a release can't be published as {version}"
        )));
    }
    let present = folder.symlink_metadata().is_ok();
    if present {
        same(&release, &folder)?;
    }
    let latest = latest(&channel)?;
    let moves = moves_latest(&release, latest.as_ref(), args.keep_latest, present)?;
    let roots = new_roots(&channel, &chain)?;
    let before = patches::before(&release, &channel, args.patches.into(), console)?;

    std::fs::create_dir_all(&channel).map_err(|e| files::cannot("write", &channel, e))?;
    if !present {
        copy(&release, &channel, &folder, console)?;
    }
    publish_roots(&channel, &roots)?;
    // A node that sees the release in `latest` finds its patches.
    let patches = patches::keep(&release, &folder, &before, console).map_err(|e| {
        Error::failed(format!("{version} is published, `latest` is as it was"))
            .because(e)
            .hint("publish it again; --patches 0 makes none")
    })?;
    if moves {
        files::write_whole(&channel.join(LATEST), &release.envelope_bytes, 0o644)?;
    }
    let latest = match latest {
        Some(latest) if !moves => latest.version,
        _ => version.clone(),
    };
    let done = Done {
        version: version.clone(),
        folder,
        unchanged: present,
        latest,
        patches,
    };
    console.result(&done, || {
        let shown = done.folder.display();
        let what = if present {
            "was there already, the same bytes"
        } else {
            "published"
        };
        let patches: String = done.patches.iter().map(patches::Kept::text).collect();
        format!("{shown} {what}\n{patches}latest is {}\n", done.latest)
    })
}

/// Checks that what is published under this version is this release.
fn same(release: &ReleaseFolder, folder: &Path) -> Result<()> {
    for file in FILES {
        let path = folder.join(file);
        let there = File::open(&path)
            .and_then(|file| digest(file, None))
            .map_err(|e| files::cannot("read", &path, e))?;
        let here = release.file(file);
        let ours = release.open_file(file)?;
        let ours = digest(ours, None).map_err(|e| files::cannot("read", &here, e))?;
        if there != ours {
            let version = &release.manifest.version;
            return Err(Error::refused(format!(
                "version {version} is published with another {file}; a version never changes"
            ))
            .hint("give the release a new version"));
        }
    }
    Ok(())
}

fn latest(channel: &Path) -> Result<Option<Manifest>> {
    let path = channel.join(LATEST);
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    let cannot = || Error::input(format!("cannot read {}", path.display()));
    let bytes = files::read(&path, LIMIT)?;
    let envelope =
        Envelope::parse(&bytes, manifest::PAYLOAD_TYPE).map_err(|e| cannot().because(e))?;
    Manifest::from_payload(&envelope.payload)
        .map(Some)
        .map_err(|e| cannot().because(e))
}

/// Whether `latest` has to name this release from now on.
fn moves_latest(
    release: &ReleaseFolder,
    latest: Option<&Manifest>,
    keep_latest: bool,
    present: bool,
) -> Result<bool> {
    let Some(latest) = latest else {
        return Ok(true);
    };
    let (version, sequence) = (&release.manifest.version, release.manifest.sequence);
    let Sequence(newest) = latest.sequence;
    if sequence.0 > newest {
        return Ok(!keep_latest);
    }
    if latest.version == *version && sequence.0 == newest {
        // The same again: `latest` is as it should be, or was cut while written.
        return Ok(true);
    }
    if sequence.0 == newest {
        return Err(Error::refused(format!(
            "{version} has sequence {sequence}, and so has the latest release {}",
            latest.version
        )));
    }
    if keep_latest || present {
        return Ok(false);
    }
    Err(Error::refused(format!(
        "{version} has sequence {sequence}, but the latest release {} has {newest}",
        latest.version
    ))
    .hint("with --keep-latest it is published beside the latest release"))
}

/// The trust roots that the channel lacks. What it has must be of the same line.
fn new_roots<'c>(channel: &Path, chain: &'c [TrustFile]) -> Result<Vec<&'c TrustFile>> {
    let folder = channel.join(TRUST);
    let mut missing = Vec::new();
    // Whether a root of the chain is the channel's own: the chain vouches for the rest.
    let mut joined = false;
    for root in chain {
        let number = root.trust.version;
        let path = folder.join(format!("{number}.dsse.json"));
        if path.symlink_metadata().is_ok() {
            let there = TrustFile::open(&path)?;
            if there.envelope.payload != root.envelope.payload {
                return Err(Error::refused(format!(
                    "{} is another trust root {number} than {}",
                    path.display(),
                    root.path.display()
                )));
            }
            joined = true;
            continue;
        }
        if !joined && number > 1 && folder.is_dir() {
            let last = folder.join(format!("{}.dsse.json", number - 1));
            let last = TrustFile::open(&last)?;
            last.trust.accept(&root.envelope).map_err(|e| {
                Error::refused(format!("{} is not to be trusted", root.path.display())).because(e)
            })?;
            joined = true;
        }
        missing.push(root);
    }
    Ok(missing)
}

fn publish_roots(channel: &Path, roots: &[&TrustFile]) -> Result<()> {
    let folder = channel.join(TRUST);
    std::fs::create_dir_all(&folder).map_err(|e| files::cannot("write", &folder, e))?;
    for root in roots {
        let path = folder.join(format!("{}.dsse.json", root.trust.version));
        files::write_new(&path, &root.bytes, 0o644)?;
    }
    Ok(())
}

/// Copies the release under another name, reads it back, and renames it.
fn copy(release: &ReleaseFolder, channel: &Path, folder: &Path, console: &Console) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let cannot = |e| files::cannot("write", folder, e);
    interrupt::watch()?;
    let partial = tempfile::Builder::new()
        .prefix(".imgtool-")
        .suffix(".partial")
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir_in(channel)
        .map_err(cannot)?;
    let images = release.manifest.kernel.image.size + release.manifest.root.size;
    let step = console.step(
        &format!("publishing {}", release.manifest.version),
        Some(2 * images),
    );
    for file in FILES {
        copy_file(release, file, &partial.path().join(file), folder, &step)?;
    }
    step.done();
    let flush = |path: &Path| File::open(path).and_then(|folder| folder.sync_all());
    flush(partial.path()).map_err(cannot)?;
    // An empty folder of that name could be replaced, a full one not.
    std::fs::rename(partial.path(), folder).map_err(cannot)?;
    // What was renamed is no longer there to be cleaned away.
    let _ = partial.keep();
    flush(channel).map_err(cannot)
}

fn copy_file(
    release: &ReleaseFolder,
    file: &str,
    to: &Path,
    shown: &Path,
    step: &Step,
) -> Result<()> {
    let cannot_write = |e| files::cannot("write", &shown.join(file), e);
    let mut from = release.open_file(file)?;
    let mut out = File::create_new(to).map_err(cannot_write)?;
    let (mut hasher, mut chunk) = (Hasher::default(), vec![0; 1 << 20]);
    loop {
        interrupt::check()?;
        let len = fill(&mut from, &mut chunk)
            .map_err(|e| files::cannot("read", &release.file(file), e))?;
        hasher.update(&chunk[..len]);
        out.write_all(&chunk[..len]).map_err(cannot_write)?;
        step.advance(len as u64);
        if len < chunk.len() {
            break;
        }
    }
    out.sync_all().map_err(cannot_write)?;
    // What is compared has to come from the disk, not from memory; a file system
    // that can't forget reads from memory, which is no reason to stop.
    let _ = rustix::fs::fadvise(&out, 0, None, Advice::DontNeed);
    let read = File::open(to)
        .and_then(|file| digest(file, Some(step)))
        .map_err(cannot_write)?;
    let expected = hasher.finish();
    if read != expected || named(&release.manifest, file).is_some_and(|named| named != read) {
        return Err(Error::failed(format!(
            "{}: wrote {expected}, read back {read}",
            shown.join(file).display()
        )));
    }
    Ok(())
}

/// The digest that the manifest names for a file.
fn named(manifest: &Manifest, file: &str) -> Option<Digest> {
    match file {
        name::KERNEL => Some(manifest.kernel.image.sha256),
        name::ROOT => Some(manifest.root.sha256),
        name::KERNEL_INDEX => Some(manifest.kernel.image.index),
        name::ROOT_INDEX => Some(manifest.root.index),
        name::SBOM => Some(manifest.sbom),
        name::CONTENTS => Some(manifest.contents),
        _ => None,
    }
}

fn digest(mut file: File, step: Option<&Step>) -> std::io::Result<Digest> {
    let (mut hasher, mut chunk) = (Hasher::default(), vec![0; 1 << 20]);
    loop {
        let len = fill(&mut file, &mut chunk)?;
        hasher.update(&chunk[..len]);
        if let Some(step) = step {
            step.advance(len as u64);
        }
        if len < chunk.len() {
            return Ok(hasher.finish());
        }
    }
}
