//! How long to wait before the next attempt, so that a fleet doesn't come back all at once.

use std::time::Duration;

use rand::Rng;

/// Waits that double up to a limit, each cut to a random part of itself.
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// The first wait is up to `min`, none is over `max`.
    pub fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max: max.max(min),
            next: min,
        }
    }

    /// How long to wait now. What the server asked for is the least, and is spread, too.
    pub fn next(&mut self, server_asks: Option<Duration>) -> Duration {
        let mut random = rand::thread_rng();
        let whole = self.next;
        self.next = whole.saturating_mul(2).min(self.max);
        // At least a quarter, so that no node hammers.
        let own = whole.mul_f64(random.gen_range(0.25..=1.0));
        match server_asks {
            None => own,
            Some(asked) => {
                asked.saturating_add(own.max(asked.mul_f64(random.gen_range(0.0..=0.5))))
            }
        }
    }

    /// It worked: the next wait is a first one again.
    pub fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_are_bounded_and_the_servers_wish_is_kept(min in 1u64..10_000, extra in 0u64..600_000, asks in prop::collection::vec(prop::option::of(0u64..3_600_000), 1..30)) {
            let (min, max) = (Duration::from_millis(min), Duration::from_millis(min + extra));
            let mut backoff = Backoff::new(min, max);
            for ask in asks {
                let ask = ask.map(Duration::from_millis);
                let wait = backoff.next(ask);
                match ask {
                    None => prop_assert!(wait >= min / 4 && wait <= max),
                    Some(ask) => prop_assert!(wait >= ask && wait <= ask + max.max(ask)),
                }
            }
            backoff.reset();
            prop_assert!(backoff.next(None) <= min);
        }
    }

    #[test]
    fn waits_grow_to_the_limit() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        for _ in 0..10 {
            backoff.next(None);
        }
        assert!(backoff.next(None) >= Duration::from_secs(15));
    }
}
