//! The list of workloads, each judged alone.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::{Name, Workload};

/// The most workloads of one node.
pub const MAX: usize = 128;
/// What an item has in place of everything else when it can't be used.
const UNUSABLE: &str = "unusable";

/// One item of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Declared {
    /// It can be used.
    Usable(Box<Workload>),
    /// It can't. What runs under its name goes on as it is.
    Unusable {
        /// Its name, if that can be read.
        name: Option<Name>,
        /// What is wrong with it.
        reason: String,
    },
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

impl Declared {
    /// Its name, if it can be read.
    pub fn name(&self) -> Option<&Name> {
        match self {
            Self::Usable(workload) => Some(&workload.name),
            Self::Unusable { name, .. } => name.as_ref(),
        }
    }

    fn unusable(name: Option<Name>, reason: &str) -> Self {
        Self::Unusable {
            name,
            reason: reason.chars().take(500).collect(),
        }
    }

    fn read(value: &Value) -> Self {
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let name = text("name").and_then(|name| name.parse().ok());
        if let Some(reason) = text(UNUSABLE) {
            return Self::unusable(name, reason);
        }
        match Workload::deserialize(value) {
            Ok(workload) => match workload.check() {
                Ok(()) => Self::Usable(Box::new(workload)),
                Err(reason) => Self::unusable(name, &reason),
            },
            Err(error) => Self::unusable(name, &error.to_string()),
        }
    }
}

impl Serialize for Declared {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Usable(workload) => workload.serialize(serializer),
            Self::Unusable { name, reason } => {
                let mut map = serializer.serialize_map(None)?;
                if let Some(name) = name {
                    map.serialize_entry("name", name)?;
                }
                map.serialize_entry(UNUSABLE, reason)?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Workloads {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = Workloads;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of workloads")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Workloads, A::Error> {
                let (mut all, mut over) = (Workloads::default(), 0);
                while let Some(value) = list.next_element::<Value>()? {
                    over += usize::from(!all.add(Declared::read(&value)));
                }
                all.over(over);
                Ok(all)
            }
        }

        deserializer.deserialize_seq(List)
    }
}
