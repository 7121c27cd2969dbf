//! A patch, applied: in steps that [`crate::patch`]'s bounds limit, wherever the images lie.

use std::ops::Range;

use cairn_release::verity::{Builder, Verity};
use cairn_release::{BLOCK, Digest};
use zstd::zstd_safe::DCtx;

use crate::local::{Copy, Source};
use crate::patch::{Patch, PatchError, Segment};
use crate::runs::{self, Run};

/// Blocks that are copied at once: 4 MiB.
pub const PIECE: u32 = (4 << 20) / BLOCK as u32;

/// A patch doesn't give the new image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// It is no patch.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// It is for other images.
    #[error("the patch is for the image {expected}, this one is {got}")]
    Image {
        /// The patch's.
        expected: Digest,
        /// What there is.
        got: Digest,
    },
    /// It makes another number of blocks than the image has.
    #[error("the patch makes {got} blocks, the image has {expected}")]
    Blocks {
        /// How many there should be.
        expected: u64,
        /// How many it makes.
        got: u64,
    },
    /// Other bytes were read than were asked for.
    #[error("expected {expected} bytes, got {got}")]
    Read {
        /// How many there should be.
        expected: u64,
        /// How many there are.
        got: usize,
    },
    /// zstd can't unpack the data.
    #[error("the patch is damaged: {0}")]
    Damaged(&'static str),
    /// It unpacks to too little.
    #[error("the patch gives {got} bytes, expected {expected}")]
    Length {
        /// How many there should be.
        expected: usize,
        /// How many came.
        got: usize,
    },
}

/// Where a patch and its images lie.
pub trait Images {
    /// What can go wrong.
    type Error: From<ApplyError>;

    /// Bytes of the patch.
    ///
    /// # Errors
    /// If it can't be read.
    fn read_patch(&mut self, bytes: Range<u64>) -> Result<Vec<u8>, Self::Error>;
    /// Blocks of the old image.
    ///
    /// # Errors
    /// If it can't be read.
    fn read_old(&mut self, run: Run) -> Result<Vec<u8>, Self::Error>;
    /// Blocks of the new image that were written before.
    ///
    /// # Errors
    /// If it can't be read.
    fn read_new(&mut self, run: Run) -> Result<Vec<u8>, Self::Error>;
    /// Writes blocks of the new image from this one on.
    ///
    /// # Errors
    /// If it can't be written.
    fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), Self::Error>;
    /// The same, of blocks that one of the images has from `from` on, so that both may share them.
    ///
    /// # Errors
    /// If it can't be written.
    fn share(
        &mut self,
        at: u32,
        bytes: &[u8],
        _source: Source,
        _from: u32,
    ) -> Result<(), Self::Error> {
        self.write(at, bytes)
    }
}

/// A part of the work.
#[derive(Debug, Clone, Copy)]
pub enum Step<'p> {
    /// Some blocks are made.
    Make(&'p Segment),
    /// Some blocks are copied, [`PIECE`] at most.
    Copy(Copy),
}

impl Patch {
    /// Whether it makes as much as this image has.
    ///
    /// # Errors
    /// If it doesn't.
    pub fn makes(&self, verity: &Verity) -> Result<(), ApplyError> {
        match u64::from(self.new_blocks) {
            got if got == verity.data_blocks => Ok(()),
            got => Err(ApplyError::Blocks {
                expected: verity.data_blocks,
                got,
            }),
        }
    }

    /// The tree that is to know all that is made, still empty.
    pub fn tree(&self, verity: &Verity) -> Builder {
        Builder::sized(verity.salt.clone(), self.new_blocks)
    }

    /// All that is to be done, in order.
    pub fn steps(&self) -> impl Iterator<Item = Step<'_>> {
        let copies = self.copies.iter().flat_map(|copy| {
            let pieces = (0..copy.to.count).step_by(PIECE as usize);
            pieces.map(|done| {
                Step::Copy(Copy {
                    to: Run {
                        at: copy.to.at + done,
                        count: PIECE.min(copy.to.count - done),
                    },
                    from: copy.from + done,
                    ..*copy
                })
            })
        });
        self.segments.iter().map(Step::Make).chain(copies)
    }
}

impl Step<'_> {
    /// Does it, and has `tree` know what was made; twice does no harm.
    ///
    /// # Errors
    /// If the patch is damaged, or the images' errors.
    pub fn perform<I: Images>(self, images: &mut I, tree: &mut Builder) -> Result<(), I::Error> {
        match self {
            Self::Make(segment) => {
                let mut reference = Vec::new();
                for run in &segment.reference {
                    reference.extend(images.read_old(*run)?);
                }
                let made = segment.apply(&reference, &images.read_patch(segment.data.clone())?)?;
                let mut rest = &made[..];
                for run in &segment.target {
                    let (now, after) = rest.split_at(run.count as usize * BLOCK);
                    tree.put(run.at, now);
                    images.write(run.at, now)?;
                    rest = after;
                }
                Ok(())
            }
            Self::Copy(Copy { to, source, from }) => {
                let run = Run {
                    at: from,
                    count: to.count,
                };
                let bytes = match source {
                    Source::Image(_) => images.read_old(run)?,
                    Source::Itself => images.read_new(run)?,
                };
                whole(&bytes, runs::bytes(&[run]))?;
                tree.put(to.at, &bytes);
                images.share(to.at, &bytes, source, from)
            }
        }
    }
}

impl Segment {
    /// Makes the target's blocks of the reference's blocks and of the data.
    ///
    /// # Errors
    /// If the data is damaged, or the reference is another one and zstd notices it.
    pub fn apply(&self, reference: &[u8], data: &[u8]) -> Result<Vec<u8>, ApplyError> {
        whole(reference, runs::bytes(&self.reference))?;
        let expected = usize::try_from(runs::bytes(&self.target)).unwrap_or(usize::MAX);
        let mut made = Vec::with_capacity(expected);
        let mut context = DCtx::create();
        let damaged = |code| ApplyError::Damaged(zstd::zstd_safe::get_error_name(code));
        context.ref_prefix(reference).map_err(damaged)?;
        context.decompress(&mut made, data).map_err(damaged)?;
        match made.len() {
            got if got == expected => Ok(made),
            got => Err(ApplyError::Length { expected, got }),
        }
    }
}

fn whole(bytes: &[u8], expected: u64) -> Result<(), ApplyError> {
    match bytes.len() {
        got if got as u64 == expected => Ok(()),
        got => Err(ApplyError::Read { expected, got }),
    }
}

/// Makes a whole image in memory, its verity tree included.
///
/// # Errors
/// If the patch is damaged, or one for other images.
pub fn image(old: &[u8], patch: &[u8], verity: &Verity) -> Result<Vec<u8>, ApplyError> {
    let parsed = Patch::parse(patch)?;
    is(parsed.from, old)?;
    parsed.makes(verity)?;
    let blocks = vec![0; parsed.new_blocks as usize * BLOCK];
    let mut memory = Memory { patch, old, blocks };
    let mut tree = parsed.tree(verity);
    for step in parsed.steps() {
        step.perform(&mut memory, &mut tree)?;
    }
    let mut new = memory.blocks;
    new.extend(tree.finish().0);
    is(parsed.to, &new)?;
    Ok(new)
}

fn is(expected: Digest, image: &[u8]) -> Result<(), ApplyError> {
    match Digest::of(image) {
        got if got == expected => Ok(()),
        got => Err(ApplyError::Image { expected, got }),
    }
}

struct Memory<'m> {
    patch: &'m [u8],
    old: &'m [u8],
    blocks: Vec<u8>,
}

fn part(bytes: &[u8], range: Range<u64>) -> Result<Vec<u8>, ApplyError> {
    let (Ok(start), Ok(end)) = (range.start.try_into(), range.end.try_into()) else {
        return Err(ApplyError::Damaged("too long"));
    };
    let part = bytes.get::<Range<usize>>(start..end).map(<[u8]>::to_vec);
    part.ok_or(ApplyError::Read {
        expected: range.end,
        got: bytes.len(),
    })
}

impl Images for Memory<'_> {
    type Error = ApplyError;

    fn read_patch(&mut self, bytes: Range<u64>) -> Result<Vec<u8>, ApplyError> {
        part(self.patch, bytes)
    }

    fn read_old(&mut self, run: Run) -> Result<Vec<u8>, ApplyError> {
        part(self.old, run.bytes())
    }

    fn read_new(&mut self, run: Run) -> Result<Vec<u8>, ApplyError> {
        part(&self.blocks, run.bytes())
    }

    fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), ApplyError> {
        let at = at as usize * BLOCK;
        let place = self.blocks.get_mut(at..at + bytes.len());
        let place = place.ok_or(ApplyError::Damaged("a block lies beyond the image"))?;
        place.copy_from_slice(bytes);
        Ok(())
    }
}
