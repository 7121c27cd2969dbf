//! What is metered, and for whom.

use serde::{Deserialize, Serialize};

/// What is metered, and for whom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Meter {
    /// Its kind.
    pub kind: Kind,
    /// The interface's name, or the container's.
    pub name: String,
    /// Whose container it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer: Option<String>,
    /// Of which of the customer's businesses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub business: Option<String>,
}

/// What has counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A network interface of the node.
    Interface,
    /// A container.
    Container,
}
