//! Files written so that a cut at any moment leaves the old or the new one.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use cairn_release::Digest;
use cairn_release::digest::Hasher;
use rustix::fs::{Mode, OFlags};

/// Makes what a folder lists durable.
///
/// # Errors
/// If it can't be opened or flushed.
pub fn flush_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Writes a file under another name, flushes it, and renames it into place.
///
/// # Errors
/// If it can't be written.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = path
        .parent()
        .ok_or_else(|| io::Error::other("a path without a folder"))?;
    let mut file = tempfile::Builder::new()
        .prefix(".cairn-")
        .permissions(std::fs::Permissions::from_mode(0o644))
        .tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    flush_folder(folder)
}

/// Reads a regular file of at most `limit` bytes; follows no link.
///
/// # Errors
/// If it can't be read, or is larger.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_plain(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("is over the limit of {limit} bytes"),
        ));
    }
    Ok(bytes)
}

/// Opens a regular file; follows no link, and waits for no pipe.
///
/// # Errors
/// If it isn't one.
pub fn open_plain(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "is not a regular file",
        ));
    }
    Ok(file)
}

/// A file's digest, and its size.
///
/// # Errors
/// If it can't be read.
pub fn digest(mut file: File) -> io::Result<(Digest, u64)> {
    let (mut hasher, mut chunk, mut size) = (Hasher::default(), vec![0; 1 << 20], 0);
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok((hasher.finish(), size)),
            Ok(len) => {
                hasher.update(&chunk[..len]);
                size += len as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
