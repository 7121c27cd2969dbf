//! What a workload is made of.

use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::text::{AbsolutePath, Label, NotThat, Part, Word};

/// Who pays for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// The customer.
    pub customer: Label,
    /// The customer's business.
    pub business: Label,
}

/// The most that it may take. The kernel sees to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of memory, 6 MiB or more; there is no swap beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Cpus>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "is_default_pids")]
    pub pids: u32,
}

const PIDS: u32 = 1024;

fn is_default_pids(pids: &u32) -> bool {
    *pids == PIDS
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: None,
            cpus: None,
            pids: PIDS,
        }
    }
}

/// A number of processors, in thousandths; written as `1.5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Cpus(u32);

impl Cpus {
    /// In billionths, as Docker counts.
    pub fn nano(self) -> u64 {
        u64::from(self.0) * 1_000_000
    }
}

impl TryFrom<f64> for Cpus {
    type Error = NotThat;

    fn try_from(cpus: f64) -> Result<Self, NotThat> {
        if (0.01..=1024.0).contains(&cpus) {
            // In range, so nothing is cut but what is below a thousandth.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            Ok(Self((cpus * 1000.0).round() as u32))
        } else {
            Err(NotThat::new("0.01 to 1024 processors", &cpus.to_string()))
        }
    }
}

impl From<Cpus> for f64 {
    fn from(cpus: Cpus) -> Self {
        f64::from(cpus.0) / 1000.0
    }
}

/// A device of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Its path on the node, and inside.
    pub path: AbsolutePath,
    /// Whether it may be written to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub write: bool,
}

/// A folder of the node, inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Which one.
    #[serde(flatten)]
    pub source: Source,
    /// Where it is inside.
    pub target: AbsolutePath,
    /// Whether it can only be read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// Where a volume's files lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// In a folder of this name below the node's folder of volumes; made if it is missing, kept when the workload goes.
    Volume(Part),
    /// In this folder of the node, which has to be there and to be allowed.
    HostPath(AbsolutePath),
}

/// What network it is in. In JSON: `"bridge"`, `"host"`, `"none"` or `{"named": "…"}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Docker's own bridge.
    #[default]
    Bridge,
    /// The node's own, without any border between.
    Host,
    /// None.
    None,
    /// One that is there already on the node.
    Named(Part),
}

/// A port of the node that leads inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// On the node.
    pub host: u16,
    /// Inside.
    pub container: u16,
    /// Of which protocol.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: Protocol,
    /// At this address of the node alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

/// What a port speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// How Docker tells whether it is healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Program and arguments, run inside without a shell; exit code 0 is healthy.
    pub command: Vec<Word>,
    /// How often, in seconds.
    #[serde(default = "interval")]
    pub interval_seconds: u32,
    /// How long it may take, in seconds.
    #[serde(default = "timeout")]
    pub timeout_seconds: u32,
    /// How often in a row it has to fail.
    #[serde(default = "retries")]
    pub retries: u32,
    /// For how long after the start failures don't count, in seconds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub start_period_seconds: u32,
}

fn interval() -> u32 {
    30
}

fn timeout() -> u32 {
    10
}

fn retries() -> u32 {
    3
}

/// What happens when it ends by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// It is started again.
    #[default]
    Always,
    /// It is, unless it ended with 0.
    OnFailure,
    /// It has run.
    Never,
}

/// How another one takes its place: the old one is stopped and kept, and goes when the new one is healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Update {
    /// How long the new one may take to be healthy, in seconds, 1 to 86400.
    pub healthy_seconds: u32,
    /// Whether the old one comes back if it isn't by then.
    pub rollback: bool,
}

impl Default for Update {
    fn default() -> Self {
        Self {
            healthy_seconds: 120,
            rollback: true,
        }
    }
}

/// How it is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stop {
    /// How long it may take to end by itself, in seconds, 0 to 3600.
    pub grace_seconds: u32,
    /// Of several, those with a lower number are started first and stopped last.
    pub order: i16,
}

impl Default for Stop {
    fn default() -> Self {
        Self {
            grace_seconds: 10,
            order: 0,
        }
    }
}

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
