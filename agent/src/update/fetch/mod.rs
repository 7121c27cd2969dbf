//! Fetching a release with as few bytes as can be, resumed where it broke off, bounded in length, time and tries.
//!
//! | Module | Owns |
//! |---|---|
//! | `patch` | an image made of an older one |
//! | `blocks` | an image whose blocks are taken from wherever they are |
//! | `whole` | a file from its beginning to its end |
//! | `old` | the older images on this node |
//! | `patience` | tries and waits, and the rate |

mod blocks;
mod old;
mod patch;
mod patience;
mod whole;

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use cairn_release::Version;
use cairn_release::manifest::Image;
use cairn_update::Cause;
use cairn_wire::report::FailureKind;

use super::effects::{Answer, Body, Effects, GetError, Part};
use old::Old;
use patience::{Pace, Patience};
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

    /// Fetches an image: nothing if an installed release has the same one; a patch if there is one for an image of this
    /// node; or else the blocks that are nowhere here;
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
        let old = Old::all(self.effects, part, self.version).await;
        let index = match self.kept_index(part, image)? {
            Some(index) => {
                self.discard(patch::of(part))?;
                Some(index)
            }
            None => match self.own_index(part, image, &old)? {
                Some(index) => Some(index),
                None if self.patched(part, image, &old, progress).await? => return Ok(()),
                None => self.index(part, image).await?,
            },
        };
        if let Some(index) = index
            && self.blocks(part, image, &index, &old, progress).await?
        {
            return Ok(());
        }
        tracing::info!(file = part.name(), "the server knows no ranges");
        let wanted = Wanted {
            part,
            size: image.size,
            url: &self.file(part),
        };
        // What isn't the beginning of the file would be taken for it.
        if self.kept_index(part, image)?.is_some() {
            self.discard(part)?;
        }
        self.whole(wanted, progress).await
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
