//! One look at units, accounts, modules, what was booted, and what lies over the image.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::time::Duration;

use cairn_tamper::boot::{self, Below};
use cairn_tamper::modules::{self, Module};
use cairn_tamper::users::{self, Files};
use cairn_tamper::{Finding, units};

use super::image::Image;
use crate::telemetry::{Sources, procfs};
use crate::update::real::host;

/// How long systemd may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// The most that it may say, in bytes.
const SAID: u64 = 4 << 20;
/// The longest list of a kernel's modules, in bytes.
const LISTED: u64 = 32 << 20;
/// The mounted kernel container.
const KERNEL: &str = "run/cairn/kernel";
/// The mounts of process 1: the agent's own namespace has more over `/usr`.
const MOUNTS: &str = "proc/1/mountinfo";

/// The release that Cairn's bootloader started.
///
/// # Errors
/// If it started none: then there is no image to compare with.
pub fn release(sources: &Sources) -> Result<String, String> {
    let cmdline = sources.text("proc/cmdline").unwrap_or_default();
    procfs::argument(&cmdline, "cairn.release")
        .map(str::to_owned)
        .ok_or_else(|| "this system wasn't started by Cairn's bootloader".to_owned())
}

/// What systemd says of its units.
///
/// # Errors
/// If it can't be asked.
pub async fn ask_systemd() -> Result<String, String> {
    let property = format!("--property={}", units::PROPERTIES);
    let mut args = vec!["--no-pager", "show", property.as_str()];
    args.extend(units::PATTERNS);
    let (good, said) = host::run("systemctl", &args, PATIENCE, SAID)
        .await
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&said).into_owned();
    if !good {
        return Err(format!("systemctl failed: {}", said.trim()));
    }
    if said.len() as u64 >= SAID {
        return Err("systemd has more units than can be looked at".to_owned());
    }
    Ok(said)
}

/// The image's units that run, and what runs beside them.
pub fn units(
    said: &str,
    sources: &Sources,
    image: &Image,
    expected: &[String],
) -> (BTreeSet<String>, Vec<Finding>) {
    let is_baked = |path: &str| image.has(&sources.root, path);
    units::judge(&units::parse(said), expected, is_baked)
}

/// Accounts.
///
/// # Errors
/// If a file of the node's can't be read.
pub fn users(
    sources: &Sources,
    image: &Image,
    expected: &[String],
) -> Result<Vec<Finding>, String> {
    let read = |path: &str| {
        sources
            .text(path)
            .ok_or_else(|| format!("/{path} cannot be read"))
    };
    let now = Files {
        passwd: read("etc/passwd")?,
        group: read("etc/group")?,
        shadow: read("etc/shadow")?,
    };
    let baked = Files {
        passwd: image.text("etc/passwd"),
        group: image.text("etc/group"),
        shadow: image.text("etc/shadow"),
    };
    Ok(users::judge(&now, &baked, expected))
}

/// The modules that are loaded. `known` remembers which of them the kernel container has.
///
/// # Errors
/// If the kernel's list or the container's can't be read.
pub fn modules(
    sources: &Sources,
    known: &mut BTreeSet<String>,
    expected: &[String],
) -> Result<Vec<Finding>, String> {
    let loaded = sources
        .text("proc/modules")
        .ok_or("/proc/modules cannot be read")?;
    let loaded = modules::parse(&loaded);
    if loaded.iter().any(|module| !known.contains(&module.name)) {
        let version = sources
            .text("proc/sys/kernel/osrelease")
            .ok_or("the kernel's version is unknown")?;
        let folder = sources
            .root
            .join(KERNEL)
            .join("modules")
            .join(version.trim());
        learn(&folder, &loaded, known).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    Ok(modules::judge(&loaded, known, expected))
}

/// The list of all modules is long; only those that are loaded are remembered.
fn learn(folder: &Path, loaded: &[Module], known: &mut BTreeSet<String>) -> io::Result<()> {
    let wanted: BTreeSet<_> = loaded.iter().map(|module| module.name.as_str()).collect();
    for list in ["modules.dep", "modules.builtin"] {
        let file = File::open(folder.join(list))?;
        for line in BufReader::new(file.take(LISTED)).lines() {
            let named = modules::in_dep(&line?);
            known.extend(named.filter(|name| wanted.contains(name.as_str())));
        }
    }
    Ok(())
}

/// What was booted: the kernel's arguments, and both images.
///
/// # Errors
/// If the command line, the signed arguments or the mounts can't be read.
pub fn medium(sources: &Sources, release: &str) -> Result<Vec<Finding>, String> {
    let read = |path: &str| {
        sources
            .text(path)
            .ok_or_else(|| format!("/{path} cannot be read"))
    };
    let signed = read(&format!("{KERNEL}/boot.env"))?;
    let mut findings = boot::arguments(&read("proc/cmdline")?, &signed);
    let mounts = procfs::mounts(&read(MOUNTS)?);
    for (point, mapping, file) in [
        ("/", "cairn-root", cairn_release::name::ROOT),
        (
            "/run/cairn/kernel",
            "cairn-kernel",
            cairn_release::name::KERNEL,
        ),
    ] {
        // The last one at a place is the one that is seen.
        let mount = mounts.iter().rev().find(|mount| mount.point == point);
        let below = mount.map(|mount| below(sources, &mount.device));
        findings.extend(boot::image(
            release,
            mapping,
            file,
            &below.unwrap_or_default(),
        ));
    }
    Ok(findings)
}

/// What a device-mapper device over a loop device lies on.
fn below(sources: &Sources, device: &str) -> Below {
    let device = format!("sys/dev/block/{device}");
    let line = |path: String| {
        let text = sources.text(&path)?;
        Some(text.trim_end().to_owned())
    };
    let slaves = fs::read_dir(sources.root.join(&device).join("slaves"));
    let mut slaves = slaves.into_iter().flatten().flatten();
    let file = slaves.find_map(|slave| {
        let name = slave.file_name().into_string().ok()?;
        line(format!("sys/block/{name}/loop/backing_file"))
    });
    Below {
        mapped: line(format!("{device}/dm/name")),
        file,
    }
}

/// What lies over the image.
///
/// # Errors
/// If the mounts can't be read.
pub fn mounts(sources: &Sources) -> Result<Vec<Finding>, String> {
    let text = sources
        .text(MOUNTS)
        .ok_or_else(|| format!("/{MOUNTS} cannot be read"))?;
    let mounts = procfs::mounts(&text);
    let places = mounts.iter().map(|m| (m.point.as_str(), m.kind.as_str()));
    Ok(boot::mounts(places))
}
