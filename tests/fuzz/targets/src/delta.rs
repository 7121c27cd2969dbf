//! Patches: nobody signs them, and a node reads them from a server or a neighbour.

use std::sync::LazyLock;

use cairn_delta::apply::image;
use cairn_delta::local::Copy;
use cairn_delta::patch::{HEAD, MAGIC, Patch, REFERENCE, SEGMENTS, Segment, TABLE, TARGET};
use cairn_release::verity::{Builder, Salt};
use cairn_release::{BLOCK, Digest};

use crate::list;
use crate::memory::within;

/// A patch that was read: its table, a copy for 3 bytes of that, which is more than a run for
/// 2, and its segments.
const PATCH: usize = TABLE + TABLE / 3 * size_of::<Copy>() + SEGMENTS * size_of::<Segment>() + 4096;
/// What a segment is made of, and what it makes.
const SEGMENT: usize = (REFERENCE + TARGET) as usize * BLOCK;
/// How many blocks the images of [`patch`] have.
const BLOCKS: u32 = 5000;

/// A patch's head and table, once as they are and once as the unpacked table alone.
pub fn patch(input: &[u8]) -> bool {
    let file = packed(input, [BLOCKS; 2], [Digest([0; 32]); 2]);
    // The table, for 5 bytes of it a segment of 64, and for 2 bytes a run of 8, which may be
    // announced only.
    let table = within(18 * input.len() + 4096, || Patch::parse(&file));
    let whole = within(PATCH, || Patch::parse(input));
    let taken = table.is_ok() || whole.is_ok();
    for patch in [table, whole].into_iter().flatten() {
        let Ok(bytes) = patch.to_bytes() else {
            continue;
        };
        let again = Patch::parse(&bytes).expect("what was written can be read");
        assert_eq!(lengths(&again), lengths(&patch));
    }
    taken
}

/// A patch with its data as lengths: where it lies depends on how well the table is packed.
fn lengths(patch: &Patch) -> Patch {
    let mut patch = patch.clone();
    for segment in &mut patch.segments {
        segment.data = 0..segment.data.end - segment.data.start;
    }
    patch
}

/// A patch's file up to its data.
pub fn packed(table: &[u8], blocks: [u32; 2], images: [Digest; 2]) -> Vec<u8> {
    let table = zstd::bulk::compress(table, 1).expect("zstd packs anything");
    let mut file = Vec::from(MAGIC);
    images.iter().for_each(|image| file.extend(image.0));
    for number in [blocks[0], blocks[1], table.len() as u32] {
        file.extend(number.to_le_bytes());
    }
    assert_eq!(file.len(), HEAD);
    file.extend(table);
    file
}

/// A patch that is applied. The first three lists say what images there are, as [`images`]
/// has it, the fourth is the unpacked table, the rest is the segments' data.
pub fn apply(mut input: &[u8]) -> bool {
    let (old, new) = images([(); 3].map(|()| list(&mut input)));
    let counts = [&old, &new].map(|image| (image.len() / BLOCK) as u32);
    let mut tree = Builder::new(Salt::default());
    new.chunks(BLOCK).for_each(|block| tree.push(block));
    let (tree, verity) = tree.finish();
    let new = [new, tree].concat();
    let images = [&old, &new].map(|image| Digest::of(image));
    let mut file = packed(list(&mut input), counts, images);
    file.extend(input);
    // Besides the segment there is the new image, which grows by its tree.
    let bound = SEGMENT + PATCH + 3 * new.len();
    let made = within(bound, || image(&old, &file, &verity));
    if let Ok(made) = &made {
        assert!(*made == new);
    }
    made.is_ok()
}

/// An old and a new image, of blocks that a byte names: the old one's, those that the new
/// one begins with, and those that follow, moved on by a byte so that they are others.
pub fn images([old, same, moved]: [&[u8]; 3]) -> (Vec<u8>, Vec<u8>) {
    let mut new = blocks(same);
    let mut moved = blocks(moved);
    if let Some(last) = moved.pop() {
        new.push(last);
    }
    new.extend(moved);
    (blocks(old), new)
}

/// A few blocks, so that an input doesn't take long.
fn blocks(names: &[u8]) -> Vec<u8> {
    let names = names.iter().take(8).map(|name| usize::from(*name) * BLOCK);
    let blocks: Vec<&[u8]> = names.map(|at| &NOISE[at..at + BLOCK]).collect();
    blocks.concat()
}

/// 256 blocks in which nothing repeats; Knuth's linear congruential generator.
static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 1_u64;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005);
        state = state.wrapping_add(1);
        (state >> 56) as u8
    };
    (0..256 * BLOCK).map(|_| byte()).collect()
});
