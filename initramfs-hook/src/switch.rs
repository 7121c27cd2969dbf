//! Leaving the initramfs for the new root.

use std::convert::Infallible;
use std::env;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{IoError, cannot};
use crate::{log, mounts};

/// The exit ramdisk that systemd looks for when everything else is stopped.
pub const EXIT: &str = "/run/initramfs";

/// In the order of preference.
const INITS: [&str; 2] = ["/usr/lib/systemd/systemd", "/sbin/init"];

/// What comes along into the new root.
const COMING: [&str; 4] = ["/dev", "/proc", "/sys", "/run"];

/// File systems that an initramfs can be: the magic numbers of ramfs and tmpfs.
const RAM: [i64; 2] = [0x8584_58f6, 0x0102_1994];

/// The new root's init. Only its presence is looked at: a link in there leads
/// to the right place once the root is switched.
///
/// # Errors
/// If there is none.
pub fn init_of(new_root: &Path) -> Result<&'static str, IoError> {
    INITS
        .into_iter()
        .find(|init| fs::symlink_metadata(new_root.join(&init[1..])).is_ok())
        .ok_or_else(|| cannot("find", INITS.join(" or "))(io::Error::from(io::ErrorKind::NotFound)))
}

/// Puts a copy of this program where it is found at shutdown, unless somebody else
/// prepared an exit ramdisk.
///
/// # Errors
/// If it can't be copied.
pub fn prepare_exit() -> Result<(), IoError> {
    let exit = Path::new(EXIT);
    let program = exit.join("shutdown");
    if program.exists() {
        return Ok(());
    }
    for folder in ["", "dev", "proc", "sys", "run", "oldroot"] {
        let folder = exit.join(folder);
        fs::create_dir_all(&folder).map_err(cannot("make folder", folder.display()))?;
    }
    let copy = || -> io::Result<()> {
        fs::copy("/proc/self/exe", &program)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
    };
    copy().map_err(cannot("write", program.display()))
}

/// Makes `new_root` the root and becomes its `init`.
///
/// # Errors
/// If a step fails; the root may then already be the new one.
pub fn switch(new_root: &Path, init: &str) -> Result<Infallible, IoError> {
    free_memory();
    for folder in COMING {
        mounts::move_to(Path::new(folder), &new_root.join(&folder[1..]))?;
    }
    env::set_current_dir(new_root).map_err(cannot("enter", new_root.display()))?;
    mounts::move_to(Path::new("."), Path::new("/"))?;
    rustix::process::chroot(".").map_err(cannot("make a root of", new_root.display()))?;
    env::set_current_dir("/").map_err(cannot("enter", "/"))?;
    // The kernel's own arguments for init, such as `single`, are passed on.
    let error = Command::new(init).args(env::args_os().skip(1)).exec();
    Err(cannot("run", init)(error))
}

/// Deletes the initramfs' files, which else stay in memory for ever.
fn free_memory() {
    let root = Path::new("/");
    let in_ram = File::open(root)
        .and_then(|root| Ok(rustix::fs::fstatfs(&root)?))
        .is_ok_and(|about| RAM.contains(&about.f_type));
    if !in_ram {
        log::warn("the initramfs is on no RAM disk; its files are left alone");
        return;
    }
    if let Ok(about) = fs::symlink_metadata(root) {
        delete_below(root, about.dev());
    }
}

/// Deletes what is in `folder` on device `device`, and nothing that is mounted there.
fn delete_below(folder: &Path, device: u64) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path: PathBuf = entry.path();
        match fs::symlink_metadata(&path) {
            Ok(about) if about.dev() != device => {}
            Ok(about) if about.is_dir() => {
                delete_below(&path, device);
                // Not empty if something is mounted in it.
                let _ = fs::remove_dir(&path);
            }
            // What can't be deleted costs memory, nothing else.
            _ => drop(fs::remove_file(&path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn systemd_is_preferred_and_a_link_that_leads_into_the_new_root_counts() {
        let root = tempfile::tempdir().unwrap();
        let message = init_of(root.path()).unwrap_err().to_string();
        assert_eq!(
            message,
            "cannot find /usr/lib/systemd/systemd or /sbin/init"
        );
        fs::create_dir_all(root.path().join("sbin")).unwrap();
        symlink("/no/such/init", root.path().join("sbin/init")).unwrap();
        assert_eq!(init_of(root.path()).unwrap(), "/sbin/init");
        fs::create_dir_all(root.path().join("usr/lib/systemd")).unwrap();
        fs::write(root.path().join("usr/lib/systemd/systemd"), b"").unwrap();
        assert_eq!(init_of(root.path()).unwrap(), "/usr/lib/systemd/systemd");
    }
}
