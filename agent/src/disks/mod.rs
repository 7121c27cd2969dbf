//! Disks of the node: what [`cairn_topology`] decides, looked at and done.
//!
//! | Module | Owns |
//! |---|---|
//! | [`settings`] | `[disks]` |
//! | [`mountinfo`] | what is mounted where |
//! | [`look`] | what is seen of the disks |
//! | [`tools`] | programs that others keep: wipefs, partx, mkfs |
//! | [`hands`] | one step, done with the disk in the hand |
//! | [`mounter`], [`units`] | mounts, by systemd if it runs the node |
//! | `runner` | the loop: look, decide, do one step; and what is told of it |

pub mod hands;
pub mod look;
pub mod mounter;
pub mod mountinfo;
mod runner;
pub mod settings;
#[cfg(test)]
mod tests;
pub mod tools;
pub mod units;

use std::collections::BTreeSet;
use std::sync::Arc;

use cairn_wire::disk::MountPoint;

pub use runner::{Deps, describe, publish, run};
pub use settings::{Input, Settings};

/// Folders where a declared disk should be mounted and isn't: what is written there fills DATA. None: nobody has looked yet.
pub type Missing = Option<Arc<BTreeSet<MountPoint>>>;
