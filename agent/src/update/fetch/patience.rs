//! How often one file is tried.

use std::time::Duration;

use cairn_update::Cause;
use cairn_wire::report::FailureKind;

use crate::update::effects::{Effects, GetError};

/// How often in a row nothing may come.
const ATTEMPTS: u32 = 20;
/// How often in a row a file may be refused, or be another than it should: a server may be in the middle of something.
const REFUSALS: u32 = 3;
/// The first wait, which doubles.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Tries of one file.
#[derive(Debug, Default)]
pub struct Patience {
    failures: u32,
    refusals: u32,
}

impl Patience {
    /// Waits after `error`.
    ///
    /// # Errors
    /// With `error`, if patience has ended.
    pub async fn wait<E: Effects>(
        &mut self,
        effects: &E,
        url: &str,
        error: GetError,
    ) -> Result<(), Cause> {
        let wait = spread(self.after(url, error)?);
        effects.sleep(wait).await;
        Ok(())
    }

    /// How long to wait after `error`, or why to give up.
    fn after(&mut self, url: &str, error: GetError) -> Result<Duration, Cause> {
        self.failures += 1;
        let refused = matches!(error, GetError::Refused(_));
        self.refusals += u32::from(refused || matches!(error, GetError::Wrong(_)));
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
    pub fn progress(&mut self) {
        *self = Self::default();
    }
}

/// Up to a quarter longer, so that nodes that lost a server together don't come back together.
fn spread(wait: Duration) -> Duration {
    wait.mul_f64(1.0 + rand::random::<f64>() / 4.0)
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
}
