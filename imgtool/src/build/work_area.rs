//! The work area of a build: a file system in memory that only this sandbox sees,
//! so that it is gone with it; and the few devices that packages' scripts need.

use crate::error::{Error, Result};
use crate::files;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};
use std::fs;
use std::path::Path;

/// Mounts a work area on the folder `at`, of at most `size` (`8G`, `50%`).
///
/// # Errors
/// If it can't be mounted.
pub fn mount_at(at: &Path, size: &str) -> Result<()> {
    // unshare has asked for this too; it costs nothing to be sure.
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(|e| Error::failed("cannot keep mounts to the sandbox").because(e))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let options = std::ffi::CString::new(format!("mode=0755,size={size}"))
        .map_err(|_| Error::input(format!("--work-size: unexpected {size:?}")))?;
    mount(
        "tmpfs",
        at,
        "tmpfs",
        MountFlags::empty(),
        options.as_c_str(),
    )
    .map_err(|e| {
        Error::failed(format!("cannot mount a work area of {size}"))
            .because(e)
            .hint("--work-size takes a size such as 8G, or a share of the memory such as 50%")
    })
}

/// An error of the sandbox, in which `out` is called by the name that it is to have,
/// and the work area, which nobody else can see, by what it is.
pub fn plain(error: Error, out: &Path, wanted: &Path) -> Error {
    let out = out.display().to_string();
    error
        .renamed(&format!("{out}/work/root"), "(root)")
        .renamed(&format!("{out}/work"), "(work area)")
        .renamed(&out, &wanted.display().to_string())
}

const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// `/dev`, `/proc` and `/sys` in the root that is being made, for packages' scripts.
pub struct Devices<'r> {
    root: &'r Path,
}

impl<'r> Devices<'r> {
    /// Mounts them.
    ///
    /// # Errors
    /// If one can't be mounted.
    pub fn mount(root: &'r Path) -> Result<Self> {
        let cannot = |what: &str, e: rustix::io::Errno| {
            Error::failed(format!("cannot mount {what} for the packages' scripts")).because(e)
        };
        for name in ["dev", "proc", "sys"] {
            files::make_folder(&root.join(name))?;
        }
        let devices = Self { root };
        let dev = root.join("dev");
        mount("tmpfs", &dev, "tmpfs", MountFlags::NOSUID, c"mode=0755")
            .map_err(|e| cannot("/dev", e))?;
        for name in DEVICES {
            let (host, path) = (Path::new("/dev").join(name), dev.join(name));
            fs::File::create(&path).map_err(|e| files::cannot("make", &path, e))?;
            mount_bind(&host, &path).map_err(|e| cannot(&host.to_string_lossy(), e))?;
        }
        for (name, target) in [
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
        ] {
            let path = dev.join(name);
            std::os::unix::fs::symlink(target, &path)
                .map_err(|e| files::cannot("make", &path, e))?;
        }
        let shm = dev.join("shm");
        files::make_folder(&shm)?;
        mount(
            "proc",
            root.join("proc"),
            "proc",
            MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
            None,
        )
        .map_err(|e| cannot("/proc", e))?;
        Ok(devices)
    }
}

impl Drop for Devices<'_> {
    fn drop(&mut self) {
        // Detached mounts are gone for this tree at once.
        for name in ["proc", "dev"] {
            let _ = unmount(self.root.join(name), UnmountFlags::DETACH);
        }
    }
}
