//! `imgtool delta`: patches from one release to another, one file for each image.
//!
//! A patch is named after the digest of the image that it starts from. It is signed by
//! nobody: a node checks what comes out of it against the signed index.

use crate::console::Console;
use crate::error::{Error, Result};
use crate::files;
use crate::interrupt;
use crate::release_folder::ReleaseFolder;
use crate::size::bytes;
use cairn_delta::{apply, make};
use cairn_release::index::BlockIndex;
use cairn_release::manifest::Image;
use cairn_release::verity::Verity;
use cairn_release::{Digest, name};
use serde::Serialize;
use std::path::PathBuf;

/// Make the patches that take a node from one release to another
///
/// Each patch is applied once to see that it gives the image. Both images are held in
/// memory; a node that applies a patch needs 64 MB whatever their size.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The release folder that nodes have
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The release folder that they go to
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Folder for the patches [default: `patches` in the release that they go to]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// An image is held in memory.
pub const LIMIT: u64 = 16 << 30;

/// What was made.
#[derive(Debug, Serialize)]
struct Made {
    from: String,
    to: String,
    images: Vec<MadeImage>,
}

#[derive(Debug, Serialize)]
struct MadeImage {
    image: &'static str,
    /// `None` if both releases have the same image.
    patch: Option<PathBuf>,
    /// Bytes of the patch.
    patch_bytes: u64,
    /// Bytes that a node fetches without it: blocks that the old image doesn't have.
    block_bytes: u64,
    /// Bytes of the new image.
    image_bytes: u64,
}

/// Runs `imgtool delta`.
///
/// # Errors
/// If a release can't be read, or an image isn't what its manifest says.
pub fn run(args: Args, console: &Console) -> Result<()> {
    let (from, to) = (
        ReleaseFolder::open(&args.from)?,
        ReleaseFolder::open(&args.to)?,
    );
    let out = args.out.unwrap_or_else(|| args.to.join(name::PATCHES));
    let mut made = Made {
        from: from.manifest.version.to_string(),
        to: to.manifest.version.to_string(),
        images: Vec::new(),
    };
    for ((image, _, old), (_, _, new)) in from.images().into_iter().zip(to.images()) {
        interrupt::check()?;
        let mut one = MadeImage {
            image,
            patch: None,
            patch_bytes: 0,
            block_bytes: 0,
            image_bytes: new.size,
        };
        if old.sha256 != new.sha256 {
            let (old_bytes, new_bytes) = (read(&from, image, old)?, read(&to, image, new)?);
            let indices = (BlockIndex::of(&new_bytes), BlockIndex::of(&old_bytes));
            one.block_bytes = block_bytes(&new.verity, &indices.0, &indices.1);
            let patch = patch(image, &old_bytes, &new_bytes, &new.verity, console)?;
            files::make_folder(&out)?;
            let path = out.join(name::patch(&old.sha256));
            files::write_whole(&path, &patch, 0o644)?;
            one.patch_bytes = patch.len() as u64;
            one.patch = Some(path);
        }
        made.images.push(one);
    }
    console.result(&made, || made.text())
}

/// Reads an image that has to be the one that its manifest names.
///
/// # Errors
/// If it can't be read, or is another one.
pub fn read(folder: &ReleaseFolder, image: &str, expected: &Image) -> Result<Vec<u8>> {
    let bytes = folder.read_up_to(image, LIMIT)?;
    let got = Digest::of(&bytes);
    if got != expected.sha256 {
        return Err(Error::refused(format!(
            "{}: expected the image with digest {}, as its manifest says, got {got}",
            folder.file(image).display(),
            expected.sha256
        )));
    }
    Ok(bytes)
}

/// Bytes that a node fetches without a patch: the verity tree, and the data's blocks that
/// the old image doesn't have.
pub fn block_bytes(verity: &Verity, new: &BlockIndex, old: &BlockIndex) -> u64 {
    let mut data = BlockIndex::default();
    let blocks = usize::try_from(verity.data_blocks).unwrap_or(usize::MAX);
    for digest in new.digests().take(blocks) {
        data.push_digest(digest);
    }
    verity.tree_size() + data.bytes_missing_from(&[old])
}

/// Makes the patch from one image to another; `image` is what it is called.
///
/// # Errors
/// If it can't be made, or doesn't give the image.
pub fn patch(
    image: &str,
    old: &[u8],
    new: &[u8],
    verity: &Verity,
    console: &Console,
) -> Result<Vec<u8>> {
    let cannot = || Error::failed(format!("cannot make the patch of {image}"));
    let step = console.step(&format!("patching {image}"), Some(new.len() as u64));
    let mut told = 0;
    let data = usize::try_from(verity.hash_offset).unwrap_or(usize::MAX);
    let patch = make::make(old, new, data, |done, of| {
        let now = new.len() as u64 * done as u64 / of.max(1) as u64;
        step.advance(now - told);
        told = now;
    })
    .map_err(|e| cannot().because(e))?;
    step.done();
    check(image, old, verity, &patch, console).map_err(|e| cannot().because(e))?;
    Ok(patch)
}

/// Applies a patch to see that it gives the image that is opened so.
///
/// # Errors
/// If it doesn't.
pub fn check(
    image: &str,
    old: &[u8],
    verity: &Verity,
    patch: &[u8],
    console: &Console,
) -> Result<()> {
    let what = format!("applying the patch of {image}");
    let step = console.step(&what, None);
    apply::image(old, patch, verity)
        .map_err(|e| Error::failed(format!("failed at {what}")).because(e))?;
    step.done();
    Ok(())
}

impl Made {
    fn text(&self) -> String {
        let mut text = format!("from {} to {}\n", self.from, self.to);
        for one in &self.images {
            text += &match &one.patch {
                None => format!("  {:16} the same\n", one.image),
                Some(path) => format!(
                    "  {:16} patch {}, blocks {}, whole {}\n  {:16} {}\n",
                    one.image,
                    bytes(one.patch_bytes),
                    bytes(one.block_bytes),
                    bytes(one.image_bytes),
                    "",
                    path.display()
                ),
            };
        }
        text
    }
}
