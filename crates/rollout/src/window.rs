//! Hours of the day in which devices may be admitted, in UTC.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const DAY: i64 = 24 * 60;

/// From a minute of the day up to another, in UTC; over midnight if the second is the smaller one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    from: i64,
    to: i64,
}

/// The text is no window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected hours of the day in UTC as 02:00-05:00, got {0:?}")]
pub struct NotAWindow(String);

impl Window {
    /// Whether a moment (seconds since 1970) lies in it.
    pub fn contains(self, now: i64) -> bool {
        let minute = now.div_euclid(60).rem_euclid(DAY);
        if self.from < self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        }
    }
}

fn minute(text: &str) -> Option<i64> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str| {
        let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        if digits {
            text.parse::<i64>().ok()
        } else {
            None
        }
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let all = hours * 60 + minutes;
    (minutes < 60 && all <= DAY).then_some(all)
}

impl FromStr for Window {
    type Err = NotAWindow;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || NotAWindow(text.chars().take(40).collect());
        let (from, to) = text.split_once('-').ok_or_else(bad)?;
        let (from, to) = (minute(from).ok_or_else(bad)?, minute(to).ok_or_else(bad)?);
        if from == to || from == DAY {
            return Err(bad());
        }
        Ok(Self { from, to })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:02}:{:02}-{:02}:{:02}",
            self.from / 60,
            self.from % 60,
            self.to / 60,
            self.to % 60
        )
    }
}

impl Serialize for Window {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Window {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_may_go_over_midnight() {
        let at = |hour: i64| 1_760_000_000 / 86_400 * 86_400 + hour * 3_600;
        let night: Window = "22:00-05:00".parse().unwrap();
        assert!(
            night.contains(at(23))
                && night.contains(at(4))
                && !night.contains(at(5))
                && !night.contains(at(12))
        );
        let day: Window = "02:00-05:00".parse().unwrap();
        assert!(
            day.contains(at(2))
                && !day.contains(at(5))
                && !day.contains(at(1))
                && !day.contains(-1)
        );
        assert!("00:00-24:00".parse::<Window>().unwrap().contains(at(23)));
        for bad in [
            "",
            "2-5",
            "02:00",
            "02:00-02:00",
            "25:00-26:00",
            "02:60-03:00",
            "24:00-01:00",
            "+2:00-05:00",
        ] {
            assert!(bad.parse::<Window>().is_err(), "{bad:?}");
        }
        assert_eq!(night.to_string(), "22:00-05:00");
    }
}
