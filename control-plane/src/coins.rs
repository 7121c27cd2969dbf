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
    /// What is in it now: all that it holds, unless `coins` were left before and the others
    /// have come back only in part.
    pub fn now(&self, coins: Option<Coins>, now: Instant) -> Coins {
        let back = |coins: Coins| {
            let since = now.saturating_duration_since(coins.at);
            coins.left + since.as_secs_f64() / self.each.as_secs_f64()
        };
        let left = coins.map_or(self.most, |coins| back(coins).min(self.most));
        Coins { left, at: now }
    }

    /// Whether nothing is missing.
    pub fn is_full(&self, coins: Coins, now: Instant) -> bool {
        self.now(Some(coins), now).left >= self.most
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
