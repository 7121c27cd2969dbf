//! How a node's disks come to be laid out as declared, as pure functions.
//!
//! [`plan`] takes what is declared and what is seen, and gives the steps that are left, or why there are none. One step is done, then
//! everything is looked at again. How far a layout is stands on the disk itself, and nowhere else:
//!
//! ```text
//! empty, or erased by order ─▶ claimed ─▶ margins are zero ─▶ GPT, partitions marked as unfinished
//!                              sector 0   1 MiB at each end        │ for each: file system, mark taken away
//!                                                                  ▼
//!                                                             mounted
//! ```
//!
//! The claim is one sector, which a disk writes wholly or not at all. Until it is there, nothing has changed; from then on the disk is
//! ours, and is gone on with without asking again. Only a partition that bears the mark is ever formatted, and it is never mounted
//! while it does. So nothing that anybody has written to a mounted file system of ours is ever formatted.
//!
//! | Module | Owns |
//! |---|---|
//! | [`guid`] | ids, derived from a disk's serial number and what is declared |
//! | [`shape`] | a disk's size, and where on it what may lie |
//! | [`gpt`] | the partition table as bytes, and the order in which it is written |
//! | [`claim`] | the first sector of a disk that is being laid out |
//! | [`signature`] | what tools would know again |
//! | [`write`] | bytes for a place on a disk |
//! | [`seen`] | what is known of a disk |
//! | [`step`] | one thing to do, and what it writes |
//! | [`find`] | which disk is meant |
//! | [`plan`] | what to do |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod claim;
pub mod find;
pub mod gpt;
pub mod guid;
pub mod plan;
pub mod seen;
pub mod shape;
pub mod signature;
pub mod step;
pub mod write;

pub use find::{Course, courses};
pub use guid::Guid;
pub use plan::{Plan, plan};
pub use seen::{Disk, Part, Surface};
pub use shape::Shape;
pub use signature::Signature;
pub use step::Step;
pub use write::Write;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
