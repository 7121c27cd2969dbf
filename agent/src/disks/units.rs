//! Mount units. The agent's own mounts would be seen by nobody: systemd gives it a mount namespace of its own. And a unit mounts at
//! the next boot, before Docker starts containers, whether the agent runs or not.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cairn_topology::Guid;
use cairn_wire::disk::{FileSystem, MountPoint, Name};

use crate::files;

/// What a unit of ours begins with; the declared disk's name follows.
const OURS: &str = "# Made by cairn-agent for the disk ";
/// What every mount has.
pub const ALWAYS: &str = "nosuid,nodev";
/// The target that wants them.
pub const WANTS: &str = "multi-user.target.wants";
/// No unit of ours is longer, in bytes.
pub const LIMIT: u64 = 64 * 1024;

/// A mount that shall be there at each boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The declared disk.
    pub disk: Name,
    /// The partition.
    pub partition: Guid,
    /// Where.
    pub at: MountPoint,
    /// What.
    pub file_system: FileSystem,
    /// How.
    pub options: String,
}

impl Unit {
    /// The file's name: systemd wants it to say where.
    pub fn name(&self) -> String {
        unit_name(&self.at)
    }

    /// The file.
    pub fn text(&self) -> String {
        let Self {
            disk,
            partition,
            at,
            file_system,
            options,
        } = self;
        format!(
            "{OURS}{disk}; it is written again when the declaration changes.\n\
             [Unit]\n\
             Description=Cairn disk {disk} at {at}\n\
             Before=docker.service cairn-agent.service\n\
             \n\
             [Mount]\n\
             What=/dev/disk/by-partuuid/{partition}\n\
             Where={at}\n\
             Type={}\n\
             Options={options}\n\
             \n\
             [Install]\n\
             WantedBy=multi-user.target\n",
            file_system.as_str()
        )
    }
}

/// Whether a file of this name and text is a unit of ours: it mounts a partition without set-user-id and devices, and does nothing else.
pub fn is_ours(name: &str, text: &str) -> bool {
    read(text).is_some_and(|unit| {
        unit.name() == name && unit.text() == text && unit.options.starts_with(ALWAYS)
    })
}

/// What a text says that [`Unit::text`] may have made.
fn read(text: &str) -> Option<Unit> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
    let file_system = value("Type=")?;
    Some(Unit {
        disk: disk(text)?.parse().ok()?,
        partition: value("What=/dev/disk/by-partuuid/")?.parse().ok()?,
        at: value("Where=")?.parse().ok()?,
        file_system: FileSystem::ALL
            .into_iter()
            .find(|one| one.as_str() == file_system)?,
        options: value("Options=")?.to_owned(),
    })
}

/// The disk that a unit of ours is of.
fn disk(text: &str) -> Option<&str> {
    text.strip_prefix(OURS)?.split(';').next()
}

/// `/srv/a-b` is mounted by `srv-a\x2db.mount` (systemd.unit(5), systemd-escape(1)).
pub fn unit_name(at: &MountPoint) -> String {
    let path = at.as_str().trim_start_matches('/');
    let mut name = String::new();
    for byte in path.bytes() {
        match byte {
            b'/' => name.push('-'),
            b'-' => name.push_str("\\x2d"),
            other => name.push(char::from(other)),
        }
    }
    name + ".mount"
}

/// Makes the units in `folder` those of `wanted`, and keeps those of the disks in `keep` that have none there; gives back whether
/// something has changed.
///
/// # Errors
/// If the folder can't be read or written to.
pub fn sync(folder: &Path, wanted: &[Unit], keep: &dyn Fn(&str) -> bool) -> io::Result<bool> {
    let (mut texts, mut changed): (BTreeMap<String, String>, bool) = (BTreeMap::new(), false);
    for unit in wanted {
        texts.insert(unit.name(), unit.text());
    }
    let entries = match fs::read_dir(folder) {
        Ok(entries) => Some(entries),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    for entry in entries.into_iter().flatten() {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if !name.ends_with(".mount") || texts.contains_key(&name) {
            continue;
        }
        let text = files::read(&path, LIMIT).ok().flatten().unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        if disk(&text).is_some_and(|disk| !keep(disk)) {
            files::remove(&link(folder, &name))?;
            files::remove(&path)?;
            changed = true;
        }
    }
    for (name, text) in &texts {
        let path = folder.join(name);
        if files::read(&path, LIMIT).ok().flatten().as_deref() != Some(text.as_bytes()) {
            fs::create_dir_all(folder)?;
            files::replace(&path, text.as_bytes())?;
            changed = true;
        }
        let link = link(folder, name);
        if fs::symlink_metadata(&link).is_err() {
            fs::create_dir_all(folder.join(WANTS))?;
            std::os::unix::fs::symlink(Path::new("..").join(name), &link)?;
            files::sync_folder(&folder.join(WANTS))?;
            changed = true;
        }
    }
    Ok(changed)
}

fn link(folder: &Path, name: &str) -> PathBuf {
    folder.join(WANTS).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(at: &str) -> Unit {
        Unit {
            disk: "cache".parse().unwrap(),
            partition: Guid::derive(&["p"]),
            at: at.parse().unwrap(),
            file_system: FileSystem::Xfs,
            options: "nosuid,nodev,noatime".into(),
        }
    }

    #[test]
    fn units_come_stay_and_go_and_others_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("srv-x.mount");
        fs::write(&other, "[Mount]\n").unwrap();
        let units = [unit("/srv/a-b"), unit("/srv/c.d")];
        let none = |_: &str| false;
        assert!(sync(folder.path(), &units, &none).unwrap());
        assert!(!sync(folder.path(), &units, &none).unwrap());
        let first = folder.path().join(r"srv-a\x2db.mount");
        assert_eq!(fs::read_to_string(&first).unwrap(), units[0].text());
        let wanted = folder.path().join(WANTS).join("srv-c.d.mount");
        assert!(
            fs::read_to_string(wanted)
                .unwrap()
                .contains("Where=/srv/c.d\n")
        );

        // A disk that isn't there just now is declared all the same.
        assert!(!sync(folder.path(), &[], &|disk| disk == "cache").unwrap());
        assert!(first.exists());
        assert!(sync(folder.path(), &units[1..], &none).unwrap());
        assert!(!first.exists());
        assert!(sync(folder.path(), &[], &none).unwrap());
        let left: Vec<_> = fs::read_dir(folder.path().join(WANTS)).unwrap().collect();
        assert!(left.is_empty() && other.exists());
        // A folder that isn't there holds none.
        assert!(!sync(&folder.path().join("none"), &[], &none).unwrap());
    }
    #[test]
    fn a_unit_of_ours_is_known_and_one_that_does_more_is_not() {
        let unit = unit("/srv/a-b");
        let (name, text) = (unit.name(), unit.text());
        assert!(is_ours(&name, &text));
        assert!(!is_ours("srv-other.mount", &text));
        for (from, to) in [
            ("[Install]", "ExecStart=/bin/sh\n[Install]"),
            ("Options=nosuid,nodev,", "Options="),
            ("by-partuuid/", "by-label/"),
            ("Type=xfs", "Type=overlay"),
            (
                "WantedBy=multi-user.target\n",
                "WantedBy=multi-user.target\n\n",
            ),
        ] {
            let other = text.replace(from, to);
            assert!(other != text && !is_ours(&name, &other), "{other}");
        }
        assert!(!is_ours("", "") && !is_ours(&name, OURS));
    }
}
