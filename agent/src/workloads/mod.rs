//! Workloads of the node: what [`cairn_workload`] decides, carried out by the Docker Engine.
//!
//! | Module | Owns |
//! |---|---|
//! | [`settings`] | `[workloads]` |
//! | [`engine`] | everything that is asked of Docker, as a trait |
//! | [`docker`] | that trait on the Docker Engine's socket |
//! | [`label`] | whose node it is, as its containers say |
//! | `container` | what a workload's Docker container is made of |
//! | `volumes` | folders of volumes that have a name only |
//! | `shown` | what matters of what Docker shows |
//! | `transport` | the way to its socket |
//! | `runner` | the loop: look, store, do; and what is told of it |
//! | [`steer`] | what an operator asks of one workload, and when that is done |

mod container;
pub mod docker;
pub mod engine;
pub mod label;
mod runner;
pub mod settings;
mod shown;
pub mod steer;
#[cfg(test)]
mod tests;
mod transport;
mod volumes;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use cairn_wire::workload::{Name, Protocol};

pub use runner::{Deps, run};
pub use settings::{Input, Settings};
pub use steer::Handle;

/// The workloads that run, as Docker showed them last; none before it was asked for the first time since the agent's start.
pub type Runs = Option<Arc<Vec<Running>>>;

/// A Docker container of ours that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its id.
    pub id: String,
    /// The workload.
    pub workload: Name,
    /// Who pays for it.
    pub customer: String,
    /// The customer's business.
    pub business: String,
    /// A file that stands for its network namespace.
    pub namespace: PathBuf,
    /// The node's ports that lead to it.
    pub ports: BTreeSet<(Protocol, u16)>,
}
