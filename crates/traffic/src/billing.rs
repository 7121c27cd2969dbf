//! Percentiles and peaks of five-minute samples, in bits per second, with the rules that were used for them.
//!
//! The 95th percentile is what transit and content delivery are billed by: of a period's samples, ordered, the highest
//! twentieth is left out, and the next one counts ("burstable billing"). A twentieth is seldom a whole number: of a day's
//! 288 samples it is 14.4. [`Rounding`] says what becomes of it, and the answer says how many were left out.

use serde::{Deserialize, Serialize};

use crate::slot::LENGTH_MS;

/// Which bytes of a slot make its sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Those received.
    Rx,
    /// Those sent.
    Tx,
    /// The more of both, slot by slot.
    Larger,
    /// Both together.
    Sum,
}

impl Direction {
    /// A slot's sample in bits per second, a fraction of a bit left out.
    pub fn sample(self, rx: u64, tx: u64) -> u64 {
        let bytes = match self {
            Self::Rx => u128::from(rx),
            Self::Tx => u128::from(tx),
            Self::Larger => u128::from(rx.max(tx)),
            Self::Sum => u128::from(rx) + u128::from(tx),
        };
        let seconds = u128::from(LENGTH_MS.unsigned_abs() / 1000);
        u64::try_from(bytes * 8 / seconds).unwrap_or(u64::MAX)
    }
}

/// What a slot counts for which nothing came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gaps {
    /// A sample of 0.
    Zero,
    /// No sample: the period is shorter by it.
    LeftOut,
}

impl Gaps {
    /// The samples of some slots.
    pub fn samples(self, slots: &[Option<u64>]) -> Vec<u64> {
        let samples = slots.iter().filter_map(|slot| match self {
            Self::Zero => Some(slot.unwrap_or(0)),
            Self::LeftOut => *slot,
        });
        samples.collect()
    }
}

/// How many samples are left out if their share isn't a whole number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rounding {
    /// Rounded down, of 14.4 samples 14: the nearest-rank percentile (numpy's `inverted_cdf`, SQL's `percentile_disc`).
    Down,
    /// Rounded up, of 14.4 samples 15.
    Up,
}

/// A percentile, and how it came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentile {
    /// Bits per second.
    pub value: u64,
    /// Of so many samples.
    pub samples: usize,
    /// So many of them, the highest, were left out.
    pub left_out: usize,
}

/// The `percent`th percentile, of 1 to 100; none without a sample.
pub fn percentile(mut samples: Vec<u64>, percent: u8, rounding: Rounding) -> Option<Percentile> {
    let count = samples.len();
    let share = count.checked_mul(usize::from(100 - percent.clamp(1, 100)))?;
    let left_out = match rounding {
        Rounding::Down => share / 100,
        Rounding::Up => share.div_ceil(100),
    };
    // One sample is left, however few there are.
    let left_out = left_out.min(count.checked_sub(1)?);
    let rank = count - 1 - left_out;
    let (_, value, _) = samples.select_nth_unstable(rank);
    Some(Percentile {
        value: *value,
        samples: count,
        left_out,
    })
}

/// The highest sample of each day; none of a day without a sample.
pub fn daily_peaks<'d>(
    days: impl IntoIterator<Item = &'d [Option<u64>]>,
    gaps: Gaps,
) -> Vec<Option<u64>> {
    let peak = |day: &[Option<u64>]| gaps.samples(day).into_iter().max();
    days.into_iter().map(peak).collect()
}

/// The mean of the days' peaks, rounded down; of those days that have one.
pub fn average_peak(peaks: &[Option<u64>]) -> Option<u64> {
    let known: Vec<u64> = peaks.iter().flatten().copied().collect();
    let sum: u128 = known.iter().map(|peak| u128::from(*peak)).sum();
    let mean = sum.checked_div(known.len() as u128)?;
    u64::try_from(mean).ok()
}

/// The `rank`th highest of the days' peaks, from 1: the fourth is a usual one. None if there are fewer.
pub fn top_peak(peaks: &[Option<u64>], rank: usize) -> Option<u64> {
    let mut known: Vec<u64> = peaks.iter().flatten().copied().collect();
    known.sort_unstable_by(|a, b| b.cmp(a));
    known.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_days_highest_fourteen_are_left_out_or_fifteen() {
        let day: Vec<u64> = (1..=288).collect();
        let down = percentile(day.clone(), 95, Rounding::Down).unwrap();
        assert_eq!((down.value, down.samples, down.left_out), (274, 288, 14));
        let up = percentile(day, 95, Rounding::Up).unwrap();
        assert_eq!((up.value, up.left_out), (273, 15));
        assert_eq!(percentile(vec![7], 95, Rounding::Up).unwrap().value, 7);
        assert_eq!(percentile(Vec::new(), 95, Rounding::Down), None);
    }

    #[test]
    fn samples_are_bits_per_second() {
        let sample = |direction: Direction| direction.sample(37_500, 75_000);
        let all = [
            Direction::Rx,
            Direction::Tx,
            Direction::Larger,
            Direction::Sum,
        ]
        .map(sample);
        assert_eq!(all, [1000, 2000, 2000, 3000]);
        assert_eq!(
            Direction::Sum.sample(u64::MAX, u64::MAX),
            983_826_350_597_842_752
        );
    }

    #[test]
    fn gaps_count_as_the_contract_says() {
        let day = [Some(4), None, Some(2)];
        assert_eq!(Gaps::Zero.samples(&day), [4, 0, 2]);
        assert_eq!(Gaps::LeftOut.samples(&day), [4, 2]);
        let days: [&[Option<u64>]; 4] =
            [&[Some(5), Some(9)], &[None], &[Some(4), None], &[Some(6)]];
        let peaks = daily_peaks(days, Gaps::LeftOut);
        assert_eq!(peaks, [Some(9), None, Some(4), Some(6)]);
        assert_eq!(
            (average_peak(&peaks), top_peak(&peaks, 2)),
            (Some(6), Some(6))
        );
        assert_eq!(
            (
                top_peak(&peaks, 4),
                top_peak(&peaks, 0),
                average_peak(&[None])
            ),
            (None, None, None)
        );
        assert_eq!(average_peak(&daily_peaks(days, Gaps::Zero)), Some(4));
    }

    proptest! {
        /// The definition: the smallest sample that is no less than `percent` in a hundred of all.
        #[test]
        fn it_is_the_nearest_rank(samples in prop::collection::vec(0u64..50, 1..400), percent in 1u8..=100) {
            let expected = samples.iter().filter(|value| {
                let below = samples.iter().filter(|other| other <= value).count();
                below * 100 >= samples.len() * usize::from(percent)
            }).min();
            let got = percentile(samples.clone(), percent, Rounding::Down).unwrap();
            prop_assert_eq!(Some(&got.value), expected);
            let up = percentile(samples, percent, Rounding::Up).unwrap();
            prop_assert!(up.value <= got.value && up.left_out <= got.left_out + 1);
        }
    }
}
