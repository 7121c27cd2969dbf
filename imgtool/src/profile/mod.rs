//! The profile: what an OS is made of, in archiso's layout, which `mkarchiso`
//! reads too.
//!
//! ```text
//! profiledef.sh        name, architecture, pacman.conf's path, file permissions
//! packages.x86_64      one package a line, # for comments
//! pacman.conf          where packages come from
//! airootfs/            files laid over the root before packages are installed
//! image.toml           what archiso has no word for: see [`settings`]
//! ```
//!
//! A *site* ([`site`]) is the second layer: one TOML file for one customer or place.

pub mod definition;
pub mod settings;
pub mod site;

use crate::error::{Error, Result};
use crate::files;
use cairn_release::Digest;
use cairn_release::digest::Hasher;
use definition::Definition;
use settings::Settings;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// A profile that was read and checked.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Its folder.
    pub folder: PathBuf,
    /// What `profiledef.sh` says.
    pub definition: Definition,
    /// What `image.toml` says.
    pub settings: Settings,
    /// Names in `packages.<arch>`, sorted.
    pub packages: Vec<String>,
    /// `pacman.conf`.
    pub pacman_conf: PathBuf,
    /// `airootfs/`, if there is one.
    pub airootfs: Option<PathBuf>,
}

impl Profile {
    /// Reads and checks a profile.
    ///
    /// # Errors
    /// If a part is missing or wrong; the error names the file.
    pub fn load(folder: &Path) -> Result<Self> {
        if !folder.join("profiledef.sh").is_file() {
            return Err(
                Error::input(format!("{} is not a profile", folder.display())).hint(
                    "a profile is a folder with profiledef.sh, packages.x86_64 and pacman.conf",
                ),
            );
        }
        let folder = folder
            .canonicalize()
            .map_err(|e| files::cannot("open", folder, e))?;
        let definition = Definition::read(&folder)?;
        let settings = Settings::load(&folder.join("image.toml"))?;
        let list = folder.join(format!("packages.{}", definition.arch));
        let packages = package_list(&list)?;
        let pacman_conf = folder.join(&definition.pacman_conf);
        if !pacman_conf.is_file() {
            return Err(Error::input(format!(
                "{}: pacman_conf={:?} is no file in the profile",
                folder.join("profiledef.sh").display(),
                definition.pacman_conf
            )));
        }
        let airootfs = Some(folder.join("airootfs")).filter(|path| path.is_dir());
        if let Some(airootfs) = &airootfs {
            files::stays_inside(airootfs)?;
        }
        Ok(Self {
            folder,
            definition,
            settings,
            packages,
            pacman_conf,
            airootfs,
        })
    }

    /// One digest over every file of the profile: names, modes and contents.
    ///
    /// # Errors
    /// If a file can't be read.
    pub fn digest(&self) -> Result<Digest> {
        let mut hasher = Hasher::default();
        for entry in sorted(&self.folder) {
            let entry = entry.map_err(|e| unreadable(&self.folder, e))?;
            let path = entry.path();
            let name = path
                .strip_prefix(&self.folder)
                .unwrap_or(path)
                .to_string_lossy();
            let meta = entry.metadata().map_err(|e| unreadable(path, e))?;
            let content = if meta.is_file() {
                std::fs::read(path).map_err(|e| files::cannot("read", path, e))?
            } else if meta.is_symlink() {
                let target =
                    std::fs::read_link(path).map_err(|e| files::cannot("read", path, e))?;
                target.to_string_lossy().into_owned().into_bytes()
            } else {
                Vec::new()
            };
            // Only what git keeps of a mode counts, so that a clone has the same digest.
            let kind = match (
                meta.is_dir(),
                meta.is_symlink(),
                meta.permissions().mode() & 0o100,
            ) {
                (true, ..) => "dir",
                (_, true, _) => "link",
                (_, _, 0) => "file",
                _ => "exec",
            };
            hasher.update(format!("{name}\0{kind}\0{}\0", content.len()).as_bytes());
            hasher.update(&content);
        }
        Ok(hasher.finish())
    }
}

/// Reads a package list: one name a line, `#` begins a comment.
fn package_list(path: &Path) -> Result<Vec<String>> {
    let bytes = files::read(path, 1 << 20)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::input(format!("{}: not UTF-8 text", path.display())))?;
    let mut packages = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let name = line.split('#').next().unwrap_or_default().trim();
        if name.is_empty() {
            continue;
        }
        is_package_name(name)
            .map_err(|e| Error::input(format!("{}:{}: {e}", path.display(), number + 1)))?;
        packages.push(name.to_owned());
    }
    if packages.is_empty() {
        return Err(Error::input(format!("{} names no package", path.display())));
    }
    packages.sort();
    packages.dedup();
    Ok(packages)
}

/// Checks a package name by pacman's rule (PKGBUILD(5)); a leading hyphen would
/// be an option.
pub(crate) fn is_package_name(name: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"@._+-/".contains(&b);
    if name.bytes().all(good) && !name.starts_with(['-', '.', '/']) && !name.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "expected a package name of [a-zA-Z0-9@._+-], got {name:?}"
        ))
    }
}

fn sorted(folder: &Path) -> impl Iterator<Item = walkdir::Result<walkdir::DirEntry>> {
    walkdir::WalkDir::new(folder)
        .min_depth(1)
        .sort_by_file_name()
        .into_iter()
}

fn unreadable(path: &Path, error: walkdir::Error) -> Error {
    Error::input(format!("cannot read {}", path.display())).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_name_is_never_an_option() {
        for good in ["linux", "gtk+", "extra/nftables", "lib32-glibc"] {
            assert!(is_package_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-Syu", "--root=/", "a b", "$(id)", "../x"] {
            assert!(is_package_name(bad).is_err(), "{bad}");
        }
    }
}
