//! Kernel modules: which ones, in which order, and for which devices.
//!
//! The image builder wrote all that depmod knows into `/etc/cairn/modules.json`, and
//! the modules themselves, uncompressed, into `/lib/modules/<name>.ko`; names
//! are written with `_`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde::Deserialize;

use crate::log;
use crate::modalias;

/// Folder of the modules' files.
pub const FOLDER: &str = "/lib/modules";

/// `modules.json`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleSet {
    /// Always loaded, in this order.
    pub load: Vec<String>,
    /// Each module that the initramfs holds.
    pub modules: BTreeMap<String, Module>,
    /// Names that the kernel has in itself.
    pub builtin: BTreeSet<String>,
}

/// One module.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    /// What must be loaded before, in this order.
    pub deps: Vec<String>,
    /// Patterns of the devices that it drives.
    pub aliases: Vec<String>,
}

impl ModuleSet {
    /// The modules to load for `name`, itself last, without those in `loaded`.
    /// Unknown names are left out: the kernel may have them built in.
    pub fn order(&self, name: &str, loaded: &BTreeSet<String>) -> Vec<String> {
        let mut order = Vec::new();
        self.visit(name, loaded, &mut BTreeSet::new(), &mut order);
        order
    }

    fn visit(
        &self,
        name: &str,
        loaded: &BTreeSet<String>,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<String>,
    ) {
        let Some(module) = self.modules.get(name) else {
            return;
        };
        if loaded.contains(name) || !seen.insert(name.to_owned()) {
            return;
        }
        for dependency in &module.deps {
            self.visit(dependency, loaded, seen, order);
        }
        order.push(name.to_owned());
    }

    /// Whether a name is known at all.
    pub fn knows(&self, name: &str) -> bool {
        self.modules.contains_key(name) || self.builtin.contains(name)
    }

    /// The modules that drive a device.
    pub fn drivers<'s>(&'s self, device: &'s str) -> impl Iterator<Item = &'s str> {
        self.modules
            .iter()
            .filter(move |(_, module)| {
                let mut aliases = module.aliases.iter();
                aliases.any(|alias| modalias::matches(alias, device))
            })
            .map(|(name, _)| name.as_str())
    }
}

/// Loads modules, each at most once.
#[derive(Default)]
pub struct Loader {
    set: ModuleSet,
    tried: BTreeSet<String>,
    devices: BTreeSet<String>,
}

impl Loader {
    /// A loader that has loaded nothing yet.
    pub fn new(set: ModuleSet) -> Self {
        Self {
            set,
            ..Self::default()
        }
    }

    /// Loads a module and what it needs, if it is there. A module that the kernel
    /// refuses is told to its log and not tried again.
    pub fn load(&mut self, name: &str) {
        for module in self.set.order(name, &self.tried) {
            let path = Path::new(FOLDER).join(format!("{module}.ko"));
            match insert(&path) {
                Ok(()) => {}
                // Most often its hardware isn't there.
                Err(error) => log::debug(format_args!("module {module} not loaded: {error}")),
            }
            self.tried.insert(module);
        }
    }

    /// Loads those that are always wanted.
    pub fn load_wanted(&mut self) {
        for name in self.set.load.clone() {
            if !self.set.knows(&name) {
                log::warn(format_args!("the initramfs lacks the module {name}"));
            }
            self.load(&name);
        }
    }

    /// Loads the drivers of all devices that the kernel has found since the last call.
    pub fn coldplug(&mut self) {
        let mut found = BTreeSet::new();
        collect(Path::new("/sys/devices"), &mut found);
        for device in found.difference(&self.devices.clone()) {
            let drivers: Vec<String> = self.set.drivers(device).map(str::to_owned).collect();
            drivers.iter().for_each(|driver| self.load(driver));
        }
        self.devices.append(&mut found);
    }

    /// Loads every module there is: for hardware that doesn't say what it is.
    pub fn load_all(&mut self) {
        for name in self.set.modules.keys().cloned().collect::<Vec<_>>() {
            self.load(&name);
        }
    }
}

fn insert(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    match rustix::system::finit_module(&file, c"", 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Gathers the modalias of every device below `folder`. Links aren't followed: in
/// sysfs they lead back up.
fn collect(folder: &Path, found: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&entry.path(), found),
            Ok(kind) if kind.is_file() && entry.file_name() == "modalias" => {
                if let Ok(alias) = fs::read_to_string(entry.path()) {
                    found.insert(alias.trim_end().to_owned());
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> ModuleSet {
        serde_json::from_str(
            r#"{"load": ["ext4"],
                "modules": {
                    "ext4": {"deps": ["jbd2", "mbcache"], "aliases": []},
                    "jbd2": {"deps": ["crc32c_generic"], "aliases": []},
                    "mbcache": {"deps": [], "aliases": []},
                    "crc32c_generic": {"deps": [], "aliases": ["crc32c"]},
                    "virtio_blk": {"deps": ["virtio"], "aliases": ["virtio:d00000002v*"]},
                    "ring_a": {"deps": ["ring_b"], "aliases": []},
                    "ring_b": {"deps": ["ring_a"], "aliases": []}},
                "builtin": ["virtio"]}"#,
        )
        .unwrap()
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let loaded = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let cases: [(&str, &[&str], &[&str]); 6] = [
            ("ext4", &[], &["crc32c_generic", "jbd2", "mbcache", "ext4"]),
            ("ext4", &["jbd2"], &["mbcache", "ext4"]),
            ("ext4", &["ext4"], &[]),
            ("virtio_blk", &[], &["virtio_blk"]),
            ("ring_a", &[], &["ring_b", "ring_a"]),
            ("unknown", &[], &[]),
        ];
        for (name, already, expected) in cases {
            assert_eq!(set().order(name, &loaded(already)), expected, "{name}");
        }
    }

    #[test]
    fn a_device_finds_its_driver() {
        let set = set();
        let drivers: Vec<&str> = set.drivers("virtio:d00000002v00001AF4").collect();
        assert_eq!(drivers, ["virtio_blk"]);
        assert_eq!(set.drivers("virtio:d00000001v00001AF4").count(), 0);
    }

    #[test]
    fn a_built_in_module_is_known() {
        assert!(set().knows("virtio") && set().knows("ext4") && !set().knows("btrfs"));
    }
}
