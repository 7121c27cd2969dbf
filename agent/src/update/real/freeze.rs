//! Getting a journal's content to its place, since GRUB replays no journal.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::ioctl::{NoArg, Setter, ioctl};

/// `FIFREEZE` and `FITHAW` of linux/fs.h take a number that nobody reads.
const FREEZE: u32 = 0xc004_5877;
const THAW: u32 = 0xc004_5878;
/// `EXT4_IOC_CHECKPOINT` of the kernel's ext4.h: `_IOW('f', 43, __u32)`.
const CHECKPOINT: u32 = 0x4004_662b;

/// Makes sure that all that was written to the file system of `folder` is where a reader without a journal looks.
///
/// ext4 writes its journal out when asked, with nothing standing still. Others do it when they are frozen; a process that is
/// killed in that moment would leave the whole node hanging, so this is the second choice, and every start thaws first.
///
/// # Errors
/// If neither works.
pub fn settle(folder: &Path) -> io::Result<()> {
    let folder = File::open(folder)?;
    rustix::fs::syncfs(&folder)?;
    match checkpoint(&folder) {
        Ok(()) => return Ok(()),
        Err(error) => {
            tracing::debug!(%error, "the journal can't be written out alone; the file system is frozen for a moment")
        }
    }
    // Nothing may be logged or allocated until it thaws: the log may lie on this very file system.
    let frozen = Frozen::new(&folder)?;
    drop(frozen);
    Ok(())
}

/// Thaws the file system of `folder`, in case a program was killed while it was frozen.
pub fn thaw(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        // Refused if it isn't frozen.
        let _ = control::<THAW>(&folder);
    }
}

/// Thaws when dropped, whatever happened.
struct Frozen<'f>(&'f File);

impl<'f> Frozen<'f> {
    fn new(folder: &'f File) -> io::Result<Self> {
        control::<FREEZE>(folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        // A second try costs nothing, and nobody could be told.
        if control::<THAW>(self.0).is_err() {
            let _ = control::<THAW>(self.0);
        }
    }
}

#[allow(unsafe_code, reason = "these two ioctls take no pointer")]
fn control<const CODE: u32>(folder: impl AsFd) -> rustix::io::Result<()> {
    // SAFETY: the kernel ignores the argument of both.
    unsafe { ioctl(folder, NoArg::<CODE>::new()) }
}

#[allow(
    unsafe_code,
    reason = "the ioctl reads one number through a pointer that lives until it returns"
)]
fn checkpoint(folder: impl AsFd) -> rustix::io::Result<()> {
    // SAFETY: the number of the flags is a u32, as the code says; 0 means: write out, and nothing more.
    unsafe { ioctl(folder, Setter::<CHECKPOINT, u32>::new(0)) }
}
