//! A file from its beginning to its end, resumed where it broke off: for small files, patches, and servers that know no
//! ranges.

use cairn_update::Cause;

use super::patience::Patience;
use super::{Fetch, SYNC_EVERY, Stop, disk};
use crate::update::effects::{Answer, Body, Effects, GetError, Part};

/// A file that is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'w> {
    /// Which.
    pub part: Part,
    /// Its size in bytes.
    pub size: u64,
    /// Where it is.
    pub url: &'w str,
}

impl<E: Effects> Fetch<'_, E> {
    /// Fetches what is missing of a file, and never more than its size. `progress` is told how many bytes are there.
    ///
    /// # Errors
    /// If the server doesn't have it or nothing came for too long, or the disk doesn't take it.
    pub async fn whole(
        &self,
        wanted: Wanted<'_>,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Cause> {
        let Wanted { part, size, url } = wanted;
        let (effects, version) = (self.effects, self.version);
        self.reserve(part, size)?;
        let mut at = effects
            .fetched(version, part)
            .map_err(|error| disk("read", part, &error))?
            .min(size);
        let mut patience = Patience::default();
        while at < size {
            let before = at;
            match self.rest(wanted, &mut at, progress).await {
                Ok(()) => {}
                Err(Stop::Disk(cause)) => return Err(cause),
                Err(Stop::Network(error)) => {
                    if at > before {
                        patience.progress();
                    }
                    // What is there can't be the beginning of what the server has.
                    if matches!(error, GetError::BeyondEnd(_)) {
                        self.discard(part)?;
                        self.reserve(part, size)?;
                        at = 0;
                    }
                    tracing::info!(file = part.name(), at, size, %error, "the download broke off and goes on");
                    patience.wait(effects, url, error).await?;
                }
            }
        }
        self.sync(part).await
    }

    /// One request for all that is missing.
    async fn rest(
        &self,
        wanted: Wanted<'_>,
        at: &mut u64,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Stop> {
        let Wanted { part, size, url } = wanted;
        let answer = self.effects.get(url, *at..u64::MAX).await;
        let Answer {
            start, mut body, ..
        } = answer.map_err(Stop::Network)?;
        // A server that ignores ranges sends the beginning again.
        if start != *at && start != 0 {
            let reason = format!("asked from byte {at}, got from byte {start}");
            return Err(Stop::Network(GetError::passing(reason)));
        }
        let mut skip = *at - start;
        let mut unsynced = 0;
        while *at < size {
            let Some(mut bytes) = body.chunk().await.map_err(Stop::Network)? else {
                let reason = format!("the answer ended at byte {at} of {size}");
                return Err(Stop::Network(GetError::passing(reason)));
            };
            let came = bytes.len() as u64;
            let skipped = skip.min(came);
            skip -= skipped;
            let rest = bytes.split_off(usize::try_from(skipped).unwrap_or(usize::MAX));
            // Whatever else is sent, no more than the file's size is written.
            let room = usize::try_from(size - *at).unwrap_or(usize::MAX);
            let rest = rest.slice(..room.min(rest.len()));
            self.write(part, *at, &rest).map_err(Stop::Disk)?;
            *at += rest.len() as u64;
            unsynced += rest.len() as u64;
            progress(*at);
            if unsynced >= SYNC_EVERY {
                unsynced = 0;
                self.sync(part).await.map_err(Stop::Disk)?;
            }
            self.keep_pace(came).await;
        }
        Ok(())
    }
}
