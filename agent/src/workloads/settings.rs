//! `[workloads]` of the configuration.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use cairn_workload::Allowed;
use serde::Deserialize;

use crate::setting::{Invalid, duration};

/// Capabilities that do no harm outside, and that many images want.
const CAPABILITIES: [&str; 7] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "KILL",
    "NET_BIND_SERVICE",
    "SETGID",
    "SETUID",
];

/// How often is looked whether Docker is there, on a node that had none when the agent started.
const LOOK: Duration = Duration::from_secs(5);

/// `[workloads]` as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Input {
    /// Whether the node runs any; without it: as soon as Docker's socket is there.
    pub enabled: Option<bool>,
    /// Docker's socket.
    pub socket: Option<PathBuf>,
    /// Where volumes lie; without it in `workloads` on DATA.
    pub volumes: Option<PathBuf>,
    /// Folders that a workload may see, and what lies in them.
    pub host_paths: Vec<String>,
    /// Devices that a workload may have, and those in these folders.
    pub devices: Vec<String>,
    /// Capabilities that a workload may have.
    pub capabilities: Option<Vec<String>>,
    /// Whether a workload may be in the node's own network.
    pub host_network: bool,
    /// What images of workloads may take: `10GiB`.
    pub image_budget: Option<String>,
}

/// `[workloads]` as it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether the node runs any; none: as soon as Docker's socket is there.
    pub enabled: Option<bool>,
    /// Docker's socket.
    pub socket: PathBuf,
    /// Where volumes lie; none: in `workloads` on DATA.
    pub volumes: Option<PathBuf>,
    /// What a workload may have.
    pub allowed: Allowed,
    /// What images may take, in bytes.
    pub image_budget: u64,
}

impl Settings {
    /// Checks what is written.
    ///
    /// # Errors
    /// If a value can't be used; the error names the key.
    pub fn check(input: &Input) -> Result<Self, Invalid> {
        let capabilities = match &input.capabilities {
            Some(given) => given.clone(),
            None => CAPABILITIES.map(str::to_owned).to_vec(),
        };
        let budget = input.image_budget.as_deref().unwrap_or("10GiB");
        for (key, path) in [("socket", &input.socket), ("volumes", &input.volumes)] {
            if path.as_ref().is_some_and(|path| path.is_relative()) {
                return Err(Invalid::new(
                    format!("workloads.{key}"),
                    "expected an absolute path",
                ));
            }
        }
        Ok(Self {
            enabled: input.enabled,
            socket: input
                .socket
                .clone()
                .unwrap_or_else(|| "/var/run/docker.sock".into()),
            volumes: input.volumes.clone(),
            allowed: Allowed {
                host_network: input.host_network,
                host_paths: list("workloads.host-paths", &input.host_paths)?,
                devices: list("workloads.devices", &input.devices)?,
                capabilities: list("workloads.capabilities", &capabilities)?,
            },
            image_budget: duration::bytes("workloads.image-budget", budget)?,
        })
    }

    /// Whether workloads are run now.
    pub fn is_enabled(&self) -> bool {
        self.enabled.unwrap_or_else(|| self.socket.exists())
    }

    /// Whether workloads are run once Docker is there, and it isn't yet: it may start after the agent.
    pub fn awaits_docker(&self) -> bool {
        self.enabled.is_none() && !self.socket.exists()
    }

    /// Comes back when Docker's socket is there.
    pub async fn docker(&self) {
        while !self.socket.exists() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Where volumes lie.
    pub fn volumes(&self, data: &Path) -> PathBuf {
        self.volumes
            .clone()
            .unwrap_or_else(|| data.join("workloads"))
    }
}

fn list<T: FromStr<Err: std::fmt::Display>, C: FromIterator<T>>(
    key: &str,
    texts: &[String],
) -> Result<C, Invalid> {
    let read = |text: &String| {
        text.parse::<T>()
            .map_err(|error| Invalid::new(key, error.to_string()))
    };
    texts.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Settings, Invalid> {
        Settings::check(&toml::from_str(text).unwrap())
    }

    #[tokio::test]
    async fn docker_is_awaited_unless_it_is_there_or_somebody_has_decided() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let said = |more: &str| check(&format!("socket = {socket:?}\n{more}")).unwrap();
        assert!(said("").awaits_docker() && !said("").is_enabled());
        assert!(!said("enabled = true").awaits_docker());
        assert!(!said("enabled = false").awaits_docker());
        std::fs::write(&socket, "").unwrap();
        said("").docker().await;
        assert!(!said("").awaits_docker() && said("").is_enabled());
    }

    #[test]
    fn what_is_written_is_read_and_what_is_wrong_is_named() {
        let settings =
            check("host-paths = ['/srv']\ndevices = ['/dev/dri']\nimage-budget = '1GiB'").unwrap();
        assert_eq!(settings.image_budget, 1 << 30);
        assert_eq!(settings.allowed.host_paths.len(), 1);
        assert_eq!(check("").unwrap().allowed.capabilities.len(), 7);
        let wrong = |text| check(text).unwrap_err().key;
        assert_eq!(wrong("host-paths = ['/']"), "workloads.host-paths");
        assert_eq!(wrong("capabilities = ['ALL']"), "workloads.capabilities");
        assert_eq!(wrong("image-budget = 'much'"), "workloads.image-budget");
        assert_eq!(wrong("socket = 'docker.sock'"), "workloads.socket");
    }
}
