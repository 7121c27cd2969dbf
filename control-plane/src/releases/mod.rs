//! The release store: `DATA/releases/<channel>/<version>/…`, laid out as `imgtool publish` does, so that any HTTP server
//! could serve the folder.
//!
//! ```text
//! DATA/releases/<channel>/<version>/…          the release's seven files
//! DATA/releases/<channel>/<version>/patches/…  patches that lead to it, unsigned
//! DATA/releases/<channel>/trust/<n>.dsse.json  the trust roots
//! DATA/releases/<channel>/latest.dsse.json     a copy of the newest release's manifest
//! DATA/releases/.uploads/<id>/…                what is still on its way
//! DATA/trust/<n>.dsse.json                     the trust roots that uploads are checked against
//! ```
//!
//! What is published is what lies in the folders, which are read at the start. A release is renamed into place whole,
//! once every file is on the disk and has the digest that its signed manifest names. Cut at any point, a client sees the old
//! state or the new one.
//!
//! | Module | Owns |
//! |---|---|
//! | [`folder`] | a published release on the disk |
//! | [`trust`] | the trust roots |
//! | [`upload`] | releases that come in parts |
//! | `receive` | their bytes, as they come |
//! | [`publish`] | from a whole upload to a published release, and back |
//! | [`patches`] | patches of published releases |
//! | [`serve`] | release files over HTTP, with ranges |
//! | [`rest`] | people's side |

pub mod files;
pub mod folder;
pub mod patches;
pub mod publish;
pub mod range;
mod receive;
pub mod rest;
pub mod serve;
pub mod trust;
pub mod upload;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use cairn_release::Version;

pub use folder::{FileInfo, ReleaseInfo};
pub use serve::router;
pub use trust::set_trust;

use crate::store::Store;

/// The release store; clones share it.
#[derive(Clone)]
pub struct Releases(Arc<Inner>);

struct Inner {
    store: Store,
    /// `DATA/releases`.
    folder: PathBuf,
    /// `DATA/trust`.
    trust: PathBuf,
    /// By channel and version.
    published: RwLock<BTreeMap<(Version, Version), Arc<ReleaseInfo>>>,
    /// Uploads that are being written to.
    busy: Mutex<HashSet<String>>,
    /// Digests of patches.
    digests: patches::Digests,
    /// One change of what is published at a time.
    publishing: tokio::sync::Mutex<()>,
}

/// The release store can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct ReleasesError {
    path: String,
    source: io::Error,
}

impl Releases {
    /// Opens the store below `data_dir`; makes it if there is none. What a cut has left is finished or removed.
    ///
    /// # Errors
    /// If the folders can't be read or written.
    pub fn open(data_dir: &Path, store: Store) -> Result<Self, ReleasesError> {
        let folder = data_dir.join("releases");
        let at = |source| ReleasesError {
            path: folder.display().to_string(),
            source,
        };
        std::fs::create_dir_all(folder.join(upload::FOLDER)).map_err(at)?;
        upload::sweep(&folder.join(upload::FOLDER)).map_err(at)?;
        let mut published = BTreeMap::new();
        for channel in trust::channels(&folder).map_err(at)? {
            for release in scan(&folder.join(channel.as_str()), &channel).map_err(at)? {
                published.insert(
                    (channel.clone(), release.version.clone()),
                    Arc::new(release),
                );
            }
        }
        let releases = Self(Arc::new(Inner {
            store,
            trust: data_dir.join("trust"),
            folder: folder.clone(),
            published: RwLock::new(published),
            busy: Mutex::default(),
            digests: patches::Digests::default(),
            publishing: tokio::sync::Mutex::default(),
        }));
        for channel in trust::channels(&folder).map_err(at)? {
            releases.point_latest(&channel).map_err(at)?;
        }
        Ok(releases)
    }

    /// A release by its version, in whichever channel: a version is the same everywhere.
    pub fn get(&self, version: &Version) -> Option<ReleaseInfo> {
        let published = self
            .0
            .published
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        published
            .values()
            .find(|release| release.version == *version)
            .map(|release| ReleaseInfo::clone(release))
    }

    /// A release of a channel.
    pub fn get_in(&self, channel: &Version, version: &Version) -> Option<Arc<ReleaseInfo>> {
        let published = self
            .0
            .published
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        published.get(&(channel.clone(), version.clone())).cloned()
    }

    /// Every release, by channel, the newest first.
    pub fn list(&self) -> Vec<Arc<ReleaseInfo>> {
        let mut all: Vec<_> = self
            .0
            .published
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect();
        all.sort_by(|a, b| a.channel.cmp(&b.channel).then(b.sequence.cmp(&a.sequence)));
        all
    }

    fn channel(&self, channel: &Version) -> PathBuf {
        self.0.folder.join(channel.as_str())
    }

    fn uploads(&self) -> PathBuf {
        self.0.folder.join(upload::FOLDER)
    }
}

/// The releases in a channel's folder. One that can't be read is told in the log, and left alone.
fn scan(channel_folder: &Path, channel: &Version) -> io::Result<Vec<ReleaseInfo>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(channel_folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(Ok(version)) = name.to_str().map(str::parse::<Version>) else {
            if name.to_string_lossy().starts_with(publish::REMOVED) {
                std::fs::remove_dir_all(entry.path())?;
            }
            continue;
        };
        if !entry.file_type()?.is_dir() || version.as_str() == "trust" {
            continue;
        }
        // A cut came right after the rename.
        match std::fs::remove_file(entry.path().join(upload::STATE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        match ReleaseInfo::open(&entry.path(), channel) {
            Ok(release) if release.version == version => found.push(release),
            Ok(release) => {
                tracing::error!(folder = %entry.path().display(), version = %release.version, "a release in another one's folder is not served")
            }
            Err(error) => {
                tracing::error!(folder = %entry.path().display(), %error, "a release can't be read and is not served")
            }
        }
    }
    Ok(found)
}
