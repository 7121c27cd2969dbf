//! The bytes that speed tests may take in a day or a month of UTC.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

const DAY_MS: i64 = 86_400_000;

/// How long a budget lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// A day of UTC.
    Day,
    /// A month of UTC.
    Month,
}

impl Per {
    /// The number of the day or month in which a moment lies, in milliseconds since 1970.
    fn number(self, wall_ms: i64) -> i64 {
        match self {
            Self::Day => wall_ms.div_euclid(DAY_MS),
            // A time that no calendar has is in none of its months.
            Self::Month => Timestamp::from_millisecond(wall_ms).map_or(0, |time| {
                let date = time.to_zoned(TimeZone::UTC).date();
                i64::from(date.year()) * 12 + i64::from(date.month())
            }),
        }
    }
}

/// What may be spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Bytes on the line, in both directions together.
    pub bytes: u64,
    /// In which time.
    pub per: Per,
}

/// What was spent of it; kept over restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spent {
    per: Per,
    number: i64,
    bytes: u64,
}

impl Spent {
    /// Nothing yet, at this moment in milliseconds since 1970.
    pub fn nothing(budget: Budget, wall_ms: i64) -> Self {
        Self {
            per: budget.per,
            number: budget.per.number(wall_ms),
            bytes: 0,
        }
    }

    /// What is left. A period that has begun since frees all; a clock that went back frees nothing, nor does another kind of
    /// period.
    pub fn left(&mut self, budget: Budget, wall_ms: i64) -> u64 {
        let now = Self::nothing(budget, wall_ms);
        let over = now.per == self.per && now.number > self.number;
        let bytes = if over { 0 } else { self.bytes };
        *self = Self { bytes, ..now };
        budget.bytes.saturating_sub(self.bytes)
    }

    /// Takes bytes before they are used, so that a test that is cut short has paid.
    pub fn take(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Gives back what of them wasn't used.
    pub fn give_back(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// 2026-11-30 23:59:59.999.
    const LAST_OF_NOVEMBER: i64 = 1_796_083_199_999;

    #[test]
    fn a_new_period_frees_all_and_a_clock_that_goes_back_nothing() {
        for per in [Per::Day, Per::Month] {
            let budget = Budget { bytes: 100, per };
            let mut spent = Spent::nothing(budget, LAST_OF_NOVEMBER);
            spent.take(30);
            assert_eq!(spent.left(budget, LAST_OF_NOVEMBER), 70);
            assert_eq!(spent.left(budget, LAST_OF_NOVEMBER - 40 * DAY_MS), 70);
            assert_eq!(spent.left(budget, LAST_OF_NOVEMBER), 100);
            spent.take(30);
            assert_eq!(spent.left(budget, LAST_OF_NOVEMBER + 1), 100);
        }
        let (day, month) = (Per::Day, Per::Month);
        let budget = |per| Budget { bytes: 100, per };
        let mut spent = Spent::nothing(budget(day), LAST_OF_NOVEMBER);
        spent.take(130);
        assert_eq!(spent.left(budget(month), LAST_OF_NOVEMBER), 0);
        assert_eq!(spent.left(budget(month), LAST_OF_NOVEMBER + 1), 100);
        assert_eq!(spent.left(budget(day), i64::MAX), 100);
        assert_eq!(spent.left(budget(month), i64::MIN), 100);
    }

    proptest! {
        /// Tests of any size at any times, restarts between them and some cut short: no day has more than its budget.
        #[test]
        fn no_day_has_more_than_its_budget(
            tests in prop::collection::vec((0i64..DAY_MS / 2, 0u64..80, 0u64..80, any::<bool>()), 1..60),
        ) {
            let budget = Budget { bytes: 100, per: Per::Day };
            let mut now = LAST_OF_NOVEMBER;
            let mut spent = Spent::nothing(budget, now);
            let mut days: BTreeMap<i64, u64> = BTreeMap::new();
            for (later, most, used, killed) in tests {
                now += later;
                let reserved = spent.left(budget, now).min(most);
                spent.take(reserved);
                let used = used.min(reserved);
                *days.entry(now.div_euclid(DAY_MS)).or_default() += used;
                if killed {
                    spent = serde_json::from_slice(&serde_json::to_vec(&spent).unwrap()).unwrap();
                } else {
                    spent.give_back(reserved - used);
                }
            }
            prop_assert!(days.values().all(|used| *used <= budget.bytes), "{:?}", days);
        }
    }
}
