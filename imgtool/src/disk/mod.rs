//! A flashed disk, as an image file or a device: what is where, and how it is read
//! and changed without mounting anything.

pub mod bios;
pub mod data;
pub mod esp;
pub mod fat;
pub mod layout;

mod command;

pub use command::{Args, run};
