//! Reading and writing files so that an error names the path, and nothing
//! half-made is ever left under the wanted name.

use crate::error::{Error, Result};
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// If it can't be read or is larger.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let size = fs::metadata(path).map_err(|e| cannot("read", path, e))?;
    if size.is_dir() {
        return Err(Error::input(format!(
            "cannot read {}: it is a folder",
            path.display()
        )));
    }
    if size.len() > limit {
        return Err(Error::input(format!(
            "{}: expected at most {limit} bytes, got {}",
            path.display(),
            size.len()
        )));
    }
    fs::read(path).map_err(|e| cannot("read", path, e))
}

/// Writes a file beside its final name, flushes it to the disk, and renames it:
/// whoever looks sees the old file or the whole new one. `mode` is the file's.
///
/// # Errors
/// If any of that fails; then nothing is left behind.
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = folder_of(path);
    let write = || -> io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(".imgtool-")
            .permissions(fs::Permissions::from_mode(mode))
            .tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        fs::File::open(folder)?.sync_all()
    };
    write().map_err(|e| cannot("write", path, e))
}

/// Writes a file that must not be there yet, as [`write_whole`].
///
/// # Errors
/// If it is there already, or as in [`write_whole`].
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = folder_of(path);
    let write = || -> io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(".imgtool-")
            .permissions(fs::Permissions::from_mode(mode))
            .tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path)?;
        fs::File::open(folder)?.sync_all()
    };
    write().map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => Error::input(format!(
            "{} is there already; it is never overwritten",
            path.display()
        )),
        _ => cannot("write", path, e),
    })
}

/// The folder that a path lies in.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// "cannot ⟨read⟩ ⟨path⟩", with the system's reason. A file that isn't there, or
/// may not be read, is the caller's input; anything else is the machine.
pub fn cannot(what: &str, path: &Path, error: io::Error) -> Error {
    let message = format!("cannot {what} {}", path.display());
    let error = without_path(error);
    match error.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::InvalidFilename => Error::input(message).because(error),
        _ => Error::failed(message).because(error),
    }
}

/// tempfile ends its errors with the temporary name, which means nothing to anybody.
fn without_path(error: io::Error) -> io::Error {
    match error.to_string().split_once(" at path \"") {
        Some((reason, _)) => io::Error::new(error.kind(), reason.to_owned()),
        None => error,
    }
}

/// Makes a folder and those above it, unless they are there.
///
/// # Errors
/// If one can't be made.
pub fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => {
            Error::input(format!("{}: expected a folder, got a file", path.display()))
        }
        _ => cannot("make the folder", path, e),
    })
}

/// Removes a file or a whole folder, if it is there.
///
/// # Errors
/// If it can't be removed.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot("remove", path, error)),
        _ => Ok(()),
    }
}

/// Refuses a tree in which a symlink with a relative target climbs out: such a
/// file would be read from the building host. Absolute targets mean the image's
/// own root and are right.
///
/// # Errors
/// If one does; the error names it.
pub fn stays_inside(tree: &Path) -> Result<()> {
    for entry in walkdir::WalkDir::new(tree).min_depth(1).sort_by_file_name() {
        let entry = entry
            .map_err(|e| Error::input(format!("cannot read {}", tree.display())).because(e))?;
        if !entry.path_is_symlink() {
            continue;
        }
        let path = entry.path();
        let target = fs::read_link(path).map_err(|e| cannot("read", path, e))?;
        let mut depth = entry.depth() as isize - 1;
        for part in target.components() {
            match part {
                std::path::Component::ParentDir => depth -= 1,
                std::path::Component::Normal(_) => depth += 1,
                _ => {}
            }
            if depth < 0 {
                return Err(Error::input(format!(
                    "{}: the symlink leaves the tree: {}",
                    path.display(),
                    target.display()
                )));
            }
        }
    }
    Ok(())
}

/// Sees a file's or a folder's content onto the disk.
///
/// # Errors
/// If the disk doesn't take it.
pub fn sync(path: &Path) -> Result<()> {
    fs::File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|e| cannot("write", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_symlink_may_not_climb_out_of_the_tree() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir(tree.path().join("etc")).unwrap();
        symlink("/usr/lib/os-release", tree.path().join("etc/a")).unwrap();
        symlink("../usr/lib/os-release", tree.path().join("etc/b")).unwrap();
        assert!(stays_inside(tree.path()).is_ok());
        symlink("../../outside", tree.path().join("etc/c")).unwrap();
        let message = stays_inside(tree.path()).unwrap_err().to_string();
        assert!(
            message.ends_with("etc/c: the symlink leaves the tree: ../../outside"),
            "{message}"
        );
    }
}
