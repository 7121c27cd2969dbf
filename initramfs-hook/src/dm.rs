//! Device-mapper: a verity target over a device (linux/dm-ioctl.h, version 4).

use std::fs::{File, OpenOptions};
use std::path::PathBuf;

use cairn_release::BLOCK;
use cairn_release::verity::Verity;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use crate::error::{IoError, cannot};

const CONTROL: &str = "/dev/mapper/control";
const SECTOR: u64 = 512;

const CREATE: Opcode = opcode::read_write::<Head>(0xfd, 3);
const REMOVE: Opcode = opcode::read_write::<Head>(0xfd, 4);
/// Without the suspend flag this command resumes.
const SUSPEND: Opcode = opcode::read_write::<Head>(0xfd, 6);
const LOAD: Opcode = opcode::read_write::<Head>(0xfd, 9);

const READ_ONLY: u32 = 1;

/// `struct dm_ioctl`
#[repr(C)]
#[derive(Clone, Copy)]
struct Head {
    version: [u32; 3],
    size: u32,
    start: u32,
    targets: u32,
    open_count: i32,
    flags: u32,
    event: u32,
    padding: u32,
    device: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

/// `struct dm_target_spec`, with room for its parameters.
#[repr(C)]
#[derive(Clone, Copy)]
struct Target {
    start: u64,
    length: u64,
    status: i32,
    next: u32,
    kind: [u8; 16],
    parameters: [u8; 1024],
}

/// The whole argument: every command gets the same, and reads what it needs.
#[repr(C)]
#[derive(Clone, Copy)]
struct Argument {
    head: Head,
    target: Target,
}

/// Maps `device`, which holds data and tree, as `name`, and says where.
///
/// With `panic_on_corruption` the kernel panics on a block that isn't what was
/// signed, instead of failing the read.
///
/// # Errors
/// If the kernel refuses a step; what was made is removed again.
pub fn open_verity(
    name: &str,
    device: &str,
    verity: &Verity,
    panic_on_corruption: bool,
) -> Result<PathBuf, IoError> {
    let control = control()?;
    let mut table = verity.table(device);
    if panic_on_corruption {
        table.push_str(" 1 panic_on_corruption");
    }
    let sectors = verity.data_blocks * (BLOCK as u64 / SECTOR);
    let path = call::<CREATE>(&control, argument(name, None))
        .map(|answer| node(answer.head.device))
        .map_err(cannot("create device-mapper device", name))?;
    let mapped = call::<LOAD>(&control, argument(name, Some((sectors, &table))))
        .map_err(cannot("load the verity table of", name))
        .and_then(|_| {
            call::<SUSPEND>(&control, argument(name, None)).map_err(cannot("activate", name))
        });
    if let Err(error) = mapped {
        // The first error is the one to tell.
        let _ = remove(name);
        return Err(error);
    }
    Ok(path)
}

/// Removes the device `name`.
///
/// # Errors
/// If it is in use or not there.
pub fn remove(name: &str) -> Result<(), IoError> {
    call::<REMOVE>(&control()?, argument(name, None))
        .map(|_| ())
        .map_err(cannot("remove device-mapper device", name))
}

fn control() -> Result<File, IoError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(CONTROL)
        .map_err(cannot("open", CONTROL))
}

/// The node that the kernel makes in `/dev` for a device number.
fn node(device: u64) -> PathBuf {
    let minor = (device & 0xff) | ((device >> 12) & 0xf_ff00);
    PathBuf::from(format!("/dev/dm-{minor}"))
}

fn argument(name: &str, table: Option<(u64, &str)>) -> Argument {
    let (length, parameters) = table.unwrap_or_default();
    Argument {
        head: Head {
            version: [4, 0, 0],
            size: size_of::<Argument>() as u32,
            start: size_of::<Head>() as u32,
            targets: table.is_some().into(),
            open_count: 0,
            flags: READ_ONLY,
            event: 0,
            padding: 0,
            device: 0,
            name: text(name),
            uuid: [0; 129],
            data: [0; 7],
        },
        target: Target {
            start: 0,
            length,
            status: 0,
            next: size_of::<Target>() as u32,
            kind: text("verity"),
            parameters: text(parameters),
        },
    }
}

/// Text with at least one zero behind it; what is too long is cut, and refused by
/// the kernel as a malformed table.
fn text<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let length = text.len().min(N - 1);
    bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
    bytes
}

#[allow(unsafe_code, reason = "device-mapper is spoken to by ioctls")]
fn call<const COMMAND: Opcode>(
    control: &File,
    mut argument: Argument,
) -> rustix::io::Result<Argument> {
    // SAFETY: the layout is that of linux/dm-ioctl.h, and the head says how
    // many bytes the kernel may read and write.
    unsafe { ioctl(control, Updater::<COMMAND, Argument>::new(&mut argument)) }?;
    Ok(argument)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_kernels_size() {
        assert_eq!(size_of::<Head>(), 312);
        assert_eq!(size_of::<Target>(), 40 + 1024);
        assert_eq!(size_of::<Argument>() % 8, 0);
    }

    #[test]
    fn a_device_number_names_its_node() {
        for (device, expected) in [
            (0xfe00, "/dev/dm-0"),
            (0xfe03, "/dev/dm-3"),
            (0x0010_fe01, "/dev/dm-257"),
        ] {
            assert_eq!(node(device), PathBuf::from(expected));
        }
    }
}
