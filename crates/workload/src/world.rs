//! What a turn goes by.

use std::collections::BTreeSet;

use cairn_wire::workload::Workloads;

use crate::allowed::Allowed;
use crate::missing::Missing;
use crate::seen::{Ours, Role, Run, Seen};

/// What a turn goes by.
#[derive(Debug, Clone, Copy)]
pub struct World<'w> {
    /// Whose node it is; the label [`crate::seen::NODE`].
    pub node: &'w str,
    /// What is declared; none: not a word, and what runs goes on.
    pub declared: Option<&'w Workloads>,
    /// What the node's settings allow.
    pub allowed: &'w Allowed,
    /// Folders whose disk is missing: what needs one of them waits.
    pub missing: &'w Missing,
    /// All of Docker's containers, those of others too.
    pub seen: &'w [Seen],
    /// All names by digest of all images that are there.
    pub images: &'w BTreeSet<String>,
    /// Milliseconds since the boot.
    pub now_ms: u64,
}

/// The Docker containers of one workload.
#[derive(Debug, Default)]
pub(crate) struct Fleet<'s> {
    pub current: Option<Ours<'s>>,
    pub previous: Option<Ours<'s>>,
}

impl<'s> Fleet<'s> {
    pub fn add(&mut self, ours: Ours<'s>) {
        // Docker has each name once.
        match ours.role {
            Role::Current => self.current = Some(ours),
            Role::Previous => self.previous = Some(ours),
        }
    }

    pub fn all(&self) -> impl Iterator<Item = Ours<'s>> {
        self.previous.into_iter().chain(self.current)
    }

    pub fn is_active(&self) -> bool {
        self.all().any(|ours| ours.seen.run.is_active())
    }

    /// Whether Docker doesn't say how one of them is.
    pub fn is_unclear(&self) -> bool {
        self.all().any(|ours| ours.seen.run == Run::Unclear)
    }
}
