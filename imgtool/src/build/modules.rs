//! What depmod wrote about a kernel's modules, and which of them an initramfs needs.
//!
//! Sources of the formats: kmod's depmod(8), modules.dep(5); kernel's
//! `Documentation/kbuild/modules.rst` for `modules.builtin`.

use crate::error::{Error, Result};
use crate::files;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Modules that every boot needs; one that is neither a file nor built in is an error.
const NEEDED: [&str; 8] = [
    "loop",
    "dm_mod",
    "dm_verity",
    "erofs",
    "squashfs",
    "overlay",
    "ext4",
    "vfat",
];

/// Modules that are loaded in every boot beside [`NEEDED`], if the kernel has them:
/// FAT's character sets, and what the others ask the kernel to load by itself,
/// which an initramfs without modprobe can't do.
const WANTED: [&str; 10] = [
    "nls_cp437",
    "nls_ascii",
    "nls_iso8859_1",
    "nls_utf8",
    "crc32c_generic",
    "crc32c_intel",
    "sha256_generic",
    "sha256_ssse3",
    "libcrc32c",
    "lz4_decompress",
];

/// Drivers of disks and their buses, and watchdogs; loaded only where the hardware is.
const DRIVERS: [&str; 45] = [
    "ahci",
    "ata_generic",
    "ata_piix",
    "sd_mod",
    "nvme",
    "nvme_core",
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_scsi",
    "mmc_block",
    "mmc_core",
    "sdhci",
    "sdhci_pci",
    "sdhci_acpi",
    "usb_storage",
    "uas",
    "xhci_pci",
    "xhci_hcd",
    "ehci_pci",
    "ehci_hcd",
    "ohci_pci",
    "uhci_hcd",
    "usbcore",
    "megaraid_sas",
    "mpt3sas",
    "aacraid",
    "hpsa",
    "smartpqi",
    "mptspi",
    "vmw_pvscsi",
    "hv_storvsc",
    "hv_vmbus",
    "xen_blkfront",
    "vmd",
    "i6300esb",
    "iTCO_wdt",
    "iTCO_vendor_support",
    "i2c_i801",
    "sp5100_tco",
    "wdat_wdt",
    "softdog",
    "pata_acpi",
    "rtsx_pci_sdmmc",
    "lpc_ich",
];

/// Everything that depmod knows.
#[derive(Debug, Default)]
pub struct Modules {
    /// Name → file below the modules' folder, and the names that it needs.
    files: BTreeMap<String, (String, Vec<String>)>,
    /// Name → patterns of the hardware that it drives.
    aliases: BTreeMap<String, Vec<String>>,
    /// Name → names to be loaded before and after it.
    soft: BTreeMap<String, Vec<String>>,
    builtin: BTreeSet<String>,
}

/// A chosen module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// File below the modules' folder.
    pub file: String,
    /// Every module to load before it, in order.
    pub deps: Vec<String>,
    /// Patterns of the hardware that it drives.
    pub aliases: Vec<String>,
}

/// What goes into the initramfs.
#[derive(Debug, Default)]
pub struct Choice {
    /// What is loaded at every boot, in this order.
    pub load: Vec<String>,
    /// Every module, by name.
    pub modules: BTreeMap<String, Chosen>,
    /// Those of the asked for that the kernel has built in.
    pub builtin: Vec<String>,
}

/// `-` and `_` are the same in a module's name.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

fn name_of(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    plain(base.split_once(".ko").map_or(base, |(name, _)| name))
}

impl Modules {
    /// Reads depmod's files in `folder`.
    ///
    /// # Errors
    /// If `modules.dep` can't be read.
    pub fn read(folder: &Path) -> Result<Self> {
        let text = |name: &str| -> Result<String> {
            let bytes = files::read(&folder.join(name), 64 << 20)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let optional = |name: &str| text(name).unwrap_or_default();
        Ok(Self::parse(
            &text("modules.dep")?,
            &optional("modules.alias"),
            &optional("modules.softdep"),
            &optional("modules.builtin"),
        ))
    }

    fn parse(dep: &str, alias: &str, softdep: &str, builtin: &str) -> Self {
        let mut all = Self::default();
        for (file, needs) in dep.lines().filter_map(|line| line.split_once(':')) {
            let needs = needs.split_whitespace().map(name_of).collect();
            all.files.insert(name_of(file), (file.to_owned(), needs));
        }
        for line in alias.lines() {
            if let ["alias", pattern, module] = words(line)[..] {
                all.aliases
                    .entry(plain(module))
                    .or_default()
                    .push(pattern.to_owned());
            }
        }
        for line in softdep.lines() {
            if let ["softdep", module, names @ ..] = &words(line)[..] {
                let names = names.iter().filter(|n| !n.ends_with(':')).map(|n| plain(n));
                all.soft.entry(plain(module)).or_default().extend(names);
            }
        }
        all.builtin = builtin.lines().map(name_of).collect();
        all
    }

    /// Chooses what an initramfs needs: Cairn's own, and `extra`.
    ///
    /// # Errors
    /// If one that must be there is neither a file nor built in.
    pub fn choose(&self, extra: &[String]) -> Result<Choice> {
        let mut choice = Choice::default();
        let extra: Vec<String> = extra.iter().map(|name| plain(name)).collect();
        for name in NEEDED.into_iter().chain(extra.iter().map(String::as_str)) {
            if !self.has(name) {
                return Err(Error::input(format!("the kernel has no module {name:?}"))
                    .hint("the boot needs it; is the kernel built without it, or the name in image.toml wrong?"));
            }
        }
        // A driver's softdeps may name what it can do without.
        let always: Vec<&str> = WANTED
            .into_iter()
            .chain(NEEDED)
            .filter(|n| self.has(n))
            .collect();
        for name in always
            .iter()
            .copied()
            .chain(extra.iter().map(String::as_str))
        {
            self.take(name, &mut choice, true);
        }
        for name in DRIVERS {
            self.take(name, &mut choice, false);
        }
        choice.builtin.sort();
        choice.builtin.dedup();
        Ok(choice)
    }

    fn has(&self, name: &str) -> bool {
        self.builtin.contains(name) || self.files.contains_key(name)
    }

    fn take(&self, name: &str, choice: &mut Choice, load: bool) {
        if self.builtin.contains(name) {
            choice.builtin.push(name.to_owned());
            return;
        }
        let mut order = Vec::new();
        self.order(name, &mut order);
        for name in order {
            let Some((file, _)) = self.files.get(&name) else {
                continue;
            };
            if load && !choice.load.contains(&name) {
                choice.load.push(name.clone());
            }
            let mut deps = Vec::new();
            self.order(&name, &mut deps);
            deps.retain(|dep| *dep != name && self.files.contains_key(dep));
            let aliases = self.aliases.get(&name).cloned().unwrap_or_default();
            choice.modules.insert(
                name,
                Chosen {
                    file: file.clone(),
                    deps,
                    aliases,
                },
            );
        }
    }

    /// Appends `name` behind everything that it needs. depmod lists a module's
    /// needs nearest first; softdeps come before it too, since both `pre` and
    /// `post` ones have to be there once it works.
    fn order(&self, name: &str, order: &mut Vec<String>) {
        let mut visiting = BTreeSet::new();
        self.visit(name, order, &mut visiting);
    }

    fn visit(&self, name: &str, order: &mut Vec<String>, visiting: &mut BTreeSet<String>) {
        if !visiting.insert(name.to_owned()) || !self.files.contains_key(name) {
            return;
        }
        let hard = self
            .files
            .get(name)
            .map(|(_, needs)| needs.as_slice())
            .unwrap_or_default();
        let soft = self.soft.get(name).map(Vec::as_slice).unwrap_or_default();
        for need in soft.iter().chain(hard.iter().rev()) {
            self.visit(need, order, visiting);
        }
        order.push(name.to_owned());
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/fs/erofs/erofs.ko.zst: kernel/lib/libcrc32c.ko.zst
kernel/lib/libcrc32c.ko.zst:
kernel/crypto/crc32c_generic.ko.zst:
kernel/drivers/md/dm-verity.ko: kernel/drivers/md/dm-bufio.ko kernel/drivers/md/dm-mod.ko
kernel/drivers/md/dm-bufio.ko: kernel/drivers/md/dm-mod.ko
kernel/drivers/md/dm-mod.ko:
kernel/fs/squashfs/squashfs.ko:
kernel/fs/overlayfs/overlay.ko:
kernel/fs/fat/vfat.ko: kernel/fs/fat/fat.ko
kernel/fs/fat/fat.ko:
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio.ko:
";
    const BUILTIN: &str = "kernel/fs/ext4/ext4.ko\nkernel/drivers/block/loop.ko\n";

    fn modules() -> Modules {
        Modules::parse(
            DEP,
            "# Aliases\nalias virtio:d00000002v* virtio_blk\n",
            "softdep libcrc32c pre: crc32c_generic\n",
            BUILTIN,
        )
    }

    #[test]
    fn a_module_comes_after_everything_that_it_needs() {
        let choice = modules().choose(&[]).unwrap();
        let at = |name: &str| choice.load.iter().position(|n| n == name).unwrap();
        assert!(at("dm_mod") < at("dm_bufio") && at("dm_bufio") < at("dm_verity"));
        assert!(at("crc32c_generic") < at("libcrc32c") && at("libcrc32c") < at("erofs"));
        assert_eq!(
            choice.modules["erofs"].deps,
            ["crc32c_generic", "libcrc32c"]
        );
        assert_eq!(choice.builtin, ["ext4", "loop"]);
    }

    #[test]
    fn a_driver_is_there_but_loaded_only_for_its_hardware() {
        let choice = modules().choose(&[]).unwrap();
        assert!(!choice.load.contains(&"virtio_blk".to_owned()));
        assert_eq!(choice.modules["virtio_blk"].aliases, ["virtio:d00000002v*"]);
        assert_eq!(choice.modules["virtio_blk"].deps, ["virtio"]);
    }

    #[test]
    fn a_kernel_without_a_needed_module_is_refused() {
        let bare = Modules::parse("", "", "", BUILTIN);
        let error = bare.choose(&[]).unwrap_err();
        assert_eq!(error.to_string(), "the kernel has no module \"dm_mod\"");
        let error = modules().choose(&["no-such".into()]).unwrap_err();
        assert_eq!(error.to_string(), "the kernel has no module \"no_such\"");
    }

    #[test]
    fn a_circle_of_softdeps_ends() {
        let circle = Modules::parse(
            "a.ko:\nb.ko:\n",
            "",
            "softdep a pre: b\nsoftdep b post: a\n",
            "",
        );
        let mut order = Vec::new();
        circle.order("a", &mut order);
        assert_eq!(order, ["b", "a"]);
    }
}
