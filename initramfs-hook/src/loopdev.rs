//! Loop devices: a file as a block device, read-only.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use cairn_release::BLOCK;
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, NoArg, Opcode, Setter, ioctl};

use crate::error::{IoError, cannot};

const CONTROL: &str = "/dev/loop-control";

// linux/loop.h
const GET_FREE: Opcode = 0x4C82;
const CONFIGURE: Opcode = 0x4C0A;
const CLEAR: Opcode = 0x4C01;
const READ_ONLY: u32 = 1;
/// The device frees itself when its last user closes it.
const AUTO_CLEAR: u32 = 4;

/// `struct loop_info64`
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    real_device: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encryption: [u32; 2],
    flags: u32,
    names: [u8; 128],
    key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`
#[repr(C)]
struct Config {
    file: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// A loop device, kept open: it is freed when this is dropped and nothing else
/// uses it.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    _device: File,
}

impl LoopDevice {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a read-only device of `file`, which is called `what` in errors, with
    /// sectors of 4096 bytes where the kernel can.
    ///
    /// # Errors
    /// If there is no loop driver or no free device.
    pub fn attach(file: &File, what: &str) -> Result<Self, IoError> {
        let control = File::open(CONTROL).map_err(cannot("open", CONTROL))?;
        loop {
            let number = get_free(&control).map_err(cannot("find", "a free loop device"))?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = OpenOptions::new()
                .read(true)
                .open(&path)
                .map_err(cannot("open", path.display()))?;
            match configure(&device, file) {
                Ok(()) => {
                    return Ok(Self {
                        path,
                        _device: device,
                    });
                }
                // Somebody else was faster.
                Err(Errno::BUSY) => {}
                Err(error) => return Err(cannot("make a loop device of", what)(error)),
            }
        }
    }
}

/// Frees the loop device at `path`.
///
/// # Errors
/// If it is in use or not attached.
pub fn detach(path: &Path) -> Result<(), IoError> {
    let device = File::open(path).map_err(cannot("open", path.display()))?;
    clear(&device).map_err(cannot("detach", path.display()))
}

/// An ioctl whose answer is its return value.
struct GetFree;

#[allow(
    unsafe_code,
    reason = "rustix has no pattern for a value that is returned, not written"
)]
// SAFETY: LOOP_CTL_GET_FREE takes no argument and returns a number.
unsafe impl Ioctl for GetFree {
    type Output = IoctlOutput;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        GET_FREE
    }

    fn as_ptr(&mut self) -> *mut core::ffi::c_void {
        core::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        out: IoctlOutput,
        _: *mut core::ffi::c_void,
    ) -> rustix::io::Result<Self::Output> {
        Ok(out)
    }
}

#[allow(unsafe_code, reason = "loop devices are handled by ioctls")]
fn get_free(control: impl AsFd) -> rustix::io::Result<IoctlOutput> {
    // SAFETY: as at GetFree.
    unsafe { ioctl(control, GetFree) }
}

fn configure(device: &File, file: &File) -> rustix::io::Result<()> {
    match try_configure(device, file, BLOCK as u32) {
        Err(Errno::INVAL) => try_configure(device, file, 0),
        result => result,
    }
}

#[allow(unsafe_code, reason = "loop devices are handled by ioctls")]
fn try_configure(device: &File, file: &File, block_size: u32) -> rustix::io::Result<()> {
    let config = Config {
        file: file.as_raw_fd().try_into().map_err(|_| Errno::BADF)?,
        block_size,
        info: Info {
            device: 0,
            inode: 0,
            real_device: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encryption: [0; 2],
            flags: READ_ONLY | AUTO_CLEAR,
            names: [0; 128],
            key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: the layout is that of linux/loop.h, and the kernel only reads it.
    unsafe { ioctl(device, Setter::<CONFIGURE, Config>::new(config)) }
}

#[allow(unsafe_code, reason = "loop devices are handled by ioctls")]
fn clear(device: impl AsFd) -> rustix::io::Result<()> {
    // SAFETY: LOOP_CLR_FD takes no argument.
    unsafe { ioctl(device, NoArg::<CLEAR>::new()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_kernels_size() {
        assert_eq!(size_of::<Info>(), 232);
        assert_eq!(size_of::<Config>(), 304);
    }
}
