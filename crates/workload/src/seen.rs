//! What Docker has, and which of it is ours.

use std::collections::BTreeMap;

use cairn_release::Digest;
use cairn_wire::workload::{Name, Workload};

/// Label: whose node it belongs to. What has another one, or none, isn't ours.
pub const NODE: &str = "cairn.node";
/// Label: the workload's name.
pub const WORKLOAD: &str = "cairn.workload";
/// Label: what it was made of ([`Workload::spec`]).
pub const SPEC: &str = "cairn.spec";
/// Label: the customer.
pub const CUSTOMER: &str = "cairn.customer";
/// Label: the customer's business.
pub const BUSINESS: &str = "cairn.business";

const PREFIX: &str = "cairn-";
const PREVIOUS: &str = ".previous";

/// The labels of a workload's Docker container.
pub fn labels(node: &str, workload: &Workload) -> BTreeMap<String, String> {
    [
        (NODE, node.to_owned()),
        (WORKLOAD, workload.name.to_string()),
        (SPEC, workload.spec().to_string()),
        (CUSTOMER, workload.owner.customer.to_string()),
        (BUSINESS, workload.owner.business.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// The name of a workload's Docker container.
pub fn current_name(workload: &Name) -> String {
    format!("{PREFIX}{workload}")
}

/// The name that the one before has while a new one is on trial.
pub fn previous_name(workload: &Name) -> String {
    format!("{PREFIX}{workload}{PREVIOUS}")
}

/// What a health check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// There is none.
    Unchecked,
    /// It hasn't passed yet.
    Starting,
    /// It passes.
    Healthy,
    /// It fails.
    Unhealthy,
}

/// How a Docker container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    /// Made and never started.
    Created,
    /// It runs.
    Running {
        /// What its health check says.
        health: Health,
        /// When it started, as Docker says it; another text is another start.
        since: String,
    },
    /// Somebody has paused it.
    Paused,
    /// It ended, and Docker is about to start it again.
    Restarting,
    /// It ended.
    Exited {
        /// With this code.
        code: i64,
        /// Because it wanted more memory than it may have.
        oom: bool,
    },
    /// Docker removes it, or couldn't.
    Dead,
    /// Docker doesn't say.
    Unclear,
}

impl Run {
    /// Whether it has processes, or may have some at any moment.
    pub fn is_active(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Paused | Self::Restarting)
    }
}

/// A Docker container, whoever made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its id.
    pub id: String,
    /// Its name, without a slash.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Id of its image.
    pub image_id: String,
    /// What its image was called when it was made.
    pub image: String,
    /// How it is.
    pub run: Run,
    /// How often Docker has started it again.
    pub restarts: u64,
}

/// What part a Docker container of ours plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It is the workload's.
    Current,
    /// It was, and is kept until the current one has proved itself.
    Previous,
}

/// A Docker container of ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ours<'s> {
    pub seen: &'s Seen,
    pub spec: Option<Digest>,
    pub role: Role,
}

impl Seen {
    /// The workload that it belongs to, if it is this node's. Labels alone make none: an image made of one of ours has them, too.
    pub fn workload(&self, node: &str) -> Option<Name> {
        self.ours(node).map(|(workload, _)| workload)
    }

    pub(crate) fn ours(&self, node: &str) -> Option<(Name, Ours<'_>)> {
        if self.labels.get(NODE)? != node {
            return None;
        }
        let workload = self.labels.get(WORKLOAD)?.parse().ok()?;
        let role = if self.name == current_name(&workload) {
            Role::Current
        } else if self.name == previous_name(&workload) {
            Role::Previous
        } else {
            return None;
        };
        let spec = self.labels.get(SPEC).and_then(|spec| spec.parse().ok());
        let seen = self;
        Some((workload, Ours { seen, spec, role }))
    }
}
