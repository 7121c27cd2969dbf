//! A patch's segment, applied: the reference's blocks and the data give the target's
//! blocks, in memory that [`crate::patch`]'s bounds limit.

use cairn_release::index::BlockIndex;
use cairn_release::{BLOCK, Digest};
use zstd::zstd_safe::DCtx;

use crate::local::{Local, Source};
use crate::patch::{Patch, PatchError, Segment};
use crate::runs::{self, Run, gather};

/// A segment doesn't give the new image's blocks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// It is no patch.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// It is a patch of another image.
    #[error("the patch is for the image {expected}, this one is {got}")]
    From {
        /// The patch's.
        expected: Digest,
        /// What there is.
        got: Digest,
    },
    /// The reference has other bytes than its runs say.
    #[error("expected {expected} bytes to refer to, got {got}")]
    Reference {
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
    /// A block isn't the one that the index names.
    #[error("block {0} is not the one that the release names")]
    Block(u32),
}

impl Segment {
    /// Makes the target's blocks of the reference's blocks and of the data.
    ///
    /// # Errors
    /// If the data is damaged, or the reference is another one and zstd notices it.
    pub fn apply(&self, reference: &[u8], data: &[u8]) -> Result<Vec<u8>, ApplyError> {
        let bytes = |runs: &[Run]| runs::blocks(runs) * BLOCK as u64;
        let expected = bytes(&self.reference);
        if reference.len() as u64 != expected {
            return Err(ApplyError::Reference {
                expected,
                got: reference.len(),
            });
        }
        let expected = usize::try_from(bytes(&self.target)).unwrap_or(usize::MAX);
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

/// Makes a whole image in memory: of an old one, its own index, and a patch.
///
/// # Errors
/// If the patch is damaged, or one for other images.
pub fn image(old: &[u8], index: &BlockIndex, patch: &[u8]) -> Result<Vec<u8>, ApplyError> {
    let bytes = patch;
    let patch = Patch::parse(bytes)?;
    let got = Digest::of(old);
    if got != patch.from {
        let expected = patch.from;
        return Err(ApplyError::From { expected, got });
    }
    let mut image = vec![0; index.blocks() * BLOCK];
    for segment in &patch.segments {
        let range = segment.data.start as usize..segment.data.end as usize;
        let data = bytes.get(range).unwrap_or_default();
        let made = segment.apply(&gather(old, &segment.reference), data)?;
        let mut made = &made[..];
        for run in &segment.target {
            let place = run.bytes().start as usize;
            let (now, rest) = made.split_at(run.count as usize * BLOCK);
            let place = image.get_mut(place..place + now.len());
            place.ok_or(ApplyError::Block(run.at))?.copy_from_slice(now);
            made = rest;
        }
    }
    for copy in Local::of(index, &[&BlockIndex::of(old)]).copies {
        let (from, to) = (copy.from as usize * BLOCK, copy.to.at as usize * BLOCK);
        let length = copy.to.count as usize * BLOCK;
        match copy.source {
            Source::Image(_) => image[to..to + length].copy_from_slice(&old[from..from + length]),
            Source::Itself => image.copy_within(from..from + length, to),
        }
    }
    let whole = Run {
        at: 0,
        count: u32::try_from(index.blocks()).unwrap_or(u32::MAX),
    };
    check(&[whole], &image, index)?;
    Ok(image)
}

/// Checks blocks, one after the other, against the index of the image that they belong to.
///
/// # Errors
/// If one is another, or is missing.
pub fn check(runs: &[Run], bytes: &[u8], index: &BlockIndex) -> Result<(), ApplyError> {
    let mut pieces = bytes.chunks(BLOCK);
    for block in runs.iter().flat_map(|run| run.at..run.end()) {
        let right = pieces
            .next()
            .is_some_and(|piece| index.digest(block) == Some(&Digest::of(piece).0[..]));
        if !right {
            return Err(ApplyError::Block(block));
        }
    }
    Ok(())
}
