//! `profiledef.sh`: archiso's shell file of variables. It is a program, so bash
//! runs it, in an empty environment, and says what it set.

use crate::error::{Error, Result};
use cairn_system::{Command, CommandError};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// What imgtool takes from `profiledef.sh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// `iso_name`: the profile's name.
    pub name: String,
    /// `arch`: `x86_64` is what there is so far.
    pub arch: String,
    /// `pacman_conf`, within the profile.
    pub pacman_conf: String,
    /// `file_permissions`: who owns a file of `airootfs/`, and its mode.
    pub permissions: BTreeMap<String, Permission>,
}

/// One entry of `file_permissions`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Permission {
    /// Numeric user id.
    pub uid: u32,
    /// Numeric group id.
    pub gid: u32,
    /// Mode bits.
    pub mode: u32,
}

const SCRIPT: &str = r#"
cd -- "$1" || exit
declare -A file_permissions=()
. ./profiledef.sh >&2 || exit
printf '%s\0' "iso_name=${iso_name-}" "arch=${arch-}" "pacman_conf=${pacman_conf-pacman.conf}"
for path in "${!file_permissions[@]}"; do
    printf '%s\0' "permission=${path}=${file_permissions[$path]}"
done
"#;

impl Definition {
    /// Runs `profiledef.sh` in `profile`.
    ///
    /// # Errors
    /// If it fails, or sets something that can't be.
    pub fn read(profile: &Path) -> Result<Self> {
        let file = profile.join("profiledef.sh");
        let wrong = |what: String| Error::input(format!("{}: {what}", file.display()));
        let output = Command::new("bash")
            .args(["--noprofile", "--norc", "-eu", "-c", SCRIPT, "bash"])
            .arg(profile)
            .clear_env()
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C")
            .env("SOURCE_DATE_EPOCH", "0")
            .timeout(Duration::from_secs(10))
            .run()
            .map_err(|error| match error {
                CommandError::Failed { status, stderr, .. } => {
                    let said = match stderr.trim() {
                        "" => status.to_string(),
                        said => said.to_owned(),
                    };
                    wrong("the script failed".into()).because(said)
                }
                other => Error::failed("cannot run bash").because(other),
            })?;
        Self::parse(&String::from_utf8_lossy(&output.stdout)).map_err(wrong)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut found = Self {
            name: String::new(),
            arch: String::new(),
            pacman_conf: String::new(),
            permissions: BTreeMap::new(),
        };
        for entry in text.split_terminator('\0') {
            match entry.split_once('=') {
                Some(("iso_name", value)) => found.name = value.to_owned(),
                Some(("arch", value)) => found.arch = value.to_owned(),
                Some(("pacman_conf", value)) => found.pacman_conf = value.to_owned(),
                Some(("permission", value)) => {
                    let (path, permission) = permission(value)?;
                    found.permissions.insert(path, permission);
                }
                _ => return Err(format!("printed {entry:?}, which nobody asked for")),
            }
        }
        if found.name.is_empty() {
            return Err("iso_name is not set".into());
        }
        if found.arch != "x86_64" {
            return Err(format!("expected arch=\"x86_64\", got {:?}", found.arch));
        }
        if found.pacman_conf.starts_with('/') || found.pacman_conf.split('/').any(|p| p == "..") {
            return Err(format!(
                "pacman_conf={:?} leaves the profile",
                found.pacman_conf
            ));
        }
        Ok(found)
    }
}

/// Reads `⟨path⟩=⟨uid⟩:⟨gid⟩:⟨mode⟩`.
fn permission(value: &str) -> Result<(String, Permission), String> {
    let wrong =
        || format!("file_permissions: expected [\"/path\"]=\"uid:gid:mode\", got {value:?}");
    let (path, rest) = value.rsplit_once('=').ok_or_else(wrong)?;
    let mut parts = rest.split(':');
    let mut next = |radix| {
        parts
            .next()
            .and_then(|p| u32::from_str_radix(p, radix).ok())
    };
    let permission = match (next(10), next(10), next(8)) {
        (Some(uid), Some(gid), Some(mode)) if mode <= 0o7777 => Permission { uid, gid, mode },
        _ => return Err(wrong()),
    };
    if parts.next().is_some() || !path.starts_with('/') || path.split('/').any(|p| p == "..") {
        return Err(wrong());
    }
    Ok((path.to_owned(), permission))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_bash_prints() {
        let text =
            "iso_name=edge\0arch=x86_64\0pacman_conf=pacman.conf\0permission=/etc/shadow=0:0:400\0";
        let found = Definition::parse(text).unwrap();
        assert_eq!(found.name, "edge");
        assert_eq!(
            found.permissions["/etc/shadow"],
            Permission {
                uid: 0,
                gid: 0,
                mode: 0o400
            }
        );
    }

    #[test]
    fn says_what_is_wrong() {
        let cases = [
            ("arch=x86_64\0", "iso_name is not set"),
            (
                "iso_name=a\0arch=riscv64\0",
                "expected arch=\"x86_64\", got \"riscv64\"",
            ),
            (
                "iso_name=a\0arch=x86_64\0permission=/a=0:0\0",
                "file_permissions: expected [\"/path\"]=\"uid:gid:mode\", got \"/a=0:0\"",
            ),
            (
                "iso_name=a\0arch=x86_64\0permission=/../a=0:0:755\0",
                "file_permissions: expected [\"/path\"]=\"uid:gid:mode\", got \"/../a=0:0:755\"",
            ),
            (
                "iso_name=a\0arch=x86_64\0pacman_conf=../p\0",
                "pacman_conf=\"../p\" leaves the profile",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(Definition::parse(text).unwrap_err(), message);
        }
    }
}
