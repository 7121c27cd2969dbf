//! What is mounted where: `/proc/thread-self/mountinfo`, proc_pid_mountinfo(5).

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::files;

/// The longest table, in bytes.
const LIMIT: u64 = 16 << 20;

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Number of the block device.
    pub device: u64,
    /// Where.
    pub at: PathBuf,
    /// The whole file system, and not a folder of it.
    pub is_whole: bool,
}

/// All mounts of block devices.
///
/// # Errors
/// If the kernel doesn't tell.
pub fn read() -> io::Result<Vec<Mounted>> {
    let bytes = files::read(Path::new("/proc/thread-self/mountinfo"), LIMIT)?;
    let text = String::from_utf8_lossy(bytes.as_deref().unwrap_or_default()).into_owned();
    Ok(text.lines().filter_map(parse).collect())
}

fn parse(line: &str) -> Option<Mounted> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(2);
    let (major, minor) = fields.next()?.split_once(':')?;
    let (root, at) = (fields.next()?, fields.next()?);
    let device = match (major.parse().ok()?, minor.parse().ok()?) {
        // btrfs shows a number of its own; the name of its device is beside it.
        (0, _) => number(Path::new(&unescaped(file_system.split(' ').nth(1)?)))?,
        (major, minor) => rustix::fs::makedev(major, minor),
    };
    Some(Mounted {
        device,
        at: unescaped(at).into(),
        is_whole: root == "/",
    })
}

/// The number of a block device's node.
pub fn number(node: &Path) -> Option<u64> {
    let about = std::fs::metadata(node).ok()?;
    about.file_type().is_block_device().then(|| about.rdev())
}

/// Blanks and their like stand there as `\040`.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\')
            .then(|| std::str::from_utf8(after.get(..3)?).ok())
            .flatten();
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_the_kernel_writes_them() {
        let line =
            r"36 35 98:1 / /mnt\040a/b\134c rw,noatime shared:1 - ext4 /dev/sdb1 rw,commit=30";
        let expected = Mounted {
            device: rustix::fs::makedev(98, 1),
            at: r"/mnt a/b\c".into(),
            is_whole: true,
        };
        assert_eq!(parse(line), Some(expected));
        let folder = "36 35 98:1 /x /y rw - ext4 /dev/sdb1 rw";
        assert!(!parse(folder).unwrap().is_whole);
        for other in [
            "",
            "36 35 0:21 / /proc rw - proc proc rw",
            "a b c d - e",
            "1 2 x:y / / - a b",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
        assert!(!read().unwrap().is_empty());
    }
}
