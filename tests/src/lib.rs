//! The harness of Cairn's whole-system tests: real packages, real disks, real
//! machines.
//!
//! | Module | Owns |
//! |---|---|
//! | [`pacman_repo`] | a pacman repository made from Debian packages |
//! | [`test_package`] | small packages made by hand, and repositories of them |
//! | [`vm`] | a machine in QEMU, gone when it is dropped |
//! | [`serial`] | its console: waiting for text, typing |
//! | [`disk`] | a disk image: its partitions, files, faults and health |
//! | [`tools`] | programs and folders of the host |
//!
//! Nothing here sleeps or skips: a test waits for a condition with a deadline,
//! and fails if a program is missing.

pub mod addition;
pub mod apt;
pub mod convert;
pub mod disk;
pub mod package;
pub mod pacman_repo;
pub mod serial;
pub mod test_package;
pub mod tools;
pub mod vm;
pub mod workshop;

pub use disk::Disk;
pub use pacman_repo::PacmanRepo;
pub use serial::Serial;
pub use test_package::{ExtraRepo, TestPackage};
pub use vm::{Firmware, Vm, Writes};
pub use workshop::Workshop;
