//! What a power cut leaves of a node's disk, and whether the node would boot from it.
//!
//! A machine runs with a disk whose writes and flushes are logged
//! ([`crate::vm::VmBuilder::logged_disk`]). Afterwards every state that a power cut could
//! have left is made from the log, and judged: by GRUB's own drivers, which replay no
//! journal, and by what the hook reads once the kernel has replayed it.
//!
//! | Module | Owns |
//! |---|---|
//! | [`log`] | the format of the log |
//! | [`crash`] | which writes a power cut leaves: lost, reordered, torn; seeded |
//! | [`replay`] | an image that goes through a log |
//! | [`grub`] | GRUB's eyes: `grub-fstest` |
//! | [`ext4`], [`journal`] | the kernel's: replaying a journal, where files lie |
//! | [`view`] | what both find: boot state, releases, digests |
//! | [`verdict`] | what must hold |
//! | [`sweep`] | all states of one log |

pub mod crash;
pub mod ext4;
pub mod grub;
pub mod journal;
pub mod log;
pub mod replay;
pub mod sweep;
pub mod verdict;
pub mod view;

pub use crash::{Crash, Random};
pub use replay::Replay;
pub use sweep::{Plan, Sweep};
pub use verdict::{Boots, judge};
pub use view::Onlooker;
