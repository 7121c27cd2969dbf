//! Which node runs which workload.
//!
//! A workload's [`Rule`] says where it may run, and on how many nodes. [`plan`] compares that with where it is, and says what
//! to change. What runs well stays where it is: a node that fills up, or a line that gets worse, moves nothing by itself.
//!
//! | Module | Owns |
//! |---|---|
//! | [`rule`] | what people say of a workload's places |
//! | [`node`] | what is known of a node |
//! | [`plan`] | what to change |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod node;
pub mod plan;
pub mod rule;

pub use node::{Line, Node, Port, Resources};
pub use plan::{Missing, Obstacle, Order, Placed, Plan, Reason, plan};
pub use rule::{Rule, RuleError, Spread};
