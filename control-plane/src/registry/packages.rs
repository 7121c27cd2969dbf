//! Packages that ThingsBoard's clients fetch in chunks: an operator puts one in, and names it in a device's shared attributes
//! (`fw_title`, `fw_version`, or `sw_…`). A device gets the package that its own attributes name, and no other.

use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cairn_wire::topic::Package;
use rusqlite::{Connection, OptionalExtension, params};
use sha2::Digest;

use super::attributes::{self, Scope};
use crate::ca::now;
use crate::store::StoreError;

/// A package can't be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A file.
    #[error("cannot use {path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for PackageError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// A stored package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Bytes.
    pub size: u64,
    /// SHA-256 in hex.
    pub sha256: String,
}

fn folder(data: &Path) -> PathBuf {
    data.join("packages")
}

/// Puts a package in, or another one in its place.
///
/// # Errors
/// If the file can't be copied, or the database says no.
pub fn add(
    connection: &Connection,
    data: &Path,
    kind: Package,
    title: &str,
    version: &str,
    file: &Path,
) -> Result<Stored, PackageError> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |source| PackageError::File { path, source }
    };
    let folder = folder(data);
    std::fs::create_dir_all(&folder).map_err(failed(&folder))?;
    let tail: [u8; 6] = rand::random();
    let beside = folder.join(format!(".{}.new", hex::encode(tail)));
    let copied = copy(file, &beside).map_err(failed(file));
    let (size, sha256) = match copied {
        Ok(copied) => copied,
        Err(error) => {
            let _ = std::fs::remove_file(&beside);
            return Err(error);
        }
    };
    let place = folder.join(&sha256);
    std::fs::rename(&beside, &place).map_err(failed(&place))?;
    std::fs::File::open(&folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed(&folder))?;
    connection.execute(
        "INSERT INTO package (kind, title, version, size, sha256, created) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO UPDATE SET size = excluded.size, sha256 = excluded.sha256, created = excluded.created",
        params![kind.as_str(), title, version, i64::try_from(size).unwrap_or(i64::MAX), sha256, now()],
    )?;
    Ok(Stored { size, sha256 })
}

fn copy(from: &Path, to: &Path) -> std::io::Result<(u64, String)> {
    let mut source = std::fs::File::open(from)?;
    let mut target = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    let (mut hash, mut size) = (sha2::Sha256::new(), 0);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = source.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
        target.write_all(&buffer[..count])?;
        size += count as u64;
    }
    target.sync_all()?;
    Ok((size, hex::encode(hash.finalize())))
}

/// The package that a device's shared attributes name; `None` also if the device asks for another title and version than that.
///
/// # Errors
/// The database's.
pub fn assigned(
    connection: &Connection,
    device: &str,
    kind: Package,
    asked: Option<(&str, &str)>,
) -> Result<Option<Stored>, StoreError> {
    let (title, version) = (
        format!("{}_title", kind.as_str()),
        format!("{}_version", kind.as_str()),
    );
    let named = attributes::get(connection, device, Scope::Shared, Some(&[&title, &version]))?;
    let text = |key: &str| named.get(key).and_then(|value| value.as_str());
    let (Some(title), Some(version)) = (text(&title), text(&version)) else {
        return Ok(None);
    };
    if asked.is_some_and(|asked| asked != (title, version)) {
        return Ok(None);
    }
    Ok(connection
        .prepare_cached(
            "SELECT size, sha256 FROM package WHERE kind = ?1 AND title = ?2 AND version = ?3",
        )?
        .query_row([kind.as_str(), title, version], |row| {
            Ok(Stored {
                size: row.get::<_, i64>(0)?.unsigned_abs(),
                sha256: row.get(1)?,
            })
        })
        .optional()?)
}

/// One chunk; shorter at the end, empty behind it. `length` 0 means all of it, up to `limit`. Blocks.
///
/// # Errors
/// If the file can't be read.
pub fn chunk(
    data: &Path,
    stored: &Stored,
    length: u64,
    number: u64,
    limit: u64,
) -> Result<Vec<u8>, PackageError> {
    let path = folder(data).join(&stored.sha256);
    let length = if length == 0 { stored.size } else { length }.min(limit);
    let start = length.saturating_mul(number).min(stored.size);
    let count = usize::try_from(length.min(stored.size - start)).unwrap_or(0);
    let mut bytes = vec![0; count];
    std::fs::File::open(&path)
        .and_then(|file| file.read_exact_at(&mut bytes, start))
        .map_err(|source| PackageError::File {
            path: path.display().to_string(),
            source,
        })?;
    Ok(bytes)
}
