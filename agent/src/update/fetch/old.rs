//! The older images on this node.

use cairn_delta::Run;
use cairn_delta::apply::PIECE;
use cairn_release::index::BlockIndex;
use cairn_release::manifest::Image;
use cairn_release::verity::Salt;
use cairn_release::{BLOCK, Envelope, Manifest, Version, manifest};

use crate::update::effects::{Effects, Part};

/// No more are looked at: each costs a request and memory.
const MOST: usize = 4;

/// An image of an installed release.
#[derive(Debug, Clone)]
pub struct Old {
    /// The release.
    pub version: Version,
    /// What its manifest says of it.
    pub image: Image,
}

impl Old {
    /// Those that are whole: the running release's first, then the newest; each image once.
    pub async fn all<E: Effects>(effects: &E, part: Part, coming: &Version) -> Vec<Self> {
        let Ok(survey) = effects.survey(None).await else {
            return Vec::new();
        };
        let booted = effects.booted().ok().flatten();
        let is_booted = |version: &Version| booted.as_ref().is_some_and(|b| b.release == *version);
        let mut found: Vec<_> = survey
            .installed
            .into_iter()
            .filter(|installed| installed.whole && installed.version != *coming)
            .filter_map(|installed| {
                let bytes = effects.manifest(&installed.version).ok()?;
                let envelope = Envelope::parse(&bytes, manifest::PAYLOAD_TYPE).ok()?;
                let manifest = Manifest::from_payload(&envelope.payload).ok()?;
                let rank = (is_booted(&installed.version), manifest.sequence);
                let image = match part {
                    Part::Kernel => manifest.kernel.image,
                    Part::Root => manifest.root,
                    _ => return None,
                };
                let version = installed.version;
                Some((rank, Self { version, image }))
            })
            .collect();
        found.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        let mut all: Vec<Self> = Vec::new();
        for (_, old) in found {
            let known = |one: &Self| one.image.sha256 == old.image.sha256;
            if all.len() < MOST && !all.iter().any(known) {
                all.push(old);
            }
        }
        all
    }

    /// The digests of its blocks under this salt: out of its own tree if that has the salt, or by reading it all.
    pub async fn index<E: Effects>(&self, effects: &E, part: Part, salt: &Salt) -> BlockIndex {
        let verity = &self.image.verity;
        if verity.salt == *salt
            && let Ok(tree) = effects.read(&self.version, part, verity.hash_offset..self.image.size)
            && let Some(index) = verity.index(&tree)
        {
            return index;
        }
        let mut index = BlockIndex::default();
        for piece in pieces(verity.data_blocks) {
            let Ok(bytes) = effects.read(&self.version, part, piece.bytes()) else {
                break;
            };
            bytes
                .chunks_exact(BLOCK)
                .for_each(|block| index.push_digest(&salt.digest(block).0));
            tokio::task::yield_now().await;
        }
        index
    }
}

/// All blocks of an image, in runs that fit into memory.
pub fn pieces(blocks: u64) -> impl Iterator<Item = Run> {
    let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
    let starts = (0..blocks).step_by(PIECE as usize);
    starts.map(move |at| Run {
        at,
        count: PIECE.min(blocks - at),
    })
}
