//! Traffic that is paid for: nodes' records, kept and summed for whoever pays or is paid.
//!
//! A record is judged, kept and added to every series that it belongs to in the transaction that stores the message it came
//! in. So each counts once, whatever is killed when, and every figure can be made again from the records.
//!
//! | Module | Owns |
//! |---|---|
//! | `take` | a node's record |
//! | [`series`] | sums by five minutes: by device, customer, supplier and others |
//! | [`days`] | packing days that are over |
//! | [`packed`] | a day as bytes |
//! | [`sum`] | what was counted in five minutes |
//! | [`bill`] | a month's figures |
//! | `chains` | what came of each node's records, and what can't be right |
//! | [`rest`] | `/v1/traffic` |

pub mod bill;
mod chains;
pub mod days;
pub mod packed;
pub mod rest;
pub mod series;
pub mod sum;
mod take;
#[cfg(test)]
mod tests;

pub use rest::routes;
pub use take::take;
