//! Small updates, as pure functions over bytes: which blocks of a new image lie on the
//! node already, and how those that don't are made from an old image.
//!
//! All counts and places are in blocks of [`BLOCK`] bytes, as in a release's block index.
//!
//! | Module | Owns |
//! |---|---|
//! | [`runs`] | runs of blocks, and what they may be |
//! | [`local`] | what of a new image is there already, and where |
//! | [`ranges`] | what is missing, as ranges to ask a server for |
//! | [`patch`] | the file that makes the missing blocks from one old image |
//! | [`apply`] | a patch's segment, applied within bounds |
//! | [`make`] | a patch, made |
//! | [`similar`] | which parts of an old image resemble some bytes |

pub mod apply;
pub mod local;
pub mod make;
#[cfg(test)]
mod noise;
pub mod patch;
pub mod ranges;
pub mod runs;
pub mod similar;
mod varint;

pub use cairn_release::BLOCK;
pub use local::{Local, Source};
pub use patch::{Patch, Segment};
pub use runs::Run;
