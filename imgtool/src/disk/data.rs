//! The data partition: made by mkfs.ext4 from a folder, read by a driver of our
//! own process, so that nothing needs to be mounted.

use super::layout::Range;
use crate::error::{Error, Result};
use cairn_system::{Command, CommandError};
use ext4_view::{Ext4, Ext4Read};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Left out: what GRUB can't read, or not in every version; and `metadata_csum`, with which
/// a torn write of the superblock or of a commit block in the journal makes the kernel
/// refuse to mount. `uninit_bg`'s sums lie in one sector with what they are of.
const FEATURES: &str = "^metadata_csum,uninit_bg,^metadata_csum_seed,^orphan_file,^inline_data,^encrypt,^casefold,^verity";

/// Makes the file system, with what is in `tree`, all owned by root.
///
/// # Errors
/// If mkfs.ext4 isn't there or fails.
pub fn make(disk: &Path, range: Range, tree: &Path) -> Result<()> {
    let (offset, blocks) = (range.start, range.size / 1024);
    // An ordinary user's files are root's once the user is root in a namespace.
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("mkfs.ext4")
    } else {
        Command::new("unshare").args(["--user", "--map-root-user", "--", "mkfs.ext4"])
    };
    command = command
        .args([
            "-q",
            "-F",
            "-b",
            "4096",
            "-L",
            "cairn-data",
            "-O",
            FEATURES,
            "-m",
            "1",
        ])
        .arg("-d")
        .arg(tree)
        .arg("-E")
        .arg(format!("offset={offset},root_owner=0:0"))
        .arg(disk)
        .arg(format!("{blocks}k"))
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .timeout(Duration::from_secs(2 * 3600));
    command.run().map(drop).map_err(|error| match &error {
        CommandError::NotFound { .. } => Error::failed(error.to_string()).hint("install e2fsprogs"),
        _ => Error::failed(format!(
            "{}: cannot make the data partition",
            disk.display()
        ))
        .because(error),
    })
}

/// Where the superblock lies in the partition, and in it, little endian, the features that
/// whoever writes has to know and those that everybody has to.
const SUPERBLOCK: u64 = 1024;
const RO_COMPAT: u64 = SUPERBLOCK + 100;
const INCOMPAT: u64 = SUPERBLOCK + 96;
/// `metadata_csum`, in the second byte of the former.
const METADATA_CSUM: u8 = 0x04;
/// The journal isn't replayed yet; in the first byte of the latter.
const RECOVER: u8 = 0x04;

/// The partition as GRUB sees it, which replays no journal. The driver replays only a
/// journal with checksums, and refuses others: so it doesn't hear of them.
struct Part {
    disk: File,
    range: Range,
    has_sums: bool,
}

impl Part {
    fn open(disk: File, range: Range) -> std::io::Result<Self> {
        let mut features = [0; 4];
        disk.read_exact_at(&mut features, range.start + RO_COMPAT)?;
        let has_sums = features[1] & METADATA_CSUM != 0;
        Ok(Self {
            disk,
            range,
            has_sums,
        })
    }
}

impl Ext4Read for Part {
    fn read(
        &mut self,
        start: u64,
        dst: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        let end = start.saturating_add(dst.len() as u64);
        if end > self.range.size {
            return Err(format!("byte {end} lies behind the partition's end").into());
        }
        self.disk.read_exact_at(dst, self.range.start + start)?;
        let place = INCOMPAT.checked_sub(start).map(usize::try_from);
        if let Some(Ok(place)) = place
            && !self.has_sums
            && let Some(byte) = dst.get_mut(place)
        {
            *byte &= !RECOVER;
        }
        Ok(())
    }
}

/// An open data partition.
pub struct Data {
    fs: Ext4,
    disk: PathBuf,
}

impl Data {
    /// Opens it.
    ///
    /// # Errors
    /// If there is no ext4 there.
    pub fn open(disk: &File, path: &Path, range: Range) -> Result<Self> {
        let wrong = || {
            Error::input(format!(
                "{}: the data partition can't be read",
                path.display()
            ))
        };
        let disk = disk.try_clone().map_err(|e| wrong().because(e))?;
        let part = Part::open(disk, range).map_err(|e| wrong().because(e))?;
        let fs = Ext4::load(Box::new(part)).map_err(|e| wrong().because(e))?;
        Ok(Self {
            fs,
            disk: path.to_owned(),
        })
    }

    /// Names in a folder, sorted.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn list(&self, folder: &str) -> Result<Vec<String>> {
        let cannot = |e| self.cannot(folder, e);
        let mut names = Vec::new();
        for entry in self.fs.read_dir(folder).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let name = entry.file_name();
            let name = String::from_utf8_lossy(name.as_ref()).into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Reads a small file.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        self.fs.read(path).map_err(|e| self.cannot(path, e))
    }

    /// Reads a file piece by piece.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn stream(&self, path: &str, mut take: impl FnMut(&[u8])) -> Result<()> {
        let cannot = |e| self.cannot(path, e);
        let mut file = self.fs.open(path).map_err(cannot)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read_bytes(&mut buffer).map_err(cannot)? {
                0 => return Ok(()),
                length => take(&buffer[..length]),
            }
        }
    }

    fn cannot(&self, path: &str, error: ext4_view::Ext4Error) -> Error {
        Error::input(format!(
            "{}: cannot read {path} on the data partition",
            self.disk.display()
        ))
        .because(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_disk_that_was_switched_off_is_read_as_grub_sees_it() {
        let scratch = tempfile::tempdir().unwrap();
        let (disk, tree) = (scratch.path().join("disk"), scratch.path().join("tree"));
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("file"), b"content").unwrap();
        let (start, size) = (1 << 20, 64 << 20);
        let file = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&disk)
            .unwrap();
        file.set_len(start + size).unwrap();
        make(&disk, Range { start, size }, &tree).unwrap();
        // As the kernel leaves it while it is mounted.
        let place = start + INCOMPAT;
        let mut byte = [0];
        file.read_exact_at(&mut byte, place).unwrap();
        file.write_all_at(&[byte[0] | RECOVER], place).unwrap();
        let data = Data::open(&file, &disk, Range { start, size }).unwrap();
        assert_eq!(data.read("/file").unwrap(), b"content");
        assert_eq!(data.list("/").unwrap(), ["file", "lost+found"]);
    }
}
