//! Which initramfs hook goes into a release: the one that was named, or that of the
//! image's own packages, or the one that lies beside imgtool.

use super::absolute;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where the package cairn-initramfs-hook puts it.
const PACKAGED: &str = "usr/lib/cairn/cairn-initramfs-hook";

/// What is known of the hook before there is an image.
#[derive(Debug, Serialize, Deserialize)]
pub enum Hook {
    /// The caller named it.
    Told(PathBuf),
    /// The image's, or else this one of the machine that builds.
    Packaged(Option<PathBuf>),
}

impl Hook {
    /// Looks for a hook on this machine.
    ///
    /// # Errors
    /// If the one that was named isn't there.
    pub fn choose(told: Option<&Path>) -> Result<Self> {
        if let Some(path) = told {
            if !path.is_file() {
                return Err(missing(&path.display().to_string()));
            }
            return absolute(path).map(Self::Told);
        }
        let spare = places().into_iter().find(|path| path.is_file());
        spare
            .map(|path| absolute(&path))
            .transpose()
            .map(Self::Packaged)
    }

    /// Gives the hook's program, with the image installed under `root`.
    ///
    /// # Errors
    /// If there is none.
    pub fn find(&self, root: &Path) -> Result<PathBuf> {
        let spare = match self {
            Self::Told(path) => return Ok(path.clone()),
            Self::Packaged(spare) => spare,
        };
        let packaged = root.join(PACKAGED);
        if packaged
            .symlink_metadata()
            .is_ok_and(|about| about.is_file())
        {
            return Ok(packaged);
        }
        spare.clone().ok_or_else(|| {
            let places = places().map(|path| path.display().to_string());
            missing(&format!(
                "/{PACKAGED} of the image, {}",
                places.join(" or ")
            ))
        })
    }
}

fn places() -> [PathBuf; 2] {
    let own = std::env::current_exe().unwrap_or_default();
    [
        own.with_file_name("cairn-initramfs-hook"),
        Path::new("/").join(PACKAGED),
    ]
}

fn missing(places: &str) -> Error {
    Error::input(format!("there is no initramfs hook at {places}")).hint(
        "add the package cairn-initramfs-hook to the profile, or make the program with \
         `make hook` and name it with --hook or CAIRN_INITRAMFS_HOOK",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_s_own_hook_goes_before_the_machine_s_and_after_a_named_one() {
        let dir = tempfile::tempdir().unwrap();
        let (root, other) = (dir.path().join("root"), dir.path().join("other"));
        std::fs::write(&other, "").unwrap();
        let told = Hook::choose(Some(&other)).unwrap();
        let spare = Hook::Packaged(Some(other.clone()));
        assert_eq!(spare.find(&root).unwrap(), other);
        let packaged = root.join(PACKAGED);
        std::fs::create_dir_all(packaged.parent().unwrap()).unwrap();
        std::fs::write(&packaged, "").unwrap();
        assert_eq!(spare.find(&root).unwrap(), packaged);
        assert_eq!(told.find(&root).unwrap(), other);
        // What leads out of the image isn't the image's.
        std::fs::remove_file(&packaged).unwrap();
        std::os::unix::fs::symlink(&other, &packaged).unwrap();
        let error = Hook::Packaged(None).find(&root).unwrap_err().to_string();
        assert!(error.contains("of the image"), "{error}");
    }
}
