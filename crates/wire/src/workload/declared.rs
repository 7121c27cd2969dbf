//! The list of workloads, each judged alone.

use serde::{Deserialize, Deserializer, Serialize};

use super::{Name, Workload};
use crate::declared::{self, Item};

/// The most workloads of one node.
pub const MAX: usize = 128;

/// One item of the list.
pub type Declared = declared::Declared<Workload>;

impl Item for Workload {
    fn name(&self) -> &Name {
        &self.name
    }

    fn check(&self) -> Result<(), String> {
        Self::check(self)
    }
}

/// All workloads that a node shall run, at most [`MAX`], no name twice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Workloads(Vec<Declared>);

impl Workloads {
    /// Of items. A name that is there twice can't be used, and neither can what is over the limit.
    pub fn new(items: impl IntoIterator<Item = Declared>) -> Self {
        let mut all = Self::default();
        let mut over = 0;
        for item in items {
            over += usize::from(!all.add(item));
        }
        all.over(over);
        all
    }

    /// All items, in the order in which they were declared.
    pub fn iter(&self) -> impl Iterator<Item = &Declared> {
        self.0.iter()
    }

    /// Those that can be used.
    pub fn usable(&self) -> impl Iterator<Item = &Workload> {
        self.0.iter().filter_map(Declared::usable)
    }

    /// Whether it was taken.
    fn add(&mut self, item: Declared) -> bool {
        if let Some(name) = item.name()
            && let Some(twice) = self.0.iter_mut().find(|other| other.name() == Some(name))
        {
            *twice = Declared::unusable(Some(name.clone()), "declared twice");
            return true;
        }
        let room = self.0.len() < MAX;
        if room {
            self.0.push(item);
        }
        room
    }

    fn over(&mut self, count: usize) {
        if count > 0 {
            let reason = format!("{count} more than the {MAX} that a node runs");
            self.0.push(Declared::unusable(None, &reason));
        }
    }
}

impl<'de> Deserialize<'de> for Workloads {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (mut all, mut over) = (Self::default(), 0);
        declared::each(deserializer, |item| {
            over += usize::from(!all.add(item));
        })?;
        all.over(over);
        Ok(all)
    }
}
