//! Signs of tampering, as pure functions: what was expected of a node and what is seen there, to findings with their evidence.
//!
//! | Module | Owns |
//! |---|---|
//! | [`finding`] | one thing that isn't as it should be |
//! | [`watch`] | findings over time: what is new, what is over, what is told |
//! | [`glob`] | names with a `*` |
//! | [`kernel`] | the kernel's messages about images, disks and file systems |
//! | [`etc`] | a file as it is against the one in the image |
//! | [`presets`] | which of the image's units the first boot enables |
//! | [`units`] | what systemd runs |
//! | [`sockets`] | who listens |
//! | [`users`] | accounts against those in the image |
//! | [`modules`] | the kernel's modules |
//! | [`boot`] | what was booted, and what lies over the image |
//! | [`clock`] | the wall clock against the machine's own |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod boot;
pub mod clock;
pub mod etc;
pub mod finding;
pub mod glob;
pub mod kernel;
pub mod modules;
pub mod presets;
pub mod sockets;
pub mod units;
pub mod users;
pub mod watch;

pub use finding::{Finding, Kind};
pub use watch::Watch;
