//! `[traffic]` of the configuration.

use std::time::Duration;

use serde::Deserialize;

use crate::setting::{Invalid, duration};

/// As it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Input {
    /// Whether traffic is metered: `true`.
    pub meter: Option<bool>,
    /// The interfaces that are metered, as `["eth0", "ppp*"]`; without it all that are hardware.
    pub interfaces: Option<Vec<String>>,
    /// How often counters are read: `10s`.
    pub interval: Option<String>,
    /// How often what was read is kept, so that a power cut costs no more than that: `60s`.
    pub keep: Option<String>,
}

/// As it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether traffic is metered.
    pub meter: bool,
    /// Names of interfaces; one with a `*` at its end stands for all that begin so. None: all that are hardware.
    pub interfaces: Option<Vec<String>>,
    /// How often counters are read.
    pub interval: Duration,
    /// How often what was read is kept.
    pub keep: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            meter: true,
            interfaces: None,
            interval: Duration::from_secs(10),
            keep: Duration::from_secs(60),
        }
    }
}

/// No interval is longer: a slot must not close much later than it ends.
const LONGEST: Duration = Duration::from_secs(60);

impl Settings {
    /// Checks what is written, and fills in what isn't.
    ///
    /// # Errors
    /// If a time isn't one, or too short or long, or a name is empty.
    pub fn check(input: &Input) -> Result<Self, Invalid> {
        let default = Self::default();
        let interval = input.interval.as_deref();
        let interval = duration::duration_or("traffic.interval", interval, default.interval)?;
        if !(Duration::from_secs(1)..=LONGEST).contains(&interval) {
            return Err(Invalid::new("traffic.interval", "expected 1s to 60s"));
        }
        let keep = duration::duration_or("traffic.keep", input.keep.as_deref(), default.keep)?;
        if keep < interval {
            return Err(Invalid::new(
                "traffic.keep",
                "expected no less than traffic.interval",
            ));
        }
        let names = input.interfaces.iter().flatten();
        if let Some(name) = names.into_iter().find(|name| !is_pattern(name)) {
            return Err(Invalid::new(
                "traffic.interfaces",
                format!("expected names of interfaces, as eth0 or eth*, got {name:?}"),
            ));
        }
        Ok(Self {
            meter: input.meter.unwrap_or(default.meter),
            interfaces: input.interfaces.clone(),
            interval,
            keep,
        })
    }
}

/// Linux takes names of up to 15 bytes.
fn is_pattern(name: &str) -> bool {
    let stem = name.strip_suffix('*').unwrap_or(name);
    !name.is_empty()
        && stem.len() < 16
        && !stem.contains(|c: char| c == '*' || c == '/' || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_named() {
        let wrong = |input: Input| Settings::check(&input).unwrap_err().key;
        assert_eq!(Settings::check(&Input::default()), Ok(Settings::default()));
        let interval = Some("5m".to_owned());
        assert_eq!(
            wrong(Input {
                interval,
                ..Input::default()
            }),
            "traffic.interval"
        );
        let keep = Some("5s".to_owned());
        assert_eq!(
            wrong(Input {
                keep,
                ..Input::default()
            }),
            "traffic.keep"
        );
        for name in ["", "a b", "a*b", "0123456789abcdef"] {
            let interfaces = Some(vec!["eth0".to_owned(), name.to_owned()]);
            assert_eq!(
                wrong(Input {
                    interfaces,
                    ..Input::default()
                }),
                "traffic.interfaces"
            );
        }
    }
}
