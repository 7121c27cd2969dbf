//! What a node does so that the declared workloads run, as pure functions.
//!
//! [`step`] takes what is declared, what Docker has and what is remembered, and gives what to remember and what to do. It is asked
//! again after whatever it ordered. What Docker shows is the state: an update can be read off the names of its containers, so that a
//! crash at any place loses nothing. Remembered is only what Docker doesn't know: which specs failed, which images are ours, what was stopped
//! here and didn't end by itself.
//!
//! ```text
//! cairn-web            runs
//! cairn-web            stopped, and set aside          cairn-web.previous
//! cairn-web            made, started, on trial         cairn-web.previous
//! cairn-web            is healthy; the other goes      or goes itself, and the other takes its name again
//! ```
//!
//! | Module | Owns |
//! |---|---|
//! | [`seen`] | what Docker has, and which of it is ours |
//! | [`allowed`] | what the node's settings allow a workload |
//! | [`missing`] | folders whose disk is missing |
//! | [`memory`] | what is remembered |
//! | [`action`] | something to do |
//! | [`world`] | what a turn goes by |
//! | [`turn`] | all workloads once: what to do, and how each is |
//! | `course` | one workload: create, adopt, update, roll back |
//! | [`images`] | which images go to keep to the budget |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod action;
pub mod allowed;
mod course;
pub mod images;
pub mod memory;
pub mod missing;
pub mod seen;
pub mod turn;
pub mod world;

pub use action::Action;
pub use allowed::Allowed;
pub use memory::{Command, Memory, Trouble};
pub use missing::Missing;
pub use seen::{Health, Run, Seen};
pub use turn::{Turn, step};
pub use world::World;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
