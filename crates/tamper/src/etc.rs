//! A file as it is in `/etc` against the one in the image.

use crate::finding::{Finding, Kind};
use crate::glob;

/// What a node's first boot and its own services write, relative to `/etc`.
const EXPECTED: [&str; 20] = [
    // systemd: the first boot, accounts, caches that it makes anew for each image.
    "machine-id",
    ".pwd.lock",
    ".updated",
    "ld.so.cache",
    "udev/hwdb.bin",
    "adjtime",
    "locale.conf",
    "vconsole.conf",
    "mtab",
    "os-release",
    "resolv.conf",
    // Judged line by line, as accounts.
    "passwd",
    "passwd-",
    "group",
    "group-",
    "shadow",
    "shadow-",
    "gshadow",
    "gshadow-",
    // openssh makes a node's keys at its first start.
    "ssh/ssh_host_*_key*",
];
/// The agent takes it and deletes it.
const TOKEN: &str = "cairn/enrol.toml";

/// Whether a file may differ from the image's: by these rules, or by `more` patterns.
pub fn is_expected(path: &str, more: &[String]) -> bool {
    path == TOKEN || glob::any(&EXPECTED, path) || glob::any(more, path)
}

/// What lies at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thing {
    /// A file.
    File {
        /// In bytes.
        size: u64,
        /// SHA-256 in hexadecimal digits, or why there is none.
        sha256: String,
    },
    /// A symbolic link.
    Link {
        /// Where it leads.
        to: String,
    },
    /// A folder; what is in it is looked at by itself.
    Folder,
    /// In the upper layer: what hides the image's.
    Nothing,
    /// A device, pipe or socket.
    Special,
}

/// A thing with who may do what with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub thing: Thing,
    /// Its mode, the lowest twelve bits.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
}

impl Entry {
    fn describe(&self) -> String {
        let (uid, gid) = self.owner;
        let mode = self.mode;
        match &self.thing {
            Thing::File { size, sha256 } => {
                format!("file {mode:04o} {uid}:{gid} {size} bytes sha256 {sha256}")
            }
            // A link's own mode and owner mean nothing.
            Thing::Link { to } => format!("link to {to}"),
            Thing::Folder => format!("folder {mode:04o} {uid}:{gid}"),
            Thing::Nothing => "nothing".to_owned(),
            Thing::Special => format!("device, pipe or socket {mode:04o} {uid}:{gid}"),
        }
    }
}

/// What the upper layer has at `path` against what the image has there.
pub fn compare(path: &str, seen: &Entry, baked: Option<&Entry>) -> Option<Finding> {
    let what = match (&seen.thing, baked) {
        (Thing::Nothing | Thing::Folder, None) => return None,
        (_, None) => "added",
        (Thing::Nothing, Some(_)) => "removed",
        (_, Some(baked)) if seen.describe() == baked.describe() => return None,
        (_, Some(_)) => "changed",
    };
    let finding = Finding::new(Kind::Etc, &format!("/etc/{path}"), what);
    let finding = match baked {
        Some(baked) => finding.with("image", baked.describe()),
        None => finding,
    };
    Some(match seen.thing {
        Thing::Nothing => finding,
        _ => finding.with("node", seen.describe()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(sha256: &str, mode: u32) -> Entry {
        Entry {
            thing: Thing::File {
                size: 3,
                sha256: sha256.into(),
            },
            mode,
            owner: (0, 0),
        }
    }

    fn of(thing: Thing) -> Entry {
        Entry {
            thing,
            mode: 0o755,
            owner: (0, 0),
        }
    }

    #[test]
    fn added_changed_and_removed_are_told_with_what_was_there() {
        let changed = compare("motd", &file("bb", 0o600), Some(&file("aa", 0o644))).unwrap();
        assert_eq!(
            (changed.subject.as_str(), changed.what.as_str()),
            ("/etc/motd", "changed")
        );
        assert_eq!(changed.evidence["image"], "file 0644 0:0 3 bytes sha256 aa");
        assert_eq!(changed.evidence["node"], "file 0600 0:0 3 bytes sha256 bb");
        let removed = compare("motd", &of(Thing::Nothing), Some(&file("aa", 0o644))).unwrap();
        assert_eq!(removed.what, "removed");
        assert!(!removed.evidence.contains_key("node"));
        let link = of(Thing::Link {
            to: "/dev/null".into(),
        });
        assert_eq!(compare("x", &link, None).unwrap().what, "added");
    }

    #[test]
    fn a_copy_of_what_was_there_is_no_change() {
        assert_eq!(
            compare("m", &file("aa", 0o644), Some(&file("aa", 0o644))),
            None
        );
        for thing in [Thing::Nothing, Thing::Folder] {
            assert_eq!(compare("m", &of(thing), None), None);
        }
        let mut other = of(Thing::Folder);
        other.mode = 0o777;
        assert_eq!(
            compare("d", &of(Thing::Folder), Some(&of(Thing::Folder))),
            None
        );
        assert_eq!(
            compare("d", &other, Some(&of(Thing::Folder))).unwrap().what,
            "changed"
        );
    }

    #[test]
    fn what_a_first_boot_writes_is_expected_and_its_neighbours_are_not() {
        for path in [
            "machine-id",
            "ssh/ssh_host_ed25519_key.pub",
            "cairn/enrol.toml",
        ] {
            assert!(is_expected(path, &[]), "{path}");
        }
        for path in ["ssh/sshd_config", "sudoers.d/x", "machine-id.d/x", "hosts"] {
            assert!(!is_expected(path, &[]), "{path}");
        }
        assert!(is_expected("wireguard/wg0.conf", &["wireguard/*".into()]));
    }
}
