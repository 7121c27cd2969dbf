//! Releases on DATA.
//!
//! ```text
//! releases/<version>/           installed; GRUB looks at these
//! releases/<version>.partial/   on its way in or out; GRUB looks away
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cairn_release::digest::Hasher;
use cairn_release::{Digest, Envelope, Version, manifest};
use cairn_update::survey::{Installed, Survey};
use rustix::fs::{Advice, FallocateFlags};

use super::freeze;
use crate::files;
use crate::update::effects::Part;

/// What the folder of an unfinished release ends with.
const PARTIAL: &str = ".partial";
/// No manifest is larger.
const MANIFEST_LIMIT: u64 = 4 << 20;
/// Bytes read at once.
const CHUNK: usize = 256 << 10;

/// The folder of releases.
#[derive(Debug, Clone)]
pub struct Releases(PathBuf);

impl Releases {
    /// Those in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    fn installed(&self, version: &Version) -> PathBuf {
        self.0.join(version.as_str())
    }

    fn partial(&self, version: &Version) -> PathBuf {
        self.0.join(format!("{version}{PARTIAL}"))
    }

    fn removed(&self, version: &Version) -> PathBuf {
        self.0.join(format!("{version}.removed{PARTIAL}"))
    }

    /// Where a file is now: still unfinished, or in its place.
    fn found(&self, version: &Version, part: Part) -> PathBuf {
        let partial = self.partial(version);
        let folder = if partial.is_dir() {
            partial
        } else {
            self.installed(version)
        };
        folder.join(part.name())
    }

    /// See [`crate::update::effects::Effects::survey`].
    ///
    /// # Errors
    /// If the folder can't be read.
    pub fn survey(&self, coming: Option<&Version>) -> io::Result<Survey> {
        let about = rustix::fs::statvfs(&self.0)?;
        let mut survey = Survey {
            free: about.f_bavail.saturating_mul(about.f_frsize),
            ..Survey::default()
        };
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| !name.ends_with(PARTIAL)) else {
                continue;
            };
            let Ok(version) = name.parse::<Version>() else {
                continue;
            };
            if entry.file_type()?.is_dir() {
                survey.installed.push(self.look(version));
            }
        }
        if let Some(version) = coming {
            let taken = |part: Part| {
                let about = fs::metadata(self.partial(version).join(part.name())).ok()?;
                // Room that was taken for the rest counts, too; a hole doesn't.
                Some(about.blocks().saturating_mul(512))
            };
            let parts = Part::ALL.into_iter().chain(Part::PATCHES);
            survey.fetched = parts.filter_map(taken).sum();
        }
        Ok(survey)
    }

    fn look(&self, version: Version) -> Installed {
        let folder = self.installed(&version);
        let files = || {
            fs::read_dir(&folder)
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|entry| entry.metadata().ok())
        };
        let kernel = fs::metadata(folder.join(Part::Kernel.name())).ok();
        let digest = self.manifest(&version).ok().and_then(|bytes| {
            let envelope = Envelope::parse(&bytes, manifest::PAYLOAD_TYPE).ok()?;
            Some(Digest::of(&envelope.payload))
        });
        Installed {
            bytes: files()
                .map(|about| about.blocks().saturating_mul(512))
                .sum(),
            created: kernel.map_or(0, |about| about.mtime()),
            whole: digest.is_some()
                && Part::ALL
                    .iter()
                    .all(|part| folder.join(part.name()).is_file()),
            digest,
            version,
        }
    }

    /// See [`crate::update::effects::Effects::manifest`].
    ///
    /// # Errors
    /// If there is none, or it is too long.
    pub fn manifest(&self, version: &Version) -> io::Result<Vec<u8>> {
        for folder in [self.installed(version), self.partial(version)] {
            if let Some(bytes) = files::read(&folder.join(Part::Manifest.name()), MANIFEST_LIMIT)? {
                return Ok(bytes);
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// See [`crate::update::effects::Effects::remove`].
    ///
    /// # Errors
    /// If it can't be removed.
    pub fn remove(&self, version: &Version) -> io::Result<()> {
        let aside = self.removed(version);
        remove_folder(&aside)?;
        match fs::rename(self.installed(version), &aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result?,
        }
        files::sync_folder(&self.0)?;
        remove_folder(&aside)
    }

    /// See [`crate::update::effects::Effects::clear_partials`].
    ///
    /// # Errors
    /// If one can't be removed.
    pub fn clear_partials(&self, keep: Option<&Version>) -> io::Result<()> {
        let keep = keep.map(|version| format!("{version}{PARTIAL}"));
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            let name = entry.file_name();
            if name
                .to_str()
                .is_some_and(|name| name.ends_with(PARTIAL) && Some(name) != keep.as_deref())
            {
                remove_folder(&entry.path())?;
            }
        }
        Ok(())
    }

    /// See [`crate::update::effects::Effects::is_placed`].
    ///
    /// # Errors
    /// If that can't be said.
    pub fn is_placed(&self, version: &Version) -> io::Result<bool> {
        self.installed(version).try_exists()
    }

    /// See [`crate::update::effects::Effects::fetched`].
    ///
    /// # Errors
    /// If the file can't be looked at.
    pub fn fetched(&self, version: &Version, part: Part) -> io::Result<u64> {
        match fs::metadata(self.partial(version).join(part.name())) {
            Ok(about) => Ok(about.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// See [`crate::update::effects::Effects::reserve`].
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn reserve(&self, version: &Version, part: Part, size: u64) -> io::Result<()> {
        let folder = self.partial(version);
        match fs::DirBuilder::new().mode(0o755).create(&folder) {
            Ok(()) => files::sync_folder(&self.0)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(folder.join(part.name()))?;
        if file.metadata()?.len() > size {
            file.set_len(size)?;
        }
        match rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, size.max(1)) {
            // Not every file system can; then the plan has to do.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
            result => result?,
        }
        files::sync_folder(&folder)
    }

    /// See [`crate::update::effects::Effects::read`].
    ///
    /// # Errors
    /// If it can't be read.
    pub fn read(&self, version: &Version, part: Part, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut file = File::open(self.found(version, part))?;
        file.seek(SeekFrom::Start(range.start))?;
        let length = range.end.saturating_sub(range.start);
        let mut bytes = Vec::with_capacity(usize::try_from(length).map_or(CHUNK, |n| n.min(CHUNK)));
        file.take(length).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// See [`crate::update::effects::Effects::write`].
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn write(&self, version: &Version, part: Part, at: u64, bytes: &[u8]) -> io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .open(self.partial(version).join(part.name()))?;
        file.write_all_at(bytes, at)
    }

    /// Has a file share bytes with the same file of a release; see [`crate::update::effects::Effects::share`].
    ///
    /// # Errors
    /// If the file system can't.
    pub fn share(
        &self,
        version: &Version,
        part: Part,
        at: u64,
        length: usize,
        (from, mut place): (&Version, u64),
    ) -> io::Result<()> {
        let old = File::open(self.found(from, part))?;
        let new = OpenOptions::new()
            .write(true)
            .open(self.partial(version).join(part.name()))?;
        let (mut at, mut left) = (at, length);
        while left > 0 {
            match rustix::fs::copy_file_range(&old, Some(&mut place), &new, Some(&mut at), left)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                copied => left -= copied.min(left),
            }
        }
        Ok(())
    }

    /// See [`crate::update::effects::Effects::discard`].
    ///
    /// # Errors
    /// If it can't be removed.
    pub fn discard(&self, version: &Version, part: Part) -> io::Result<()> {
        files::remove(&self.partial(version).join(part.name()))
    }

    /// See [`crate::update::effects::Effects::sync`].
    ///
    /// # Errors
    /// If the disk fails.
    pub fn sync(&self, version: &Version, part: Part) -> io::Result<()> {
        File::open(self.partial(version).join(part.name()))?.sync_all()
    }

    /// See [`crate::update::effects::Effects::digest`].
    ///
    /// # Errors
    /// If it can't be read.
    pub fn digest(&self, version: &Version, part: Part) -> io::Result<(u64, Digest)> {
        let mut file = File::open(self.found(version, part))?;
        file.sync_all()?;
        // What is in memory would only say what was meant.
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
        let (mut hasher, mut size, mut chunk) = (Hasher::default(), 0, vec![0; CHUNK]);
        loop {
            let read = match file.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            hasher.update(&chunk[..read]);
            size += read as u64;
        }
        // Read once; it needn't push others out of memory.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        Ok((size, hasher.finish()))
    }

    /// See [`crate::update::effects::Effects::place`].
    ///
    /// # Errors
    /// If the disk fails.
    pub fn place(&self, version: &Version, created: i64) -> io::Result<()> {
        let (partial, installed) = (self.partial(version), self.installed(version));
        if partial.is_dir() {
            if installed.try_exists()? {
                self.remove(version)?;
            }
            finish(&partial, created)?;
            fs::rename(&partial, &installed)?;
        }
        // Again, for a release that was placed before a cut.
        finish(&installed, created)?;
        files::sync_folder(&self.0)?;
        freeze::settle(&self.0)
    }
}

/// Times, modes and content of a release's files are on the disk.
fn finish(folder: &Path, created: i64) -> io::Result<()> {
    let created = Duration::from_secs(u64::try_from(created).unwrap_or(0));
    for part in Part::ALL {
        let file = File::open(folder.join(part.name()))?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        // GRUB takes the release whose kernel container is newest when no boot state tells it which.
        file.set_modified(SystemTime::UNIX_EPOCH + created)?;
        file.sync_all()?;
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    files::sync_folder(folder)
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => files::remove(path),
        result => result,
    }
}

#[cfg(test)]
mod tests;
