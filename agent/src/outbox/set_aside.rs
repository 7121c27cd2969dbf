//! Records that a server can't take, as lines of JSON in two files of bounded size.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The newest ones.
pub(super) const FILE: &str = "set-aside.jsonl";
/// Those before them.
const OLDER: &str = "set-aside.older.jsonl";
/// The size at which the newer becomes the older, in bytes. A record is shorter.
const LIMIT: u64 = 128 * 1024;

/// Adds one line.
///
/// # Errors
/// If the disk is full or fails.
pub(super) fn write(folder: &Path, line: &[u8]) -> io::Result<()> {
    let path = folder.join(FILE);
    let size = fs::metadata(&path).map_or(0, |data| data.len());
    if size > 0 && size + line.len() as u64 >= LIMIT {
        fs::rename(&path, folder.join(OLDER))?;
    }
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)?;
    let mut line = line.to_vec();
    line.push(b'\n');
    file.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_newest_and_never_grows_over_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..100 {
            write(
                folder.path(),
                format!("{number}{}", "x".repeat(10_000)).as_bytes(),
            )
            .unwrap();
        }
        let read = |name| fs::read_to_string(folder.path().join(name)).unwrap();
        let (newer, older) = (read(FILE), read(OLDER));
        assert!(newer.len() as u64 <= LIMIT && older.len() as u64 <= LIMIT);
        assert!(newer.lines().last().unwrap().starts_with("99x") && older.lines().count() == 13);
    }
}
