//! Coins that are spent and come back with time: how everything is bounded that happens at a rate.

use std::time::{Duration, Instant};

/// How many coins there can be, and how long one takes to come back.
#[derive(Debug, Clone, Copy)]
pub struct Purse {
    /// At most so many.
    pub most: f64,
    /// For one.
    pub each: Duration,
}

/// What was in a purse at some moment; below zero is debt.
#[derive(Debug, Clone, Copy)]
pub struct Coins {
    left: f64,
    at: Instant,
}

impl Purse {
    /// All that it holds.
    pub fn full(&self, now: Instant) -> Coins {
        Coins {
            left: self.most,
            at: now,
        }
    }

    /// With those that have come back since.
    pub fn filled(&self, coins: Coins, now: Instant) -> Coins {
        let back = now.saturating_duration_since(coins.at).as_secs_f64() / self.each.as_secs_f64();
        Coins {
            left: (coins.left + back).min(self.most),
            at: now,
        }
    }

    /// Whether nothing is missing.
    pub fn is_full(&self, coins: Coins, now: Instant) -> bool {
        self.filled(coins, now).left >= self.most
    }

    /// How long until there are so many.
    pub fn wait(&self, coins: Coins, wanted: f64) -> Duration {
        self.each.mul_f64((wanted - coins.left).max(0.0))
    }
}

impl Coins {
    /// Takes some, also those that aren't there.
    pub fn spend(&mut self, count: f64) {
        self.left -= count;
    }

    /// Puts one back.
    pub fn give_back(&mut self) {
        self.left += 1.0;
    }

    /// Whether there is one.
    pub fn is_one(&self) -> bool {
        self.left >= 1.0
    }
}
