//! The stream: what comes from devices, in the order in which it was stored, for other systems to read.
//!
//! An event is appended in the transaction that stores what it tells of. So whoever was promised that something is on the disk finds it
//! in the stream, once. Events have offsets, which only grow and have no hole. They are kept for some days and up to a size; a reader
//! that comes too late is told how many are gone.
//!
//! Readers are *groups*. The stream remembers how far each is; its members share the events. A member is given a batch, and the same one
//! again until it is acknowledged, also after kill -9 of either side. A member that is gone for too long loses its batch to another.
//!
//! What is here is the embedded engine, over the database. Another engine implements the two traits of [`engine`].
//!
//! | Module | Owns |
//! |---|---|
//! | [`event`] | what is told, and of what kind |
//! | [`engine`] | what an engine promises |
//! | [`draft`] | events that are appended together |
//! | `blocks` | events in the database |
//! | `groups` | groups and their batches in the database |
//! | `audience` | who may see which event |
//! | [`rest`] | `/v1/stream` |

mod audience;
mod blocks;
pub mod draft;
pub mod engine;
pub mod event;
mod groups;
pub mod rest;
#[cfg(test)]
mod tests;

pub use draft::{Draft, one};
pub use engine::{Groups, Stream};
pub use event::Kind;
pub use rest::routes;
