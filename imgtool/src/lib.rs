//! imgtool builds, signs, checks and flashes Cairn's immutable OS.
//!
//! Every command is a module with its options (`Args`) and a `run`; what several
//! commands need lies beside them under the name of what it knows.

pub mod build;
pub mod cli;
pub mod completions;
pub mod console;
pub mod contents;
pub mod delta;
pub mod diff;
pub mod disk;
pub mod error;
pub mod files;
pub mod flash;
pub mod inspect;
pub mod interrupt;
pub mod keygen;
pub mod keys;
pub mod loader;
pub mod man;
pub mod order;
pub mod profile;
pub mod publish;
pub mod release_folder;
pub mod sandbox;
pub mod sandboxed;
pub mod sbom;
pub mod sign;
pub mod site;
pub mod size;
pub mod trust;
pub mod verify;
