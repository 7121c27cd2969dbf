//! Cairn's release formats, as pure functions over bytes.
//!
//! A *release* is a kernel container, a root image and one signed manifest that
//! names both by digest. This crate owns what is written in those files and who
//! may sign them; it knows no file, socket, clock or runtime, so that the
//! initramfs, the agent, imgtool and the control plane all judge a release by
//! the same code.
//!
//! | Module | Owns |
//! |---|---|
//! | [`name`] | versions, sequences and the file names of a release |
//! | [`digest`] | SHA-256 digests and how they are written |
//! | [`key`] | Ed25519 keys and their ids |
//! | [`envelope`] | DSSE envelopes: what exactly is signed |
//! | [`manifest`] | the signed description of one release |
//! | [`order`] | the signed order that allows a downgrade |
//! | [`trust`] | who may sign, how many must, and how that changes |
//! | [`verity`] | the dm-verity hash tree |
//! | [`index`] | one SHA-256 per 4 KiB block, for small updates |

pub mod digest;
pub mod envelope;
pub mod index;
pub mod key;
pub mod manifest;
pub mod name;
pub mod order;
pub mod time;
pub mod trust;
pub mod verity;

pub use digest::Digest;
pub use envelope::Envelope;
pub use key::{KeyId, PublicKey, SecretKey};
pub use manifest::Manifest;
pub use name::{Sequence, Version};
pub use order::DowngradeOrder;
pub use time::Timestamp;
pub use trust::TrustRoot;

/// Bytes in a block of the verity tree, of the block index and of both images.
pub const BLOCK: usize = 4096;
