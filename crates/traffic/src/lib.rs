//! Traffic that somebody pays for, as pure functions: from a kernel's counters to slots of five minutes, in a chain that
//! shows a gap or an edit; and from these to the figures of a bill.
//!
//! | Module | Owns |
//! |---|---|
//! | [`slot`] | five minutes of UTC, and how bytes are shared out among them |
//! | [`ledger`] | readings of counters, taken in so that none is lost or counted twice |
//! | [`meter`] | what is metered, and for whom |
//! | [`chain`] | what leaves a node: numbered, each bound to the one before |
//! | [`billing`] | percentiles and peaks |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod billing;
pub mod chain;
pub mod ledger;
pub mod meter;
pub mod slot;

pub use chain::{Record, Signed};
pub use ledger::{Ledger, Moment, Reading};
pub use meter::{Kind, Meter};
pub use slot::Slot;
