//! From a whole upload to a published release, and back.

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use cairn_release::{Digest, Manifest, Version, name};
use rusqlite::Connection;
use serde_json::json;

use super::folder::{FILES, MANIFEST_LIMIT, ReleaseInfo, named};
use super::upload::{NewUpload, STATE, Upload, chained, untrusted};
use super::{Releases, files, trust};
use crate::people::audit;
use crate::web::ApiError;

/// Name of the folder of trust roots.
pub const TRUST: &str = "trust";
/// Name of the pointer to the newest release.
pub const LATEST: &str = "latest.dsse.json";
/// What a release is renamed to before it is removed begins so.
pub const REMOVED: &str = ".removed-";
/// Says that a release was published without becoming the latest.
const KEPT_BACK: &str = ".kept-back";

/// Refuses a version that once was published with another manifest, even if it was removed since: nodes may have it.
fn never_another(
    connection: &Connection,
    version: &Version,
    digest: Digest,
) -> Result<(), ApiError> {
    let other: bool = connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM release WHERE version = ?1 AND digest <> ?2)",
        )?
        .query_row([version.to_string(), digest.to_string()], |row| row.get(0))?;
    if other {
        return Err(ApiError::conflict(
            "version-taken",
            format!(
                "version {version} was published with another manifest; a version never changes"
            ),
        ));
    }
    Ok(())
}

/// A rollout that is started, hasn't ended and brings this release.
fn in_use(connection: &Connection, channel: &str, version: &str) -> Result<Option<i64>, ApiError> {
    let rollout = connection
        .prepare_cached(
            "SELECT max(id) FROM rollout
             WHERE channel = ?1 AND version = ?2 AND status IN ('running', 'paused', 'halted')",
        )?
        .query_row([channel, version], |row| row.get(0))?;
    Ok(rollout)
}

impl Releases {
    /// Begins an upload, or finds the one that was begun before.
    ///
    /// # Errors
    /// If the manifest isn't signed as the trust root wants, a size can't be, the version is taken, or the disk is too full.
    pub async fn begin(&self, new: NewUpload, who: &str) -> Result<Upload, ApiError> {
        let (releases, begun_by) = (self.clone(), who.to_owned());
        let upload = tokio::task::spawn_blocking(move || releases.begin_on_disk(&new, &begun_by))
            .await
            .map_err(ApiError::internal)??;
        let (begun, who) = (upload.clone(), who.to_owned());
        let noted = self.0.store.write(move |tx| {
            never_another(tx, &begun.version, begun.digest)?;
            if begun.published {
                return Ok(());
            }
            let detail = json!({ "channel": begun.channel, "version": begun.version, "digest": begun.digest });
            Ok::<_, ApiError>(audit(tx, &who, "upload.begin", &format!("upload/{}", begun.id), &detail)?)
        });
        if let Err(error) = noted.await {
            if error.code == "version-taken" && !upload.published {
                let _ = self.remove_upload(&upload.id);
            }
            return Err(error);
        }
        Ok(upload)
    }

    /// Gives an upload up.
    ///
    /// # Errors
    /// If there is none, or it is busy.
    pub async fn give_up(&self, id: &str, who: &str) -> Result<(), ApiError> {
        self.upload_folder(id)?;
        let (subject, who) = (format!("upload/{id}"), who.to_owned());
        self.0
            .store
            .write::<_, ApiError, _>(move |tx| {
                Ok(audit(tx, &who, "upload.remove", &subject, &json!({}))?)
            })
            .await?;
        let (releases, id) = (self.clone(), id.to_owned());
        tokio::task::spawn_blocking(move || releases.remove_upload(&id))
            .await
            .map_err(ApiError::internal)?
    }

    /// Whether this release is published already, with the same bytes.
    ///
    /// # Errors
    /// If it must not be published: another one has its version, or it is older than the latest.
    pub(super) fn may_publish(
        &self,
        channel: &Version,
        manifest: &Manifest,
        digest: Digest,
        keep_latest: bool,
    ) -> Result<bool, ApiError> {
        let version = &manifest.version;
        if [TRUST, LATEST].contains(&version.as_str()) {
            return Err(ApiError::bad(
                "bad-version",
                format!("a release can't be published as {version}"),
            ));
        }
        if let Some(there) = self.get(version)
            && there.digest != digest
        {
            return Err(ApiError::conflict(
                "version-taken",
                format!(
                    "version {version} is published in {} with another manifest; a version never changes",
                    there.channel
                ),
            ));
        }
        if self.get_in(channel, version).is_some() {
            return Ok(true);
        }
        let all = self.list();
        let siblings = || all.iter().filter(|release| release.channel == *channel);
        if let Some(same) = siblings().find(|release| release.sequence == manifest.sequence) {
            return Err(ApiError::conflict(
                "sequence-taken",
                format!(
                    "{version} has sequence {}, and so has {} in {channel}",
                    manifest.sequence, same.version
                ),
            ));
        }
        if let Some(newer) = siblings().find(|release| release.sequence > manifest.sequence)
            && !keep_latest
        {
            return Err(ApiError::conflict(
                "older-than-latest",
                format!(
                    "{version} has sequence {}, but {} in {channel} has {}; with keep_latest it is published beside it",
                    manifest.sequence, newer.version, newer.sequence
                ),
            ));
        }
        Ok(false)
    }

    /// Checks a whole upload once more, and publishes it. What was begun is finished even if the caller goes away.
    ///
    /// # Errors
    /// If bytes are missing or wrong, or the release must not be published. A wrong file is given up, so that it can be sent again.
    pub async fn commit(&self, id: &str, who: &str) -> Result<Arc<ReleaseInfo>, ApiError> {
        let (releases, id, who) = (self.clone(), id.to_owned(), who.to_owned());
        tokio::spawn(async move { releases.commit_whole(&id, &who).await })
            .await
            .map_err(ApiError::internal)?
    }

    async fn commit_whole(&self, id: &str, who: &str) -> Result<Arc<ReleaseInfo>, ApiError> {
        let _turn = self.turn(id)?;
        let state = self.state(id)?;
        let folder = self.upload_folder(id)?;
        let (releases, checked, sizes) = (self.clone(), folder.clone(), state.sizes.clone());
        let manifest = tokio::task::spawn_blocking(move || releases.check_files(&checked, &sizes))
            .await
            .map_err(ApiError::internal)??;

        let _alone = self.0.publishing.lock().await;
        if self.may_publish(&state.channel, &manifest, state.digest, state.keep_latest)? {
            self.give_up_published(&folder)?;
            return self
                .get_in(&state.channel, &state.version)
                .ok_or_else(|| ApiError::internal("a release has gone"));
        }
        // The log says it before it is so, and never after.
        let (channel, version, digest) =
            (state.channel.clone(), state.version.clone(), state.digest);
        let (sequence, who) = (manifest.sequence, who.to_owned());
        self.0
            .store
            .write::<_, ApiError, _>(move |tx| {
                never_another(tx, &version, digest)?;
                tx.prepare_cached(
                    "INSERT OR REPLACE INTO release (channel, version, digest, sequence, published, who)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(rusqlite::params![
                    channel.as_str(),
                    version.as_str(),
                    digest.to_string(),
                    i64::try_from(sequence.0).unwrap_or(i64::MAX),
                    crate::people::now(),
                    who
                ])?;
                let detail = json!({ "digest": digest, "sequence": sequence });
                Ok(audit(tx, &who, "release.publish", &format!("release/{channel}/{version}"), &detail)?)
            })
            .await?;
        let releases = self.clone();
        tokio::task::spawn_blocking(move || {
            releases.place(&folder, &state.channel, &state.version, state.keep_latest)
        })
        .await
        .map_err(ApiError::internal)?
    }

    /// Checks the manifest's signatures and every file's size and digest, and flushes them.
    fn check_files(
        &self,
        folder: &Path,
        sizes: &std::collections::BTreeMap<String, u64>,
    ) -> Result<Manifest, ApiError> {
        let bytes = files::read(&folder.join(name::MANIFEST), MANIFEST_LIMIT)?;
        let (_, manifest) = self.judge(&bytes)?;
        for file in FILES.iter().skip(1) {
            let path = folder.join(file);
            let size = sizes.get(*file).copied().unwrap_or_default();
            let there = path.symlink_metadata().map_or(0, |file| file.len());
            if there != size || !path.is_file() {
                return Err(ApiError::conflict(
                    "incomplete",
                    format!("{file} has {there} of {size} bytes"),
                ));
            }
        }
        for file in FILES.iter().skip(1) {
            let path = folder.join(file);
            let plain = files::open_plain(&path)?;
            plain.sync_all()?;
            // What is compared should come from the disk, not from memory.
            let _ = rustix::fs::fadvise(&plain, 0, None, rustix::fs::Advice::DontNeed);
            let (digest, _) = files::digest(plain)?;
            if named(&manifest, file) != Some(digest) {
                std::fs::remove_file(&path)?;
                return Err(ApiError::new(
                    axum::http::StatusCode::UNPROCESSABLE_ENTITY,
                    "wrong-digest",
                    format!(
                        "{file} has the digest {digest}, the manifest names another; send it again"
                    ),
                ));
            }
        }
        Ok(manifest)
    }

    /// Renames a checked upload into its place, and points `latest` at it.
    fn place(
        &self,
        upload: &Path,
        channel: &Version,
        version: &Version,
        keep_latest: bool,
    ) -> Result<Arc<ReleaseInfo>, ApiError> {
        let release = Arc::new(ReleaseInfo::open(upload, channel)?);
        let channel_folder = self.channel(channel);
        std::fs::create_dir_all(&channel_folder)?;
        trust::publish(
            &channel_folder,
            &trust::chain(&self.0.trust).map_err(untrusted)?,
        )?;
        let place = channel_folder.join(version.as_str());
        if keep_latest {
            files::write_whole(&upload.join(KEPT_BACK), b"")?;
        }
        files::flush_folder(upload)?;
        // A folder that can't be read may lie there; a full one is never replaced.
        std::fs::rename(upload, &place).map_err(|error| {
            ApiError::internal(format!(
                "cannot rename {} to {}: {error}",
                upload.display(),
                place.display()
            ))
        })?;
        files::flush_folder(&channel_folder)?;
        files::flush_folder(&self.0.folder)?;
        // Only now: an upload that loses its state begins anew.
        std::fs::remove_file(place.join(STATE))?;
        self.0
            .published
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((channel.clone(), version.clone()), Arc::clone(&release));
        self.point_latest(channel)?;
        Ok(release)
    }

    fn give_up_published(&self, folder: &Path) -> Result<(), ApiError> {
        let _ = std::fs::remove_file(folder.join(STATE));
        Ok(std::fs::remove_dir_all(folder)?)
    }

    /// Makes `latest` name the newest release of a channel that wasn't kept back.
    pub(super) fn point_latest(&self, channel: &Version) -> io::Result<()> {
        let folder = self.channel(channel);
        let latest = folder.join(LATEST);
        let newest = self.list().into_iter().find(|release| {
            release.channel == *channel
                && !folder
                    .join(release.version.as_str())
                    .join(KEPT_BACK)
                    .exists()
        });
        let Some(newest) = newest else {
            return match std::fs::remove_file(&latest) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        };
        let bytes = files::read(
            &folder.join(newest.version.as_str()).join(name::MANIFEST),
            MANIFEST_LIMIT,
        )?;
        match files::read(&latest, MANIFEST_LIMIT) {
            Ok(there) if there == bytes => Ok(()),
            _ => files::write_whole(&latest, &bytes),
        }
    }

    /// Removes a release from a channel; `latest` then names the newest that is left.
    ///
    /// # Errors
    /// If there is none, or a rollout that hasn't ended is for it.
    pub async fn remove(
        &self,
        channel: &Version,
        version: &Version,
        who: &str,
    ) -> Result<(), ApiError> {
        let _alone = self.0.publishing.lock().await;
        let Some(release) = self.get_in(channel, version) else {
            return Err(ApiError::not_found(format!(
                "release {version} in {channel}"
            )));
        };
        let (who, gone) = (who.to_owned(), Arc::clone(&release));
        self.0
            .store
            .write::<_, ApiError, _>(move |tx| {
                let (channel, version) = (gone.channel.as_str(), gone.version.as_str());
                if let Some(rollout) = in_use(tx, channel, version)? {
                    return Err(ApiError::conflict(
                        "release-in-use",
                        format!("rollout {rollout} brings {version} from {channel} to devices; abort it first"),
                    ));
                }
                tx.prepare_cached("UPDATE release SET removed = ?3 WHERE channel = ?1 AND version = ?2")?
                    .execute(rusqlite::params![channel, version, crate::people::now()])?;
                let detail = json!({ "digest": gone.digest, "sequence": gone.sequence });
                Ok(audit(tx, &who, "release.remove", &format!("release/{channel}/{version}"), &detail)?)
            })
            .await?;
        let (releases, channel, version) = (self.clone(), channel.clone(), version.clone());
        tokio::task::spawn_blocking(move || releases.take_away(&channel, &version))
            .await
            .map_err(ApiError::internal)?
    }

    fn take_away(&self, channel: &Version, version: &Version) -> Result<(), ApiError> {
        let folder = self.channel(channel);
        let removed = folder.join(format!("{REMOVED}{version}"));
        if removed.exists() {
            std::fs::remove_dir_all(&removed)?;
        }
        self.0
            .published
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&(channel.clone(), version.clone()));
        self.point_latest(channel)?;
        std::fs::rename(folder.join(version.as_str()), &removed)?;
        files::flush_folder(&folder)?;
        Ok(std::fs::remove_dir_all(&removed)?)
    }

    /// When a release was published, in seconds since 1970, and by whom.
    ///
    /// # Errors
    /// The database's.
    pub async fn published_by(
        &self,
        channel: &Version,
        version: &Version,
    ) -> Result<Option<(i64, String)>, ApiError> {
        use rusqlite::OptionalExtension as _;
        let (channel, version) = (channel.to_string(), version.to_string());
        self.0
            .store
            .read(move |connection| {
                let mut query = connection.prepare_cached(
                    "SELECT published, who FROM release WHERE channel = ?1 AND version = ?2",
                )?;
                Ok(query
                    .query_row([channel, version], |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()?)
            })
            .await
    }

    /// The trust roots that uploads are checked against, the oldest first.
    ///
    /// # Errors
    /// If they can't be read.
    pub fn trust_roots(&self) -> Result<Vec<trust::Root>, ApiError> {
        trust::chain(&self.0.trust).map_err(|error| ApiError::internal(chained(&error)))
    }
}
