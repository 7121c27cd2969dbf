//! Fetching a release with as few bytes as can be, resumed where it broke off, bounded in length, time and tries.
//!
//! | Module | Owns |
//! |---|---|
//! | `near` | what neighbours have, and whose turn it is to ask the server |
//! | `patch` | an image made of an older one |
//! | `blocks` | an image whose blocks are taken from wherever they are |
//! | `whole` | a file from its beginning to its end |
//! | `old` | the older images on this node |
//! | `patience` | tries and waits |

mod blocks;
mod near;
mod old;
mod patch;
mod patience;
mod whole;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use cairn_release::Version;
use cairn_release::manifest::Image;
use cairn_update::Cause;
use cairn_wire::neighbour::Role;
use cairn_wire::report::FailureKind;

use super::effects::{Answer, Body, Effects, GetError, Part};
use crate::neighbours::Offer;
use crate::pace::Pace;
use blocks::{Ended, Work};
use near::Thoughts;
use old::Old;
use patience::Patience;
use whole::Wanted;

/// After how many bytes they are seen onto the disk, so that a resumed download finds them.
const SYNC_EVERY: u64 = 16 << 20;

/// A release that is being fetched.
pub struct Fetch<'f, E> {
    effects: &'f E,
    version: &'f Version,
    /// Where its files lie, with a slash at the end.
    url: &'f str,
    pace: Mutex<Pace>,
}

/// An image that is wanted.
struct ImageWanted<'w> {
    part: Part,
    image: &'w Image,
    /// Where the server has it.
    url: &'w str,
    old: &'w [Old],
    /// What of it is here, as neighbours know it.
    offer: &'w Offer,
    progress: &'w (dyn Fn(u64) + Send + Sync),
    /// Whether patches are still to be tried.
    patches: bool,
    /// From when on the index is known.
    work: Option<Work>,
    /// What is thought of the neighbours.
    thoughts: Mutex<Thoughts>,
}

/// Ends what this node says that it does.
struct Turn<'o>(&'o Offer);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.set_role(None);
    }
}

/// Why a request ended early.
enum Stop {
    Disk(Cause),
    Network(GetError),
}

impl<'f, E: Effects> Fetch<'f, E> {
    /// Begins; `bandwidth` is in bytes per second.
    pub fn new(effects: &'f E, version: &'f Version, url: &'f str, bandwidth: Option<u64>) -> Self {
        let pace = Mutex::new(Pace::new(bandwidth, effects.uptime_ms()));
        Self {
            effects,
            version,
            url,
            pace,
        }
    }

    /// Fetches the manifest, of so many bytes.
    ///
    /// # Errors
    /// If the server doesn't have it or nothing came for too long, or the disk doesn't take it.
    pub async fn manifest(&self, size: u64) -> Result<(), Cause> {
        let part = Part::Manifest;
        let url = &self.file(part);
        self.whole(Wanted { part, size, url }, &|_| {}).await
    }

    /// Fetches an image: nothing if an installed release has the same one; else what neighbours have of it, and the rest
    /// from the server: a patch if there is one for an image of this node; or else the blocks that are nowhere here;
    /// or else, from a server that knows no ranges, all of it. `progress` is told how many bytes are there.
    ///
    /// # Errors
    /// If the server doesn't have it, or has another one, or nothing came for too long, or the disk doesn't take it.
    pub async fn image(
        &self,
        part: Part,
        image: &Image,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Cause> {
        self.reserve(part, image.size)?;
        let offer = Arc::new(Offer::none(&image.verity));
        self.effects.offer(self.version, part, &offer);
        let turn = Turn(&offer);
        let progress = |bytes: u64| {
            offer.progress(bytes);
            progress(bytes);
        };
        let old = Old::all(self.effects, part, self.version).await;
        let mut wanted = ImageWanted {
            part,
            image,
            url: &self.file(part),
            old: &old,
            offer: &offer,
            progress: &progress,
            patches: true,
            work: None,
            thoughts: Mutex::new(Thoughts::new(self.effects.uptime_ms())),
        };
        let index = match self.kept_index(part, image)? {
            None => self.own_index(part, image, &old)?,
            index => index,
        };
        if let Some(index) = index {
            self.begin(&mut wanted, index).await?;
        }
        if self.near_and_far(&mut wanted).await? {
            return Ok(());
        }
        drop(turn);
        offer.forget();
        tracing::info!(file = part.name(), "the server knows no ranges");
        let file = Wanted {
            part,
            size: image.size,
            url: &self.file(part),
        };
        // What isn't the beginning of the file would be taken for it.
        if self.kept_index(part, image)?.is_some() {
            self.discard(part)?;
        }
        self.whole(file, &progress).await
    }

    /// Takes what neighbours have and fetches the rest, in turns: whenever the server fails, neighbours may have more.
    /// Says whether it could: not from a server that knows no ranges.
    async fn near_and_far(&self, wanted: &mut ImageWanted<'_>) -> Result<bool, Cause> {
        let mut patience = Patience::default();
        loop {
            let before = self.there(wanted)?;
            if self.near(wanted).await? {
                return Ok(true);
            }
            let error = match self.far(wanted).await {
                Ok(()) => return Ok(true),
                Err(Ended::NoRanges) => return Ok(false),
                Err(Ended::Disk(cause)) => return Err(cause),
                Err(Ended::Network(error)) => error,
            };
            // Another node may have a better way to the server.
            wanted.offer.set_role(Some(Role::Wants));
            if self.there(wanted)? > before {
                patience.progress();
            }
            tracing::info!(file = wanted.part.name(), %error, "the download broke off and goes on");
            patience.wait(self.effects, wanted.url, error).await?;
        }
    }

    /// Fetches from the server what is nowhere here.
    async fn far(&self, wanted: &mut ImageWanted<'_>) -> Result<(), Ended> {
        let image = wanted.image;
        if wanted.work.is_none() {
            if std::mem::take(&mut wanted.patches) && self.patched(wanted).await? {
                wanted.offer.complete(&image.verity);
                return Ok(());
            }
            let index = self.index(wanted).await?;
            self.begin(wanted, index).await?;
        }
        self.blocks(wanted).await
    }

    /// How much of the image is there: of its tree, and then of its data.
    fn there(&self, wanted: &ImageWanted<'_>) -> Result<(u64, u64), Cause> {
        Ok((self.length(wanted.part)?, wanted.offer.count()))
    }

    fn file(&self, part: Part) -> String {
        format!("{}{}", self.url, part.name())
    }

    fn reserve(&self, part: Part, size: u64) -> Result<(), Cause> {
        let reserved = self.effects.reserve(self.version, part, size);
        reserved.map_err(|error| disk("take room for", part, &error))
    }

    fn read(&self, part: Part, range: Range<u64>) -> Result<Vec<u8>, Cause> {
        let read = self.effects.read(self.version, part, range);
        read.map_err(|error| disk("read", part, &error))
    }

    fn write(&self, part: Part, at: u64, bytes: &[u8]) -> Result<(), Cause> {
        let written = self.effects.write(self.version, part, at, bytes);
        written.map_err(|error| disk("write", part, &error))
    }

    /// As `write`, of what `from` has at its place.
    fn share(&self, part: Part, at: u64, bytes: &[u8], from: (&Version, u64)) -> Result<(), Cause> {
        let written = self.effects.share(self.version, part, at, bytes, from);
        written.map_err(|error| disk("write", part, &error))
    }

    fn discard(&self, part: Part) -> Result<(), Cause> {
        let discarded = self.effects.discard(self.version, part);
        discarded.map_err(|error| disk("discard", part, &error))
    }

    async fn sync(&self, part: Part) -> Result<(), Cause> {
        let synced = self.effects.sync(self.version, part).await;
        synced.map_err(|error| disk("write", part, &error))
    }

    /// So many bytes came; waits if they were too many.
    async fn keep_pace(&self, bytes: u64) {
        let wait = {
            let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            pace.after(bytes, self.effects.uptime_ms())
        };
        if let Some(wait) = wait {
            self.effects.sleep(wait).await;
        }
    }
}

/// Fetches a small file whole.
///
/// # Errors
/// If it can't be had, or has more than `limit` bytes.
pub async fn small<E: Effects>(effects: &E, url: &str, limit: usize) -> Result<Vec<u8>, Cause> {
    let mut patience = Patience::default();
    loop {
        match once(effects, url, limit).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) => patience.wait(effects, url, error).await?,
        }
    }
}

/// As [`small`], tried once.
///
/// # Errors
/// As there.
pub async fn once<E: Effects>(effects: &E, url: &str, limit: usize) -> Result<Vec<u8>, GetError> {
    let Answer {
        start, mut body, ..
    } = effects.get(url, 0..u64::MAX).await?;
    if start != 0 {
        return Err(GetError::passing(format!(
            "asked from byte 0, got from byte {start}"
        )));
    }
    let mut all = Vec::new();
    while let Some(bytes) = body.chunk().await? {
        if all.len() + bytes.len() > limit {
            return Err(GetError::Refused(format!("more than {limit} bytes")));
        }
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

/// The disk didn't do what it should.
pub fn disk(what: &str, part: Part, error: &std::io::Error) -> Cause {
    storage(&format!("cannot {what} {}", part.name()), error)
}

/// As [`disk`], for anything.
pub fn storage(what: &str, error: &std::io::Error) -> Cause {
    let kind = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => FailureKind::Space,
        _ => FailureKind::Storage,
    };
    Cause::passing(kind, format!("{what}: {error}"))
}
