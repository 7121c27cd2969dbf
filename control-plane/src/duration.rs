//! Durations as people write them: `90s`, `5m`, `1h30m`, `7d`.

use std::time::Duration;

/// The text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a duration such as 90s, 5m, 1h30m or 7d, got {0:?}")]
pub struct NotADuration(String);

const UNITS: [(char, u64); 5] = [
    ('w', 7 * 86_400),
    ('d', 86_400),
    ('h', 3600),
    ('m', 60),
    ('s', 1),
];

/// Reads a duration: numbers with the units w, d, h, m, s, each unit at most once and the largest first.
///
/// # Errors
/// If it is none, or longer than 2^63 seconds.
pub fn parse(text: &str) -> Result<Duration, NotADuration> {
    let bad = || NotADuration(text.chars().take(40).collect());
    let (mut rest, mut units, mut seconds) = (text, UNITS.iter(), 0_u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let count: u64 = rest[..digits].parse().map_err(|_| bad())?;
        let unit = rest[digits..].chars().next().ok_or_else(bad)?;
        let (_, length) = units.find(|(name, _)| *name == unit).ok_or_else(bad)?;
        seconds = count
            .checked_mul(*length)
            .and_then(|part| seconds.checked_add(part))
            .ok_or_else(bad)?;
        rest = &rest[digits + 1..];
    }
    if text.is_empty() || i64::try_from(seconds).is_err() {
        return Err(bad());
    }
    Ok(Duration::from_secs(seconds))
}

/// Writes whole seconds as [`parse`] reads them, with the two largest units that count.
pub fn show(duration: Duration) -> String {
    let mut rest = duration.as_secs();
    let mut parts = Vec::new();
    for (name, length) in UNITS.iter().skip(1) {
        if rest >= *length {
            parts.push(format!("{}{name}", rest / length));
            rest %= length;
        }
    }
    if parts.is_empty() {
        return "0s".into();
    }
    parts.truncate(2);
    parts.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write_and_nothing_else() {
        let cases = [
            ("90s", 90),
            ("5m", 300),
            ("1h30m", 5400),
            ("7d", 604_800),
            ("2w", 1_209_600),
            ("0s", 0),
        ];
        for (text, seconds) in cases {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in [
            "",
            "5",
            "m",
            "5 m",
            "-5m",
            "5m1h",
            "5m5m",
            "5x",
            "1.5h",
            "99999999999999999999s",
            "9999999999999999w",
            "5é",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for (seconds, text) in [(0, "0s"), (90, "1m30s"), (604_800, "7d"), (90_061, "1d1h")] {
            assert_eq!(show(Duration::from_secs(seconds)), text);
        }
    }
}
