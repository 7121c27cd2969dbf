//! The figures of a month, by every usual definition side by side, with the rule that made each.

use std::ops::Range;

use cairn_traffic::billing::{
    Direction, Gaps, Percentile, Rounding, average_peak, daily_peaks, percentile, top_peak,
};
use jiff::ToSpan as _;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::sum::Sum;

/// Seconds of a slot.
const SLOT: i64 = 300;

/// How a contract counts. What it doesn't say is as most do.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Rule {
    /// The month, as `2026-11`.
    pub month: String,
    /// The contract's time zone, by its name in the IANA database; `UTC` if not said.
    pub time_zone: Option<String>,
    /// Which bytes count: `rx`, `tx`, `larger` (of both, slot by slot; if not said) or `sum`.
    #[param(value_type = Option<String>)]
    pub direction: Option<Direction>,
    /// The percentile, 1 to 100; 95 if not said.
    pub percent: Option<u8>,
    /// How many samples are left out if their share isn't a whole number: rounded `down` (if not said) or `up`.
    #[param(value_type = Option<String>)]
    pub rounding: Option<Rounding>,
    /// What a slot counts for which nothing came: `zero` (if not said), or it is `left-out`.
    #[param(value_type = Option<String>)]
    pub gaps: Option<Gaps>,
    /// Which of the days' peaks counts, from the highest; 4 if not said.
    pub rank: Option<usize>,
}

/// What a percentile came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Figure {
    /// Bits per second.
    pub bps: u64,
    /// Of so many samples.
    pub samples: usize,
    /// So many of them, the highest, were left out.
    pub left_out: usize,
}

impl From<Percentile> for Figure {
    fn from(found: Percentile) -> Self {
        Self {
            bps: found.value,
            samples: found.samples,
            left_out: found.left_out,
        }
    }
}

/// A day of the contract's time zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Day {
    /// As `2026-11-22`.
    pub date: String,
    /// Its percentile; none without a sample.
    pub percentile: Option<Figure>,
    /// Its highest sample in bits per second; none without a sample.
    pub peak_bps: Option<u64>,
    /// Slots for which nothing came.
    pub missing: usize,
}

/// A month's figures.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Bill {
    /// The month.
    pub month: String,
    /// The time zone of its days.
    pub time_zone: String,
    /// Its first second, since 1970.
    pub from: i64,
    /// The second after its last, or after the last slot that is over.
    pub to: i64,
    /// Whether the month is over.
    pub complete: bool,
    /// How the figures came to be, for people.
    pub rule: String,
    /// Slots of the month, as far as it is over.
    pub slots: usize,
    /// Slots for which nothing came.
    pub missing: usize,
    /// Slots in which some bytes were shared out evenly over a longer time.
    pub estimated: usize,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// The month's percentile.
    pub percentile: Option<Figure>,
    /// The mean of the days' percentiles, in bits per second, rounded down.
    pub average_daily_percentile_bps: Option<u64>,
    /// The mean of the days' peaks, in bits per second, rounded down.
    pub average_daily_peak_bps: Option<u64>,
    /// The day's peak of the rank that counts, in bits per second.
    pub ranked_peak_bps: Option<u64>,
    /// Each day.
    pub days: Vec<Day>,
}

/// A rule with nothing left to guess.
#[derive(Debug, Clone)]
pub struct Terms {
    month: Date,
    zone: TimeZone,
    name: String,
    direction: Direction,
    percent: u8,
    rounding: Rounding,
    gaps: Gaps,
    rank: usize,
}

/// What the month's days are: dates, and slots as the database numbers them.
pub type Days = Vec<(Date, Range<i64>)>;

impl Terms {
    /// Reads a rule.
    ///
    /// # Errors
    /// Names the part that makes no sense.
    pub fn read(rule: &Rule) -> Result<Self, String> {
        let month = format!("{}-01", rule.month);
        let month: Date = month
            .parse()
            .ok()
            .filter(|_| rule.month.len() == 7)
            .ok_or_else(|| format!("month: expected one as 2026-11, got {:?}", rule.month))?;
        if !(2000..=2199).contains(&month.year()) {
            return Err("month: expected one of the years 2000 to 2199".into());
        }
        let name = rule.time_zone.clone().unwrap_or_else(|| "UTC".into());
        let zone = TimeZone::get(&name).map_err(|_| {
            format!(
                "time_zone: expected a name of the IANA database, as Asia/Shanghai, got {name:?}"
            )
        })?;
        let percent = rule.percent.unwrap_or(95);
        if !(1..=100).contains(&percent) {
            return Err(format!("percent: expected 1 to 100, got {percent}"));
        }
        let rank = rule.rank.unwrap_or(4);
        if !(1..=31).contains(&rank) {
            return Err(format!("rank: expected 1 to 31, got {rank}"));
        }
        Ok(Self {
            month,
            zone,
            name,
            direction: rule.direction.unwrap_or(Direction::Larger),
            percent,
            rounding: rule.rounding.unwrap_or(Rounding::Down),
            gaps: rule.gaps.unwrap_or(Gaps::Zero),
            rank,
        })
    }

    /// The month's days, up to slot `now`: that one isn't over.
    ///
    /// # Errors
    /// If the calendar ends.
    pub fn days(&self, now: i64) -> Result<Days, jiff::Error> {
        let start = |date: Date| -> Result<i64, jiff::Error> {
            let second = date.to_zoned(self.zone.clone())?.timestamp().as_second();
            // Zones have differed by odd minutes: a slot belongs to the day in which it begins.
            Ok(second.div_euclid(SLOT) + i64::from(second.rem_euclid(SLOT) > 0))
        };
        let mut days = Vec::new();
        let mut date = self.month;
        while date.month() == self.month.month() {
            let next = date.checked_add(1.day())?;
            let slots = start(date)?..start(next)?.min(now);
            if !slots.is_empty() {
                days.push((date, slots));
            }
            date = next;
        }
        Ok(days)
    }

    /// The figures; `sums` are those of all slots of `days`, in order.
    pub fn bill(&self, days: &Days, sums: &[Option<Sum>], now: i64) -> Bill {
        let sample = |sum: &Option<Sum>| sum.map(|sum| self.direction.sample(sum.rx, sum.tx));
        let samples: Vec<Option<u64>> = sums.iter().map(sample).collect();
        let first = days.first().map_or(0, |(_, slots)| slots.start);
        let last = days.last().map_or(0, |(_, slots)| slots.end);
        let part = |slots: &Range<i64>| {
            let place = |slot: i64| usize::try_from(slot - first).unwrap_or(0);
            samples
                .get(place(slots.start)..place(slots.end))
                .unwrap_or_default()
        };
        let parts: Vec<&[Option<u64>]> = days.iter().map(|(_, slots)| part(slots)).collect();
        let figure = |samples: &[Option<u64>]| {
            let samples = self.gaps.samples(samples);
            percentile(samples, self.percent, self.rounding).map(Figure::from)
        };
        let missing = |samples: &[Option<u64>]| samples.iter().filter(|it| it.is_none()).count();
        let peaks = daily_peaks(parts.iter().copied(), self.gaps);
        let daily: Vec<Day> = days
            .iter()
            .zip(&parts)
            .zip(&peaks)
            .map(|(((date, _), part), peak)| Day {
                date: date.to_string(),
                percentile: figure(part),
                peak_bps: *peak,
                missing: missing(part),
            })
            .collect();
        let of_days: Vec<Option<u64>> = daily
            .iter()
            .map(|day| day.percentile.as_ref().map(|figure| figure.bps))
            .collect();
        let known = || sums.iter().flatten();
        let bytes = |of: fn(&Sum) -> u64| known().map(of).fold(0, u64::saturating_add);
        Bill {
            month: self.month.strftime("%Y-%m").to_string(),
            time_zone: self.name.clone(),
            from: first * SLOT,
            to: last * SLOT,
            complete: self.ends().is_some_and(|end| end <= now),
            rule: self.said(),
            slots: samples.len(),
            missing: missing(&samples),
            estimated: known().filter(|sum| sum.estimated > 0).count(),
            rx_bytes: bytes(|sum| sum.rx),
            tx_bytes: bytes(|sum| sum.tx),
            percentile: figure(&samples),
            average_daily_percentile_bps: average_peak(&of_days),
            average_daily_peak_bps: average_peak(&peaks),
            ranked_peak_bps: top_peak(&peaks, self.rank),
            days: daily,
        }
    }

    /// The slot after the month's last.
    fn ends(&self) -> Option<i64> {
        let next = self.month.checked_add(1.month()).ok()?;
        let second = next
            .to_zoned(self.zone.clone())
            .ok()?
            .timestamp()
            .as_second();
        Some(second.div_euclid(SLOT) + i64::from(second.rem_euclid(SLOT) > 0))
    }

    fn said(&self) -> String {
        let counted = match self.direction {
            Direction::Rx => "bytes received",
            Direction::Tx => "bytes sent",
            Direction::Larger => "the more of bytes received and bytes sent, slot by slot,",
            Direction::Sum => "bytes received and sent together",
        };
        let gaps = match self.gaps {
            Gaps::Zero => "counts as 0",
            Gaps::LeftOut => "is left out, and the period is shorter by it",
        };
        let rounding = match self.rounding {
            Rounding::Down => "down, so that the nearest-rank percentile results",
            Rounding::Up => "up",
        };
        format!(
            "A sample is {counted} in five minutes of UTC, times 8, by 300 seconds. Of the samples in descending order the highest {} % are \
             left out, their number rounded {rounding}, and the next one counts. A slot for which nothing came {gaps}. Days and the month are \
             those of {}. The ranked peak is the {}. highest of the days' highest samples.",
            100 - self.percent,
            self.name,
            self.rank,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(month: &str, zone: &str) -> Rule {
        Rule {
            month: month.into(),
            time_zone: Some(zone.into()),
            direction: None,
            percent: None,
            rounding: None,
            gaps: None,
            rank: None,
        }
    }

    #[test]
    fn days_are_those_of_the_contract() {
        let terms = Terms::read(&rule("2026-11", "Asia/Shanghai")).unwrap();
        let days = terms.days(i64::MAX).unwrap();
        assert_eq!(days.len(), 30);
        // 2026-10-31T16:00Z
        assert_eq!(days[0].1.start * 300, 1_793_462_400);
        assert!(days.iter().all(|(_, slots)| slots.end - slots.start == 288));

        let terms = Terms::read(&rule("2026-10", "Europe/Berlin")).unwrap();
        let days = terms.days(i64::MAX).unwrap();
        let lengths: Vec<i64> = days
            .iter()
            .map(|(_, slots)| slots.end - slots.start)
            .collect();
        assert_eq!(
            (lengths[24], lengths.iter().sum::<i64>()),
            (300, 31 * 288 + 12)
        );

        // A month that isn't over.
        let now = days[2].1.start + 7;
        let days = terms.days(now).unwrap();
        assert_eq!((days.len(), days[2].1.end), (3, now));
        let bill = terms.bill(&days, &vec![None; 2 * 288 + 7], now);
        assert_eq!((bill.complete, bill.slots, bill.missing), (false, 583, 583));
        assert_eq!(bill.percentile.unwrap().bps, 0);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (month, zone, part) in [
            ("2026-13", "UTC", "month"),
            ("26-1", "UTC", "month"),
            ("1026-01", "UTC", "month"),
            ("2026-11", "Mars/Phobos", "time_zone"),
        ] {
            let error = Terms::read(&rule(month, zone)).unwrap_err();
            assert!(error.starts_with(part), "{error}");
        }
    }

    /// A year of five-minute sums with gaps: single slots, hours, and two whole days.
    fn year() -> Vec<Option<Sum>> {
        use rand::rngs::StdRng;
        use rand::{Rng as _, SeedableRng as _};
        let mut random = StdRng::seed_from_u64(95);
        let (mut sums, mut gap) = (Vec::new(), 0u32);
        for slot in 0..366 * 288u64 {
            gap = match (gap, slot) {
                (0, 20_000) => 576,
                (0, _) if random.gen_ratio(1, 400) => random.gen_range(1..=40),
                (gap, _) => gap.saturating_sub(1),
            };
            let busy = 1 + slot % 288;
            sums.push((gap == 0).then(|| Sum {
                rx: random.gen_range(0..busy * 30_000_000),
                tx: random.gen_range(0..busy * 40_000_000),
                meters: 1,
                estimated: 0,
            }));
        }
        sums
    }

    #[test]
    fn a_years_figures_are_those_of_another_computation() {
        use std::io::Write as _;
        use std::process::{Command, Stdio};

        // From 2027-12-31T00:00Z, so that every zone's 2028 but its last day is in it.
        let (first, sums) = (1_830_211_200 / SLOT, year());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("samples.csv");
        let line = |(slot, sum): (i64, &Option<Sum>)| match sum {
            Some(sum) => format!("{},{},{}\n", slot * SLOT, sum.rx, sum.tx),
            None => format!("{},,\n", slot * SLOT),
        };
        let lines: String = (first..).zip(&sums).map(line).collect();
        std::fs::write(&file, lines).unwrap();

        let (mut ours, mut rules) = (Vec::new(), Vec::new());
        let contracts = [
            ("UTC", Direction::Larger, Rounding::Down, Gaps::Zero, 95, 4),
            (
                "Asia/Shanghai",
                Direction::Tx,
                Rounding::Up,
                Gaps::LeftOut,
                95,
                4,
            ),
            (
                "Europe/Berlin",
                Direction::Sum,
                Rounding::Down,
                Gaps::LeftOut,
                90,
                1,
            ),
        ];
        for (zone, direction, rounding, gaps, percent, rank) in contracts {
            for month in 1..=11 {
                let month = format!("2028-{month:02}");
                let rule = Rule {
                    direction: Some(direction),
                    rounding: Some(rounding),
                    gaps: Some(gaps),
                    percent: Some(percent),
                    rank: Some(rank),
                    ..rule(&month, zone)
                };
                let terms = Terms::read(&rule).unwrap();
                let days = terms.days(i64::MAX).unwrap();
                let place = |slot: i64| usize::try_from(slot - first).unwrap();
                let (from, to) = (place(days[0].1.start), place(days.last().unwrap().1.end));
                let bill = terms.bill(&days, &sums[from..to], i64::MAX);
                let daily: Vec<_> = bill
                    .days
                    .iter()
                    .map(|day| day.percentile.as_ref().map(|figure| figure.bps))
                    .collect();
                ours.push(serde_json::json!({
                    "month": bill.percentile.map(|figure| figure.bps), "daily": daily, "ranked": bill.ranked_peak_bps,
                    "daily_mean": bill.average_daily_percentile_bps, "peak_mean": bill.average_daily_peak_bps,
                }));
                rules.push(serde_json::json!({
                    "month": month, "zone": zone, "direction": direction, "rounding": rounding, "gaps": gaps,
                    "percent": percent, "rank": rank,
                }));
            }
        }
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join("../target/venv/bin/python");
        let script = Command::new(&python)
            .arg(root.join("tests/billing.py"))
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut script =
            script.unwrap_or_else(|error| panic!("{}: {error}; run .ci/setup", python.display()));
        let rules = serde_json::to_vec(&rules).unwrap();
        script.stdin.take().unwrap().write_all(&rules).unwrap();
        let output = script.wait_with_output().unwrap();
        let theirs: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(ours, theirs);
        assert!(
            ours.iter()
                .all(|one| one["month"].as_u64() > Some(1_000_000))
        );
    }
}
