//! Files of evidence that devices upload: `DATA/evidence/<device>/<name>`, bounded per device.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Largest file in bytes.
pub const LARGEST: usize = 4 << 20;
/// All files of a device, in bytes; the oldest go.
const BUDGET: u64 = 32 << 20;
/// Files of a device; the oldest go.
const FILES: usize = 256;

/// Where a device's evidence lies.
pub fn folder(data: &Path, device: &str) -> PathBuf {
    data.join("evidence").join(device)
}

/// Keeps a file, whole and flushed, in the place of one with the same name; then makes room. Blocks.
///
/// # Errors
/// If it can't be written.
pub fn keep(folder: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    // No name of a device or of evidence holds a `+`.
    let tail: [u8; 8] = rand::random();
    let beside = folder.join(format!("+{}", hex::encode(tail)));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let put = || {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, folder.join(name))?;
        std::fs::File::open(folder)?.sync_all()
    };
    if let Err(error) = put() {
        let _ = std::fs::remove_file(&beside);
        return Err(error);
    }
    make_room(folder, name)
}

fn make_room(folder: &Path, newest: &str) -> std::io::Result<()> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // Another upload may have made room at the same time.
        if let Ok(data) = entry.metadata() {
            let last = entry.file_name() == newest;
            files.push((
                last,
                data.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                data.len(),
                entry.path(),
            ));
        }
    }
    // The newest last, whatever the clock says.
    files.sort();
    let mut bytes: u64 = files.iter().map(|file| file.2).sum();
    let mut count = files.len();
    for (newest, _, size, path) in files {
        if newest || (bytes <= BUDGET && count <= FILES) {
            break;
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        bytes -= size;
        count -= 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_and_the_newest_stays() {
        let home = tempfile::tempdir().unwrap();
        let folder = folder(home.path(), "a");
        let big = vec![7; LARGEST];
        for number in 0..10 {
            keep(&folder, &format!("n{number}"), &big).unwrap();
        }
        let left = std::fs::read_dir(&folder).unwrap().count();
        assert_eq!(left, 8);
        assert!(folder.join("n9").exists() && !folder.join("n0").exists());
        keep(&folder, "n9", b"short").unwrap();
        assert_eq!(std::fs::read(folder.join("n9")).unwrap(), b"short");
    }
}
