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
//! | [`swarm`] | many devices in one process, for benchmarks |
//! | [`workshop`], [`fleet`] | programs, keys, packages and releases, made once |
//! | [`server`], [`site`], [`gate`] | the control plane's process, a whole site, and the nodes' way to it |
//! | [`registry`], [`customer`] | images on this machine, what customers run, and clients who count |
//! | [`far_end`], [`webhook`] | the far end of a node's line, and where alarms are told to |
//! | [`node`] | a node: its disk, its machine, and what the control plane knows of it |
//! | [`power_cut`] | what a power cut leaves of a disk, and whether it would boot |
//! | [`tools`], [`programs`] | programs and folders of the host; our own programs |
//!
//! Nothing here sleeps or skips: a test waits for a condition with a deadline,
//! and fails if a program is missing.

pub mod addition;
pub mod apt;
pub mod convert;
pub mod customer;
pub mod disk;
pub mod far_end;
pub mod fleet;
pub mod gate;
pub mod node;
pub mod operator;
pub mod own_packages;
pub mod package;
pub mod pacman_repo;
pub mod power_cut;
pub mod programs;
pub mod registry;
pub mod serial;
pub mod server;
pub mod site;
pub mod swarm;
pub mod test_package;
pub mod tools;
pub mod vm;
pub mod webhook;
pub mod workshop;

pub use disk::Disk;
pub use fleet::Fleet;
pub use node::Node;
pub use pacman_repo::PacmanRepo;
pub use serial::Serial;
pub use site::Site;
pub use test_package::{ExtraRepo, TestPackage};
pub use vm::{Firmware, Vm, Writes};
pub use workshop::Workshop;
