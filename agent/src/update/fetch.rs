//! Fetching a file: resumed where it broke off, bounded in length, time and tries.

use std::time::Duration;

use cairn_release::Version;
use cairn_update::Cause;
use cairn_wire::report::FailureKind;

use super::effects::{Answer, Body, Effects, GetError, Part};

/// How often in a row nothing may come.
const ATTEMPTS: u32 = 20;
/// How often in a row a file may be refused: a server may be in the middle of something.
const REFUSALS: u32 = 3;
/// The first wait, which doubles.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// After how many bytes they are seen onto the disk, so that a resumed download finds them.
const SYNC_EVERY: u64 = 16 << 20;

/// Tries of one file.
#[derive(Debug, Default)]
struct Patience {
    failures: u32,
    refusals: u32,
}

impl Patience {
    /// How long to wait after `error`, or why to give up.
    fn after(&mut self, url: &str, error: GetError) -> Result<Duration, Cause> {
        self.failures += 1;
        let refused = matches!(error, GetError::Refused(_));
        self.refusals += u32::from(refused);
        if self.failures >= ATTEMPTS || self.refusals >= REFUSALS {
            let reason = format!("cannot fetch {url}: {error}");
            return Err(Cause {
                kind: FailureKind::Fetch,
                reason,
                retry: !refused,
            });
        }
        let doubled = FIRST_WAIT.saturating_mul(1 << self.failures.min(16).saturating_sub(1));
        let asked = match error {
            GetError::Passing { after, .. } => after.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        Ok(doubled.min(LONGEST_WAIT).max(asked.min(LONGEST_WAIT * 10)))
    }

    /// Something came.
    fn progress(&mut self) {
        *self = Self::default();
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
            Err(error) => effects.sleep(spread(patience.after(url, error)?)).await,
        }
    }
}

/// As [`small`], tried once.
///
/// # Errors
/// As there.
pub async fn once<E: Effects>(effects: &E, url: &str, limit: usize) -> Result<Vec<u8>, GetError> {
    let Answer { start, mut body } = effects.get(url, 0).await?;
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

/// Up to a quarter longer, so that nodes that lost a server together don't come back together.
fn spread(wait: Duration) -> Duration {
    wait.mul_f64(1.0 + rand::random::<f64>() / 4.0)
}

/// A file that is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'w> {
    /// Of which release.
    pub version: &'w Version,
    /// Which.
    pub part: Part,
    /// Its size in bytes.
    pub size: u64,
    /// Where it is.
    pub url: &'w str,
    /// Bytes per second at most.
    pub bandwidth: Option<u64>,
}

/// Fetches what is missing of a file, and never more than its size. `progress` is told how many bytes are there.
///
/// # Errors
/// If the server doesn't have it or nothing came for too long, or the disk doesn't take it.
pub async fn file<E: Effects>(
    effects: &E,
    wanted: Wanted<'_>,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<(), Cause> {
    let Wanted {
        version,
        part,
        size,
        url,
        ..
    } = wanted;
    effects
        .reserve(version, part, size)
        .map_err(|error| disk("take room for", part, &error))?;
    let mut at = effects
        .fetched(version, part)
        .map_err(|error| disk("read", part, &error))?
        .min(size);
    let mut patience = Patience::default();
    while at < size {
        let before = at;
        match rest(effects, wanted, &mut at, progress).await {
            Ok(()) => {}
            Err(Stop::Disk(cause)) => return Err(cause),
            Err(Stop::Network(error)) => {
                if at > before {
                    patience.progress();
                }
                // What is there can't be the beginning of what the server has.
                if matches!(error, GetError::BeyondEnd(_)) {
                    effects
                        .discard(version, part)
                        .map_err(|error| disk("discard", part, &error))?;
                    effects
                        .reserve(version, part, size)
                        .map_err(|error| disk("take room for", part, &error))?;
                    at = 0;
                }
                let wait = spread(patience.after(url, error)?);
                tracing::info!(
                    file = part.name(),
                    at,
                    size,
                    ?wait,
                    "the download broke off and goes on"
                );
                effects.sleep(wait).await;
            }
        }
    }
    effects
        .sync(version, part)
        .await
        .map_err(|error| disk("write", part, &error))
}

enum Stop {
    Disk(Cause),
    Network(GetError),
}

/// One request for all that is missing.
async fn rest<E: Effects>(
    effects: &E,
    wanted: Wanted<'_>,
    at: &mut u64,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<(), Stop> {
    let Wanted {
        version,
        part,
        size,
        url,
        bandwidth,
    } = wanted;
    let Answer { start, mut body } = effects.get(url, *at).await.map_err(Stop::Network)?;
    // A server that ignores ranges sends the beginning again.
    if start != *at && start != 0 {
        let reason = format!("asked from byte {at}, got from byte {start}");
        return Err(Stop::Network(GetError::passing(reason)));
    }
    let mut skip = *at - start;
    let mut unsynced = 0;
    let mut pace = Pace::new(bandwidth, effects.uptime_ms());
    while *at < size {
        let Some(mut bytes) = body.chunk().await.map_err(Stop::Network)? else {
            let reason = format!("the answer ended at byte {at} of {size}");
            return Err(Stop::Network(GetError::passing(reason)));
        };
        let came = bytes.len() as u64;
        let skipped = skip.min(came);
        skip -= skipped;
        let rest = bytes.split_off(
            usize::try_from(skipped)
                .unwrap_or(usize::MAX)
                .min(bytes.len()),
        );
        // Whatever else is sent, no more than the file's size is written.
        let room = usize::try_from(size - *at)
            .unwrap_or(usize::MAX)
            .min(rest.len());
        let rest = rest.slice(..room);
        effects
            .write(version, part, *at, &rest)
            .map_err(|error| Stop::Disk(disk("write", part, &error)))?;
        *at += rest.len() as u64;
        unsynced += rest.len() as u64;
        progress(*at);
        if unsynced >= SYNC_EVERY {
            unsynced = 0;
            effects
                .sync(version, part)
                .await
                .map_err(|error| Stop::Disk(disk("write", part, &error)))?;
        }
        if let Some(wait) = pace.after(came, effects.uptime_ms()) {
            effects.sleep(wait).await;
        }
    }
    Ok(())
}

/// Keeps to a number of bytes per second since the request began.
struct Pace {
    bandwidth: Option<u64>,
    since_ms: u64,
    bytes: u64,
}

impl Pace {
    fn new(bandwidth: Option<u64>, now_ms: u64) -> Self {
        Self {
            bandwidth,
            since_ms: now_ms,
            bytes: 0,
        }
    }

    fn after(&mut self, bytes: u64, now_ms: u64) -> Option<Duration> {
        let bandwidth = self.bandwidth.filter(|bandwidth| *bandwidth > 0)?;
        self.bytes = self.bytes.saturating_add(bytes);
        let due_ms = self.bytes.saturating_mul(1000) / bandwidth;
        let early = due_ms.saturating_sub(now_ms.saturating_sub(self.since_ms));
        // A line that stood still is no credit for a burst.
        if early == 0 {
            (self.since_ms, self.bytes) = (now_ms, 0);
        }
        (early >= 5).then(|| Duration::from_millis(early.min(10_000)))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_and_ends() {
        let mut patience = Patience::default();
        let passing = || GetError::passing("503");
        let waits: Vec<u64> = (0..8)
            .map(|_| patience.after("u", passing()).unwrap().as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        let cause = (0..ATTEMPTS)
            .find_map(|_| patience.after("u", passing()).err())
            .unwrap();
        assert!(cause.retry);
        let mut patience = Patience::default();
        let refused = || GetError::Refused("404".into());
        assert!(patience.after("u", refused()).is_ok() && patience.after("u", refused()).is_ok());
        assert!(!patience.after("u", refused()).unwrap_err().retry);
    }

    #[test]
    fn the_pace_is_kept_without_bursts() {
        let mut pace = Pace::new(Some(1000), 0);
        assert_eq!(pace.after(500, 0), Some(Duration::from_millis(500)));
        assert_eq!(pace.after(500, 500), Some(Duration::from_millis(500)));
        assert_eq!(pace.after(10, 60_000), None);
        assert_eq!(pace.after(1000, 60_000), Some(Duration::from_millis(1000)));
        assert_eq!(Pace::new(None, 0).after(1 << 40, 0), None);
    }
}
