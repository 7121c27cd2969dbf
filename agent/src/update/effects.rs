//! Everything that an update does to the world, one method each, so that tests can cut the power and break things at any of them.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_boot_state::{Copy, Slot};
use cairn_release::{Digest, Version};
use cairn_update::survey::Survey;
use cairn_wire::UpdateReport;

use super::settings::Check;
use crate::neighbours::{Neighbour, Offer};

/// Files of a release on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The signed manifest.
    Manifest,
    /// The kernel container.
    Kernel,
    /// The root image.
    Root,
    /// What makes the kernel container from an older one; only while it is fetched.
    KernelPatch,
    /// The same for the root image.
    RootPatch,
}

impl Part {
    /// Those that a release is made of, in the order in which they are fetched.
    pub const ALL: [Self; 3] = [Self::Manifest, Self::Kernel, Self::Root];
    /// The others.
    pub const PATCHES: [Self; 2] = [Self::KernelPatch, Self::RootPatch];

    /// The file's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Manifest => cairn_release::name::MANIFEST,
            Self::Kernel => cairn_release::name::KERNEL,
            Self::Root => cairn_release::name::ROOT,
            Self::KernelPatch => "kernel.squashfs.patch",
            Self::RootPatch => "root.erofs.patch",
        }
    }
}

/// The beginning of an answer.
#[derive(Debug)]
pub struct Answer<B> {
    /// Where its bytes begin in the file.
    pub start: u64,
    /// How many bytes the file has, if the server said.
    pub total: Option<u64>,
    /// Its bytes.
    pub body: B,
}

/// An answer's bytes, as they come.
pub trait Body: Send {
    /// The next ones; `None` at the end.
    fn chunk(&mut self) -> impl Future<Output = Result<Option<Bytes>, GetError>> + Send;
}

/// A file couldn't be got.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GetError {
    /// The server doesn't have it, or doesn't give it to this node.
    #[error("{0}")]
    Refused(String),
    /// The file ends before the asked place.
    #[error("{0}")]
    BeyondEnd(String),
    /// What came isn't what the signed manifest names.
    #[error("{0}")]
    Wrong(String),
    /// The network, the server, or a proxy; it may pass.
    #[error("{reason}")]
    Passing {
        /// What happened.
        reason: String,
        /// When the server wants to be asked again.
        after: Option<Duration>,
    },
}

impl GetError {
    /// A fault that may pass.
    pub fn passing(reason: impl Into<String>) -> Self {
        Self::Passing {
            reason: reason.into(),
            after: None,
        }
    }
}

/// What the bootloader said when it started this system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Booted {
    /// The kernel's boot id.
    pub boot_id: String,
    /// The release.
    pub release: Version,
    /// Its role.
    pub slot: Slot,
}

/// The world. Methods that may take long are futures; what they do may go on when such a future is dropped.
pub trait Effects: Send + Sync + 'static {
    /// What [`Effects::get`] gives.
    type Body: Body;

    /// Waits.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send;
    /// Milliseconds since the kernel's start.
    fn uptime_ms(&self) -> u64;
    /// Seconds since 1970, if they are known.
    fn wall(&self) -> Option<i64>;
    /// The latest moment in seconds since 1970 that is past for certain.
    fn certain(&self) -> i64;

    /// Reads what [`Effects::store`] stored.
    fn load(&self) -> io::Result<Option<Vec<u8>>>;
    /// Replaces the stored state, whole, and on the disk when it returns.
    fn store(&self, state: &[u8]) -> io::Result<()>;

    /// What was booted; `None` if no bootloader of ours did.
    fn booted(&self) -> io::Result<Option<Booted>>;
    /// What the initramfs recorded when it gave `version` up last.
    fn boot_failure(&self, version: &Version) -> Option<String>;
    /// The id that the control plane knows this node by.
    fn device(&self) -> String;

    /// Gets these bytes of a file, all from the first on if the last is `u64::MAX`. A server that ignores that begins
    /// at 0, and the answer says so; it may also go on beyond the end.
    fn get(
        &self,
        url: &str,
        range: Range<u64>,
    ) -> impl Future<Output = Result<Answer<Self::Body>, GetError>> + Send;

    /// From now on neighbours are given what is offered of a file of this release.
    fn offer(&self, version: &Version, part: Part, offer: &Arc<Offer>);
    /// The neighbours that have something of an image, or want it; none if nothing is shared.
    fn neighbours(&self, image: &Digest) -> impl Future<Output = Vec<Neighbour>> + Send;
    /// As [`Effects::get`], of a neighbour.
    fn get_near(
        &self,
        url: &str,
        range: Range<u64>,
    ) -> impl Future<Output = Result<Answer<Self::Body>, GetError>> + Send;
    /// When a neighbour was last given something, in milliseconds since the kernel's start.
    fn given_ms(&self) -> Option<u64>;

    /// The trust roots, the built-in one first, the others by number as long as they have no gap.
    fn trust_roots(&self) -> io::Result<Vec<Vec<u8>>>;
    /// Keeps trust root `number`.
    fn keep_trust_root(&self, number: u64, bytes: &[u8]) -> io::Result<()>;

    /// Looks at DATA, and at what is there of `coming` already.
    fn survey(&self, coming: Option<&Version>) -> impl Future<Output = io::Result<Survey>> + Send;
    /// The manifest of an installed release, or of one that is being fetched.
    fn manifest(&self, version: &Version) -> io::Result<Vec<u8>>;
    /// Removes an installed release: out of the bootloader's sight in one step, then file by file.
    fn remove(&self, version: &Version) -> impl Future<Output = io::Result<()>> + Send;
    /// Removes what is left of downloads and removals, but for the download of `keep`.
    fn clear_partials(&self, keep: Option<&Version>)
    -> impl Future<Output = io::Result<()>> + Send;
    /// Whether the release has its final place.
    fn is_placed(&self, version: &Version) -> io::Result<bool>;
    /// How many bytes of a file are there.
    fn fetched(&self, version: &Version, part: Part) -> io::Result<u64>;
    /// Takes the room for a file of `size` bytes, and cuts what is longer.
    fn reserve(&self, version: &Version, part: Part, size: u64) -> io::Result<()>;
    /// Reads bytes of a file of an installed release, or of one that is being fetched; fewer at its end.
    fn read(&self, version: &Version, part: Part, range: Range<u64>) -> io::Result<Vec<u8>>;
    /// Writes bytes at their place.
    fn write(&self, version: &Version, part: Part, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// As [`Effects::write`], of bytes that the same file of another release, or of this one, has at a place of its own:
    /// a file system that can keeps them once.
    ///
    /// # Errors
    /// If they can't be written.
    fn share(
        &self,
        version: &Version,
        part: Part,
        at: u64,
        bytes: &[u8],
        _from: (&Version, u64),
    ) -> io::Result<()> {
        self.write(version, part, at, bytes)
    }
    /// Throws away what is there of a file.
    fn discard(&self, version: &Version, part: Part) -> io::Result<()>;
    /// Sees a file onto the disk.
    fn sync(&self, version: &Version, part: Part) -> impl Future<Output = io::Result<()>> + Send;
    /// Reads a file back from the disk, not from memory: its size and digest.
    fn digest(
        &self,
        version: &Version,
        part: Part,
    ) -> impl Future<Output = io::Result<(u64, Digest)>> + Send;
    /// Gives a fetched release its final place, with `created` as the time of its kernel container, and makes sure that GRUB, which
    /// replays no journal, sees it there.
    fn place(&self, version: &Version, created: i64)
    -> impl Future<Output = io::Result<()>> + Send;

    /// Both copies of the boot state; a missing one is empty.
    fn boot_copies(&self) -> impl Future<Output = io::Result<[Vec<u8>; 2]>> + Send;
    /// Writes one copy in place, flushes it and reads it back.
    fn write_boot_copy(
        &self,
        copy: Copy,
        block: Vec<u8>,
    ) -> impl Future<Output = io::Result<()>> + Send;
    /// Restarts the node through its firmware, more roughly with each attempt, from 1.
    fn restart(&self, attempt: u32) -> impl Future<Output = io::Result<()>> + Send;
    /// Tells the timer that ends hopeless boots that this is none.
    fn declare(&self) -> io::Result<()>;

    /// Runs a check; what is wrong, if anything.
    fn check(&self, check: &Check) -> impl Future<Output = Option<String>> + Send;
    /// Whether the control plane has answered, be it with an error.
    fn control_plane_reached(&self) -> bool;

    /// Collects what tells about the failure of `version`.
    fn collect(&self, version: &Version, reason: &str) -> impl Future<Output = Vec<u8>> + Send;
    /// Keeps evidence until it is uploaded.
    fn keep_evidence(&self, name: &str, text: &[u8]) -> io::Result<()>;
    /// Gives a report to the outbox; it is on the disk when this returns.
    fn report(&self, report: &UpdateReport) -> impl Future<Output = io::Result<()>> + Send;
}
