//! Releases on a disk, one of them a file system that can share blocks.

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
