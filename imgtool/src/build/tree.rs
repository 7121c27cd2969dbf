//! The tree of a root while it is being made: what is laid over it, what is
//! taken away because it would differ from build to build, and where the kernel
//! container's part is.

use super::pacman::DATABASE;
use crate::error::{Error, Result};
use crate::files::{cannot, make_folder, remove};
use crate::profile::definition::Permission;
use cairn_release::Timestamp;
use cairn_system::Command;
use rustix::fs::{AtFlags, CWD, Gid, Uid, chownat};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

/// Lays `airootfs` over `root`, as mkarchiso does: before packages, so that their
/// scripts see it; owned by root; modes only from `permissions`.
///
/// # Errors
/// If a file can't be copied. What `permissions` names and isn't there is given back.
pub fn lay_over(
    root: &Path,
    airootfs: Option<&Path>,
    permissions: &BTreeMap<String, Permission>,
) -> Result<Vec<String>> {
    make_folder(root)?;
    if let Some(airootfs) = airootfs {
        Command::new("cp")
            .args(["-dRT", "--no-preserve=all", "--"])
            .args([airootfs, root])
            .run()
            .map_err(|e| Error::failed("cannot lay airootfs over the root").because(e))?;
    }
    let mut absent = Vec::new();
    for (path, permission) in permissions {
        let full = root.join(path.trim_matches('/'));
        if full.symlink_metadata().is_err() {
            absent.push(path.clone());
        } else if path.ends_with('/') {
            for entry in walkdir::WalkDir::new(&full) {
                let entry =
                    entry.map_err(|e| Error::failed(format!("cannot read {path}")).because(e))?;
                permit(entry.path(), permission)?;
            }
        } else {
            permit(&full, permission)?;
        }
    }
    Ok(absent)
}

/// Sets owner and mode. A symlink has no mode of its own.
pub(super) fn permit(path: &Path, permission: &Permission) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(permission.uid), Gid::from_raw(permission.gid));
    chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| cannot("change the owner of", path, e.into()))?;
    if path.is_symlink() {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(permission.mode))
        .map_err(|e| cannot("change the mode of", path, e))
}

/// Files that record when, where or in what order a root was made. A `*` ends a
/// path: everything in that folder goes, the folder stays.
const PASSING: [&str; 20] = [
    "boot/*",
    "dev/*",
    "proc/*",
    "run/*",
    "sys/*",
    "tmp/*",
    "etc/.pwd.lock",
    "etc/.updated",
    "etc/group-",
    "etc/gshadow-",
    "etc/passwd-",
    "etc/shadow-",
    "var/.updated",
    "var/cache/ldconfig",
    "var/cache/pacman/*",
    "var/lib/pacman/sync",
    "var/lib/pacman/db.lck",
    "var/lib/systemd/random-seed",
    "var/log/pacman.log",
    "var/tmp/*",
];

/// Makes a root the same whenever it is made, and gives it the folders that the
/// boot needs.
///
/// # Errors
/// If a file can't be changed.
pub fn settle(root: &Path, epoch: Timestamp) -> Result<()> {
    for path in PASSING {
        match path.strip_suffix("/*") {
            Some(folder) => empty(&root.join(folder))?,
            None => remove(&root.join(path))?,
        }
    }
    for name in [
        "data",
        "dev",
        "proc",
        "run",
        "sys",
        "tmp",
        "usr/lib/modules",
        "usr/lib/firmware",
    ] {
        make_folder(&root.join(name))?;
    }
    permit(
        &root.join("tmp"),
        &Permission {
            uid: 0,
            gid: 0,
            mode: 0o1777,
        },
    )?;
    // systemd gives a node its identity at its first boot.
    let machine_id = root.join("etc/machine-id");
    fs::write(&machine_id, "uninitialized\n").map_err(|e| cannot("write", &machine_id, e))?;
    // That makes it a first boot, at which systemd would ask a person questions.
    let wizard = root.join("etc/systemd/system/systemd-firstboot.service");
    if wizard.symlink_metadata().is_err() {
        make_folder(&root.join("etc/systemd/system"))?;
        symlink("/dev/null", &wizard).map_err(|e| cannot("write", &wizard, e))?;
    }
    install_dates(&root.join(DATABASE).join("local"), epoch)
}

fn empty(folder: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries {
        remove(&entry.map_err(|e| cannot("read", folder, e))?.path())?;
    }
    Ok(())
}

/// pacman notes when it installed a package; that must be the release's time.
fn install_dates(local: &Path, epoch: Timestamp) -> Result<()> {
    let Ok(entries) = fs::read_dir(local) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry
            .map_err(|e| cannot("read", local, e))?
            .path()
            .join("desc");
        if !path.is_file() {
            continue;
        }
        let text = fs::read_to_string(&path).map_err(|e| cannot("read", &path, e))?;
        let mut lines: Vec<&str> = text.lines().collect();
        let date = epoch.unix().to_string();
        if let Some(at) = lines.iter().position(|line| *line == "%INSTALLDATE%")
            && let Some(line) = lines.get_mut(at + 1)
        {
            *line = &date;
        }
        let text = lines.join("\n") + "\n";
        fs::write(&path, text).map_err(|e| cannot("write", &path, e))?;
    }
    Ok(())
}

/// The kernel container's part of a root, moved out of it.
#[derive(Debug)]
pub struct KernelTree {
    /// The container's own root.
    pub folder: PathBuf,
    /// What `uname -r` says.
    pub version: String,
}

impl KernelTree {
    /// Takes kernel, modules and firmware out of `root` into `folder`.
    ///
    /// # Errors
    /// If there isn't exactly one kernel, at Arch's place for it.
    pub fn split(root: &Path, folder: &Path) -> Result<Self> {
        let modules = root.join("usr/lib/modules");
        let version = the_kernel(&modules)?;
        let own = modules.join(&version);
        if !own.join("modules.dep").is_file() {
            Command::new("depmod")
                .arg("-b")
                .arg(root)
                .arg(&version)
                .run()
                .map_err(|e| Error::failed("cannot list the kernel's modules").because(e))?;
        }
        make_folder(&folder.join("modules"))?;
        let moves = [
            (own.join("vmlinuz"), folder.join("vmlinuz")),
            (own, folder.join("modules").join(&version)),
            (root.join("usr/lib/firmware"), folder.join("firmware")),
        ];
        for (from, to) in &moves {
            fs::rename(from, to).map_err(|e| cannot("move", from, e))?;
        }
        for name in ["usr/lib/modules", "usr/lib/firmware"] {
            remove(&root.join(name))?;
            make_folder(&root.join(name))?;
        }
        let named = folder.join("kernel-version");
        fs::write(&named, format!("{version}\n")).map_err(|e| cannot("write", &named, e))?;
        Ok(Self {
            folder: folder.to_owned(),
            version,
        })
    }

    /// The folder of the kernel's modules.
    pub fn modules(&self) -> PathBuf {
        self.folder.join("modules").join(&self.version)
    }
}

fn the_kernel(modules: &Path) -> Result<String> {
    let mut versions: Vec<String> = fs::read_dir(modules)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok())
        .filter(|entry| entry.path().join("vmlinuz").is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    versions.sort();
    match versions.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(
            Error::input("the packages bring no kernel (usr/lib/modules/<version>/vmlinuz)")
                .hint("name a kernel package, such as linux or linux-lts, in packages.x86_64"),
        ),
        many => Err(
            Error::input(format!("expected one kernel, got {}", many.join(" and ")))
                .hint("a release has one kernel; name one kernel package"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_moved_whole_and_must_be_the_only_one() {
        let work = tempfile::tempdir().unwrap();
        let root = work.path().join("root");
        let kernel = root.join("usr/lib/modules/6.1.0-1");
        assert!(the_kernel(&root.join("usr/lib/modules")).is_err());
        make_folder(&kernel).unwrap();
        make_folder(&root.join("usr/lib/firmware/card")).unwrap();
        for name in ["vmlinuz", "modules.dep"] {
            fs::write(kernel.join(name), name).unwrap();
        }
        let tree = KernelTree::split(&root, &work.path().join("kernel")).unwrap();
        assert_eq!(tree.version, "6.1.0-1");
        assert!(
            tree.folder.join("vmlinuz").is_file() && tree.folder.join("firmware/card").is_dir()
        );
        assert!(tree.modules().join("modules.dep").is_file());
        assert_eq!(
            fs::read_dir(root.join("usr/lib/modules")).unwrap().count(),
            0
        );

        for name in ["a", "b"] {
            make_folder(&root.join("usr/lib/modules").join(name)).unwrap();
            fs::write(root.join("usr/lib/modules").join(name).join("vmlinuz"), "").unwrap();
        }
        let error = the_kernel(&root.join("usr/lib/modules")).unwrap_err();
        assert_eq!(error.to_string(), "expected one kernel, got a and b");
    }

    #[test]
    fn nothing_tells_when_a_root_was_made() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let package = root.join("var/lib/pacman/local/bash-5-1");
        make_folder(&package).unwrap();
        make_folder(&root.join("etc")).unwrap();
        fs::write(
            package.join("desc"),
            "%NAME%\nbash\n\n%INSTALLDATE%\n1234567890\n",
        )
        .unwrap();
        fs::write(root.join("etc/passwd-"), "").unwrap();
        settle(root, Timestamp::from_unix(7).unwrap()).unwrap();
        let desc = fs::read_to_string(package.join("desc")).unwrap();
        assert_eq!(desc, "%NAME%\nbash\n\n%INSTALLDATE%\n7\n");
        assert!(!root.join("etc/passwd-").exists());
        assert_eq!(
            fs::metadata(root.join("tmp")).unwrap().permissions().mode() & 0o7777,
            0o1777
        );
    }
}
