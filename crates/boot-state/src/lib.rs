//! What a node boots next, as pure functions over bytes.
//!
//! GRUB, the initramfs and the agent share a small unsigned text block, kept
//! twice on the ESP. This crate owns its format, the choice between the two
//! copies, the order in which releases are tried and how the state may change.
//! It knows no file, socket or clock: who reads and writes the copies, and in
//! what order, is said at [`Picked::write_order`].
//!
//! | Module | Owns |
//! |---|---|
//! | [`block`] | the state and how it is written |
//! | [`choice`] | which copy rules, and which releases are tried in which order |
//! | [`transition`] | how the state changes |
//!
//! The same rules are written a second time for GRUB, in
//! `bootloader-entries/grub.cfg`; a test here holds the limits of both together.

pub mod block;
pub mod choice;
pub mod transition;

pub use block::{BootState, Damage, Tries};
pub use choice::{Candidate, Copy, Picked, Slot, Why, candidates, pick};
pub use transition::{Event, Illegal, step};
