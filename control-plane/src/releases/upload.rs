//! Releases that come in parts.
//!
//! An upload is a folder named by what it will become, so that who begins the same one again goes on where it stopped. Nothing is taken
//! before the manifest's signature is right, and no file grows beyond the size that was stated for it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use axum::http::StatusCode;
use cairn_release::{BLOCK, Digest, Envelope, Manifest, Version, manifest, name};
use serde::{Deserialize, Serialize};

use super::folder::{FILES, MANIFEST_LIMIT};
use super::trust::{self, TrustSetError};
use super::{Releases, files};
use crate::web::ApiError;

/// The folder of uploads, within that of the releases; no channel can be called so.
pub const FOLDER: &str = ".uploads";
/// What is known of an upload, beside its files.
pub(super) const STATE: &str = "upload.json";
/// Uploads open at once.
const MOST: usize = 16;
/// An upload that nobody touched for so long is removed.
const LIFE: Duration = Duration::from_secs(7 * 86_400);
/// No bill of materials or list of files is larger.
const SMALL: u64 = 512 << 20;
/// No image is larger.
const LARGE: u64 = 64 << 30;
/// Space that stays free on the disk.
const RESERVE: u64 = 64 << 20;

/// Begin an upload.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUpload {
    /// Where to publish it, as `stable`.
    #[schema(value_type = String)]
    pub channel: Version,
    /// The text of `manifest.dsse.json`, byte for byte.
    pub manifest: String,
    /// Bytes of every other file.
    pub sizes: BTreeMap<String, u64>,
    /// Leave `latest` as it is; allows an older release, too.
    #[serde(default)]
    pub keep_latest: bool,
}

/// What is kept of an upload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Its name.
    pub id: String,
    /// Where it will be published.
    pub channel: Version,
    /// What will be published.
    pub version: Version,
    /// Digest of the manifest's payload.
    pub digest: Digest,
    /// Bytes of every file but the manifest.
    pub sizes: BTreeMap<String, u64>,
    /// Whether `latest` stays.
    pub keep_latest: bool,
    /// Who began it.
    pub who: String,
    /// When, in seconds since 1970.
    pub created: i64,
}

/// An upload, and how far it is.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Upload {
    /// Its name; empty if the release is published already.
    pub id: String,
    /// Where it will be published.
    #[schema(value_type = String)]
    pub channel: Version,
    /// What will be published.
    #[schema(value_type = String)]
    pub version: Version,
    /// Digest of the manifest's payload.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Whether these very bytes are published already; then there is nothing to do.
    pub published: bool,
    /// What is still needed.
    pub files: Vec<Progress>,
}

/// How far a file is.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Progress {
    /// Its name.
    pub name: String,
    /// Bytes that it will have.
    pub size: u64,
    /// Bytes that are here: where to go on.
    pub received: u64,
}

/// The right to change an upload; gone when dropped.
pub struct Turn<'r> {
    releases: &'r Releases,
    id: String,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.releases
            .0
            .busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
    }
}

pub(super) fn untrusted(error: TrustSetError) -> ApiError {
    match error {
        TrustSetError::Unset => ApiError::conflict("trust-unset", error.to_string()),
        error => ApiError::internal(error),
    }
}

/// The text of an error and of all that caused it.
pub(super) fn chained(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// Removes what nobody touched for long, and what was never begun whole.
pub(super) fn sweep(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let whole =
            path.join(STATE).is_file() && !entry.file_name().to_string_lossy().starts_with('.');
        let newest = std::fs::read_dir(&path)
            .into_iter()
            .flatten()
            .filter_map(|file| file.ok()?.metadata().ok()?.modified().ok())
            .max();
        let old = newest.is_none_or(|newest| {
            SystemTime::now()
                .duration_since(newest)
                .is_ok_and(|age| age > LIFE)
        });
        if !whole || old {
            tracing::info!(upload = %path.display(), "an unfinished upload is removed");
            std::fs::remove_dir_all(&path)
                .or_else(|error| if path.exists() { Err(error) } else { Ok(()) })?;
        }
    }
    Ok(())
}

fn check_sizes(manifest: &Manifest, sizes: &BTreeMap<String, u64>) -> Result<(), ApiError> {
    let wrong = |message| Err(ApiError::bad("bad-sizes", message));
    for file in FILES.iter().skip(1) {
        let Some(&size) = sizes.get(*file) else {
            return wrong(format!("sizes lacks {file}"));
        };
        let image = match *file {
            name::KERNEL => Some(manifest.kernel.image.size),
            name::ROOT => Some(manifest.root.size),
            name::KERNEL_INDEX => Some(manifest.kernel.image.size.div_ceil(BLOCK as u64) * 32),
            name::ROOT_INDEX => Some(manifest.root.size.div_ceil(BLOCK as u64) * 32),
            _ => None,
        };
        if image.is_some_and(|expected| expected != size) {
            return wrong(format!(
                "{file} has {size} bytes, the manifest says {}",
                image.unwrap_or_default()
            ));
        }
        let most = if image.is_some() { LARGE } else { SMALL };
        if size > most {
            return wrong(format!("{file} has {size} bytes, more than {most}"));
        }
    }
    match sizes
        .keys()
        .find(|name| !FILES[1..].contains(&name.as_str()))
    {
        Some(name) => wrong(format!(
            "{:?} is no file of a release",
            name.chars().take(80).collect::<String>()
        )),
        None => Ok(()),
    }
}

impl Releases {
    /// [`Releases::begin`], as far as it is files.
    pub(super) fn begin_on_disk(&self, new: &NewUpload, who: &str) -> Result<Upload, ApiError> {
        let bytes = new.manifest.as_bytes();
        if bytes.len() as u64 > MANIFEST_LIMIT {
            return Err(ApiError::bad(
                "bad-manifest",
                format!("a manifest of {} bytes is too large", bytes.len()),
            ));
        }
        let (envelope, manifest) = self.judge(bytes)?;
        check_sizes(&manifest, &new.sizes)?;
        // Two who begin the same one get the same one.
        let _alone = self.0.publishing.blocking_lock();
        let digest = Digest::of(&envelope.payload);
        let id = Digest::of(format!("{}\n{}", new.channel, Digest::of(bytes)).as_bytes())
            .to_string()[..24]
            .to_owned();
        if self.may_publish(&new.channel, &manifest, digest, new.keep_latest)? {
            // If its last step failed, it is made good now.
            self.point_latest(&new.channel)?;
            return Ok(Upload {
                id: String::new(),
                channel: new.channel.clone(),
                version: manifest.version,
                digest,
                published: true,
                files: Vec::new(),
            });
        }
        let folder = self.uploads().join(&id);
        if folder.join(STATE).is_file() {
            let mut state = self.state(&id)?;
            if state.sizes != new.sizes {
                return Err(ApiError::conflict(
                    "other-sizes",
                    format!("upload {id} was begun with other sizes; remove it first"),
                ));
            }
            if state.keep_latest != new.keep_latest {
                state.keep_latest = new.keep_latest;
                files::write_whole(
                    &folder.join(STATE),
                    &serde_json::to_vec(&state).map_err(ApiError::internal)?,
                )?;
            }
            return self.progress(&state);
        }
        sweep(&self.uploads())?;
        if std::fs::read_dir(self.uploads())?.count() >= MOST {
            return Err(ApiError::conflict(
                "too-many-uploads",
                format!("{MOST} uploads are open; finish or remove one"),
            ));
        }
        self.room_for(
            new.sizes
                .values()
                .sum::<u64>()
                .saturating_add(bytes.len() as u64),
        )?;
        let state = State {
            id: id.clone(),
            channel: new.channel.clone(),
            version: manifest.version,
            digest,
            sizes: new.sizes.clone(),
            keep_latest: new.keep_latest,
            who: who.to_owned(),
            created: crate::people::now(),
        };
        let making = tempfile::Builder::new()
            .prefix(".new-")
            .tempdir_in(self.uploads())?;
        files::write_whole(&making.path().join(name::MANIFEST), bytes)?;
        files::write_whole(
            &making.path().join(STATE),
            &serde_json::to_vec(&state).map_err(ApiError::internal)?,
        )?;
        match std::fs::rename(making.path(), &folder) {
            Ok(()) => {
                let _ = making.keep();
            }
            // Somebody began the same one at the same time.
            Err(_) if folder.join(STATE).is_file() => {}
            Err(error) => return Err(error.into()),
        }
        files::flush_folder(&self.uploads())?;
        self.progress(&self.state(&id)?)
    }

    /// Reads a manifest and checks its signatures.
    pub(super) fn judge(&self, bytes: &[u8]) -> Result<(Envelope, Manifest), ApiError> {
        let newest = trust::newest(&self.0.trust).map_err(untrusted)?;
        let envelope = Envelope::parse(bytes, manifest::PAYLOAD_TYPE).map_err(|error| {
            ApiError::bad(
                "bad-manifest",
                format!("the manifest can't be read: {}", chained(&error)),
            )
        })?;
        let manifest = newest.trust.manifest(&envelope).map_err(|error| {
            ApiError::forbidden(
                "untrusted",
                format!("the manifest is not to be trusted: {}", chained(&error)),
            )
        })?;
        Ok((envelope, manifest))
    }

    /// Whether so many bytes more fit on the disk, beside what open uploads still need.
    pub(super) fn room_for(&self, bytes: u64) -> Result<(), ApiError> {
        let disk = rustix::fs::statvfs(&self.0.folder)
            .map_err(|error| ApiError::internal(std::io::Error::from(error)))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        // What other uploads still need is spoken for.
        let mut promised = 0_u64;
        for upload in self.open_uploads()? {
            promised += upload
                .files
                .iter()
                .map(|file| file.size.saturating_sub(file.received))
                .sum::<u64>();
        }
        let needed = bytes.saturating_add(promised).saturating_add(RESERVE);
        if needed > free {
            return Err(ApiError::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "disk-full",
                format!(
                    "{bytes} bytes are needed, and {} are free for them",
                    free.saturating_sub(promised + RESERVE)
                ),
            ));
        }
        Ok(())
    }

    /// The folder of an upload; refuses what can't be one's name.
    pub(super) fn upload_folder(&self, id: &str) -> Result<PathBuf, ApiError> {
        let good = id.len() == 24 && id.bytes().all(|b| b.is_ascii_hexdigit());
        let folder = self.uploads().join(id);
        if !good || !folder.join(STATE).is_file() {
            return Err(ApiError::not_found(format!(
                "upload {:?}",
                id.chars().take(40).collect::<String>()
            )));
        }
        Ok(folder)
    }

    pub(super) fn state(&self, id: &str) -> Result<State, ApiError> {
        let bytes = match files::read(&self.upload_folder(id)?.join(STATE), 1 << 20) {
            // It was published this very moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ApiError::not_found(format!("upload {id}")));
            }
            bytes => bytes?,
        };
        serde_json::from_slice(&bytes).map_err(ApiError::internal)
    }

    fn progress(&self, state: &State) -> Result<Upload, ApiError> {
        let folder = self.uploads().join(&state.id);
        let files = state
            .sizes
            .iter()
            .map(|(name, size)| Progress {
                name: name.clone(),
                size: *size,
                received: folder
                    .join(name)
                    .symlink_metadata()
                    .map_or(0, |file| file.len()),
            })
            .collect();
        Ok(Upload {
            id: state.id.clone(),
            channel: state.channel.clone(),
            version: state.version.clone(),
            digest: state.digest,
            published: false,
            files,
        })
    }

    /// How far an upload is.
    ///
    /// # Errors
    /// If there is none.
    pub fn upload(&self, id: &str) -> Result<Upload, ApiError> {
        self.progress(&self.state(id)?)
    }

    /// Every open upload.
    ///
    /// # Errors
    /// If the folder can't be read.
    pub fn open_uploads(&self) -> Result<Vec<Upload>, ApiError> {
        let mut open = Vec::new();
        for entry in std::fs::read_dir(self.uploads())? {
            let name = entry?.file_name();
            if let Some(Ok(upload)) = name.to_str().map(|id| self.upload(id)) {
                open.push(upload);
            }
        }
        open.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(open)
    }

    /// Takes the right to change an upload.
    ///
    /// # Errors
    /// 409 while somebody else has it.
    pub(super) fn turn(&self, id: &str) -> Result<Turn<'_>, ApiError> {
        let mut busy = self.0.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if !busy.insert(id.to_owned()) {
            return Err(ApiError::conflict(
                "upload-busy",
                format!("upload {id} is being written to by another request"),
            ));
        }
        Ok(Turn {
            releases: self,
            id: id.to_owned(),
        })
    }

    /// Removes an upload.
    pub(super) fn remove_upload(&self, id: &str) -> Result<(), ApiError> {
        let folder = self.upload_folder(id)?;
        let _turn = self.turn(id)?;
        // Without its state it is none any more, wherever the removal is cut.
        std::fs::remove_file(folder.join(STATE))?;
        Ok(std::fs::remove_dir_all(&folder)?)
    }
}
