//! When a node may restart: parts of the day, in UTC.

use std::fmt;
use std::str::FromStr;

const DAY: u32 = 24 * 60;

/// A part of the day, which may go past midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    start: u32,
    end: u32,
}

/// The text is no window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a part of the day in UTC such as 02:00-05:00, got {0:?}")]
pub struct NotAWindow(String);

impl FromStr for Window {
    type Err = NotAWindow;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (start, end) = text.split_once('-')?;
            let (start, end) = (minute(start)?, minute(end)?);
            (start != end && start < DAY).then_some(Self { start, end })
        };
        parse().ok_or_else(|| NotAWindow(text.chars().take(80).collect()))
    }
}

fn minute(text: &str) -> Option<u32> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| {
        let plain = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse::<u32>().ok()).flatten()
    };
    let (hour, minute) = (number(hour)?, number(minute)?);
    let sum = hour * 60 + minute;
    (minute < 60 && sum <= DAY).then_some(sum)
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, end } = self;
        write!(
            f,
            "{:02}:{:02}-{:02}:{:02}",
            start / 60,
            start % 60,
            end / 60,
            end % 60
        )
    }
}

impl Window {
    fn contains(&self, minute: u32) -> bool {
        if self.start < self.end {
            (self.start..self.end).contains(&minute)
        } else {
            minute >= self.start || minute < self.end
        }
    }
}

/// Whether a node may restart at this moment, in seconds since 1970. Without windows it always may; without a clock
/// it may not, since nobody can tell.
pub fn open(windows: &[Window], now: Option<i64>) -> bool {
    if windows.is_empty() {
        return true;
    }
    let Some(now) = now else { return false };
    let minute = u32::try_from(now.rem_euclid(i64::from(DAY) * 60) / 60).unwrap_or(0);
    windows.iter().any(|window| window.contains(minute))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Option<i64> {
        Some(86_400 * 20_000 + i64::from(minute(text).unwrap()) * 60 + 59)
    }

    #[test]
    fn a_window_may_go_past_midnight() {
        let windows: Vec<Window> = ["02:00-05:00", "23:30-00:15"]
            .map(|w| w.parse().unwrap())
            .to_vec();
        for (time, expected) in [
            ("01:59", false),
            ("02:00", true),
            ("04:59", true),
            ("05:00", false),
            ("23:29", false),
            ("23:30", true),
            ("00:14", true),
            ("00:15", false),
        ] {
            assert_eq!(open(&windows, at(time)), expected, "{time}");
        }
        assert!(!open(&windows, None) && open(&[], None));
        assert_eq!(windows[1].to_string(), "23:30-00:15");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "2:00-5:00",
            "02:00",
            "02:00-02:00",
            "24:00-01:00",
            "02:60-03:00",
            "02:00-24:01",
            "+2:00-03:00",
        ] {
            assert!(text.parse::<Window>().is_err(), "{text:?}");
        }
        assert!("20:00-24:00".parse::<Window>().is_ok());
    }
}
