//! A line to the network, as pure functions: from what became of probes to its figures, by which method it is probed, how fast it is,
//! and how many bytes finding that out may take.
//!
//! | Module | Owns |
//! |---|---|
//! | [`figures`] | latency, loss and jitter |
//! | [`method`] | ICMP, UDP or TCP |
//! | [`speed`] | the course of a speed test |
//! | [`budget`] | the bytes that speed tests may take |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod budget;
pub mod figures;
pub mod method;
pub mod speed;

pub use budget::{Budget, Per, Spent};
pub use figures::{Figures, Window};
pub use method::{Answer, Chooser, Method, Methods};
pub use speed::{Course, Limits};
