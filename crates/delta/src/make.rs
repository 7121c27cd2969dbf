//! A patch, made: slow, with both images in memory, where releases are published.

use cairn_release::index::BlockIndex;
use cairn_release::{BLOCK, Digest};
use zstd::zstd_safe::{CCtx, CParameter, compress_bound, get_error_name};

use crate::local::Local;
use crate::patch::{Patch, PatchError, REFERENCE, Segment, TARGET};
use crate::runs::{Run, gather};
use crate::similar::Notes;

/// zstd's level: made once, applied by many.
const LEVEL: i32 = 19;
/// log2 of the bytes that zstd looks back: reference and target together.
const WINDOW_LOG: u32 = 25;

/// There is no patch from this image to that one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MakeError {
    /// An image doesn't end with a whole block.
    #[error("an image of {0} bytes is not made of whole blocks")]
    Size(usize),
    /// zstd failed.
    #[error("zstd failed: {0}")]
    Zstd(&'static str),
    /// The table can't be written.
    #[error("cannot write the table")]
    Table(#[from] PatchError),
}

/// Makes the patch from the image `old` to the image `new`, of which the first `data`
/// bytes are made and the rest is the verity tree; `progress` hears of how many segments
/// how many are made.
///
/// # Errors
/// If an image isn't made of whole blocks.
pub fn make(
    old: &[u8],
    new: &[u8],
    data: usize,
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<u8>, MakeError> {
    let blocks = |image: &[u8]| match (
        image.len().is_multiple_of(BLOCK),
        u32::try_from(image.len() / BLOCK),
    ) {
        (true, Ok(blocks)) => Ok(blocks),
        _ => Err(MakeError::Size(image.len())),
    };
    let to = Digest::of(new);
    let new = new.get(..data).ok_or(MakeError::Size(new.len()))?;
    let local = Local::of(&BlockIndex::of(new), &[&BlockIndex::of(old)]);
    let mut patch = Patch {
        from: Digest::of(old),
        to,
        old_blocks: blocks(old)?,
        new_blocks: blocks(new)?,
        copies: local.copies,
        segments: Vec::new(),
    };
    let notes = Notes::of(old);
    let targets = split(&local.missing);
    let mut data = Vec::new();
    for (done, target) in targets.iter().enumerate() {
        progress(done, targets.len());
        let wanted = gather(new, target);
        let reference = notes.resembling(&wanted, REFERENCE);
        let packed = pack(&gather(old, &reference), &wanted)?;
        let at = data.len() as u64;
        data.extend(packed);
        patch.segments.push(Segment {
            reference,
            target: target.clone(),
            data: at..data.len() as u64,
        });
    }
    progress(targets.len(), targets.len());
    let mut bytes = patch.to_bytes()?;
    bytes.extend(data);
    Ok(bytes)
}

/// Runs, cut into lists of [`TARGET`] blocks at most.
fn split(missing: &[Run]) -> Vec<Vec<Run>> {
    let mut lists: Vec<Vec<Run>> = Vec::new();
    let mut room = 0;
    for run in missing {
        let mut rest = *run;
        while rest.count > 0 {
            if room == 0 {
                lists.push(Vec::new());
                room = TARGET as u32;
            }
            let count = rest.count.min(room);
            if let Some(list) = lists.last_mut() {
                list.push(Run { at: rest.at, count });
            }
            rest = Run {
                at: rest.at + count,
                count: rest.count - count,
            };
            room -= count;
        }
    }
    lists
}

fn pack(reference: &[u8], wanted: &[u8]) -> Result<Vec<u8>, MakeError> {
    let failed = |code| MakeError::Zstd(get_error_name(code));
    let mut context = CCtx::create();
    for parameter in [
        CParameter::CompressionLevel(LEVEL),
        CParameter::WindowLog(WINDOW_LOG),
        CParameter::EnableLongDistanceMatching(true),
    ] {
        context.set_parameter(parameter).map_err(failed)?;
    }
    context.ref_prefix(reference).map_err(failed)?;
    let mut packed = Vec::with_capacity(compress_bound(wanted.len()));
    context.compress2(&mut packed, wanted).map_err(failed)?;
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::{self, ApplyError};
    use crate::noise::noise;
    use cairn_release::verity::{Builder, Salt, Verity};
    use proptest::prelude::*;

    fn applied(old: &[u8], data: &[u8], patch: &[u8]) -> Result<Vec<u8>, ApplyError> {
        apply::image(old, patch, &tree(data).1)
    }

    fn tree(data: &[u8]) -> (Vec<u8>, Verity) {
        let mut tree = Builder::new(Salt::default());
        data.chunks(BLOCK).for_each(|block| tree.push(block));
        tree.finish()
    }

    /// With its tree.
    fn image(data: &[u8]) -> Vec<u8> {
        [data, &tree(data).0].concat()
    }

    fn made(old: &[u8], data: &[u8]) -> Vec<u8> {
        make(old, &image(data), data.len(), |_, _| {}).unwrap()
    }

    /// Bytes with a little order, as programs have it.
    fn program(seed: u64, blocks: usize) -> Vec<u8> {
        let noise = noise(seed, blocks * BLOCK);
        noise.into_iter().map(|byte| byte >> 3).collect()
    }

    #[test]
    fn a_patch_is_small_and_gives_the_image() {
        let old = program(1, 800);
        let mut new = old.clone();
        // A byte in between moves all that follows to other places in its block.
        new.insert(100 * BLOCK + 5, 7);
        new.truncate(old.len());
        let bytes = made(&old, &new);
        assert!(bytes.len() < 3 * BLOCK, "{}", bytes.len());
        assert_eq!(applied(&old, &new, &bytes), Ok(image(&new)));
    }

    #[test]
    fn another_old_image_is_noticed() {
        let (old, other) = (program(1, 40), program(2, 40));
        let mut new = old.clone();
        new.insert(5, 7);
        new.truncate(old.len());
        let bytes = made(&old, &new);
        let mut patch = Patch::parse(&bytes).unwrap();
        assert!(matches!(
            applied(&other, &new, &bytes),
            Err(ApplyError::Image { expected, .. }) if expected == patch.from
        ));
        // One that claims to be for it.
        let head = patch.to_bytes().unwrap().len();
        patch.from = Digest::of(&other);
        let forged = [&patch.to_bytes().unwrap(), &bytes[head..]].concat();
        assert!(applied(&other, &new, &forged).is_err());
        let segment = &patch.segments[0];
        let data = &bytes[segment.data.start as usize..segment.data.end as usize];
        let short = segment.apply(&old[..BLOCK], data);
        assert!(matches!(short, Err(ApplyError::Read { .. })));
        let cut = applied(&old, &new, &bytes[..bytes.len() - 1]);
        assert!(matches!(cut, Err(ApplyError::Read { .. })));
        let none = make(&old[..7], &new, new.len(), |_, _| {});
        assert_eq!(none, Err(MakeError::Size(7)));
        let longer = applied(&old, &[new.clone(), new.clone()].concat(), &bytes);
        assert!(matches!(longer, Err(ApplyError::Blocks { .. })));
        let beyond = make(&old, &new, new.len() + 1, |_, _| {});
        assert_eq!(beyond, Err(MakeError::Size(new.len())));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_two_images(
            (old, new) in (1usize..60, 1usize..60),
            edits in prop::collection::vec((any::<u32>(), prop::collection::vec(any::<u8>(), 0..9000)), 0..4),
            kin: bool,
        ) {
            let old = program(1, old);
            let mut new = if kin { old.clone() } else { program(3, new) };
            for (at, bytes) in edits {
                let at = at as usize % new.len();
                new.splice(at..at, bytes);
            }
            new.truncate(new.len() / BLOCK * BLOCK);
            prop_assert_eq!(applied(&old, &new, &made(&old, &new)), Ok(image(&new)));
        }
    }
}
