//! What of a new image is there already: in images of other releases, in what an
//! interrupted download left, or earlier in the new image itself.

use std::collections::HashMap;

use cairn_release::index::BlockIndex;

use crate::runs::{self, Run};

/// Where a block lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// In the image of this number.
    Image(usize),
    /// In the new image, before it is needed.
    Itself,
}

/// Blocks of the new image that lie together somewhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    /// Their place in the new image.
    pub to: Run,
    /// Where they are.
    pub source: Source,
    /// The first one's place there.
    pub from: u32,
}

/// What is there of a new image, and what isn't.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Local {
    /// What can be copied, by its place in the new image. What is copied out of the new
    /// image itself lies before its copy, and may be missing at first.
    pub copies: Vec<Copy>,
    /// What is nowhere.
    pub missing: Vec<Run>,
}

impl Local {
    /// Looks for the blocks of `new` in `images`; of several places the one that goes on
    /// from the block before is taken, or that of the first image.
    pub fn of(new: &BlockIndex, images: &[&BlockIndex]) -> Self {
        let mut known: HashMap<&[u8], (Source, u32)> = HashMap::new();
        for (number, image) in images.iter().enumerate() {
            for (place, digest) in (0..).zip(image.digests()) {
                known
                    .entry(digest)
                    .or_insert((Source::Image(number), place));
            }
        }
        let mut local = Self::default();
        for (block, digest) in (0..).zip(new.digests()) {
            if local.goes_on(block, digest, new, images) {
                continue;
            }
            match known.get(digest) {
                Some((source, from)) => local.copies.push(Copy {
                    to: Run {
                        at: block,
                        count: 1,
                    },
                    source: *source,
                    from: *from,
                }),
                None => {
                    known.insert(digest, (Source::Itself, block));
                    runs::push(&mut local.missing, block);
                }
            }
        }
        local
    }

    /// Lengthens the last copy by `block`, if that is what follows it where it comes from.
    fn goes_on(
        &mut self,
        block: u32,
        digest: &[u8],
        new: &BlockIndex,
        images: &[&BlockIndex],
    ) -> bool {
        let Some(last) = self.copies.last_mut().filter(|last| last.to.end() == block) else {
            return false;
        };
        let next = last.from + last.to.count;
        let there = match last.source {
            Source::Image(number) => images.get(number).and_then(|image| image.digest(next)),
            Source::Itself => new.digest(next).filter(|_| next < last.to.at),
        };
        let goes_on = there == Some(digest);
        last.to.count += u32::from(goes_on);
        goes_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_release::BLOCK;
    use proptest::prelude::*;

    fn index(blocks: &[u8]) -> BlockIndex {
        let mut index = BlockIndex::default();
        blocks.iter().for_each(|b| index.push(&[*b; BLOCK]));
        index
    }

    fn run(at: u32, count: u32) -> Run {
        Run { at, count }
    }

    #[test]
    fn runs_are_long_and_what_is_nowhere_is_missing() {
        let (a, b) = (index(&[1, 2, 3, 4]), index(&[9, 3, 4, 5]));
        let local = Local::of(&index(&[1, 2, 3, 8, 8, 3, 4, 5]), &[&a, &b]);
        let image = |number, to, from| Copy {
            to,
            source: Source::Image(number),
            from,
        };
        assert_eq!(local.missing, [run(3, 1)]);
        assert_eq!(
            local.copies,
            [
                image(0, run(0, 3), 0),
                Copy {
                    to: run(4, 1),
                    source: Source::Itself,
                    from: 3
                },
                image(0, run(5, 2), 2),
                image(1, run(7, 1), 3),
            ]
        );
    }

    proptest! {
        #[test]
        fn copies_and_what_is_fetched_give_the_image(
            new in prop::collection::vec(0u8..12, 0..60),
            a in prop::collection::vec(0u8..8, 0..40),
            b in prop::collection::vec(4u8..10, 0..40),
        ) {
            let local = Local::of(&index(&new), &[&index(&a), &index(&b)]);
            let mut made: Vec<Option<u8>> = vec![None; new.len()];
            for run in &local.missing {
                for block in run.at..run.end() {
                    prop_assert!(made[block as usize].replace(new[block as usize]).is_none());
                    prop_assert!(!a.contains(&new[block as usize]) && !b.contains(&new[block as usize]));
                }
            }
            for copy in &local.copies {
                for step in 0..copy.to.count {
                    let (to, from) = ((copy.to.at + step) as usize, (copy.from + step) as usize);
                    let byte = match copy.source {
                        Source::Image(0) => a[from],
                        Source::Image(_) => b[from],
                        Source::Itself => { prop_assert!(from < to); made[from].unwrap() }
                    };
                    prop_assert!(made[to].replace(byte).is_none());
                }
            }
            let made: Option<Vec<u8>> = made.into_iter().collect();
            prop_assert_eq!(made, Some(new));
        }
    }
}
