//! The list of disks, each judged alone.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::{Disk, Find, MountPoint, Name};

/// The most disks of one node.
pub const MAX: usize = 32;
/// What an item has in place of everything else when it can't be used.
const UNUSABLE: &str = "unusable";

/// One item of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Declared {
    /// It can be used.
    Usable(Box<Disk>),
    /// It can't, and nothing is done about it.
    Unusable {
        /// Its name, if that can be read.
        name: Option<Name>,
        /// What is wrong with it.
        reason: String,
    },
}

/// All disks that a node shall lay out, at most [`MAX`]. No name, no disk and no folder is there twice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Disks(Vec<Declared>);

impl Disks {
    /// Of items. Of two that contradict each other the later can't be used.
    pub fn new(items: impl IntoIterator<Item = Declared>) -> Self {
        let mut all = Self::default();
        for item in items {
            all.add(item);
        }
        all
    }

    /// All items, in the order in which they were declared.
    pub fn iter(&self) -> impl Iterator<Item = &Declared> {
        self.0.iter()
    }

    /// Those that can be used.
    pub fn usable(&self) -> impl Iterator<Item = &Disk> {
        self.0.iter().filter_map(|item| match item {
            Declared::Usable(disk) => Some(&**disk),
            Declared::Unusable { .. } => None,
        })
    }

    fn add(&mut self, item: Declared) {
        match self.0.len() {
            0..MAX => {
                let item = self.judge(item);
                self.0.push(item);
            }
            MAX => {
                let reason = format!("more than the {MAX} that a node lays out");
                self.0.push(Declared::unusable(None, &reason));
            }
            _ => {}
        }
    }

    fn judge(&self, item: Declared) -> Declared {
        let name = item.name().cloned();
        let wrong = |reason: &str| Declared::unusable(name.clone(), reason);
        if name.is_some() && self.0.iter().any(|other| other.name() == name.as_ref()) {
            return wrong("declared twice");
        }
        let Declared::Usable(disk) = &item else {
            return item;
        };
        let place = |find: &Find| match find {
            Find::Serial(serial) => Some(serial.to_string()),
            Find::Path(path) => Some(path.to_string()),
            Find::Size(_) => None,
        };
        if let Some(same) = place(&disk.find)
            && let Some(other) = self
                .usable()
                .find(|other| place(&other.find).as_ref() == Some(&same))
        {
            return wrong(&format!("find: it is the disk of {}", other.name));
        }
        let mut taken: Vec<&MountPoint> = self.usable().flat_map(Disk::mounts).collect();
        for mount in disk.mounts() {
            if let Some(other) = taken
                .iter()
                .find(|other| mount.is_in(other.as_str()) || other.is_in(mount.as_str()))
            {
                return wrong(&format!("mount: {mount} and {other} would hide each other"));
            }
            taken.push(mount);
        }
        item
    }
}

impl Declared {
    /// Its name, if it can be read.
    pub fn name(&self) -> Option<&Name> {
        match self {
            Self::Usable(disk) => Some(&disk.name),
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
        match Disk::deserialize(value) {
            Ok(disk) => match disk.check() {
                Ok(()) => Self::Usable(Box::new(disk)),
                Err(reason) => Self::unusable(name, &reason),
            },
            Err(error) => Self::unusable(name, &error.to_string()),
        }
    }
}

impl Serialize for Declared {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Usable(disk) => disk.serialize(serializer),
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

impl<'de> Deserialize<'de> for Disks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = Disks;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of disks")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Disks, A::Error> {
                let mut all = Disks::default();
                while let Some(value) = list.next_element::<Value>()? {
                    all.add(Declared::read(&value));
                }
                Ok(all)
            }
        }

        deserializer.deserialize_seq(List)
    }
}
