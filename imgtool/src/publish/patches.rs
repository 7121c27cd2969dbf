//! Patches in a published release: from the releases before it, for nodes that have those.
//!
//! A patch is kept if it saves a tenth of what a node would fetch without it.
//! None is needed: what can't be made is told, and nodes fetch blocks.

use crate::console::Console;
use crate::error::{Error, Result};
use crate::release_folder::ReleaseFolder;
use crate::size::bytes;
use crate::{delta, files, interrupt};
use cairn_delta::Patch;
use cairn_release::manifest::Image;
use cairn_release::{Version, name};
use serde::Serialize;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What became of the patch of one image.
#[derive(Debug, Serialize)]
pub struct Kept {
    /// The release that it leads from.
    from: Version,
    image: &'static str,
    how: How,
    /// Where it lies, if there is one.
    patch: Option<PathBuf>,
    /// Its bytes.
    patch_bytes: u64,
    /// Bytes of the blocks that a node fetches without it.
    block_bytes: u64,
    /// Why there is none, if it failed.
    error: Option<String>,
}

/// Where a patch is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum How {
    /// It was published already.
    There,
    /// It lay in the release folder.
    Copied,
    Made,
    /// There is none: it would save too little.
    Needless,
    /// There is none.
    Failed,
}

impl Kept {
    /// A line for people.
    pub fn text(&self) -> String {
        let (patch, blocks) = (bytes(self.patch_bytes), bytes(self.block_bytes));
        let what = match (self.how, &self.error) {
            (How::There, _) => format!("{patch} instead of {blocks}, was there already"),
            (How::Copied, _) => format!("{patch} instead of {blocks}, copied"),
            (How::Made, _) => format!("{patch} instead of {blocks}, made"),
            (How::Needless, _) => format!("none, it would save little of {blocks}"),
            (How::Failed, why) => format!("none: {}", why.as_deref().unwrap_or("failed")),
        };
        format!("patch of {} from {}: {what}\n", self.image, self.from)
    }
}

/// The `count` newest releases of the channel before this one. What can't be read is
/// told, and counts as not there.
///
/// # Errors
/// If the channel's folder can't be read.
pub fn before(
    release: &ReleaseFolder,
    channel: &Path,
    count: usize,
    console: &Console,
) -> Result<Vec<ReleaseFolder>> {
    let mut found = Vec::new();
    if count == 0 || !channel.is_dir() {
        return Ok(found);
    }
    let cannot = |e| files::cannot("read", channel, e);
    for entry in channel.read_dir().map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let version = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(version): Option<Version> = version else {
            continue;
        };
        if version.as_str() == super::TRUST || !entry.path().is_dir() {
            continue;
        }
        match ReleaseFolder::open(&entry.path()) {
            Ok(other) if other.manifest.sequence < release.manifest.sequence => found.push(other),
            Ok(_) => {}
            Err(error) => {
                let why = error.chain().join(": ");
                console.warn(&format!("no patches from {version}: {why}"));
            }
        }
    }
    found.sort_by_key(|other| std::cmp::Reverse(other.manifest.sequence));
    found.truncate(count);
    Ok(found)
}

/// Sees to it that the published `folder` of a release has the patches from `before`.
///
/// # Errors
/// Only if a signal came; what else fails is told, and in what is given back.
pub fn keep(
    release: &ReleaseFolder,
    folder: &Path,
    before: &[ReleaseFolder],
    console: &Console,
) -> Result<Vec<Kept>> {
    let mut all = Vec::new();
    for (image, index, new) in release.images() {
        let mut to = To {
            release,
            folder: folder.join(name::PATCHES),
            image,
            index,
            new,
            read: None,
        };
        let mut seen = HashSet::from([new.sha256]);
        for from in before {
            let old = from.images().into_iter().find(|(file, ..)| *file == image);
            let Some((_, _, old)) = old.filter(|(_, _, old)| seen.insert(old.sha256)) else {
                continue;
            };
            let kept = to.from(from, old, console);
            // An error that a signal brought is the signal's.
            interrupt::check()?;
            all.push(kept.unwrap_or_else(|error| to.failed(from, &error, console)));
        }
    }
    Ok(all)
}

/// The image that patches lead to.
struct To<'r> {
    release: &'r ReleaseFolder,
    /// The published folder of patches.
    folder: PathBuf,
    image: &'static str,
    index: &'static str,
    new: &'r Image,
    /// The image, once it is needed.
    read: Option<Arc<Vec<u8>>>,
}

impl To<'_> {
    fn from(&mut self, from: &ReleaseFolder, old: &Image, console: &Console) -> Result<Kept> {
        let indices = (self.release.index(self.index)?, from.index(self.index)?);
        let mut kept = Kept {
            from: from.manifest.version.clone(),
            image: self.image,
            how: How::Needless,
            patch: None,
            patch_bytes: 0,
            block_bytes: delta::block_bytes(&self.new.verity, &indices.0, &indices.1),
            error: None,
        };
        let place = self.folder.join(name::patch(&old.sha256));
        if let Some(patch) = self.there(&place, old)? {
            (kept.how, kept.patch_bytes) = (How::There, patch.len() as u64);
            kept.patch = Some(place);
        } else if kept.block_bytes > 0 {
            let (how, patch) = self.patch(from, old, kept.block_bytes, console)?;
            kept.patch_bytes = patch.len() as u64;
            if pays(&patch, kept.block_bytes) {
                files::make_folder(&self.folder)?;
                files::sync(files::folder_of(&self.folder))?;
                files::write_whole(&place, &patch, 0o644)?;
                (kept.how, kept.patch) = (how, Some(place));
            }
        }
        Ok(kept)
    }

    /// The published patch, unless there is none, or one that this imgtool can't read.
    fn there(&self, place: &Path, old: &Image) -> Result<Option<Vec<u8>>> {
        if place.symlink_metadata().is_err() {
            return Ok(None);
        }
        let bytes = files::read(place, delta::LIMIT)?;
        let fits = Patch::parse(&bytes)
            .is_ok_and(|patch| (patch.from, patch.to) == (old.sha256, self.new.sha256));
        Ok(Some(bytes).filter(|_| fits))
    }

    /// The patch that lies in the release folder, if it does what it should; else a new one.
    fn patch(
        &mut self,
        from: &ReleaseFolder,
        old: &Image,
        block_bytes: u64,
        console: &Console,
    ) -> Result<(How, Vec<u8>)> {
        let called = format!("{} from {}", self.image, from.manifest.version);
        let old_bytes = delta::read(from, self.image, old)?;
        let (new_bytes, verity) = (self.read()?, self.new.verity.clone());
        let ready = self.release.file(name::PATCHES);
        let ready = ready.join(name::patch(&old.sha256));
        if ready.symlink_metadata().is_ok() {
            let checked = files::read(&ready, delta::LIMIT).and_then(|patch| {
                delta::check(&called, &old_bytes, &verity, &patch, console)?;
                Ok(patch)
            });
            match checked {
                Ok(patch) if pays(&patch, block_bytes) => return Ok((How::Copied, patch)),
                Ok(_) => {}
                Err(error) => {
                    let why = error.chain().join(": ");
                    console.warn(&format!("{} isn't used: {why}", ready.display()));
                }
            }
        }
        let console = *console;
        let make = move || delta::patch(&called, &old_bytes, &new_bytes, &verity, &console);
        Ok((How::Made, interrupt::during(make)?))
    }

    /// The new image, read once for all patches that lead to it.
    fn read(&mut self) -> Result<Arc<Vec<u8>>> {
        if let Some(read) = &self.read {
            return Ok(Arc::clone(read));
        }
        let bytes = delta::read(self.release, self.image, self.new)?;
        Ok(Arc::clone(self.read.insert(Arc::new(bytes))))
    }

    fn failed(&self, from: &ReleaseFolder, error: &Error, console: &Console) -> Kept {
        let (image, version) = (self.image, &from.manifest.version);
        let why = error.chain().join(": ");
        console.warn(&format!(
            "no patch of {image} from {version}, nodes fetch blocks: {why}"
        ));
        Kept {
            from: version.clone(),
            image,
            how: How::Failed,
            patch: None,
            patch_bytes: 0,
            block_bytes: 0,
            error: Some(why),
        }
    }
}

fn pays(patch: &[u8], block_bytes: u64) -> bool {
    (patch.len() as u64) < block_bytes / 10 * 9
}
