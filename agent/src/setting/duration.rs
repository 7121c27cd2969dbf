//! Durations and sizes as people write them: `90s`, `5m`, `7d`; `64MiB`, `2Mbit`.

use std::time::Duration;

use super::Invalid;

/// Reads `500ms`, `90s`, `5m`, `1h` or `7d`; at most a year, and not 0 unless written as `0s`.
///
/// # Errors
/// If it is something else; `key` is named in the error.
pub fn duration(key: &str, text: &str) -> Result<Duration, Invalid> {
    let wrong = || {
        Invalid::new(
            key,
            format!("expected a duration as 90s, 5m or 7d, got {text:?}"),
        )
    };
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let millis = number
        .checked_mul(millis)
        .filter(|millis| *millis <= 366 * 86_400_000)
        .ok_or_else(wrong)?;
    Ok(Duration::from_millis(millis))
}

/// [`duration`] of a setting that may be left out.
///
/// # Errors
/// If it is there and wrong.
pub fn duration_or(key: &str, text: Option<&str>, default: Duration) -> Result<Duration, Invalid> {
    text.map_or(Ok(default), |text| duration(key, text))
}

/// Reads a size in bytes: `4096`, `512KiB`, `64MiB`, `2GiB`.
///
/// # Errors
/// If it is something else; `key` is named in the error.
pub fn bytes(key: &str, text: &str) -> Result<u64, Invalid> {
    let wrong = || {
        Invalid::new(
            key,
            format!("expected a size as 512KiB, 64MiB or 2GiB, got {text:?}"),
        )
    };
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let factor = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(wrong)
}

/// Reads a rate, `500kbit`, `2Mbit` or `1Gbit`, as bytes per second.
///
/// # Errors
/// If it is something else or less than 8 kbit; `key` is named in the error.
pub fn rate(key: &str, text: &str) -> Result<u64, Invalid> {
    let wrong = || {
        Invalid::new(
            key,
            format!("expected a rate as 500kbit, 2Mbit or 1Gbit, at least 8kbit, got {text:?}"),
        )
    };
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let factor = match unit {
        "kbit" => 1_000,
        "Mbit" => 1_000_000,
        "Gbit" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(factor)
        .map(|bits| bits / 8)
        .filter(|bytes| *bytes >= 1000)
        .ok_or_else(wrong)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_people_write_is_read() {
        assert_eq!(duration("k", "90s").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("k", "7d").unwrap(), Duration::from_secs(7 * 86400));
        assert_eq!(duration("k", "500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(bytes("k", "64MiB").unwrap(), 64 << 20);
        assert_eq!(bytes("k", "4096").unwrap(), 4096);
        assert_eq!(rate("k", "2Mbit").unwrap(), 250_000);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = duration("link.keep-alive", "5 minutes").unwrap_err();
        assert_eq!(
            error.to_string(),
            "link.keep-alive: expected a duration as 90s, 5m or 7d, got \"5 minutes\""
        );
        for text in [
            "",
            "s",
            "-5s",
            "5",
            "99999999999999999999s",
            "18446744073709551615d",
            "400d",
        ] {
            assert!(duration("k", text).is_err(), "{text}");
        }
        assert!(rate("k", "1kbit").is_err());
        assert!(bytes("k", "64MB").is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,20}") {
            let _ = duration("k", &text);
            let _ = bytes("k", &text);
            let _ = rate("k", &text);
        }

        #[test]
        fn seconds_come_back(seconds in 0u64..31_000_000) {
            prop_assert_eq!(duration("k", &format!("{seconds}s")).unwrap(), Duration::from_secs(seconds));
        }
    }
}
