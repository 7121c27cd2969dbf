//! The image below what is mounted over it: `/etc` as it was baked in.
//!
//! A clone of the root's mount (`open_tree(2)`) has none of the mounts that lie over it, needs no place, and is gone with its descriptor.

use std::collections::BTreeMap;
use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cairn_release::digest::Hasher;
use cairn_tamper::etc::{Entry, Thing};
use rustix::fs::{CWD, OFlags};
use rustix::mount::{OpenTreeFlags, open_tree};

/// A longer file is told by its size alone, in bytes.
const HASHED: u64 = 16 << 20;
/// The longest file that is read as text, in bytes.
const TEXT: u64 = 256 << 10;

/// A tree of files.
#[derive(Debug)]
pub struct Image {
    root: PathBuf,
    _mount: OwnedFd,
}

impl Image {
    /// What is mounted at `root`, without what is mounted in it.
    ///
    /// # Errors
    /// If this isn't Linux 5.2 or newer, or the caller may not mount.
    pub fn below(root: &Path) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let mount = open_tree(CWD, root, flags)?;
        Ok(Self {
            root: PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd())),
            _mount: mount,
        })
    }

    /// Where a file of the image can be read.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The text of a file; empty if it isn't there.
    pub fn text(&self, path: &str) -> String {
        bytes(&self.path(path))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Whether a file, as it is seen now below `root`, has the same bytes as the image's.
    pub fn has(&self, root: &Path, path: &str) -> bool {
        let seen = bytes(&root.join(path.trim_start_matches('/')));
        let baked = bytes(&self.path(path));
        matches!((seen, baked), (Ok(seen), Ok(baked)) if seen == baked)
    }
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    file.take(TEXT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > TEXT {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// A file as it was when its digest was taken: inode, size, and when it last changed.
type Stamp = (u64, u64, i64, i64);

/// Digests of files, taken again only when a file has changed.
#[derive(Debug, Default)]
pub struct Digests {
    kept: BTreeMap<PathBuf, (Stamp, String)>,
    used: BTreeMap<PathBuf, (Stamp, String)>,
}

impl Digests {
    /// What is at `path`; none if nothing is.
    ///
    /// # Errors
    /// If that can't be told.
    pub fn entry(&mut self, path: &Path) -> io::Result<Option<Entry>> {
        let about = match fs::symlink_metadata(path) {
            Ok(about) => about,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let kind = about.file_type();
        let thing = if kind.is_file() {
            Thing::File {
                size: about.len(),
                sha256: self.digest(path, &about),
            }
        } else if kind.is_symlink() {
            let to = fs::read_link(path)?.to_string_lossy().into_owned();
            Thing::Link { to }
        } else if kind.is_dir() {
            Thing::Folder
        } else if kind.is_char_device() && about.rdev() == 0 {
            // How overlayfs hides what is below.
            Thing::Nothing
        } else {
            Thing::Special
        };
        Ok(Some(Entry {
            thing,
            mode: about.mode() & 0o7777,
            owner: (about.uid(), about.gid()),
        }))
    }

    fn digest(&mut self, path: &Path, about: &Metadata) -> String {
        let stamp = (about.ino(), about.len(), about.ctime(), about.ctime_nsec());
        let kept = self.kept.remove(path).filter(|(then, _)| *then == stamp);
        let digest = kept.map(|(_, digest)| digest).unwrap_or_else(|| {
            if about.len() > HASHED {
                return "unknown: too large".to_owned();
            }
            match hash(path) {
                Ok(digest) => digest,
                Err(error) => format!("unknown: {error}"),
            }
        });
        self.used.insert(path.to_owned(), (stamp, digest.clone()));
        digest
    }

    /// Forgets files that weren't looked at since the last call.
    pub fn forget_unused(&mut self) {
        self.kept = std::mem::take(&mut self.used);
    }
}

fn hash(path: &Path) -> io::Result<String> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    let mut file = file.take(HASHED);
    let (mut hasher, mut part) = (Hasher::default(), vec![0; 64 << 10]);
    loop {
        match file.read(&mut part)? {
            0 => return Ok(hasher.finish().to_string()),
            read => hasher.update(&part[..read]),
        }
    }
}
