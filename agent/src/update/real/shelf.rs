//! What this node can give to neighbours: the images of installed releases, and what is there of one that is being fetched.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cairn_release::{Digest, Envelope, Manifest, Version, manifest};

use super::disk::Releases;
use crate::clock::Clock;
use crate::neighbours::{self, Offer};
use crate::update::effects::Part;

/// No more images are remembered.
const MOST: usize = 16;

/// See the module.
pub struct Shelf {
    releases: Releases,
    clock: Clock,
    images: Mutex<Vec<Image>>,
    given_ms: AtomicU64,
}

struct Image {
    version: Version,
    part: Part,
    offer: Arc<Offer>,
}

impl Shelf {
    /// What lies in `releases`.
    pub fn new(releases: Releases, clock: Clock) -> Self {
        Self {
            releases,
            clock,
            images: Mutex::default(),
            given_ms: AtomicU64::new(0),
        }
    }

    fn images(&self) -> MutexGuard<'_, Vec<Image>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this is what is there of a file.
    pub fn offer(&self, version: &Version, part: Part, offer: Arc<Offer>) {
        let mut images = self.images();
        images.retain(|image| {
            (&image.version, image.part) != (version, part) && image.offer.image != offer.image
        });
        images.truncate(MOST - 1);
        let version = version.clone();
        images.insert(
            0,
            Image {
                version,
                part,
                offer,
            },
        );
    }

    /// When something was last given.
    pub fn given_ms(&self) -> Option<u64> {
        Some(self.given_ms.load(Ordering::Relaxed)).filter(|ms| *ms > 0)
    }

    fn installed(&self, image: &Digest) -> Option<(Version, Part, Offer)> {
        let survey = self.releases.survey(None).ok()?;
        survey.installed.into_iter().find_map(|installed| {
            let bytes = self.releases.manifest(&installed.version).ok()?;
            let envelope = Envelope::parse(&bytes, manifest::PAYLOAD_TYPE).ok()?;
            let manifest = Manifest::from_payload(&envelope.payload).ok()?;
            let parts = [
                (Part::Kernel, manifest.kernel.image.verity),
                (Part::Root, manifest.root.verity),
            ];
            let (part, verity) = parts
                .into_iter()
                .find(|(_, verity)| verity.root_hash == *image)?;
            installed
                .whole
                .then(|| (installed.version, part, Offer::all(&verity)))
        })
    }
}

impl neighbours::Shelf for Shelf {
    fn find(&self, image: &Digest) -> Option<Arc<Offer>> {
        let known = |images: &[Image]| {
            let image = images.iter().find(|known| known.offer.image == *image)?;
            Some(image.offer.clone())
        };
        if let Some(offer) = known(&self.images()) {
            return Some(offer);
        }
        let (version, part, offer) = self.installed(image)?;
        let offer = Arc::new(offer);
        self.offer(&version, part, offer.clone());
        Some(offer)
    }

    fn read(&self, image: &Digest, bytes: Range<u64>) -> io::Result<Vec<u8>> {
        let place = {
            let images = self.images();
            let known = images.iter().find(|known| known.offer.image == *image);
            known.map(|known| (known.version.clone(), known.part))
        };
        let (version, part) = place.ok_or(io::ErrorKind::NotFound)?;
        let read = self.releases.read(&version, part, bytes);
        match &read {
            Ok(_) => self
                .given_ms
                .store(self.clock.now().mono_ms, Ordering::Relaxed),
            // The release was removed, or the disk is failing.
            Err(_) => self.images().retain(|known| known.offer.image != *image),
        }
        read
    }
}
