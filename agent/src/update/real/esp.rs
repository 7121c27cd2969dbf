//! The boot state's two copies on the ESP of the disk that DATA lies on.
//!
//! The ESP is mounted where nobody else sees it, for one reading or writing each.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use cairn_boot_state::Copy;
use cairn_boot_state::block::BLOCK_SIZE;
use rustix::fs::{Advice, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

/// The partition type of an ESP, c12a7328-f81f-11d2-ba4b-00a0c93ec93b, as it lies on the disk.
const ESP_TYPE: [u8; 16] = [
    0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
];
/// Its number, should the partition table be unreadable.
const ESP_NUMBER: u64 = 2;
/// No partition table of ours has more.
const MAX_ENTRIES: u32 = 256;

/// Reads both copies; a missing one is empty.
///
/// # Errors
/// If the ESP isn't found or can't be mounted or read.
pub fn read(data: &Path) -> io::Result<[Vec<u8>; 2]> {
    let esp = mount(&device(data)?)?;
    Ok([copy(&esp, Copy::A)?, copy(&esp, Copy::B)?])
}

/// Writes one copy in place and reads it back from the disk.
///
/// # Errors
/// If it doesn't arrive.
pub fn write(data: &Path, which: Copy, block: &[u8]) -> io::Result<()> {
    let esp = mount(&device(data)?)?;
    match rustix::fs::mkdirat(&esp, "cairn", Mode::from_raw_mode(0o755)) {
        Err(rustix::io::Errno::EXIST) => {}
        result => result?,
    }
    // Not cut first: the old content stays until the one write that replaces it.
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(
        &esp,
        which.path(),
        flags,
        Mode::from_raw_mode(0o644),
    )?);
    file.write_all_at(block, 0)?;
    if file.metadata()?.len() != block.len() as u64 {
        file.set_len(block.len() as u64)?;
    }
    file.sync_all()?;
    // Else the answer would come from memory.
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
    if copy(&esp, which)? != block {
        return Err(io::Error::other("it reads back as something else"));
    }
    rustix::fs::syncfs(&file)?;
    Ok(())
}

fn copy(esp: &OwnedFd, which: Copy) -> io::Result<Vec<u8>> {
    let file = match rustix::fs::openat(
        esp,
        which.path(),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    file.take(BLOCK_SIZE as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A mount in no namespace: it is gone with the descriptor.
fn mount(device: &Path) -> io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen("vfat", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&fs, "source", device)?;
    rustix::mount::fsconfig_create(&fs)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(rustix::mount::fsmount(
        &fs,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// The ESP on the disk that DATA lies on.
fn device(data: &Path) -> io::Result<PathBuf> {
    let partition = sysfs(data)?;
    let disk = partition
        .parent()
        .ok_or_else(|| missing("DATA is on no partition"))?;
    let start = esp_start(disk);
    let mut found = None;
    for entry in fs::read_dir(disk)?.flatten() {
        let path = entry.path();
        let Some(number) = number(&path.join("partition")) else {
            continue;
        };
        let is_esp = match start {
            Some(start) => self::number(&path.join("start")) == Some(start),
            None => number == ESP_NUMBER,
        };
        if is_esp {
            found = path.file_name().map(|name| Path::new("/dev").join(name));
        }
    }
    found.ok_or_else(|| missing("the disk has no ESP"))
}

/// sysfs' folder of DATA's partition: by the id on the command line, which works for every file system, or by what is mounted.
fn sysfs(data: &Path) -> io::Result<PathBuf> {
    let cmdline = fs::read_to_string("/proc/cmdline")?;
    let id = cmdline
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("cairn.data=PARTUUID="));
    let by_id = id.and_then(|id| {
        let plain = id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        let link = Path::new("/dev/disk/by-partuuid").join(id.to_ascii_lowercase());
        fs::metadata(link)
            .ok()
            .filter(|_| plain)
            .map(|about| about.rdev())
    });
    let device = match by_id {
        Some(device) => device,
        None => fs::metadata(data)?.dev(),
    };
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    fs::canonicalize(format!("/sys/dev/block/{major}:{minor}"))
}

/// The ESP's first sector of 512 bytes, as the partition table says it.
fn esp_start(disk: &Path) -> Option<u64> {
    let sector = number(&disk.join("queue/logical_block_size"))?;
    let file = File::open(Path::new("/dev").join(disk.file_name()?)).ok()?;
    let mut header = [0; 92];
    file.read_exact_at(&mut header, sector).ok()?;
    let u32_at =
        |bytes: &[u8], at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let u64_at =
        |bytes: &[u8], at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    if !header.starts_with(b"EFI PART") {
        return None;
    }
    let (table, count, size) = (
        u64_at(&header, 72)?,
        u32_at(&header, 80)?,
        u32_at(&header, 84)?,
    );
    let mut entry = [0; 128];
    for index in 0..count.min(MAX_ENTRIES) {
        let at = table
            .checked_mul(sector)?
            .checked_add(u64::from(index) * u64::from(size))?;
        file.read_exact_at(&mut entry, at).ok()?;
        if entry.starts_with(&ESP_TYPE) {
            // sysfs counts in 512 bytes whatever the disk does.
            return Some(u64_at(&entry, 32)?.checked_mul(sector)? / 512);
        }
    }
    None
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn missing(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, what)
}
