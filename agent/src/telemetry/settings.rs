//! `[telemetry]` of the configuration.

use std::time::Duration;

use serde::Deserialize;

use crate::setting::{Invalid, duration};

/// As it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Input {
    /// How often the node is measured: `60s`.
    pub interval: Option<String>,
    /// By how much at most a measurement is late, at random, so that nodes don't all speak at once; a tenth of the interval.
    pub jitter: Option<String>,
}

/// As it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How often the node is measured.
    pub interval: Duration,
    /// By how much at most a measurement is late.
    pub jitter: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(60),
            jitter: Duration::from_secs(6),
        }
    }
}

impl Settings {
    /// Checks what is written, and fills in what isn't.
    ///
    /// # Errors
    /// If a value isn't a duration, the interval is under a second, or the jitter longer than the interval.
    pub fn check(input: &Input) -> Result<Self, Invalid> {
        let interval = duration::duration_or(
            "telemetry.interval",
            input.interval.as_deref(),
            Self::default().interval,
        )?;
        if interval < Duration::from_secs(1) {
            return Err(Invalid::new("telemetry.interval", "expected at least 1s"));
        }
        let jitter =
            duration::duration_or("telemetry.jitter", input.jitter.as_deref(), interval / 10)?;
        if jitter > interval {
            return Err(Invalid::new(
                "telemetry.jitter",
                "expected no more than telemetry.interval",
            ));
        }
        Ok(Self { interval, jitter })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_follows_the_interval_and_never_passes_it() {
        let input = |interval: &str, jitter: Option<&str>| Input {
            interval: Some(interval.into()),
            jitter: jitter.map(str::to_owned),
        };
        assert_eq!(
            Settings::check(&Input::default()).unwrap(),
            Settings::default()
        );
        assert_eq!(
            Settings::check(&input("20s", None)).unwrap().jitter,
            Duration::from_secs(2)
        );
        assert_eq!(
            Settings::check(&input("20s", Some("21s"))).unwrap_err().key,
            "telemetry.jitter"
        );
        assert_eq!(
            Settings::check(&input("100ms", None)).unwrap_err().key,
            "telemetry.interval"
        );
    }
}
