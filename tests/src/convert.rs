//! One Debian package made into one pacman package.
//!
//! Files keep their bytes, modes, owners and times. Paths go where Arch has
//! them: `/bin`, `/sbin`, `/lib` and `/lib64` below `/usr`, a kernel beside its
//! modules. Maintainer scripts are dropped; what they do that matters is done
//! by the hooks and scriptlets of [`crate::addition`].

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use tar::{Archive, EntryType, Header};

use crate::addition::Addition;
use crate::apt::{self, AptIndex, DebPackage, Relation};
use crate::package::{
    Attributes, PackageInfo, PackageWriter, pacman_constraint, pacman_version, relative,
};

/// Serves maintainer scripts only, or is replaced by our own `filesystem`.
pub const LEFT_OUT: &[&str] = &[
    "adduser",
    "base-files",
    "base-passwd",
    "debconf",
    "dpkg",
    "init-system-helpers",
    "initramfs-tools",
    "install-info",
    "linux-base",
    "perl-base",
    "ucf",
];

/// Drivers of hardware that QEMU doesn't have: four fifths of a kernel package.
const NOT_IN_QEMU: &[&str] = &[
    "drivers/bluetooth",
    "drivers/comedi",
    "drivers/gpu",
    "drivers/hid",
    "drivers/hwmon",
    "drivers/iio",
    "drivers/infiniband",
    "drivers/input",
    "drivers/isdn",
    "drivers/leds",
    "drivers/media",
    "drivers/mmc",
    "drivers/mtd",
    "drivers/net/ethernet",
    "drivers/net/usb",
    "drivers/net/wireless",
    "drivers/platform",
    "drivers/scsi/lpfc",
    "drivers/scsi/qla2xxx",
    "drivers/staging",
    "drivers/target",
    "drivers/thunderbolt",
    "drivers/usb/gadget",
    "drivers/usb/serial",
    "drivers/video",
    "lib/test_bpf.ko",
    "net/bluetooth",
    "net/mac80211",
    "net/wireless",
    "sound",
];

/// What a package is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The same under its own name.
    Plain,
    /// A Debian kernel as Arch's `linux`.
    Kernel,
    /// The same as `linux-qemu`, without the drivers that QEMU has no use for.
    SmallKernel,
}

impl Form {
    fn place(self, path: &Path) -> Option<PathBuf> {
        let placed = usr_merged(path);
        if self == Self::Plain {
            return Some(placed);
        }
        if let Ok(name) = path.strip_prefix("boot") {
            let name = name.to_str()?;
            return ["vmlinuz", "config"].iter().find_map(|kind| {
                let release = name.strip_prefix(kind)?.strip_prefix('-')?;
                Some(Path::new("usr/lib/modules").join(release).join(kind))
            });
        }
        let kernel = placed.strip_prefix("usr/lib/modules").ok();
        let module = kernel.and_then(|inside| {
            let mut parts = inside.components();
            parts.next();
            parts.as_path().strip_prefix("kernel").ok()
        });
        let left_out = self == Self::SmallKernel
            && module.is_some_and(|module| NOT_IN_QEMU.iter().any(|dir| module.starts_with(dir)));
        (!left_out).then_some(placed)
    }
}

/// Where a path lies once `/bin` and its kin are links into `/usr`.
pub fn usr_merged(path: &Path) -> PathBuf {
    match path.components().next() {
        Some(Component::Normal(top))
            if ["bin", "sbin", "lib", "lib64"]
                .iter()
                .any(|dir| *dir == top) =>
        {
            Path::new("usr").join(path)
        }
        _ => path.to_owned(),
    }
}

/// A relative link that climbs to the root would miss it from one level deeper.
fn link_target(from: &Path, moved: bool, target: &Path) -> PathBuf {
    let ups = target
        .components()
        .take_while(|part| *part == Component::ParentDir)
        .count();
    if !moved || ups + 1 < from.components().count() {
        return target.to_owned();
    }
    let rest: PathBuf = target.components().skip(ups).collect();
    Path::new("/").join(usr_merged(&rest))
}

/// Makes the pacman package of `package` from its `deb` in `dir`.
///
/// # Errors
/// If the .deb can't be read or the package not written.
pub fn convert(
    index: &AptIndex,
    package: &DebPackage,
    form: Form,
    deb: &Path,
    dir: &Path,
) -> Result<PackageInfo> {
    let scratch = tempfile::tempdir_in(dir)?;
    let data = apt::data_tar(deb, &scratch.path().join("data.tar"))?;
    let mut info = describe(index, package, form);
    info.built = apt::built_at(deb)?;
    let addition = Addition::of(&info.name);
    info.depends
        .extend(addition.depends.iter().map(|name| (*name).to_owned()));
    survey(&data, form, &mut info)?;

    let mut writer = PackageWriter::create(dir, &info, addition.scriptlet)?;
    let mut copied = BTreeSet::new();
    for entry in Archive::new(BufReader::new(File::open(&data)?)).entries()? {
        let mut entry = entry?;
        let from = relative(&entry.path()?);
        let Some(to) = form.place(&from).filter(|to| to != Path::new("")) else {
            continue;
        };
        let attributes = attributes(entry.header())?;
        let kind = entry.header().entry_type();
        match kind {
            EntryType::Directory => writer.folder(&to, attributes)?,
            EntryType::Regular => {
                let size = entry.header().size()?;
                writer.stream(&to, attributes, size, &mut entry)?;
            }
            EntryType::Link | EntryType::Symlink => {
                let target = entry.link_name()?.context("a link without a target")?;
                let target = if kind == EntryType::Link {
                    form.place(&relative(&target))
                        .context("a hard link to a file that is left out")?
                } else {
                    link_target(&from, from != to, &target)
                };
                writer.link(kind, &to, &target, attributes)?;
            }
            other => bail!("{} has {from:?} of kind {other:?}", deb.display()),
        }
        copied.insert(to);
    }
    let attributes = |mode| Attributes {
        mode,
        uid: 0,
        gid: 0,
        mtime: info.built,
    };
    if form != Form::Plain {
        let kernel = copied.iter().find(|path| path.ends_with("vmlinuz"));
        let kernel = kernel.with_context(|| format!("{} has no vmlinuz", deb.display()))?;
        let name = format!("{}\n", info.name);
        writer.file(
            &kernel.with_file_name("pkgbase"),
            attributes(0o644),
            name.as_bytes(),
            &[],
        )?;
    }
    for (path, mode, text) in addition.files {
        for folder in Path::new(path)
            .ancestors()
            .skip(1)
            .collect::<Vec<_>>()
            .iter()
            .rev()
        {
            if !copied.contains(*folder) && folder.components().count() > 1 {
                writer.folder(folder, attributes(0o755))?;
            }
        }
        writer.file(Path::new(path), attributes(*mode), text.as_bytes(), &[])?;
    }
    for (path, target) in addition.links {
        let (path, target) = (Path::new(path), Path::new(target));
        writer.link(EntryType::Symlink, path, target, attributes(0o777))?;
    }
    writer.finish()?;
    Ok(info)
}

fn attributes(header: &Header) -> Result<Attributes> {
    Ok(Attributes {
        mode: header.mode()?,
        uid: header.uid()?,
        gid: header.gid()?,
        mtime: header.mtime()?,
    })
}

/// What `.PKGINFO` must say before the first file is written: size and licences.
fn survey(data: &Path, form: Form, info: &mut PackageInfo) -> Result<()> {
    for entry in Archive::new(BufReader::new(File::open(data)?)).entries()? {
        let mut entry = entry?;
        let path = relative(&entry.path()?);
        if form.place(&path).is_none() {
            continue;
        }
        info.size += entry.header().size()?;
        if path.starts_with("usr/share/doc")
            && path.ends_with("copyright")
            && entry.header().entry_type() == EntryType::Regular
        {
            let mut text = Vec::new();
            entry.read_to_end(&mut text)?;
            info.licenses = licenses(&String::from_utf8_lossy(&text));
        }
    }
    if info.licenses.is_empty() {
        info.licenses.insert("LicenseRef-unknown".to_owned());
    }
    Ok(())
}

/// The names in a machine-readable copyright file, as SPDX writes them where it
/// has the same licence.
fn licenses(copyright: &str) -> BTreeSet<String> {
    copyright
        .lines()
        .filter_map(|line| line.strip_prefix("License:"))
        .flat_map(|text| text.split([',', ' ', '|']))
        .filter(|word| word.starts_with(|c: char| c.is_ascii_uppercase()))
        .map(|word| match word {
            "GPL-2" => "GPL-2.0-only".to_owned(),
            "GPL-2+" => "GPL-2.0-or-later".to_owned(),
            "GPL-3" => "GPL-3.0-only".to_owned(),
            "GPL-3+" => "GPL-3.0-or-later".to_owned(),
            "LGPL-2" => "LGPL-2.0-only".to_owned(),
            "LGPL-2+" => "LGPL-2.0-or-later".to_owned(),
            "LGPL-2.1" => "LGPL-2.1-only".to_owned(),
            "LGPL-2.1+" => "LGPL-2.1-or-later".to_owned(),
            "LGPL-3+" => "LGPL-3.0-or-later".to_owned(),
            "Expat" => "MIT".to_owned(),
            "BSD-2-clause" => "BSD-2-Clause".to_owned(),
            "BSD-3-clause" => "BSD-3-Clause".to_owned(),
            "Apache-2.0" | "ISC" | "MIT" | "Zlib" => word.to_owned(),
            other => {
                let plain = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
                let name: String = other.chars().filter(|c| plain(*c)).collect();
                format!("LicenseRef-{name}")
            }
        })
        .take(24)
        .collect()
}

fn describe(index: &AptIndex, package: &DebPackage, form: Form) -> PackageInfo {
    let mut provides: BTreeSet<_> = package.provides.iter().map(as_provision).collect();
    let mut conflicts: BTreeSet<_> = package.conflicts.iter().map(as_requirement).collect();
    let name = match form {
        Form::Plain => package.name.clone(),
        Form::Kernel => "linux".to_owned(),
        Form::SmallKernel => {
            provides.insert("linux".to_owned());
            conflicts.insert("linux".to_owned());
            "linux-qemu".to_owned()
        }
    };
    let needed = package
        .depends
        .iter()
        .filter_map(|choice| index.choose(choice, LEFT_OUT));
    let mut depends: BTreeSet<_> = needed.map(as_requirement).collect();
    depends.insert("filesystem".to_owned());
    PackageInfo {
        name,
        version: pacman_version(&package.version),
        summary: package.summary.clone(),
        url: package.homepage.clone(),
        arch: if package.arch == "all" {
            "any"
        } else {
            "x86_64"
        }
        .to_owned(),
        depends,
        provides,
        conflicts,
        ..PackageInfo::default()
    }
}

fn as_provision(relation: &Relation) -> String {
    match &relation.version {
        Some((_, version)) => format!("{}={}", relation.name, pacman_constraint(version)),
        None => relation.name.clone(),
    }
}

fn as_requirement(relation: &Relation) -> String {
    let Some((operator, version)) = &relation.version else {
        return relation.name.clone();
    };
    let operator = match operator.as_str() {
        "<<" => "<",
        // A version without a release is older than any release of it in Debian,
        // and equal to all of them in pacman.
        ">>" if version.contains('-') => ">",
        ">>" => ">=",
        other => other,
    };
    format!("{}{operator}{}", relation.name, pacman_constraint(version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_go_below_usr_and_kernels_beside_their_modules() {
        let cases = [
            (Form::Plain, "sbin/init", Some("usr/sbin/init")),
            (Form::Plain, "etc/lib/x", Some("etc/lib/x")),
            (
                Form::Kernel,
                "boot/vmlinuz-6.1.0-56-amd64",
                Some("usr/lib/modules/6.1.0-56-amd64/vmlinuz"),
            ),
            (Form::Kernel, "boot/System.map-6.1.0-56-amd64", None),
            (Form::Kernel, "boot", None),
            (
                Form::Kernel,
                "lib/modules/6.1/kernel/sound/a.ko",
                Some("usr/lib/modules/6.1/kernel/sound/a.ko"),
            ),
            (Form::SmallKernel, "lib/modules/6.1/kernel/sound/a.ko", None),
            (
                Form::SmallKernel,
                "lib/modules/6.1/modules.order",
                Some("usr/lib/modules/6.1/modules.order"),
            ),
        ];
        for (form, from, to) in cases {
            assert_eq!(form.place(Path::new(from)), to.map(PathBuf::from), "{from}");
        }
    }

    #[test]
    fn a_relative_link_that_climbs_to_the_root_becomes_absolute() {
        let cases = [
            ("bin/x", true, "../usr/bin/y", "/usr/bin/y"),
            ("sbin/x", true, "../bin/y", "/usr/bin/y"),
            ("bin/x", true, "y", "y"),
            ("lib/a/x", true, "../y", "../y"),
            ("etc/x", false, "../proc/y", "../proc/y"),
        ];
        for (from, moved, target, expected) in cases {
            let made = link_target(Path::new(from), moved, Path::new(target));
            assert_eq!(made, Path::new(expected), "{from} -> {target}");
        }
    }

    #[test]
    fn licences_get_their_spdx_names() {
        let text =
            "Files: *\nLicense: GPL-2+ and Expat\n\nLicense: public-domain\nLicense: Artistic\n";
        let names: Vec<_> = licenses(text).into_iter().collect();
        assert_eq!(names, ["GPL-2.0-or-later", "LicenseRef-Artistic", "MIT"]);
    }
}
