//! Another node of the site.

use std::collections::BTreeMap;
use std::ops::Range;

use cairn_release::{BLOCK, Digest};
use cairn_wire::neighbour::{Blocks, Holding, Role};

use super::{Files, release, release_key};
use crate::neighbours::Neighbour;
use crate::update::effects::{GetError, Part};

/// How it behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It has all and gives it.
    Gives,
    /// It says that it has all, and gives something else.
    Lies,
    /// It says that it has all, and gives nothing.
    Refuses,
    /// It says that it fetches, and has everything from this time on.
    Fetches { until_ms: u64 },
    /// It says that it fetches, comes no further, and isn't there any more from this time on.
    Dies { at_ms: u64 },
    /// It says that it fetches and comes ever further, and never has anything.
    Pretends,
    /// It says the same as this node does.
    Mirrors,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct FakeNeighbour {
    id: String,
    images: BTreeMap<Digest, Vec<u8>>,
    manner: Manner,
    /// Bytes that it gave.
    pub given: u64,
    /// Which image it was last asked about.
    about: Digest,
}

impl FakeNeighbour {
    /// One that has, or will have, the images of a release.
    pub fn new(id: &str, name: &str, sequence: u64, manner: Manner) -> Self {
        let (manifest, files): (_, Files) = release(name, sequence, &release_key());
        let images = [
            (manifest.kernel.image.verity, Part::Kernel),
            (manifest.root.verity, Part::Root),
        ];
        let images = images.map(|(verity, part)| (verity.root_hash, files[&part].clone()));
        Self {
            id: id.into(),
            images: images.into(),
            manner,
            given: 0,
            about: Digest([0; 32]),
        }
    }

    pub fn answer(&mut self, number: usize, image: &Digest, now_ms: u64) -> Option<Neighbour> {
        let bytes = self.images.get(image)?;
        self.about = *image;
        // Its tree is one block.
        let blocks = u32::try_from(bytes.len() / BLOCK - 1).unwrap();
        let has = |all: bool| Blocks::all(if all { blocks } else { 0 });
        let (role, blocks) = match self.manner {
            Manner::Gives | Manner::Lies | Manner::Refuses => (None, has(true)),
            Manner::Fetches { until_ms } if now_ms >= until_ms => (None, has(true)),
            Manner::Dies { at_ms } if now_ms >= at_ms => return None,
            Manner::Fetches { .. } | Manner::Dies { .. } | Manner::Pretends => {
                (Some(Role::Fetches), has(false))
            }
            Manner::Mirrors => (Some(Role::Wants), has(false)),
        };
        let progress = if matches!(self.manner, Manner::Dies { .. }) {
            1
        } else {
            now_ms
        };
        Some(Neighbour {
            id: self.id.clone(),
            url: number.to_string(),
            holding: Holding {
                device: self.id.clone(),
                role,
                progress,
                blocks,
            },
        })
    }

    pub fn give(&mut self, range: Range<u64>) -> Result<Vec<u8>, GetError> {
        if self.manner == Manner::Refuses {
            return Err(GetError::passing("connection refused"));
        }
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        let mut bytes = self.images[&self.about][range].to_vec();
        if self.manner == Manner::Lies {
            bytes[0] ^= 1;
        }
        self.given += bytes.len() as u64;
        Ok(bytes)
    }
}
