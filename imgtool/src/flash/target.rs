//! What may be written to: a new image file, or a whole disk that nobody uses and
//! that is plainly the one meant.

use crate::error::{Error, Result};
use crate::files::cannot;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// What is known of a block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its path.
    pub path: PathBuf,
    /// Whether it is a whole disk, not a partition.
    pub whole: bool,
    /// Whether the kernel calls it removable.
    pub removable: bool,
    /// The serial number, if it has one.
    pub serial: Option<String>,
    /// Where it, or a part of it, is mounted or otherwise in use.
    pub used: Vec<String>,
}

impl Facts {
    /// Whether it may be written to, when the user named `serial`.
    ///
    /// # Errors
    /// If not, with the way to say that it is meant.
    pub fn decide(&self, serial: Option<&str>) -> Result<()> {
        let path = self.path.display();
        if !self.whole {
            return Err(Error::refused(format!(
                "{path} is a partition, not a whole disk"
            )));
        }
        if let (Some(told), found) = (serial, self.serial.as_deref())
            && found != Some(told)
        {
            return Err(Error::refused(format!(
                "{path}: expected the serial number {told:?}, got {}",
                found.map_or_else(|| "none".into(), |found| format!("{found:?}"))
            )));
        }
        if !self.used.is_empty() {
            return Err(
                Error::refused(format!("{path} is in use: {}", self.used.join(", ")))
                    .hint("unmount it first; a disk that is in use is never written to"),
            );
        }
        if serial.is_some() {
            return Ok(());
        }
        let way = match &self.serial {
            Some(serial) => format!("if this is the disk to erase, say so with --serial {serial}"),
            None => {
                "it has no serial number by which it could be named; write an image file instead"
                    .into()
            }
        };
        if !self.removable {
            return Err(Error::refused(format!("{path} is not a removable disk")).hint(way));
        }
        Ok(())
    }

    /// Looks a block device up.
    ///
    /// # Errors
    /// If the kernel doesn't tell of it.
    pub fn of(path: &Path) -> Result<Self> {
        let meta = fs::metadata(path).map_err(|e| cannot("open", path, e))?;
        let id = meta.rdev();
        let (major, minor) = (rustix::fs::major(id), rustix::fs::minor(id));
        let sys = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
        let sys = sys.canonicalize().map_err(|e| cannot("look up", path, e))?;
        let read = |name: &str| {
            let text = fs::read(sys.join(name)).ok()?;
            let text = String::from_utf8_lossy(&text)
                .trim_matches(['\0', '\n', ' '])
                .to_owned();
            Some(text).filter(|text| !text.is_empty())
        };
        let serial = ["serial", "device/serial", "loop/backing_file"]
            .iter()
            .find_map(|name| read(name))
            .or_else(|| udev_serial(major, minor));
        Ok(Self {
            path: path.to_owned(),
            whole: !sys.join("partition").exists(),
            removable: read("removable").as_deref() == Some("1"),
            serial,
            used: used(&sys, &format!("{major}:{minor}")),
        })
    }
}

/// What udev found out by asking the disk.
fn udev_serial(major: u32, minor: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/run/udev/data/b{major}:{minor}")).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("E:ID_SERIAL_SHORT="))
        .map(str::to_owned)
}

/// Mounts, swap and mappings of a disk and its partitions.
fn used(sys: &Path, own: &str) -> Vec<String> {
    let mut ids = vec![(own.to_owned(), sys.to_owned())];
    for entry in fs::read_dir(sys).into_iter().flatten().flatten() {
        if entry.path().join("partition").exists()
            && let Ok(id) = fs::read_to_string(entry.path().join("dev"))
        {
            ids.push((id.trim().to_owned(), entry.path()));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let mut used = Vec::new();
    for (id, folder) in ids {
        let name = folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        for line in mounts.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            if let [_, _, device, _, place, ..] = words[..]
                && device == id
            {
                used.push(format!("{name} is mounted on {place}"));
            }
        }
        if swaps
            .lines()
            .any(|line| line.starts_with(&format!("/dev/{name} ")))
        {
            used.push(format!("{name} is swap"));
        }
        for holder in fs::read_dir(folder.join("holders"))
            .into_iter()
            .flatten()
            .flatten()
        {
            used.push(format!(
                "{name} is held by {}",
                holder.file_name().to_string_lossy()
            ));
        }
    }
    used
}

/// An open target.
pub struct Target {
    /// The open file or device.
    pub file: File,
    /// The path to write to: for an image, a partial file beside the wanted name.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Bytes in a sector.
    pub sector: u64,
    partial: Option<tempfile::TempPath>,
    wanted: PathBuf,
}

impl Target {
    /// Opens a disk, or begins an image of `size` bytes.
    ///
    /// # Errors
    /// If it may not be written to, or can't be.
    pub fn open(
        wanted: &Path,
        size: Option<u64>,
        default_size: u64,
        serial: Option<&str>,
    ) -> Result<Self> {
        match fs::metadata(wanted) {
            Ok(meta) if meta.file_type().is_block_device() => Self::device(wanted, size, serial),
            Ok(_) => Err(
                Error::input(format!("{} is there already", wanted.display()))
                    .hint("flash writes a new image file, or a block device"),
            ),
            Err(_) => Self::image(wanted, size.unwrap_or(default_size), serial),
        }
    }

    fn device(path: &Path, size: Option<u64>, serial: Option<&str>) -> Result<Self> {
        if size.is_some() {
            return Err(Error::input(
                "--size is for image files; a disk is used whole",
            ));
        }
        Facts::of(path)?.decide(serial)?;
        // O_EXCL on a block device fails while anything uses it. It can't be kept:
        // mkfs.ext4 asks for it too, and refuses the disk otherwise.
        let exclusive = rustix::fs::OFlags::EXCL.bits().cast_signed();
        let open = |flags| {
            File::options()
                .read(true)
                .write(true)
                .custom_flags(flags)
                .open(path)
                .map_err(|e| cannot("open", path, e))
        };
        drop(open(exclusive)?);
        let mut file = open(0)?;
        let size = file
            .seek(SeekFrom::End(0))
            .map_err(|e| cannot("read", path, e))?;
        let sector = u64::from(
            rustix::fs::ioctl_blksszget(&file).map_err(|e| cannot("read", path, e.into()))?,
        );
        Ok(Self {
            file,
            path: path.to_owned(),
            size,
            sector,
            partial: None,
            wanted: path.to_owned(),
        })
    }

    fn image(wanted: &Path, size: u64, serial: Option<&str>) -> Result<Self> {
        if serial.is_some() {
            return Err(Error::input(format!(
                "--serial is for disks; {} is none",
                wanted.display()
            )));
        }
        let partial = tempfile::Builder::new()
            .prefix(".imgtool-")
            .suffix(".partial")
            .tempfile_in(crate::files::folder_of(wanted))
            .map_err(|e| cannot("write", wanted, e))?;
        let (file, partial) = partial.into_parts();
        file.set_len(size).map_err(|e| cannot("write", wanted, e))?;
        let path = partial.to_path_buf();
        Ok(Self {
            file,
            path,
            size,
            sector: 512,
            partial: Some(partial),
            wanted: wanted.to_owned(),
        })
    }

    /// A folder for what goes onto the disk: beside an image, so that files can be
    /// linked; never beside a device, where everything lies in memory.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn folder_beside(&self) -> std::io::Result<tempfile::TempDir> {
        match &self.partial {
            Some(partial) => tempfile::Builder::new()
                .prefix(".imgtool-")
                .tempdir_in(crate::files::folder_of(partial)),
            None => tempfile::tempdir(),
        }
    }

    /// Everything that was written is on the disk, and is read from there next.
    ///
    /// # Errors
    /// If the disk doesn't take it.
    pub fn settle(&self) -> Result<()> {
        self.file
            .sync_all()
            .map_err(|e| cannot("write", &self.wanted, e))?;
        // For a device and a file alike: what is cached and clean is dropped.
        rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed)
            .map_err(|e| cannot("read back", &self.wanted, e.into()))
    }

    /// The target is good: an image gets its name, and this mode.
    ///
    /// # Errors
    /// If it can't be renamed.
    pub fn keep(self, mode: u32) -> Result<()> {
        let Some(partial) = self.partial else {
            return Ok(());
        };
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&partial, fs::Permissions::from_mode(mode))
            .map_err(|e| cannot("write", &self.wanted, e))?;
        partial
            .persist_noclobber(&self.wanted)
            .map_err(|e| cannot("write", &self.wanted, e.error))?;
        crate::files::sync(crate::files::folder_of(&self.wanted))
    }

    /// Makes sure that nobody takes a disk for whole that isn't: no partition table
    /// at either end. (An image that isn't kept vanishes by itself.)
    ///
    /// # Errors
    /// If the disk doesn't take it.
    pub fn wipe(&mut self) -> Result<()> {
        use std::os::unix::fs::FileExt as _;
        let zeroes = vec![0; 1 << 20];
        let end = self.size.saturating_sub(zeroes.len() as u64);
        for place in [0, end] {
            self.file
                .write_all_at(&zeroes, place)
                .map_err(|e| cannot("write", &self.wanted, e))?;
        }
        self.settle()?;
        let mut first = [0; 512];
        self.file
            .seek(SeekFrom::Start(0))
            .map_err(|e| cannot("read", &self.wanted, e))?;
        self.file
            .read_exact(&mut first)
            .map_err(|e| cannot("read", &self.wanted, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_disk_that_is_plainly_meant_is_written_to() {
        let stick = Facts {
            path: "/dev/sdx".into(),
            whole: true,
            removable: true,
            serial: Some("S1".into()),
            used: vec![],
        };
        let fixed = Facts {
            removable: false,
            ..stick.clone()
        };
        let mounted = Facts {
            used: vec!["sdx1 is mounted on /mnt".into()],
            ..stick.clone()
        };
        let partition = Facts {
            whole: false,
            ..stick.clone()
        };
        let nameless = Facts {
            serial: None,
            ..fixed.clone()
        };
        let cases = [
            (&stick, None, ""),
            (&stick, Some("S1"), ""),
            (
                &stick,
                Some("S2"),
                "/dev/sdx: expected the serial number \"S2\", got \"S1\"",
            ),
            (&fixed, None, "/dev/sdx is not a removable disk"),
            (&fixed, Some("S1"), ""),
            (
                &mounted,
                None,
                "/dev/sdx is in use: sdx1 is mounted on /mnt",
            ),
            (
                &partition,
                Some("S1"),
                "/dev/sdx is a partition, not a whole disk",
            ),
            (&nameless, None, "/dev/sdx is not a removable disk"),
            (
                &nameless,
                Some("S1"),
                "/dev/sdx: expected the serial number \"S1\", got none",
            ),
        ];
        for (facts, serial, message) in cases {
            let got = facts
                .decide(serial)
                .map_or_else(|e| e.to_string(), |()| String::new());
            assert_eq!(got, message);
        }
        assert!(
            fixed
                .decide(None)
                .unwrap_err()
                .way_out()
                .unwrap()
                .ends_with("--serial S1")
        );
    }
}
