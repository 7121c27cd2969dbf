//! Latency, loss and jitter of the probes of the last minutes.
//!
//! - Latency is the median of the round trips, a probe that was lost counting as infinitely long (RFC 2681, section 4.2; of an even
//!   number the mean of the two in the middle, RFC 2330, section 11.3). When half of the probes are lost there is none.
//! - Loss is the share of probes without an answer in time (RFC 6673).
//! - Jitter is the mean of the absolute differences between the round trips of two probes sent one after the other (the delay
//!   variation of RFC 3393 between consecutive packets, and what RFC 3550 smooths, taken over round trips). A pair of which one is
//!   lost has none.
//!
//! Probes are sent in a periodic stream (RFC 3432).

use std::collections::VecDeque;
use std::time::Duration;

/// A window keeps no more probes.
const MOST: usize = 4096;

/// The last probes of one stream: to one target, by one method.
#[derive(Debug, Clone)]
pub struct Window {
    span: Duration,
    probes: VecDeque<Probe>,
}

#[derive(Debug, Clone, Copy)]
struct Probe {
    sent: Duration,
    round_trip: Option<Duration>,
}

/// What the probes of a window say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// Share of the probes that were lost, in percent.
    pub loss_percent: f64,
    /// None if half of the probes or more were lost.
    pub latency: Option<Duration>,
    /// None if no two probes in a row were answered.
    pub jitter: Option<Duration>,
}

impl Window {
    /// Empty; it looks back as far as `span`.
    pub fn new(span: Duration) -> Self {
        Self {
            span,
            probes: VecDeque::new(),
        }
    }

    /// A probe that was sent at `sent`, of any clock that doesn't go back; none as its round trip if it was lost.
    pub fn add(&mut self, sent: Duration, round_trip: Option<Duration>) {
        if self.probes.len() == MOST {
            self.probes.pop_front();
        }
        self.probes.push_back(Probe { sent, round_trip });
    }

    /// Forgets all: what follows belongs to another stream.
    pub fn clear(&mut self) {
        self.probes.clear();
    }

    /// What its probes say at `now`; nothing if none was sent.
    pub fn figures(&mut self, now: Duration) -> Option<Figures> {
        let oldest = now.saturating_sub(self.span);
        while self.probes.front().is_some_and(|probe| probe.sent < oldest) {
            self.probes.pop_front();
        }
        let sent = self.probes.len();
        let lost = self
            .probes
            .iter()
            .filter(|probe| probe.round_trip.is_none());
        (sent > 0).then(|| Figures {
            loss_percent: lost.count() as f64 * 100.0 / sent as f64,
            latency: self.median(),
            jitter: self.variation(),
        })
    }

    fn median(&self) -> Option<Duration> {
        let mut all: Vec<Duration> = self
            .probes
            .iter()
            .map(|probe| probe.round_trip.unwrap_or(Duration::MAX))
            .collect();
        all.sort_unstable();
        let (low, high) = (
            all.get((all.len().checked_sub(1)?) / 2)?,
            all.get(all.len() / 2)?,
        );
        (*high < Duration::MAX).then(|| low.saturating_add(*high) / 2)
    }

    fn variation(&self) -> Option<Duration> {
        let pairs = self.probes.iter().zip(self.probes.iter().skip(1));
        let differences: Vec<Duration> = pairs
            .filter_map(|(one, next)| Some(one.round_trip?.abs_diff(next.round_trip?)))
            .collect();
        let count = u32::try_from(differences.len()).ok()?;
        differences.iter().sum::<Duration>().checked_div(count)
    }
}

/// A line's figures from those of its targets: each is the best that any target shows, for a line is no worse than that. The
/// index is that of the target whose latency it is, or without any the one with the least loss.
pub fn best(of: &[Figures]) -> Option<(usize, Figures)> {
    let loss = |(_, one): &(usize, &Figures), (_, other): &(usize, &Figures)| {
        one.loss_percent.total_cmp(&other.loss_percent)
    };
    let (index, least) = of.iter().enumerate().min_by(loss)?;
    let answering = of
        .iter()
        .enumerate()
        .filter(|(_, figures)| figures.latency.is_some());
    let (index, quickest) = answering
        .min_by_key(|(_, figures)| figures.latency)
        .unwrap_or((index, least));
    Some((
        index,
        Figures {
            loss_percent: least.loss_percent,
            ..*quickest
        },
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPAN: Duration = Duration::from_secs(60);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn of(round_trips: &[Option<u64>]) -> Option<Figures> {
        let mut window = Window::new(SPAN);
        for (at, round_trip) in (0..).zip(round_trips) {
            window.add(Duration::from_secs(at), round_trip.map(ms));
        }
        window.figures(Duration::from_secs(round_trips.len() as u64))
    }

    #[test]
    fn unknown_is_not_zero() {
        assert_eq!(of(&[]), None);
        let dead = of(&[None, None, None]).unwrap();
        assert_eq!(dead.loss_percent, 100.0);
        assert_eq!((dead.latency, dead.jitter), (None, None));
        let once = of(&[Some(7)]).unwrap();
        assert_eq!((once.loss_percent, once.latency), (0.0, Some(ms(7))));
        assert_eq!(once.jitter, None, "one round trip varies from nothing");
    }

    #[test]
    fn a_lost_probe_is_an_infinite_round_trip() {
        let some = of(&[Some(10), None, Some(30), Some(20)]).unwrap();
        assert_eq!(some.loss_percent, 25.0);
        assert_eq!(some.latency, Some(ms(25)), "of 10, 20, 30 and infinity");
        assert_eq!(
            some.jitter,
            Some(ms(10)),
            "30 to 20; the others have no neighbour"
        );
        assert_eq!(
            of(&[Some(10), None, Some(30)]).unwrap().latency,
            Some(ms(30))
        );
        assert_eq!(of(&[Some(10), None]).unwrap().latency, None);
    }

    #[test]
    fn a_line_is_as_good_as_its_best_target() {
        let dead = of(&[None, None]).unwrap();
        let near = of(&[Some(10), Some(12), None]).unwrap();
        let far = of(&[Some(100), Some(100), Some(100)]).unwrap();
        let (index, line) = best(&[dead, near, far]).unwrap();
        assert_eq!((index, line.loss_percent), (1, 0.0));
        assert_eq!((line.latency, line.jitter), (near.latency, near.jitter));
        assert_eq!(best(&[dead]), Some((0, dead)));
        assert_eq!(best(&[]), None);
    }

    proptest! {
        #[test]
        fn figures_are_those_of_the_probes_in_the_span(
            round_trips in prop::collection::vec(prop::option::weighted(0.7, 0u64..5000), 0..200),
        ) {
            let figures = of(&round_trips);
            let kept = &round_trips[round_trips.len().saturating_sub(60)..];
            let lost = kept.iter().filter(|one| one.is_none()).count();
            match figures {
                None => prop_assert!(kept.is_empty()),
                Some(figures) => {
                    let expected = lost as f64 * 100.0 / kept.len() as f64;
                    prop_assert!((figures.loss_percent - expected).abs() < 1e-9);
                    prop_assert_eq!(figures.latency.is_none(), 2 * lost >= kept.len());
                    if let Some(latency) = figures.latency {
                        let answered = kept.iter().flatten();
                        prop_assert!(latency >= ms(*answered.clone().min().unwrap()));
                        prop_assert!(latency <= ms(*answered.max().unwrap()));
                    }
                    let pairs = kept.windows(2).any(|two| two[0].is_some() && two[1].is_some());
                    prop_assert_eq!(figures.jitter.is_some(), pairs);
                }
            }
        }
    }
}
