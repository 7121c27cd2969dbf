//! `[disks]` of the configuration.

use serde::Deserialize;

use crate::setting::Invalid;

/// `[disks]` as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Input {
    /// Whether disks are laid out.
    pub enabled: Option<bool>,
    /// Folders in which they may be mounted.
    pub mount_folders: Option<Vec<String>>,
}

/// `[disks]` as it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether disks are laid out.
    pub enabled: bool,
    /// Folders in which they may be mounted.
    pub mount_folders: Vec<String>,
}

impl Settings {
    /// Checks what is written.
    ///
    /// # Errors
    /// If a value can't be used; the error names the key.
    pub fn check(input: &Input) -> Result<Self, Invalid> {
        let folders = match &input.mount_folders {
            Some(given) => given.clone(),
            None => ["/mnt", "/srv", "/var/mnt"].map(str::to_owned).to_vec(),
        };
        let usable =
            |folder: &String| folder.len() > 1 && folder.starts_with('/') && !folder.ends_with('/');
        if let Some(wrong) = folders.iter().find(|folder| !usable(folder)) {
            let expected =
                format!("expected absolute paths without a slash at the end, got {wrong:?}");
            return Err(Invalid::new("disks.mount-folders", expected));
        }
        Ok(Self {
            enabled: input.enabled.unwrap_or(true),
            mount_folders: folders,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_absolute() {
        let check = |text: &str| Settings::check(&toml::from_str(text).unwrap());
        assert_eq!(check("").unwrap().mount_folders.len(), 3);
        assert!(!check("enabled = false").unwrap().enabled);
        for wrong in ["srv", "/", "", "/srv/"] {
            let error = check(&format!("mount-folders = ['{wrong}']")).unwrap_err();
            assert_eq!(error.key, "disks.mount-folders");
        }
    }
}
