//! `imgtool flash`: writes a bootable disk.

mod enrolment;
mod staging;
mod target;

use crate::console::Console;
use crate::disk::data::{self, Data};
use crate::disk::esp::{Esp, LOADER, OLD_LOADER};
use crate::disk::layout::{Ids, Layout, MIB};
use crate::error::{Error, Result};
use crate::files::cannot;
use crate::loader::artefact::Loader;
use crate::release_folder::ReleaseFolder;
use crate::size;
use crate::trust::{self, TrustFile};
use crate::{interrupt, verify};
use cairn_boot_state::{BootState, Copy, Event, Tries, step};
use cairn_release::digest::Hasher;
use cairn_release::{Version, name};
use enrolment::EnrolFile;
use serde::Serialize;
use std::path::{Path, PathBuf};
use target::Target;

/// How often a trial is started before the good release is taken again.
const TRIES: u8 = 3;

/// Write a bootable disk: an image file, or a removable disk
///
/// The disk boots by UEFI and by BIOS. Everything is checked before and read back
/// after it is written. A disk that isn't removable is only written to when its
/// serial number is given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A release's folder; may be repeated
    #[arg(long = "release", value_name = "DIR", required = true)]
    releases: Vec<PathBuf>,
    /// The loader's folder
    #[arg(long, value_name = "DIR")]
    loader: PathBuf,
    /// Trust roots, oldest first, or the folder that they lie in (repeatable)
    #[arg(long, value_name = "PATH", required = true)]
    trust: Vec<PathBuf>,
    /// The disk, or the image file to make
    #[arg(long, value_name = "PATH")]
    to: PathBuf,
    /// Size of an image file, such as 8G
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    size: Option<u64>,
    /// The serial number of the disk, to say that it is the one to erase
    #[arg(long, value_name = "TEXT")]
    serial: Option<String>,
    /// The release to boot, unless it is the only one
    #[arg(long, value_name = "VERSION")]
    good: Option<Version>,
    /// A release to boot on trial first
    #[arg(long, value_name = "VERSION")]
    trial: Option<Version>,
    /// The node's enrolment file, from `cairnctl token create --out`. It holds a
    /// secret, so an image file with it is readable by its owner only
    #[arg(long, value_name = "FILE")]
    enrol: Option<PathBuf>,
}

/// What `--json` says.
#[derive(Debug, Serialize)]
struct Report {
    disk: PathBuf,
    bytes: u64,
    releases: Vec<Version>,
    good: Option<Version>,
    trial: Option<Version>,
    loader: String,
    secure_boot: bool,
    enrol: bool,
    seconds: Vec<(String, f64)>,
}

/// Runs the command.
///
/// # Errors
/// If anything given isn't trusted, or the disk isn't right; then an image is
/// removed, and a disk is left without a partition table.
pub fn run(args: Args, console: &Console) -> Result<()> {
    interrupt::watch()?;
    let roots = trust::chain(&args.trust)?;
    let newest = roots
        .last()
        .map(|file| &file.trust)
        .ok_or_else(|| Error::input("no trust root was given"))?;
    let loader = Loader::open(&args.loader, newest)?;
    let releases = args
        .releases
        .iter()
        .map(|path| ReleaseFolder::open(path))
        .collect::<Result<Vec<_>>>()?;
    let state = boot_state(&releases, args.good.as_ref(), args.trial.as_ref())?;
    let enrol = args.enrol.as_deref().map(EnrolFile::read).transpose()?;
    let mut seconds = Vec::new();
    for release in &releases {
        let began = std::time::Instant::now();
        verify::check(release, newest, None, console)?.verdict(&release.path)?;
        seconds.push((
            format!("checking {}", release.manifest.version),
            began.elapsed().as_secs_f64(),
        ));
    }

    let content: u64 = releases
        .iter()
        .map(|r| r.manifest.kernel.image.size + r.manifest.root.size)
        .sum();
    // ext4's own tables and journal, and room for state, or nothing could ever be updated.
    let least = content + content / 50 + 192 * MIB;
    let target = Target::open(
        &args.to,
        args.size,
        (4 * least).max(4096 * MIB),
        args.serial.as_deref(),
    )?;
    let layout = Layout::plan(target.size, target.sector, least).map_err(|small| {
        Error::input(format!(
            "{} is too small: expected at least {}, got {}",
            args.to.display(),
            size::bytes(small.needed),
            size::bytes(small.disk)
        ))
    })?;
    let mut disk = Writing {
        target,
        layout,
        console,
        seconds,
    };
    let content = Content {
        releases: &releases,
        roots: &roots,
        loader: &loader,
        state: &state,
        enrol: enrol.as_ref(),
    };
    match disk.write(&content) {
        Ok(()) => {}
        Err(error) => {
            // Half a system must not look like one. An image is removed anyway.
            let _ = disk.target.wipe();
            let passing = disk.target.path.display().to_string();
            return Err(error.renamed(&passing, &args.to.display().to_string()));
        }
    }
    let report = Report {
        disk: args.to.clone(),
        bytes: disk.target.size,
        releases: releases
            .iter()
            .map(|r| r.manifest.version.clone())
            .collect(),
        good: state.good,
        trial: state.trial,
        loader: loader.description.grub.clone(),
        secure_boot: loader.description.secure_boot,
        enrol: enrol.is_some(),
        seconds: std::mem::take(&mut disk.seconds),
    };
    disk.target
        .keep(if enrol.is_some() { 0o600 } else { 0o644 })?;
    console.result(&report, || report.text())
}

impl Report {
    fn text(&self) -> String {
        let list = |versions: &[Version]| {
            versions
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        };
        let or_none = |v: &Option<Version>| {
            v.as_ref()
                .map_or_else(|| "none".into(), ToString::to_string)
        };
        format!(
            "{}, {}, read back and right\n  releases {}\n  boots    {} (on trial first: {})\n  loader   GRUB {}\n{}",
            self.disk.display(),
            size::bytes(self.bytes),
            list(&self.releases),
            or_none(&self.good),
            or_none(&self.trial),
            self.loader,
            if self.enrol {
                "  enrols   by the token that was given\n"
            } else {
                ""
            },
        )
    }
}

/// What boots first.
fn boot_state(
    releases: &[ReleaseFolder],
    good: Option<&Version>,
    trial: Option<&Version>,
) -> Result<BootState> {
    let versions: Vec<&Version> = releases.iter().map(|r| &r.manifest.version).collect();
    for (at, version) in versions.iter().enumerate() {
        if versions[..at].contains(version) {
            return Err(Error::input(format!(
                "the release {version} was given twice"
            )));
        }
    }
    let known = |option: &str, version: &Version| match versions.contains(&version) {
        true => Ok(version.clone()),
        false => Err(Error::input(format!(
            "{option} {version}: no such release was given"
        ))),
    };
    let good = match (good, &versions[..]) {
        (Some(version), _) => known("--good", version)?,
        (None, [only]) => (*only).clone(),
        _ => {
            return Err(Error::input(
                "say with --good which of the releases to boot",
            ));
        }
    };
    let event = Event::GoodChosen {
        version: good,
        tries: Tries::Unlimited,
    };
    let mut state = step(&BootState::default(), event)
        .map_err(|e| Error::input("--good: not possible").because(e.reason))?;
    if let Some(version) = trial {
        let event = Event::TrialChosen {
            version: known("--trial", version)?,
            tries: TRIES,
        };
        state = step(&state, event).map_err(|e| {
            Error::input(format!("--trial {version}: not possible")).because(e.reason)
        })?;
    }
    Ok(state)
}

/// What goes onto the disk.
struct Content<'c> {
    releases: &'c [ReleaseFolder],
    roots: &'c [TrustFile],
    loader: &'c Loader,
    state: &'c BootState,
    enrol: Option<&'c EnrolFile>,
}

struct Writing<'c> {
    target: Target,
    layout: Layout,
    console: &'c Console,
    seconds: Vec<(String, f64)>,
}

impl Writing<'_> {
    fn write(&mut self, content: &Content) -> Result<()> {
        let (loader, state) = (content.loader, content.state);
        let path = self.target.path.clone();
        let ids = Ids::random()?;
        self.step("writing the ESP", |disk| {
            disk.target.wipe()?;
            Esp::format(
                &disk.target.file,
                &path,
                disk.layout.esp,
                disk.layout.sector,
                ids.volume,
            )?;
            let esp = Esp::open(&disk.target.file, &path, disk.layout.esp)?;
            esp.write(LOADER, &loader.efi)?;
            esp.write(OLD_LOADER, &loader.efi)?;
            esp.set_boot_state(state, [Copy::A, Copy::B])?;
            esp.close()
        })?;
        self.step("writing the data partition", |disk| {
            let tree = disk.target.folder_beside().map_err(|e| {
                Error::failed("cannot make a folder for the data partition").because(e)
            })?;
            staging::fill(tree.path(), content.releases, content.roots, content.enrol).map_err(
                |e| {
                    let disk = disk.target.path.display();
                    Error::failed(format!("{disk}: cannot gather the data partition's files"))
                        .because(e)
                },
            )?;
            data::make(&disk.target.path, disk.layout.data, tree.path())
        })?;
        // Only now does the disk look like one.
        self.step("writing the partition table and GRUB", |disk| {
            let file = disk
                .target
                .file
                .try_clone()
                .map_err(|e| cannot("write", &path, e))?;
            disk.layout.write(&mut &file, &ids, &path)?;
            loader
                .bios
                .install(&file, disk.layout.bios, || file.sync_all())
                .map_err(|e| cannot("write GRUB to", &path, e))?;
            disk.target.settle()
        })?;
        self.step("reading back", |disk| disk.read_back(content, &path))
    }

    fn step(&mut self, name: &str, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let step = self.console.step(name, None);
        let outcome = work(self);
        // Ctrl-C ends mkfs.ext4 too, whose complaint would say less.
        interrupt::check()?;
        outcome?;
        self.seconds
            .push((name.to_owned(), step.done().as_secs_f64()));
        Ok(())
    }

    /// Reads everything that a boot needs from the disk, as a boot would find it.
    fn read_back(&mut self, content: &Content, path: &Path) -> Result<()> {
        let (loader, state) = (content.loader, content.state);
        let wrong =
            |what: &str| Error::failed(format!("{}: {what} read back differently", path.display()));
        let mut file = self
            .target
            .file
            .try_clone()
            .map_err(|e| cannot("read", path, e))?;
        if Layout::read(&mut file, path)? != self.layout {
            return Err(wrong("the partition table"));
        }
        if !loader
            .bios
            .is_installed(&file)
            .map_err(|e| cannot("read", path, e))?
        {
            return Err(wrong("GRUB for BIOS"));
        }
        let esp = Esp::open(&file, path, self.layout.esp)?;
        if esp.read(LOADER)?.as_deref() != Some(&loader.efi[..]) {
            return Err(wrong(LOADER));
        }
        let picked = esp.boot_state()?;
        if picked.state != *state || !picked.damaged.is_empty() {
            return Err(wrong("the boot state"));
        }
        let data = Data::open(&file, path, self.layout.data)?;
        if let Some(enrol) = content.enrol
            && data.read(&format!("/{}", enrolment::ON_NODE))? != enrol.bytes
        {
            return Err(wrong("the enrolment file"));
        }
        for release in content.releases {
            let folder = format!("/releases/{}", release.manifest.version);
            if data.read(&format!("{folder}/{}", name::MANIFEST))? != release.envelope_bytes {
                return Err(wrong(name::MANIFEST));
            }
            for (file, _, image) in release.images() {
                interrupt::check()?;
                let mut hasher = Hasher::default();
                data.stream(&format!("{folder}/{file}"), |piece| hasher.update(piece))?;
                if hasher.finish() != image.sha256 {
                    return Err(wrong(&format!("{} of {}", file, release.manifest.version)));
                }
            }
        }
        Ok(())
    }
}
