//! Rollouts over fleets in memory.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are tests, which clippy can't see"
)]

mod fleet;
mod properties;
mod reports;
mod rules;
