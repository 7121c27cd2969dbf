//! What is known of a node.

use std::collections::BTreeSet;

use cairn_fleet::Selector;

/// What a node has, or a workload takes at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resources {
    /// Bytes of memory.
    pub memory: u64,
    /// Thousandths of a processor.
    pub cpus: u64,
}

impl Resources {
    pub(crate) fn add(&mut self, other: Self) {
        self.memory = self.memory.saturating_add(other.memory);
        self.cpus = self.cpus.saturating_add(other.cpus);
    }

    pub(crate) fn is_within(self, other: Self) -> bool {
        self.memory <= other.memory && self.cpus <= other.cpus
    }
}

/// A port of the node that leads inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// UDP, not TCP.
    pub udp: bool,
    /// Its number.
    pub number: u16,
}

/// What a line was seen to do; what wasn't measured isn't known.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Line {
    /// Latency in milliseconds.
    pub latency_ms: Option<f64>,
    /// Lost packets in percent.
    pub loss_percent: Option<f64>,
    /// What it takes upwards, in bit/s.
    pub up_bps: Option<f64>,
}

/// A node that may run workloads.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    /// Its id.
    pub id: String,
    /// Its group.
    pub group: String,
    /// Its tags.
    pub tags: BTreeSet<String>,
    /// Whose it is.
    pub supplier: Option<String>,
    /// What it has for workloads; none: it hasn't said.
    pub has: Option<Resources>,
    /// Its lines.
    pub lines: Vec<Line>,
    /// Somebody has said that it shall run nothing.
    pub drained: bool,
    /// Since when nothing is heard of it, in seconds since 1970.
    pub gone: Option<i64>,
}

impl Node {
    pub(crate) fn is_meant(&self, selector: &Selector) -> bool {
        selector.matches(&self.id, &self.group, &self.tags)
    }
}
