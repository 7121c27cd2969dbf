//! Patches of published releases: `<channel>/<version>/patches/<digest of the old image>.patch`.
//!
//! They are signed by nobody: a node checks what comes out of one against the signed manifest, and does without if there is none.
//! So they come after their release and never touch its files; a better one takes the place of another; number and size are bounded.
//! What is served is what lies in the folder.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, HttpBody as _};
use axum::http::StatusCode;
use cairn_delta::Patch;
use cairn_delta::patch::HEAD;
use cairn_release::{Digest, Version, name};
use serde_json::json;

use super::folder::{FileInfo, ReleaseInfo};
use super::receive::append;
use super::upload::chained;
use super::{Releases, files};
use crate::people::audit;
use crate::web::ApiError;

/// Patches of a release at most.
pub const MOST: usize = 16;

/// Digests of patches, by path, for as long as the file there is the same: taking one reads the whole file.
#[derive(Default)]
pub(super) struct Digests(Mutex<HashMap<PathBuf, (Stamp, Digest)>>);

/// What is another if the file is another.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self {
            inode: file.ino(),
            size: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
        }
    }
}

impl Digests {
    fn get(&self, path: &Path, stamp: Stamp) -> Option<Digest> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (then, digest) = known.get(path)?;
        (*then == stamp).then_some(*digest)
    }

    fn put(&self, path: PathBuf, stamp: Stamp, digest: Digest) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(path, (stamp, digest));
    }
}

/// A patch that arrived whole and was looked at, beside its place.
struct Arrived {
    /// Gone when dropped, with what is left in it.
    folder: tempfile::TempDir,
    about: FileInfo,
    /// Which image it leads to.
    image: String,
}

impl Arrived {
    fn path(&self) -> PathBuf {
        self.folder.path().join(&self.about.name)
    }
}

impl Releases {
    fn patch_folder(&self, release: &ReleaseInfo) -> PathBuf {
        let folder = self.channel(&release.channel);
        folder.join(release.version.as_str()).join(name::PATCHES)
    }

    /// Opens the patch from the image with this digest. Blocks.
    ///
    /// # Errors
    /// If there is none, or it can't be read.
    pub(super) fn open_patch(
        &self,
        release: &ReleaseInfo,
        from: &Digest,
    ) -> io::Result<(File, FileInfo)> {
        let name = name::patch(from);
        let path = self.patch_folder(release).join(&name);
        let file = files::open_plain(&path)?;
        let stamp = Stamp::of(&file.metadata()?);
        let sha256 = match self.0.digests.get(&path, stamp) {
            Some(digest) => digest,
            None => {
                let (digest, _) = files::digest(file.try_clone()?)?;
                self.0.digests.put(path, stamp, digest);
                digest
            }
        };
        let size = stamp.size;
        Ok((file, FileInfo { name, size, sha256 }))
    }

    /// The patches that lead to a release. Blocks.
    ///
    /// # Errors
    /// If there is no such release, or one can't be read.
    pub fn patches(&self, channel: &Version, version: &Version) -> Result<Vec<FileInfo>, ApiError> {
        let release = self.published(channel, version)?;
        let mut list = Vec::new();
        for from in self.patch_names(&release)? {
            match self.open_patch(&release, &from) {
                Ok((_, about)) => list.push(about),
                // Removed this very moment.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(list)
    }

    /// The images that patches lead from, in order.
    fn patch_names(&self, release: &ReleaseInfo) -> io::Result<Vec<Digest>> {
        let entries = match std::fs::read_dir(self.patch_folder(release)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry?.file_name().to_str().and_then(name::patch_from));
        }
        names.sort();
        Ok(names)
    }

    fn published(
        &self,
        channel: &Version,
        version: &Version,
    ) -> Result<Arc<ReleaseInfo>, ApiError> {
        self.get_in(channel, version)
            .ok_or_else(|| ApiError::not_found(format!("release {version} in {channel}")))
    }

    /// Takes a patch to a published release, in the place of one with the same name. What was received whole is put in its
    /// place even if the caller goes away.
    ///
    /// # Errors
    /// If there is no such release, the name or the bytes are no patch to it, or there are too many or too large ones.
    pub async fn put_patch(
        &self,
        channel: &Version,
        version: &Version,
        file: &str,
        body: Body,
        who: &str,
    ) -> Result<FileInfo, ApiError> {
        let release = self.published(channel, version)?;
        let Some(from) = name::patch_from(file) else {
            let got: String = file.chars().take(80).collect();
            return Err(ApiError::bad(
                "bad-name",
                format!(
                    "expected as a patch's name the 64 hexadecimal digits of an image's SHA-256 and .patch, got {got:?}"
                ),
            ));
        };
        let _turn = self.turn(&format!("{channel}/{version}/{}", name::PATCHES))?;
        let others = self.patch_names(&release)?;
        if others.iter().filter(|other| **other != from).count() >= MOST {
            return Err(ApiError::conflict(
                "too-many-patches",
                format!("{version} in {channel} has {MOST} patches, which is the limit"),
            ));
        }
        let arrived = self.receive_patch(&release, from, body).await?;
        let (releases, who) = (self.clone(), who.to_owned());
        tokio::spawn(async move { releases.keep_patch(&release, arrived, &who).await })
            .await
            .map_err(ApiError::internal)?
    }

    async fn receive_patch(
        &self,
        release: &Arc<ReleaseInfo>,
        from: Digest,
        body: Body,
    ) -> Result<Arrived, ApiError> {
        let images = [name::KERNEL, name::ROOT].map(|image| release.file(image));
        let most = images.iter().flatten().map(|image| image.size).max();
        let most = most.unwrap_or_default();
        self.room_for(body.size_hint().upper().unwrap_or(most).min(most))?;
        let folder = tempfile::Builder::new()
            .prefix(".patch-")
            .tempdir_in(self.uploads())?;
        let name = name::patch(&from);
        let path = folder.path().join(&name);
        let (mut out, mut size) = (tokio::fs::File::create_new(&path).await?, 0);
        append(&mut out, body, &name, &mut size, most).await?;
        out.sync_all().await?;

        let release = Arc::clone(release);
        tokio::task::spawn_blocking(move || {
            let image = leads_to(&release, &from, size, File::open(&path)?)?.to_owned();
            let (sha256, size) = files::digest(File::open(&path)?)?;
            let about = FileInfo { name, size, sha256 };
            Ok(Arrived {
                folder,
                about,
                image,
            })
        })
        .await
        .map_err(ApiError::internal)?
    }

    async fn keep_patch(
        &self,
        release: &ReleaseInfo,
        arrived: Arrived,
        who: &str,
    ) -> Result<FileInfo, ApiError> {
        let _alone = self.0.publishing.lock().await;
        // It may have been removed meanwhile.
        self.published(&release.channel, &release.version)?;
        let (about, who) = (arrived.about.clone(), who.to_owned());
        let subject = format!("release/{}/{}", release.channel, release.version);
        let detail = json!({ "patch": about.name, "to": arrived.image, "size": about.size, "sha256": about.sha256 });
        self.0
            .store
            .write::<_, ApiError, _>(move |tx| {
                Ok(audit(tx, &who, "release.patch", &subject, &detail)?)
            })
            .await?;
        let (releases, folder) = (self.clone(), self.patch_folder(release));
        tokio::task::spawn_blocking(move || releases.place_patch(&arrived, &folder))
            .await
            .map_err(ApiError::internal)??;
        Ok(about)
    }

    /// Renames a patch into its place.
    fn place_patch(&self, arrived: &Arrived, folder: &Path) -> io::Result<()> {
        let path = folder.join(&arrived.about.name);
        if !folder.is_dir() {
            std::fs::create_dir(folder)?;
            folder.parent().map_or(Ok(()), files::flush_folder)?;
        }
        std::fs::rename(arrived.path(), &path)?;
        files::flush_folder(folder)?;
        let stamp = Stamp::of(&path.symlink_metadata()?);
        self.0.digests.put(path, stamp, arrived.about.sha256);
        Ok(())
    }
}

/// The image of a release that a patch leads to, by its head and table. What its data gives only a node that applies it will know.
fn leads_to<'r>(
    release: &'r ReleaseInfo,
    from: &Digest,
    size: u64,
    mut file: File,
) -> Result<&'r str, ApiError> {
    let bad = |why: String| {
        ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "bad-patch",
            format!("{}: {why}", name::patch(from)),
        )
    };
    let mut bytes = Vec::new();
    file.by_ref().take(HEAD as u64).read_to_end(&mut bytes)?;
    let end = Patch::table_end(&bytes).map_err(|error| bad(chained(&error)))?;
    file.take((end - HEAD) as u64).read_to_end(&mut bytes)?;
    let patch = Patch::parse(&bytes).map_err(|error| bad(chained(&error)))?;
    if patch.from != *from {
        return Err(bad(format!("it starts from the image {}", patch.from)));
    }
    let image = [name::KERNEL, name::ROOT]
        .into_iter()
        .filter_map(|image| release.file(image))
        .find(|image| image.sha256 == patch.to);
    let Some(image) = image else {
        return Err(bad(format!(
            "it leads to {}, which is no image of {}",
            patch.to, release.version
        )));
    };
    if size > image.size {
        return Err(bad(format!(
            "it has {size} bytes, {} itself only {}",
            image.name, image.size
        )));
    }
    Ok(&image.name)
}
