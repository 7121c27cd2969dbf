//! Mounting: by systemd's units where systemd runs the node, else by the system call.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cairn_system::Command;
use cairn_wire::disk::{FileSystem, MountOption, MountPoint};
use rustix::fs::IFlags;
use rustix::mount::MountFlags;

use super::mountinfo;
use super::tools;
use super::units::{self, ALWAYS, Unit};

/// How long systemd may take: a file system may have a log to replay.
const PATIENCE: Duration = Duration::from_secs(300);

/// Who mounts.
#[derive(Debug, Clone)]
pub enum Mounter {
    /// systemd, by units in this folder.
    Systemd(PathBuf),
    /// The agent itself. It is gone after a reboot, until the agent has mounted again.
    Direct,
}

impl Mounter {
    /// Who mounts on this node.
    pub fn of_node() -> Self {
        if Path::new("/run/systemd/system").exists() {
            Self::Systemd("/etc/systemd/system".into())
        } else {
            Self::Direct
        }
    }

    /// Makes systemd's units those of `wanted`; `keep` says which disks' are kept that aren't there.
    ///
    /// # Errors
    /// If they can't be written, or systemd doesn't read them.
    pub fn sync(&self, wanted: &[Unit], keep: &dyn Fn(&str) -> bool) -> Result<(), String> {
        let Self::Systemd(folder) = self else {
            return Ok(());
        };
        let changed = units::sync(folder, wanted, keep)
            .map_err(|error| format!("{}: {error}", folder.display()))?;
        if changed {
            systemctl(&["daemon-reload"])
        } else {
            Ok(())
        }
    }

    /// Mounts the device. For systemd its unit has to be there.
    ///
    /// # Errors
    /// If something else is mounted there or lies there, or it can't be mounted.
    pub fn mount(
        &self,
        device: &Path,
        file_system: FileSystem,
        at: &MountPoint,
        wanted: &BTreeSet<MountOption>,
    ) -> Result<(), String> {
        let folder = Path::new(at.as_str());
        let wrong = |error: io::Error| format!("{at}: {error}");
        prepare(folder).map_err(wrong)?;
        match self {
            Self::Systemd(_) => systemctl(&["start", &units::unit_name(at)])?,
            Self::Direct => {
                let (flags, data) = flags(wanted);
                let data = CString::new(data).map_err(|error| error.to_string())?;
                rustix::mount::mount(device, folder, file_system.as_str(), flags, data.as_c_str())
                    .map_err(|error| wrong(error.into()))?;
            }
        }
        let number = mountinfo::number(device);
        let mounted = mountinfo::read().map_err(wrong)?;
        let top = mounted.iter().rev().find(|mount| mount.at == folder);
        match top {
            Some(mount) if Some(mount.device) == number => Ok(()),
            _ => Err(format!("{at}: {} was not mounted", device.display())),
        }
    }
}

/// The options of a mount, as mount(8) takes them.
pub fn options(wanted: &BTreeSet<MountOption>) -> String {
    wanted
        .iter()
        .fold(ALWAYS.to_owned(), |all, option| format!("{all},{option}"))
}

fn flags(wanted: &BTreeSet<MountOption>) -> (MountFlags, String) {
    let (mut flags, mut data) = (MountFlags::NOSUID | MountFlags::NODEV, Vec::new());
    for option in wanted {
        flags |= match option.as_str() {
            "noatime" => MountFlags::NOATIME,
            "relatime" => MountFlags::RELATIME,
            "lazytime" => MountFlags::LAZYTIME,
            "noexec" => MountFlags::NOEXEC,
            "ro" => MountFlags::RDONLY,
            other => {
                data.push(other);
                continue;
            }
        };
    }
    (flags, data.join(","))
}

/// Makes the folder, if nothing lies in it that the mount would hide. Nothing can be written into it while the disk is missing, where
/// the file system below knows that.
fn prepare(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    if fs::canonicalize(folder)? != folder {
        return Err(io::Error::other("a symbolic link leads there"));
    }
    if mountinfo::read()?.iter().any(|mount| mount.at == folder) {
        return Err(io::Error::other("something else is mounted there"));
    }
    if fs::read_dir(folder)?.next().is_some() {
        return Err(io::Error::other(
            "the folder isn't empty, and a mount would hide what lies in it",
        ));
    }
    let opened = fs::File::open(folder)?;
    let sealed = rustix::fs::ioctl_getflags(&opened)
        .and_then(|flags| rustix::fs::ioctl_setflags(&opened, flags | IFlags::IMMUTABLE));
    if let Err(error) = sealed {
        tracing::debug!(folder = %folder.display(), %error, "can be written into while its disk is missing");
    }
    Ok(())
}

fn systemctl(arguments: &[&str]) -> Result<(), String> {
    let program = tools::find("systemctl")?;
    let command = Command::new(program).args(arguments).timeout(PATIENCE);
    command.run().map(drop).map_err(|error| error.to_string())
}
