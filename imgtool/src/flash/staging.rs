//! The folder from which the data partition is made.

use super::enrolment::{self, EnrolFile};
use crate::error::Result;
use crate::files::{cannot, make_folder, write_new};
use crate::release_folder::ReleaseFolder;
use crate::trust::TrustFile;
use cairn_release::name;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// What a node has of a release: not the files that only people and servers need.
pub const ON_NODE: [&str; 3] = [name::MANIFEST, name::KERNEL, name::ROOT];

/// Fills `tree`; big files are linked where the file system can.
///
/// # Errors
/// If a file can't be copied.
pub fn fill(
    tree: &Path,
    releases: &[ReleaseFolder],
    trust: &[TrustFile],
    enrol: Option<&EnrolFile>,
) -> Result<()> {
    for folder in [
        "releases",
        "trust",
        "state/etc/upper",
        "state/etc/work",
        "state/var/upper",
        "state/var/work",
        "agent",
    ] {
        make_folder(&tree.join(folder))?;
    }
    for release in releases {
        let to = tree
            .join("releases")
            .join(release.manifest.version.as_str());
        make_folder(&to)?;
        for file in ON_NODE {
            let (from, to) = (release.file(file), to.join(file));
            if fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to).map_err(|e| cannot("copy", &from, e))?;
                set_mode(&to, 0o644)?;
            }
            // GRUB takes the release whose kernel container is newest when no boot
            // state tells it which.
            let created = u64::try_from(release.manifest.created.unix()).unwrap_or(0);
            fs::File::open(&to)
                .and_then(|file| {
                    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(created))
                })
                .map_err(|e| cannot("change the time of", &to, e))?;
        }
    }
    for file in trust {
        let to = tree
            .join("trust")
            .join(format!("{}.dsse.json", file.trust.version));
        fs::write(&to, &file.bytes).map_err(|e| cannot("write", &to, e))?;
        set_mode(&to, 0o644)?;
    }
    if let Some(enrol) = enrol {
        write_new(&tree.join(enrolment::ON_NODE), &enrol.bytes, 0o600)?;
    }
    // Whatever the umask of who builds is, a node's folders are the same.
    for entry in walkdir::WalkDir::new(tree)
        .into_iter()
        .flatten()
        .filter(|e| e.file_type().is_dir())
    {
        let private = entry.path() == tree.join("agent");
        set_mode(entry.path(), if private { 0o700 } else { 0o755 })?;
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|e| cannot("change the mode of", path, e))
}
