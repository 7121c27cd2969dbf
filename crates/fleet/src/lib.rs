//! How people speak of a fleet: which devices, how many of them, for how long. Rollouts and alarms read the same words.
//!
//! | Module | Owns |
//! |---|---|
//! | [`selector`] | which devices |
//! | [`quantity`] | counts, percentages and durations as people write them |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod quantity;
pub mod selector;

pub use quantity::{Rate, Seconds, Share};
pub use selector::Selector;
