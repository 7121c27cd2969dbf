//! A published release on the disk: its seven files, and what its manifest says.

use std::io;
use std::path::Path;

use cairn_release::manifest;
use cairn_release::{Digest, Envelope, Manifest, Sequence, Version, name};
use serde::Serialize;

use super::files;

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

/// No manifest is larger, in bytes.
pub const MANIFEST_LIMIT: u64 = 4 << 20;

/// A release as others see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ReleaseInfo {
    /// Its name.
    #[schema(value_type = String)]
    pub version: Version,
    /// Its place in the order of releases.
    #[schema(value_type = u64)]
    pub sequence: Sequence,
    /// SHA-256 of the manifest's payload: what a release is remembered by.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Where it is published.
    #[schema(value_type = String)]
    pub channel: Version,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// Bytes of all files.
    pub size: u64,
    /// CPU architecture.
    pub architecture: String,
    /// Kinds of hardware that it is for.
    pub compatible: Vec<String>,
    /// What `uname -r` will say.
    pub kernel_version: String,
    /// The lowest sequence that may update to it.
    #[schema(value_type = u64)]
    pub minimum_sequence: Sequence,
    /// A word for people.
    pub notes: String,
    /// Its files.
    pub files: Vec<FileInfo>,
}

/// One file of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct FileInfo {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the file.
    #[schema(value_type = String)]
    pub sha256: Digest,
}

/// The digest that the manifest names for a file; none for the manifest itself.
pub fn named(manifest: &Manifest, file: &str) -> Option<Digest> {
    match file {
        name::KERNEL => Some(manifest.kernel.image.sha256),
        name::ROOT => Some(manifest.root.sha256),
        name::KERNEL_INDEX => Some(manifest.kernel.image.index),
        name::ROOT_INDEX => Some(manifest.root.index),
        name::SBOM => Some(manifest.sbom),
        name::CONTENTS => Some(manifest.contents),
        _ => None,
    }
}

impl ReleaseInfo {
    /// Reads what lies in a folder. It was checked when it was published; sizes are looked at again, digests are not.
    ///
    /// # Errors
    /// If a file is missing, has another size than the manifest says, or the manifest can't be read.
    pub fn open(folder: &Path, channel: &Version) -> io::Result<Self> {
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let bytes = files::read(&folder.join(name::MANIFEST), MANIFEST_LIMIT)?;
        let envelope = Envelope::parse(&bytes, manifest::PAYLOAD_TYPE)
            .map_err(|error| wrong(error.to_string()))?;
        let manifest =
            Manifest::from_payload(&envelope.payload).map_err(|error| wrong(error.to_string()))?;
        let mut list = Vec::new();
        for file in FILES {
            let path = folder.join(file);
            let size = files::open_plain(&path)
                .and_then(|file| file.metadata())
                .map_err(|error| wrong(format!("{file}: {error}")))?
                .len();
            let expected = match file {
                name::KERNEL => manifest.kernel.image.size,
                name::ROOT => manifest.root.size,
                _ => size,
            };
            if size != expected {
                return Err(wrong(format!(
                    "{file} has {size} bytes, the manifest says {expected}"
                )));
            }
            let sha256 = named(&manifest, file).unwrap_or_else(|| Digest::of(&bytes));
            list.push(FileInfo {
                name: file.into(),
                size,
                sha256,
            });
        }
        Ok(Self {
            version: manifest.version,
            sequence: manifest.sequence,
            digest: Digest::of(&envelope.payload),
            channel: channel.clone(),
            created: manifest.created.unix(),
            size: list.iter().map(|file| file.size).sum(),
            architecture: manifest.architecture,
            compatible: manifest.compatible,
            kernel_version: manifest.kernel.kernel_version,
            minimum_sequence: manifest.minimum_sequence,
            notes: manifest.notes,
            files: list,
        })
    }

    /// One of its files.
    pub fn file(&self, name: &str) -> Option<&FileInfo> {
        self.files.iter().find(|file| file.name == name)
    }
}
