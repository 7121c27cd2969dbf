//! The list of disks, each judged alone.

use serde::{Deserialize, Deserializer, Serialize};

use super::{Disk, Find, MountPoint, Name};
use crate::declared::{self, Item};

/// The most disks of one node.
pub const MAX: usize = 32;

/// One item of the list.
pub type Declared = declared::Declared<Disk>;

impl Item for Disk {
    fn name(&self) -> &Name {
        &self.name
    }

    fn check(&self) -> Result<(), String> {
        Self::check(self)
    }
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
        self.0.iter().filter_map(Declared::usable)
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

impl<'de> Deserialize<'de> for Disks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut all = Self::default();
        declared::each(deserializer, |item| all.add(item))?;
        Ok(all)
    }
}
