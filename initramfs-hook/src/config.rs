//! What the image builder wrote into the initramfs: `/etc/cairn/hook.json` and the
//! paths beside it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{IoError, cannot};

/// Path of the settings.
pub const HOOK: &str = "/etc/cairn/hook.json";
/// Path of the list of kernel modules.
pub const MODULES: &str = "/etc/cairn/modules.json";
/// Path of the built-in trust root.
pub const TRUST: &str = "/etc/cairn/trust.dsse.json";

/// The settings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Reboot when a block of an image is not what was signed, instead of an
    /// I/O error for whoever reads it.
    pub panic_on_corruption: bool,
    /// After how many seconds without a sign of life the watchdog resets the
    /// machine; 0 for no watchdog.
    pub watchdog_seconds: u32,
    /// How long to wait for the DATA partition.
    pub data_timeout_seconds: u32,
    /// DATA's file system, as `mount -t` names it.
    pub data_fs: String,
}

impl Config {
    /// How long to wait for the DATA partition.
    pub fn data_timeout(&self) -> Duration {
        Duration::from_secs(self.data_timeout_seconds.into())
    }
}

/// A file that the image builder wrote can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It can't be read.
    #[error(transparent)]
    Io(#[from] IoError),
    /// It isn't what was expected.
    #[error("{path} is not valid")]
    Json {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Reads one of the builder's JSON files.
///
/// # Errors
/// If it can't be read or isn't of the wanted shape.
pub fn read<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<T, ConfigError> {
    let path = path.as_ref();
    let bytes = fs::read(path).map_err(cannot("read", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|source| ConfigError::Json {
        path: path.display().to_string(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_settings_and_refuses_what_it_does_not_know() {
        let text = r#"{"panic_on_corruption": true, "watchdog_seconds": 60, "data_timeout_seconds": 30, "data_fs": "ext4"}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        assert_eq!(config.data_timeout(), Duration::from_secs(30));
        let surprise = text.replace("data_fs", "data_file_system");
        assert!(serde_json::from_str::<Config>(&surprise).is_err());
    }
}
