//! The first program of a node: from the kernel's hands to a verified root.
//!
//! The binary is static and knows three callings: `/init` of the initramfs
//! ([`boot`]), `/shutdown` of the exit ramdisk ([`shutdown`]), and a helper
//! that other initramfs generators run ([`boot::onto`]).
//!
//! ```text
//! mount proc, sys, dev, run ─ watchdog ─ modules ─ find DATA ─ trust ─ manifest
//!   ─ loop + dm-verity for root.erofs and kernel.squashfs ─ overlays ─ binds ─ switch root
//! ```
//!
//! Nothing of a release is used before its manifest is verified, and nothing of
//! an image but through dm-verity. Each failure names its reason on the console
//! and on DATA, and ends in a reboot, so that the bootloader's tries run out
//! and an older release boots.
//!
//! | Module | Owns |
//! |---|---|
//! | [`boot`] | the order of the steps |
//! | [`cmdline`], [`config`] | what the bootloader and the image builder say |
//! | [`log`] | lines on the console and in the kernel's log |
//! | [`watchdog`] | a reset if anything below hangs |
//! | [`modalias`], [`modules`], [`uevent`] | drivers, and waiting for devices |
//! | [`gpt`], [`disks`] | which partition is DATA, which is the ESP |
//! | [`trust`], [`images`] | what may be used at all |
//! | [`loopdev`], [`dm`] | verified block devices |
//! | [`mounts`], [`switch`] | the new root's tree, and going there |
//! | [`failure`], [`esp`] | what is left behind when it goes wrong |
//! | [`shutdown`] | taking it all down again, so that DATA is clean |

pub mod boot;
pub mod cmdline;
pub mod config;
pub mod disks;
pub mod dm;
pub mod error;
pub mod esp;
pub mod failure;
pub mod gpt;
pub mod images;
pub mod log;
pub mod loopdev;
pub mod modalias;
pub mod modules;
pub mod mounts;
pub mod shutdown;
pub mod switch;
pub mod trust;
pub mod uevent;
pub mod watchdog;
