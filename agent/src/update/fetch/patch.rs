//! An image, made of an older one by a patch that lies beside the release.
//!
//! Nobody signs a patch. What comes out is read back and compared with the signed manifest, as everything is.

use std::ops::Range;

use cairn_delta::apply::{ApplyError, Images};
use cairn_delta::patch::{HEAD, PatchError};
use cairn_delta::{BLOCK, Patch, Run, Source};
use cairn_release::manifest::Image;
use cairn_release::{Version, name};
use cairn_update::Cause;

use super::old::Old;
use super::{Fetch, ImageWanted, Wanted};
use crate::update::effects::{Answer, Body, Effects, GetError, Part};

/// How often a server is asked for a patch, which it needn't have.
const ASKED: u32 = 3;

/// Where the patch of an image lies while it is fetched.
pub fn of(part: Part) -> Part {
    match part {
        Part::Kernel => Part::KernelPatch,
        _ => Part::RootPatch,
    }
}

/// A patch that the server has.
struct Found<'o> {
    url: String,
    size: u64,
    old: &'o Old,
}

/// Why a patch made nothing.
enum Failed {
    /// The patch, or the older image, can't be used.
    Useless(String),
    /// Nothing can be written.
    Disk(Cause),
}

impl From<ApplyError> for Failed {
    fn from(error: ApplyError) -> Self {
        Self::Useless(error.to_string())
    }
}

impl From<PatchError> for Failed {
    fn from(error: PatchError) -> Self {
        Self::Useless(error.to_string())
    }
}

impl<E: Effects> Fetch<'_, E> {
    /// Makes the image by the smallest patch that there is for an image of this node. Says whether it did; if not,
    /// nothing is left of the attempt.
    ///
    /// # Errors
    /// If the disk doesn't take it.
    pub(super) async fn patched(&self, wanted: &ImageWanted<'_>) -> Result<bool, Cause> {
        let ImageWanted {
            part,
            image,
            old,
            progress,
            ..
        } = *wanted;
        let file = of(part);
        let Some(found) = self.smallest(image, old).await else {
            return Ok(false);
        };
        tracing::info!(file = part.name(), from = %found.old.version, bytes = found.size, "there is a patch");
        let made = self.by(&found, part, file, image, progress).await;
        self.discard(file)?;
        match made {
            Ok(()) => return Ok(true),
            Err(Failed::Useless(reason)) => {
                tracing::warn!(file = part.name(), reason, "the patch is of no use");
            }
            Err(Failed::Disk(cause)) => return Err(cause),
        }
        // It would be taken for the image's beginning.
        self.discard(part)?;
        self.reserve(part, image.size)?;
        Ok(false)
    }

    /// Of all that the server has, if it is smaller than the image.
    async fn smallest<'o>(&self, image: &Image, old: &'o [Old]) -> Option<Found<'o>> {
        let mut smallest: Option<Found<'o>> = None;
        for old in old {
            let url = format!(
                "{}{}/{}",
                self.url,
                name::PATCHES,
                name::patch(&old.image.sha256)
            );
            let most = smallest.as_ref().map_or(image.size, |found| found.size);
            match self.size(&url, image, old).await {
                Some(size) if size < most => smallest = Some(Found { url, size, old }),
                _ => {}
            }
        }
        smallest
    }

    /// How many bytes a patch has, if there is one from this image to that one.
    async fn size(&self, url: &str, image: &Image, old: &Old) -> Option<u64> {
        for asked in 1..=ASKED {
            match self.head(url).await {
                Ok((head, size)) => {
                    let is_one = Patch::table_end(&head).is_ok()
                        && head[8..40] == old.image.sha256.0
                        && head[40..72] == image.sha256.0;
                    return is_one.then_some(size);
                }
                Err(GetError::Passing { .. }) if asked < ASKED => {
                    self.effects.sleep(std::time::Duration::from_secs(1)).await;
                }
                Err(_) => return None,
            }
        }
        None
    }

    async fn head(&self, url: &str) -> Result<(Vec<u8>, u64), GetError> {
        let Answer {
            start,
            total,
            mut body,
        } = self.effects.get(url, 0..HEAD as u64).await?;
        let size = total.filter(|_| start == 0);
        let size = size.ok_or_else(|| GetError::Refused("no size".into()))?;
        let mut head = Vec::new();
        while head.len() < HEAD {
            let Some(bytes) = body.chunk().await? else {
                return Err(GetError::passing("the answer ended early"));
            };
            head.extend_from_slice(&bytes);
        }
        Ok((head, size))
    }

    async fn by(
        &self,
        found: &Found<'_>,
        part: Part,
        file: Part,
        image: &Image,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Failed> {
        let wanted = Wanted {
            part: file,
            size: found.size,
            url: &found.url,
        };
        // Of the image's bytes it stands for so many.
        let share = |at: u64| progress(at.saturating_mul(image.size) / found.size.max(1));
        let fetched = self.whole(wanted, &share).await;
        fetched.map_err(|cause| Failed::Useless(cause.reason))?;

        let mut node = OnNode {
            fetch: self,
            old: &found.old.version,
            part,
            file,
        };
        let head = node.read_patch(0..HEAD as u64)?;
        let table = node.read_patch(0..Patch::table_end(&head)? as u64)?;
        let patch = Patch::parse(&table)?;
        if (patch.from, patch.to) != (found.old.image.sha256, image.sha256) {
            return Err(Failed::Useless("it is for other images".into()));
        }
        patch.makes(&image.verity)?;
        let mut tree = patch.tree(&image.verity);
        for step in patch.steps() {
            step.perform(&mut node, &mut tree)?;
            // Others have work, too.
            tokio::task::yield_now().await;
        }
        let (tree, verity) = tree.finish();
        if verity != image.verity {
            return Err(Failed::Useless("it gives another image".into()));
        }
        let written = self.write(part, verity.hash_offset, &tree);
        written.map_err(Failed::Disk)?;
        self.sync(part).await.map_err(Failed::Disk)
    }
}

/// The patch and both images, as they lie on the node.
struct OnNode<'n, E> {
    fetch: &'n Fetch<'n, E>,
    old: &'n Version,
    part: Part,
    file: Part,
}

impl<E: Effects> OnNode<'_, E> {
    fn read(&self, version: &Version, part: Part, bytes: Range<u64>) -> Result<Vec<u8>, Failed> {
        let read = self.fetch.effects.read(version, part, bytes);
        read.map_err(|error| Failed::Useless(error.to_string()))
    }
}

impl<E: Effects> Images for OnNode<'_, E> {
    type Error = Failed;

    fn read_patch(&mut self, bytes: Range<u64>) -> Result<Vec<u8>, Failed> {
        self.read(self.fetch.version, self.file, bytes)
    }

    fn read_old(&mut self, run: Run) -> Result<Vec<u8>, Failed> {
        self.read(self.old, self.part, run.bytes())
    }

    fn read_new(&mut self, run: Run) -> Result<Vec<u8>, Failed> {
        self.read(self.fetch.version, self.part, run.bytes())
    }

    fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), Failed> {
        let written = self.fetch.write(self.part, place(at), bytes);
        written.map_err(Failed::Disk)
    }

    fn share(&mut self, at: u32, bytes: &[u8], source: Source, from: u32) -> Result<(), Failed> {
        let version = match source {
            Source::Image(_) => self.old,
            Source::Itself => self.fetch.version,
        };
        let from = (version, place(from));
        let written = self.fetch.share(self.part, place(at), bytes, from);
        written.map_err(Failed::Disk)
    }
}

fn place(block: u32) -> u64 {
    u64::from(block) * BLOCK as u64
}
