//! Our own ways to an image: a patch, and blocks that aren't there.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use cairn_delta::apply::Images;
use cairn_delta::local::Local;
use cairn_delta::{BLOCK, Patch, Run, make, ranges, runs};
use cairn_release::envelope::Envelope;
use cairn_release::index::BlockIndex;
use cairn_release::manifest::{Manifest, PAYLOAD_TYPE};
use cairn_release::name;
use cairn_release::verity::Verity;

/// What a request for a range costs, with the head of its answer.
pub const REQUEST: u64 = 650;

/// An image of a release.
pub struct Image {
    /// Its file: data, and the verity tree behind it.
    pub path: PathBuf,
    /// What the manifest says of the tree.
    pub verity: Verity,
}

impl Image {
    /// The image of that name in a release's folder.
    ///
    /// # Errors
    /// If the release has no manifest.
    pub fn of(release: &Path, image: &str) -> Result<Self> {
        let envelope = fs::read(release.join(name::MANIFEST))?;
        let manifest = Manifest::from_payload(&Envelope::parse(&envelope, PAYLOAD_TYPE)?.payload)?;
        let kernel = image == name::KERNEL;
        Ok(Self {
            path: release.join(image),
            verity: if kernel {
                manifest.kernel.image.verity
            } else {
                manifest.root.verity
            },
        })
    }

    /// Its bytes in all.
    pub fn size(&self) -> u64 {
        self.verity.hash_offset + self.verity.tree_size()
    }
}

/// Makes the patch: the one place here that knows how.
///
/// # Errors
/// If an image can't be read.
pub fn make_patch(old: &Image, new: &Image, to: &Path) -> Result<()> {
    let data = usize::try_from(new.verity.hash_offset)?;
    let patch = make::make(
        &fs::read(&old.path)?,
        &fs::read(&new.path)?,
        data,
        |_, _| {},
    )?;
    Ok(fs::write(to, patch)?)
}

/// Bytes to fetch without a patch: the verity tree, which serves as the index, the data's
/// blocks that the old image doesn't have, and what the requests for them cost.
///
/// # Errors
/// If an image can't be read.
pub fn blocks_to_fetch(old: &Image, new: &Image) -> Result<u64> {
    let mut bytes = fs::read(&new.path)?;
    bytes.truncate(usize::try_from(new.verity.hash_offset)?);
    let fetched = missing(&old.path, &bytes)?;
    Ok(new.verity.tree_size() + REQUEST + fetched)
}

/// Bytes of the blocks of `new` that the image at `old` doesn't have, and of the requests.
///
/// # Errors
/// If the image can't be read.
pub fn missing(old: &Path, new: &[u8]) -> Result<u64> {
    let old = BlockIndex::of(&fs::read(old)?);
    let missing = Local::of(&BlockIndex::of(new), &[&old]).missing;
    let requests = ranges::coalesce(&missing, 0).len() as u64;
    Ok(runs::bytes(&missing) + requests * REQUEST)
}

/// Applies a patch in little memory, as a node would: makes the data and the verity tree,
/// and has all of it on the disk. It runs in a process of its own, so that its memory can
/// be measured.
///
/// # Errors
/// If the patch doesn't give the image whose manifest lies in the release `new`.
pub fn apply(image: &str, old: &Path, patch: &Path, new: &Path, out: &Path) -> Result<()> {
    let verity = Image::of(new, image)?.verity;
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(out)?;
    let mut images = Files {
        patch: File::open(patch)?,
        old: File::open(old)?,
        new: file,
    };
    let table = Patch::table_end(&images.read_patch(0..cairn_delta::patch::HEAD as u64)?)?;
    let parsed = Patch::parse(&images.read_patch(0..table as u64)?)?;
    parsed.makes(&verity)?;
    let mut tree = parsed.tree(&verity);
    for step in parsed.steps() {
        step.perform(&mut images, &mut tree)?;
    }
    let (bytes, made) = tree.finish();
    ensure!(made == verity, "the patch doesn't give the image");
    images.new.write_all_at(&bytes, verity.hash_offset)?;
    Ok(images.new.sync_all()?)
}

struct Files {
    patch: File,
    old: File,
    new: File,
}

fn read(file: &File, range: Range<u64>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(range.end.saturating_sub(range.start))?];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes)
}

impl Images for Files {
    type Error = anyhow::Error;

    fn read_patch(&mut self, bytes: Range<u64>) -> Result<Vec<u8>> {
        read(&self.patch, bytes)
    }

    fn read_old(&mut self, run: Run) -> Result<Vec<u8>> {
        read(&self.old, run.bytes())
    }

    fn read_new(&mut self, run: Run) -> Result<Vec<u8>> {
        read(&self.new, run.bytes())
    }

    fn write(&mut self, at: u32, bytes: &[u8]) -> Result<()> {
        Ok(self.new.write_all_at(bytes, u64::from(at) * BLOCK as u64)?)
    }
}
