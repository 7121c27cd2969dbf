//! A release on disk: a folder with its seven files, read without trusting a word.
//!
//! An image is read once; its digest, its block index and its verity tree are
//! all taken on the way.

use crate::console::Step;
use crate::error::{Error, Result};
use crate::files;
use cairn_release::index::BlockIndex;
use cairn_release::manifest::Image;
use cairn_release::verity::Builder;
use cairn_release::{BLOCK, Digest, Envelope, Manifest, digest::Hasher, manifest, name};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Every file of a release, the manifest first.
pub const FILES: [&str; 7] = [
    name::MANIFEST,
    name::KERNEL,
    name::ROOT,
    name::KERNEL_INDEX,
    name::ROOT_INDEX,
    name::SBOM,
    name::CONTENTS,
];

/// No manifest, index, bill of materials or list of files is larger.
const SMALL: u64 = 512 * 1024 * 1024;
/// No manifest is larger.
const MANIFEST_LIMIT: u64 = 4 * 1024 * 1024;
const CHUNK: usize = 256 * BLOCK;

/// A release folder whose manifest was read, but not judged.
#[derive(Debug)]
pub struct ReleaseFolder {
    /// Where it lies.
    pub path: PathBuf,
    /// The manifest's bytes.
    pub envelope_bytes: Vec<u8>,
    /// The manifest with its signatures.
    pub envelope: Envelope,
    /// What the manifest says.
    pub manifest: Manifest,
}

impl ReleaseFolder {
    /// Opens a folder and reads its manifest.
    ///
    /// # Errors
    /// If one of the seven files is missing, or isn't a regular file; or if the
    /// manifest can't be read.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let folder = path
            .metadata()
            .map_err(|e| files::cannot("read", path, e))?;
        if !folder.is_dir() {
            return Err(Error::input(format!(
                "expected a release folder, got the file {shown}"
            )));
        }
        for file in FILES {
            open_plain(&path.join(file))?;
        }
        let manifest_path = path.join(name::MANIFEST);
        let envelope_bytes = files::read(&manifest_path, MANIFEST_LIMIT)?;
        let cannot = || Error::input(format!("cannot read {}", manifest_path.display()));
        let envelope = Envelope::parse(&envelope_bytes, manifest::PAYLOAD_TYPE)
            .map_err(|e| cannot().because(e))?;
        let manifest =
            Manifest::from_payload(&envelope.payload).map_err(|e| cannot().because(e))?;
        Ok(Self {
            path: path.to_owned(),
            envelope_bytes,
            envelope,
            manifest,
        })
    }

    /// The path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens one of its files.
    ///
    /// # Errors
    /// If it isn't there, or isn't a regular file.
    pub fn open_file(&self, name: &str) -> Result<File> {
        open_plain(&self.file(name))
    }

    /// Reads one of the small files whole.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        self.read_up_to(name, SMALL)
    }

    /// Reads a file of `limit` bytes at most whole.
    ///
    /// # Errors
    /// If it can't be read, or is longer.
    pub fn read_up_to(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let path = self.file(name);
        let cannot = |e| files::cannot("read", &path, e);
        let file = self.open_file(name)?;
        let size = file.metadata().map_err(cannot)?.len();
        if size > limit {
            let shown = path.display();
            return Err(Error::input(format!(
                "{shown}: expected at most {limit} bytes, got {size}"
            )));
        }
        let mut bytes = Vec::with_capacity(size as usize);
        file.take(limit).read_to_end(&mut bytes).map_err(cannot)?;
        Ok(bytes)
    }

    /// Reads a block index; it is not compared with the manifest.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn index(&self, name: &str) -> Result<BlockIndex> {
        BlockIndex::parse(self.read(name)?).map_err(|e| {
            Error::input(format!("cannot read {}", self.file(name).display())).because(e)
        })
    }

    /// Both images: file, index file, and what the manifest says of them.
    pub fn images(&self) -> [(&'static str, &'static str, &Image); 2] {
        [
            (
                name::KERNEL,
                name::KERNEL_INDEX,
                &self.manifest.kernel.image,
            ),
            (name::ROOT, name::ROOT_INDEX, &self.manifest.root),
        ]
    }

    /// Reads an image once and compares it with the manifest.
    ///
    /// # Errors
    /// If it can't be read; a difference is no error but a [`Reading`].
    pub fn read_image(&self, name: &str, expected: &Image, step: &Step) -> Result<Reading> {
        let path = self.file(name);
        let cannot = |e| files::cannot("read", &path, e);
        let mut file = self.open_file(name)?;
        let size = file.metadata().map_err(cannot)?.len();
        if size != expected.size {
            return Ok(Reading::Size(size));
        }
        Facts::read(&mut file, expected, step)
            .map(Reading::Whole)
            .map_err(cannot)
    }
}

/// What reading an image showed.
#[derive(Debug)]
pub enum Reading {
    /// It has another size than the manifest says, and wasn't read.
    Size(u64),
    /// It was read whole.
    Whole(Facts),
}

/// What an image's bytes say.
#[derive(Debug)]
pub struct Facts {
    /// Digest of the whole file.
    pub sha256: Digest,
    /// The block index, made anew.
    pub index: BlockIndex,
    /// The verity root hash of the data, computed anew.
    pub root_hash: Digest,
    /// Whether the tree in the file is the one that belongs to the data.
    pub tree_matches: bool,
}

impl Facts {
    fn read(file: &mut File, expected: &Image, step: &Step) -> io::Result<Self> {
        let (mut whole, mut index) = (Hasher::default(), BlockIndex::default());
        let mut tree = Builder::new(expected.verity.salt.clone());
        let data = expected.verity.hash_offset;
        let (mut at, mut stored) = (0u64, Vec::new());
        let mut chunk = vec![0; CHUNK];
        loop {
            let len = fill(file, &mut chunk)?;
            let bytes = &chunk[..len];
            whole.update(bytes);
            for block in bytes.chunks(BLOCK) {
                index.push(block);
                if at < data {
                    tree.push(block);
                } else {
                    stored.extend_from_slice(block);
                }
                at += block.len() as u64;
            }
            step.advance(len as u64);
            if len < CHUNK {
                break;
            }
        }
        let (made, verity) = tree.finish();
        Ok(Self {
            sha256: whole.finish(),
            index,
            root_hash: verity.root_hash,
            tree_matches: made == stored,
        })
    }

    /// The first bytes that differ from what `named` says, if any do.
    pub fn first_difference(&self, named: &BlockIndex) -> Option<(u64, usize)> {
        let pairs = || {
            self.index
                .as_bytes()
                .chunks(32)
                .zip(named.as_bytes().chunks(32))
        };
        let first = pairs().position(|(a, b)| a != b)?;
        Some((
            (first * BLOCK) as u64,
            pairs().filter(|(a, b)| a != b).count(),
        ))
    }
}

/// Reads until `buffer` is full or the file ends.
pub fn fill(file: &mut impl io::Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// Opens a regular file: a symbolic link could lead out of the release, and a
/// pipe would never end.
fn open_plain(path: &Path) -> Result<File> {
    let shown = path.display();
    let kind = path
        .symlink_metadata()
        .map_err(|e| files::cannot("read", path, e))?
        .file_type();
    if kind.is_symlink() {
        let target = std::fs::read_link(path).unwrap_or_default();
        return Err(Error::refused(format!(
            "{shown} is a symbolic link to {}; a release holds only regular files",
            target.display()
        )));
    }
    if !kind.is_file() {
        let got = if kind.is_dir() {
            "a folder"
        } else {
            "a device, pipe or socket"
        };
        return Err(Error::input(format!(
            "{shown}: expected a regular file, got {got}"
        )));
    }
    rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map(File::from)
    .map_err(|e| files::cannot("read", path, e.into()))
}
