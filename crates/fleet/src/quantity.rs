//! Counts, percentages and durations as people write them: `25`, `10%`, `5m`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The text is no such quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, got {got:?}")]
pub struct NotAQuantity {
    expected: &'static str,
    got: String,
}

fn bad(expected: &'static str, got: &str) -> NotAQuantity {
    NotAQuantity {
        expected,
        got: got.chars().take(80).collect(),
    }
}

/// Hundredths of a percent out of `12.5%`, at most 100 %.
fn percent(text: &str) -> Option<u32> {
    let number = text.strip_suffix('%')?;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole)
        || whole.len() > 3
        || part.len() > 2
        || !(part.is_empty() || digits(part))
        || number.ends_with('.')
    {
        return None;
    }
    let part: u32 = if part.is_empty() {
        0
    } else {
        format!("{part:0<2}").parse().ok()?
    };
    let hundredths = whole.parse::<u32>().ok()? * 100 + part;
    (hundredths <= 10_000).then_some(hundredths)
}

fn write_percent(f: &mut fmt::Formatter<'_>, hundredths: u32) -> fmt::Result {
    match (hundredths / 100, hundredths % 100) {
        (whole, 0) => write!(f, "{whole}%"),
        (whole, part) if part % 10 == 0 => write!(f, "{whole}.{}%", part / 10),
        (whole, part) => write!(f, "{whole}.{part:02}%"),
    }
}

/// So many devices, or so much of a hundred: `25` or `10%`. At least one device, more than 0 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Devices.
    Count(u64),
    /// Hundredths of a percent, 1 to 10,000.
    Percent(u32),
}

impl Share {
    /// All of them.
    pub const ALL: Self = Self::Percent(10_000);

    /// How many devices that is out of `total`: rounded up, so that a wave is never empty, and never more than there are.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Count(count) => count.min(total),
            Self::Percent(hundredths) => {
                let exact = u128::from(total) * u128::from(hundredths);
                u64::try_from(exact.div_ceil(10_000))
                    .unwrap_or(u64::MAX)
                    .min(total)
            }
        }
    }
}

impl FromStr for Share {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let share = if text.ends_with('%') {
            percent(text).map(Self::Percent)
        } else {
            text.parse().ok().map(Self::Count)
        };
        share
            .filter(|share| !matches!(share, Self::Count(0) | Self::Percent(0)))
            .ok_or_else(|| bad("a number of devices as 25, or a share as 10%", text))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Percent(hundredths) => write_percent(f, *hundredths),
        }
    }
}

/// A share of outcomes, in hundredths of a percent: `5%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub u32);

impl Rate {
    /// Whether `part` out of `whole` is this much or more.
    pub fn reached(self, part: u64, whole: u64) -> bool {
        whole > 0 && u128::from(part) * 10_000 >= u128::from(whole) * u128::from(self.0)
    }
}

impl FromStr for Rate {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        percent(text)
            .filter(|rate| *rate > 0)
            .map(Self)
            .ok_or_else(|| bad("a share above 0% as 5% or 2.5%", text))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_percent(f, self.0)
    }
}

/// A duration in whole seconds: `90s`, `5m`, `1h30m`, `7d`; in JSON a bare number of seconds too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Seconds(pub u32);

impl Seconds {
    /// The longest: ten years.
    pub const MAX: Self = Self(10 * 366 * 86_400);

    /// The moment so long after another.
    pub fn after(self, moment: i64) -> i64 {
        moment.saturating_add(i64::from(self.0))
    }

    /// Whether so much time has passed.
    pub fn passed(self, since: i64, now: i64) -> bool {
        now >= self.after(since)
    }
}

const UNITS: [(u8, u32); 5] = [
    (b'w', 604_800),
    (b'd', 86_400),
    (b'h', 3_600),
    (b'm', 60),
    (b's', 1),
];

impl FromStr for Seconds {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            bad(
                "a duration as 90s, 5m, 1h30m, 7d or 2w, at most ten years",
                text,
            )
        };
        let (mut total, mut number, mut digits) = (0_u64, 0_u64, 0);
        if text.is_empty() || text.len() > 40 {
            return Err(wrong());
        }
        for byte in text.bytes() {
            if byte.is_ascii_digit() && digits < 10 {
                number = number * 10 + u64::from(byte - b'0');
                digits += 1;
                continue;
            }
            let Some((_, unit)) = UNITS.iter().find(|(letter, _)| *letter == byte) else {
                return Err(wrong());
            };
            if digits == 0 {
                return Err(wrong());
            }
            total += number * u64::from(*unit);
            (number, digits) = (0, 0);
        }
        // A bare number could be meant in any unit; only 0 is clear.
        if digits != 0 && text != "0" {
            return Err(wrong());
        }
        u32::try_from(total)
            .ok()
            .map(Self)
            .filter(|seconds| *seconds <= Self::MAX)
            .ok_or_else(wrong)
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        if rest == 0 {
            return f.write_str("0s");
        }
        for (letter, unit) in UNITS {
            if rest >= unit {
                write!(f, "{}{}", rest / unit, char::from(letter))?;
                rest %= unit;
            }
        }
        Ok(())
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}
as_text!(Share, Rate, Seconds);

#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrNumber {
    Text(String),
    Number(u64),
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match TextOrNumber::deserialize(deserializer)? {
            TextOrNumber::Text(text) => text,
            TextOrNumber::Number(number) => number.to_string(),
        };
        text.parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match TextOrNumber::deserialize(deserializer)? {
            TextOrNumber::Text(text) => text,
            TextOrNumber::Number(number) => format!("{number}s"),
        };
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_up_and_never_over_the_total() {
        let of = |text: &str, total| text.parse::<Share>().unwrap().of(total);
        assert_eq!(of("10%", 100_000), 10_000);
        assert_eq!(of("10%", 3), 1);
        assert_eq!(of("0.01%", 5), 1);
        assert_eq!(of("25", 7), 7);
        assert_eq!(of("100%", u64::MAX), u64::MAX);
        for bad in [
            "", "%", "0", "0%", "101%", "-1", "1.234%", "1.%", ".5%", "1e2%", "5 %",
        ] {
            assert!(bad.parse::<Share>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_rate_is_reached_at_its_value() {
        let rate: Rate = "5%".parse().unwrap();
        assert!(rate.reached(1, 20) && !rate.reached(1, 21) && !rate.reached(0, 0));
        assert!("5".parse::<Rate>().is_err() && "0%".parse::<Rate>().is_err());
    }

    #[test]
    fn durations_are_read_as_they_are_written() {
        for (text, seconds) in [
            ("90s", 90),
            ("5m", 300),
            ("1h30m", 5_400),
            ("7d", 604_800),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(text.parse::<Seconds>().unwrap(), Seconds(seconds), "{text}");
        }
        for bad in ["", "5", "m", "5x", "-5m", "99999999999d", "5m3", "11y"] {
            assert!(bad.parse::<Seconds>().is_err(), "{bad:?}");
        }
        for seconds in [0, 59, 60, 3_661, 86_400, 604_801] {
            assert_eq!(
                Seconds(seconds).to_string().parse::<Seconds>().unwrap(),
                Seconds(seconds)
            );
        }
        assert_eq!(
            serde_json::from_str::<Seconds>("300").unwrap(),
            Seconds(300)
        );
    }

    #[test]
    fn percentages_are_written_as_they_are_read() {
        for text in ["10%", "2.5%", "0.01%", "33.33%", "100%", "25"] {
            assert_eq!(text.parse::<Share>().unwrap().to_string(), text);
        }
    }
}
