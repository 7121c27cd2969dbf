//! How a node gets from one release to the next, as pure functions.
//!
//! [`step`] takes what is remembered and what happened, and gives what to remember and what to do. Who calls it stores the state
//! before it does anything, and does it again after a crash: every [`Action`] may be done twice. Nothing here knows a file,
//! a socket or a clock.
//!
//! | Module | Owns |
//! |---|---|
//! | [`state`] | what is remembered, and what happens |
//! | [`machine`] | the transitions |
//! | [`guard`] | whether a release may be taken at all |
//! | [`survey`] | what is on DATA |
//! | [`plan`] | whether it fits, and what goes to make room |
//! | [`health`] | whether a release that runs is healthy |
//! | [`memory`] | which releases failed here |
//! | [`window`] | when a node may restart |
//! | [`turn`] | whose turn it is to fetch what a whole site wants |
//! | [`drawing`] | the transitions as a picture, held true by a test |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod drawing;
pub mod guard;
pub mod health;
pub mod machine;
pub mod memory;
pub mod plan;
pub mod state;
pub mod survey;
pub mod turn;
pub mod window;

pub use machine::step;
pub use state::{Action, Boot, BootView, Cause, Event, Phase, Rules, State, Update};
