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
use cairn_update::plan::{Installed, Survey};
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
mod tests {
    use super::*;
    use crate::update::fake::{release, release_key, version};

    fn releases() -> (tempfile::TempDir, Releases) {
        let folder = tempfile::tempdir().unwrap();
        let releases = Releases::new(folder.path().to_owned());
        (folder, releases)
    }

    fn fetch(releases: &Releases, name: &str, sequence: u64) -> i64 {
        let (manifest, files) = release(name, sequence, &release_key());
        for (part, bytes) in files {
            releases
                .reserve(&version(name), part, bytes.len() as u64)
                .unwrap();
            releases.write(&version(name), part, 0, &bytes).unwrap();
            releases.sync(&version(name), part).unwrap();
        }
        manifest.created.unix()
    }

    #[test]
    fn a_release_is_fetched_placed_looked_at_and_removed() {
        let (folder, releases) = releases();
        let two = version("2.0");
        let created = fetch(&releases, "2.0", 2);
        let survey = releases.survey(Some(&two)).unwrap();
        assert!(survey.installed.is_empty() && survey.fetched > 0 && survey.free > 0);
        let (manifest, files) = release("2.0", 2, &release_key());
        let read = releases.digest(&two, Part::Kernel).unwrap();
        assert_eq!(
            read,
            (
                files[&Part::Kernel].len() as u64,
                manifest.kernel.image.sha256
            )
        );

        assert!(!releases.is_placed(&two).unwrap());
        // Twice, as after a cut.
        for _ in 0..2 {
            match releases.place(&two, created) {
                Ok(()) => {}
                // Only root may have the journal written out or the file system frozen.
                Err(error) => assert!(
                    !rustix::process::geteuid().is_root() || error.raw_os_error().is_some(),
                    "{error}"
                ),
            }
        }
        assert!(releases.is_placed(&two).unwrap());
        let installed = releases.survey(Some(&two)).unwrap().installed;
        assert_eq!(
            (installed.len(), installed[0].created, installed[0].whole),
            (1, created, true)
        );
        assert_eq!(
            installed[0].digest,
            Some(Digest::of(&manifest.to_payload()))
        );
        let mode = fs::metadata(folder.path().join("2.0/root.erofs"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o644);

        releases.remove(&two).unwrap();
        releases.remove(&two).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    /// A file system in a file, for as long as it is held.
    struct Mounted(tempfile::TempDir);

    impl Mounted {
        /// An XFS: it can share blocks. Needs root.
        fn xfs() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (image, place) = (folder.path().join("image"), folder.path().join("place"));
            File::create(&image).unwrap().set_len(400 << 20).unwrap();
            fs::create_dir(&place).unwrap();
            run("mkfs.xfs", &["-q".as_ref(), image.as_ref()]);
            run(
                "mount",
                &[
                    "-o".as_ref(),
                    "loop".as_ref(),
                    image.as_ref(),
                    place.as_ref(),
                ],
            );
            Self(folder)
        }

        fn releases(&self) -> Releases {
            Releases::new(self.0.path().join("place"))
        }
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            run("umount", &[self.0.path().join("place").as_ref()]);
        }
    }

    fn run(program: &str, arguments: &[&std::ffi::OsStr]) {
        let ran = std::process::Command::new(program).args(arguments).output();
        let ran = ran.unwrap_or_else(|error| panic!("{program}: {error}"));
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{program}: {said}");
    }

    #[test]
    fn a_file_system_that_can_keeps_shared_bytes_once() {
        let mounted = Mounted::xfs();
        let (releases, one, two) = (mounted.releases(), version("1.0"), version("2.0"));
        let bytes: Vec<u8> = (0..2 << 20).flat_map(u32::to_le_bytes).collect();
        let room = || {
            releases.sync(&one, Part::Root).unwrap();
            releases.survey(None).unwrap().free
        };
        releases
            .reserve(&one, Part::Root, bytes.len() as u64)
            .unwrap();
        releases.write(&one, Part::Root, 0, &bytes).unwrap();
        let before = room();
        let half = bytes.len() / 2;
        releases
            .reserve(&two, Part::Root, bytes.len() as u64)
            .unwrap();
        for at in [half, 0] {
            let place = at as u64;
            releases
                .share(&two, Part::Root, place, half, (&one, place))
                .unwrap();
        }
        releases.sync(&two, Part::Root).unwrap();
        let taken = before.saturating_sub(room());
        assert!(taken < bytes.len() as u64 / 10, "{taken} bytes");
        let all = 0..bytes.len() as u64;
        assert!(releases.read(&two, Part::Root, all.clone()).unwrap() == bytes);

        // What is written to one isn't the other's.
        releases.write(&two, Part::Root, 5, b"another").unwrap();
        assert!(releases.read(&one, Part::Root, all).unwrap() == bytes);
        let beyond = releases.share(&two, Part::Root, 0, 4096, (&one, bytes.len() as u64));
        assert_eq!(beyond.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn unfinished_ones_are_resumed_or_cleared() {
        let (folder, releases) = releases();
        let two = version("2.0");
        releases.reserve(&two, Part::Root, 10_000).unwrap();
        releases.write(&two, Part::Root, 0, &[1; 5000]).unwrap();
        releases.reserve(&two, Part::Root, 10_000).unwrap();
        assert_eq!(releases.fetched(&two, Part::Root).unwrap(), 5000);
        // Too long for what it shall be: another release's.
        releases.reserve(&two, Part::Root, 4000).unwrap();
        assert_eq!(releases.fetched(&two, Part::Root).unwrap(), 4000);
        releases.discard(&two, Part::Root).unwrap();
        assert_eq!(releases.fetched(&two, Part::Root).unwrap(), 0);
        fs::create_dir(folder.path().join("1.0.removed.partial")).unwrap();
        releases.clear_partials(Some(&two)).unwrap();
        assert!(
            folder.path().join("2.0.partial").is_dir()
                && !folder.path().join("1.0.removed.partial").exists()
        );
        releases.clear_partials(None).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
