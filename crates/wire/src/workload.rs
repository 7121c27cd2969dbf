//! Workloads: the containers of customers that a node shall run, as the desired document declares them.
//!
//! Each is judged alone ([`Workloads`]): one that can't be read says so under its name, and the others run.
//! In this project *container* alone means the kernel container; a workload's is its *Docker container*.
//!
//! | Module | Owns |
//! |---|---|
//! | [`text`] | names, paths and other short texts, each with its rule |
//! | [`image`] | images by digest |
//! | [`parts`] | what a workload is made of |
//! | [`declared`] | the list, item by item |
//! | [`login`] | what registries want to know |
//! | [`report`] | how a node tells of its workloads |

pub mod declared;
pub mod image;
pub mod login;
pub mod parts;
pub mod report;
pub mod text;

use std::collections::{BTreeMap, BTreeSet};

use cairn_release::Digest;
use serde::{Deserialize, Serialize};

pub use declared::{Declared, Workloads};
pub use image::Image;
pub use login::{Login, Registry, Secret};
pub use parts::{
    Cpus, Device, Health, Limits, Network, Owner, Port, Protocol, Restart, Source, Stop, Update,
    Volume,
};
pub use report::{Status, WorkloadState};
pub use text::{AbsolutePath, Capability, Label, Name, Part, User, Variable, Word};

/// The most words of a command, and the most of each other list.
const MAX_LIST: usize = 64;
/// The most environment variables.
const MAX_ENVIRONMENT: usize = 256;
/// The least memory that Docker takes as a limit, in bytes.
const MIN_MEMORY: u64 = 6 << 20;

/// A workload. It is unprivileged, has no capabilities and gains none but what it names here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Its name, unique on the node.
    pub name: Name,
    /// Who pays for it.
    pub owner: Owner,
    /// What it runs.
    pub image: Image,
    /// What is run instead of the image's entry point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<Word>>,
    /// Instead of the image's command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<Word>>,
    /// Variables beside the image's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<Variable, Word>,
    /// Who it runs as, instead of the image's user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    /// The most that it may take.
    #[serde(default, skip_serializing_if = "parts::is_default")]
    pub limits: Limits,
    /// Devices of the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// Capabilities.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub capabilities: BTreeSet<Capability>,
    /// Folders of the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// Whether its own files can't be changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// The network that it is in.
    #[serde(default, skip_serializing_if = "parts::is_default")]
    pub network: Network,
    /// Ports of the node that lead inside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// How to tell whether it is healthy, instead of what the image says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// What happens when it ends by itself.
    #[serde(default, skip_serializing_if = "parts::is_default")]
    pub restart: Restart,
    /// How another one takes its place.
    #[serde(default, skip_serializing_if = "parts::is_default")]
    pub update: Update,
    /// How it is stopped.
    #[serde(default, skip_serializing_if = "parts::is_default")]
    pub stop: Stop,
}

impl Workload {
    /// What its Docker container is known by: two workloads of the same digest need the same container. A tag and the rules of
    /// an update change nothing about it. What a version of this program adds to workloads is left out while it has its default, so
    /// that no update of the agent replaces what runs.
    pub fn spec(&self) -> Digest {
        let essence = Self {
            image: self.image.clone().untagged(),
            update: Update::default(),
            ..self.clone()
        };
        // Texts, numbers and lists always have a JSON form.
        Digest::of(&serde_json::to_vec(&essence).unwrap_or_default())
    }

    /// What is wrong with it as a whole; the parts are right by themselves.
    ///
    /// # Errors
    /// Names the field and what was expected.
    pub fn check(&self) -> Result<(), String> {
        let words = |field: &str, words: &Option<Vec<Word>>| match words {
            Some(words) => few(field, words.len(), MAX_LIST),
            None => Ok(()),
        };
        words("entrypoint", &self.entrypoint)?;
        words("command", &self.command)?;
        few("environment", self.environment.len(), MAX_ENVIRONMENT)?;
        few("devices", self.devices.len(), MAX_LIST)?;
        few("capabilities", self.capabilities.len(), MAX_LIST)?;
        few("volumes", self.volumes.len(), MAX_LIST)?;
        few("ports", self.ports.len(), MAX_LIST)?;
        if let Some(memory) = self.limits.memory {
            within("limits.memory", memory, MIN_MEMORY, 1 << 50)?;
        }
        within("limits.pids", self.limits.pids.into(), 1, 1 << 22)?;
        within(
            "update.healthy_seconds",
            self.update.healthy_seconds.into(),
            1,
            86_400,
        )?;
        within(
            "stop.grace_seconds",
            self.stop.grace_seconds.into(),
            0,
            3600,
        )?;
        if let Some(health) = &self.health {
            few("health.command", health.command.len(), MAX_LIST)?;
            if health.command.is_empty() {
                return Err("health.command: expected a program".to_owned());
            }
            let seconds =
                |field: &str, value: u32, least| within(field, value.into(), least, 86_400);
            seconds("health.interval_seconds", health.interval_seconds, 1)?;
            seconds("health.timeout_seconds", health.timeout_seconds, 1)?;
            seconds(
                "health.start_period_seconds",
                health.start_period_seconds,
                0,
            )?;
            within("health.retries", health.retries.into(), 1, 1000)?;
        }
        if !self.ports.is_empty() && !matches!(self.network, Network::Bridge | Network::Named(_)) {
            return Err("ports: this network has none to publish".to_owned());
        }
        if self
            .ports
            .iter()
            .any(|port| port.host == 0 || port.container == 0)
        {
            return Err("ports: expected numbers from 1 to 65535".to_owned());
        }
        let mut places = BTreeSet::new();
        let twice = self.ports.iter().find(|port| {
            let place = (port.protocol, port.address, port.host);
            !places.insert(place)
        });
        if let Some(twice) = twice {
            return Err(format!("ports: {} is there twice", twice.host));
        }
        let mut targets = BTreeSet::new();
        match self
            .volumes
            .iter()
            .find(|volume| !targets.insert(&volume.target))
        {
            Some(twice) => Err(format!("volumes: {} is there twice", twice.target)),
            None => Ok(()),
        }
    }
}

fn few(field: &str, got: usize, most: usize) -> Result<(), String> {
    if got > most {
        return Err(format!("{field}: expected at most {most}, got {got}"));
    }
    Ok(())
}

fn within(field: &str, got: u64, least: u64, most: u64) -> Result<(), String> {
    if !(least..=most).contains(&got) {
        return Err(format!("{field}: expected {least} to {most}, got {got}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
