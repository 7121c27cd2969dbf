//! What is mounted where.
//!
//! ```text
//! /                     root.erofs, through dm-verity, read-only
//! /etc /var             overlays, upper layers in DATA's state/
//! /usr/lib/modules      the kernel container's modules
//! /usr/lib/firmware     the kernel container's firmware
//! /data                 DATA
//! /run/cairn/kernel     the kernel container, through dm-verity, read-only
//! ```

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::Path;

use rustix::mount::{MountFlags, mount, mount_bind_recursive, mount_move};

use crate::error::{IoError, cannot};

/// Folder of our own mounts; it lies on `/run` and so comes along into the new root.
pub const OURS: &str = "/run/cairn";
/// Where DATA waits until the new root stands.
pub const DATA: &str = "/run/cairn/data";
/// Where the kernel container is mounted.
pub const KERNEL: &str = "/run/cairn/kernel";
/// Where the new root is mounted.
pub const NEW_ROOT: &str = "/sysroot";

/// Mounts the kernel's own file systems and `/run`.
///
/// # Errors
/// If one of them can't be mounted.
pub fn system() -> Result<(), IoError> {
    let guarded = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let run = MountFlags::NOSUID | MountFlags::NODEV;
    let all = [
        ("proc", "/proc", guarded, ""),
        ("sysfs", "/sys", guarded, ""),
        ("devtmpfs", "/dev", MountFlags::NOSUID, "mode=0755"),
        ("tmpfs", "/run", run, "mode=0755"),
    ];
    for (kind, at, flags, options) in all {
        file_system(Path::new(kind), Path::new(at), kind, flags, options)?;
    }
    Ok(())
}

/// Mounts DATA, for reading and writing.
///
/// # Errors
/// If it can't be mounted.
pub fn data(device: &Path, at: &Path, kind: &str) -> Result<(), IoError> {
    file_system(device, at, kind, MountFlags::NOATIME, "")
}

/// Mounts an image, read-only.
///
/// # Errors
/// If it can't be mounted; a damaged superblock shows itself here.
pub fn image(device: &Path, at: &Path, kind: &str) -> Result<(), IoError> {
    file_system(device, at, kind, MountFlags::RDONLY, "")
}

/// Leaves a file for the running system in the folder of our own mounts.
///
/// # Errors
/// If it can't be written.
pub fn hand_over(path: &str, bytes: &[u8]) -> Result<(), IoError> {
    fs::create_dir_all(OURS).map_err(cannot("make folder", OURS))?;
    fs::write(path, bytes).map_err(cannot("write", path))
}

/// Turns a mounted root image into a whole root: overlays, modules, firmware.
/// `kernel` is the mounted kernel container, `data` is DATA.
///
/// # Errors
/// If a folder is missing or a mount fails.
pub fn furnish(new_root: &Path, kernel: &Path, data: &Path) -> Result<(), IoError> {
    for name in ["etc", "var"] {
        overlay(&new_root.join(name), &data.join("state").join(name))?;
    }
    for (from, to) in [
        ("modules", "usr/lib/modules"),
        ("firmware", "usr/lib/firmware"),
    ] {
        bind(&kernel.join(from), &new_root.join(to))?;
    }
    Ok(())
}

/// Lays a writable layer over `lower`; it lies in `upper` and `work` of `state`.
///
/// What isn't on is a feature that would bind the upper layer to this one image: the
/// next release has another lower layer below the same upper one.
///
/// # Errors
/// If a folder can't be made or the mount fails.
pub fn overlay(lower: &Path, state: &Path) -> Result<(), IoError> {
    let (upper, work) = (state.join("upper"), state.join("work"));
    for folder in [&upper, &work] {
        fs::create_dir_all(folder).map_err(cannot("make folder", folder.display()))?;
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={},xino=off,index=off,metacopy=off,redirect_dir=off",
        lower.display(),
        upper.display(),
        work.display()
    );
    let flags = MountFlags::empty();
    raw(Path::new("overlay"), lower, "overlay", flags, &options)
        .map_err(cannot("mount the overlay at", lower.display()))
}

/// Shows `from`, with all that is mounted in it, at `to`.
///
/// # Errors
/// If one of the folders is missing.
pub fn bind(from: &Path, to: &Path) -> Result<(), IoError> {
    mount_bind_recursive(from, to).map_err(cannot(
        "bind",
        format_args!("{} to {}", from.display(), to.display()),
    ))
}

/// Moves a mount.
///
/// # Errors
/// If `from` isn't a mount or `to` isn't a folder.
pub fn move_to(from: &Path, to: &Path) -> Result<(), IoError> {
    mount_move(from, to).map_err(cannot(
        "move",
        format_args!("{} to {}", from.display(), to.display()),
    ))
}

/// Mounts a file system at a folder, which is made if it is missing.
///
/// # Errors
/// If the folder can't be made or the mount fails.
pub fn file_system(
    source: &Path,
    at: &Path,
    kind: &str,
    flags: MountFlags,
    options: &str,
) -> Result<(), IoError> {
    fs::create_dir_all(at).map_err(cannot("make folder", at.display()))?;
    raw(source, at, kind, flags, options).map_err(cannot(
        "mount",
        format_args!("{} at {} as {kind}", source.display(), at.display()),
    ))
}

fn raw(source: &Path, at: &Path, kind: &str, flags: MountFlags, options: &str) -> io::Result<()> {
    let options = CString::new(options)?;
    Ok(mount(source, at, kind, flags, options.as_c_str())?)
}
