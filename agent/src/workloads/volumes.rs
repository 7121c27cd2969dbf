//! Folders of volumes that have a name only.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use cairn_wire::workload::User;

use crate::files;

/// Makes a volume's folder if it is missing, the user's own and open to read whatever the agent's umask says. It gets its name last: a
/// folder of that name is the user's.
///
/// # Errors
/// If the disk doesn't take it.
pub fn make(folder: &Path, user: Option<&User>) -> io::Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let beside = beside(folder);
    DirBuilder::new().recursive(true).create(&beside)?;
    fs::set_permissions(&beside, Permissions::from_mode(0o755))?;
    if let Some((user, group)) = user.map(User::ids) {
        chown(&beside, Some(user), Some(group))?;
    }
    fs::rename(&beside, folder)?;
    folder.parent().map_or(Ok(()), files::sync_folder)
}

/// A name that no volume has: theirs don't begin with a dot.
fn beside(folder: &Path) -> PathBuf {
    let name = folder.file_name().unwrap_or_default();
    folder.with_file_name(format!(".{}", name.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_folder_is_the_users_and_open_even_if_its_making_was_cut_short() {
        let volumes = tempfile::tempdir().unwrap();
        let folder = volumes.path().join("web/cache");
        // As left by an agent with a umask of 077 that was killed before it gave it away.
        DirBuilder::new()
            .recursive(true)
            .create(beside(&folder))
            .unwrap();
        fs::set_permissions(beside(&folder), Permissions::from_mode(0o700)).unwrap();
        let mine = rustix::process::getuid().as_raw();
        let user: User = format!("{mine}:12345").parse().unwrap();
        let is_root = mine == 0;
        make(&folder, Some(&user).filter(|_| is_root)).unwrap();
        let made = fs::metadata(&folder).unwrap();
        assert_eq!(made.mode() & 0o7777, 0o755);
        assert!(!is_root || made.gid() == 12345);
        assert!(!beside(&folder).exists());
        // What is there is left as it is.
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
        make(&folder, None).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o7777, 0o700);
    }
}
