//! `[outbox]` of the configuration.

use std::time::Duration;

use serde::Deserialize;

use crate::setting::{Invalid, duration};

/// The smallest budget in bytes.
pub const MIN_BUDGET: u64 = 64 * 1024;

/// As it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Input {
    /// How much of the disk the records may take: `64MiB`.
    pub budget: Option<String>,
    /// How long records are gathered before they are written together: `1s`.
    pub commit_interval: Option<String>,
}

/// As it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How much of the disk the records may take, in bytes; at least [`MIN_BUDGET`].
    pub budget: u64,
    /// How long records are gathered before they are written together. What wasn't flushed and is younger, a power cut takes.
    pub commit_interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            budget: 64 << 20,
            commit_interval: Duration::from_secs(1),
        }
    }
}

impl Settings {
    /// Checks what is written, and fills in what isn't.
    ///
    /// # Errors
    /// If a value isn't a size or a duration, or the budget is too small.
    pub fn check(input: &Input) -> Result<Self, Invalid> {
        let default = Self::default();
        let budget = match &input.budget {
            Some(text) => duration::bytes("outbox.budget", text)?,
            None => default.budget,
        };
        if budget < MIN_BUDGET {
            return Err(Invalid::new(
                "outbox.budget",
                format!("expected at least 64KiB, got {budget} bytes"),
            ));
        }
        let commit_interval = duration::duration_or(
            "outbox.commit-interval",
            input.commit_interval.as_deref(),
            default.commit_interval,
        )?;
        if commit_interval > Duration::from_secs(600) {
            return Err(Invalid::new(
                "outbox.commit-interval",
                "expected at most 10m",
            ));
        }
        Ok(Self {
            budget,
            commit_interval,
        })
    }

    /// The largest segment in bytes.
    pub(super) fn segment(&self) -> u64 {
        (self.budget / 32).clamp(4 * 1024, 256 * 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        let input = |budget: &str, interval: &str| Input {
            budget: Some(budget.into()),
            commit_interval: Some(interval.into()),
        };
        let settings = Settings::check(&input("1MiB", "200ms")).unwrap();
        assert_eq!(
            (settings.budget, settings.commit_interval),
            (1 << 20, Duration::from_millis(200))
        );
        assert_eq!(
            Settings::check(&Input::default()).unwrap(),
            Settings::default()
        );
        assert_eq!(
            Settings::check(&input("1KiB", "1s")).unwrap_err().key,
            "outbox.budget"
        );
        assert_eq!(
            Settings::check(&input("1MiB", "1d")).unwrap_err().key,
            "outbox.commit-interval"
        );
    }
}
