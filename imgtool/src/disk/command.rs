//! `imgtool disk`: what is on a flashed disk, and what boots next from it.

use super::data::Data;
use super::esp::{Esp, LOADER, OLD_LOADER};
use super::fat::{LOADERS, exchange};
use super::layout::Layout;
use crate::console::Console;
use crate::error::{Error, Result};
use crate::files::cannot;
use crate::loader::artefact::Loader;
use crate::trust;
use cairn_boot_state::block::MAX_TRIES;
use cairn_boot_state::{BootState, Event, Picked, Tries, candidates, step};
use cairn_release::envelope::Envelope;
use cairn_release::manifest::{self, Manifest};
use cairn_release::{Digest, Sequence, Version, name};
use clap::Subcommand;
use serde::Serialize;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Show a flashed disk, choose what it boots, replace its loader
///
/// For disks that aren't running: a node's own agent does this while it runs.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Show releases, boot state and loader
    Show {
        /// The disk or image file
        disk: PathBuf,
    },
    /// Choose what boots next
    Boot {
        /// The disk or image file
        disk: PathBuf,
        /// The release to boot when there is no trial
        #[arg(long, value_name = "VERSION")]
        good: Option<Version>,
        /// The release to boot on trial
        #[arg(long, value_name = "VERSION", conflicts_with = "no_trial")]
        trial: Option<Version>,
        /// How often to start the trial
        #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_TRIES)))]
        tries: u8,
        /// Call the trial off
        #[arg(long)]
        no_trial: bool,
        /// Let a release that failed be tried again
        #[arg(long, value_name = "VERSION")]
        forgive: Option<Version>,
    },
    /// Replace the loader; each of its two halves by one sector write
    Loader {
        /// The disk or image file
        disk: PathBuf,
        /// The new loader's folder
        #[arg(long, value_name = "DIR")]
        replace: PathBuf,
        /// Trust roots, oldest first, or the folder that they lie in (repeatable)
        #[arg(long, value_name = "PATH", required = true)]
        trust: Vec<PathBuf>,
    },
}

/// Runs the command.
///
/// # Errors
/// If the disk can't be read or written, or the order isn't possible.
pub fn run(args: Args, console: &Console) -> Result<()> {
    match args.order {
        Order::Show { disk } => show(&Disk::open(&disk, false)?, console),
        Order::Boot {
            disk,
            good,
            trial,
            tries,
            no_trial,
            forgive,
        } => {
            let mut events = Vec::new();
            events.extend(forgive.map(|version| Event::FailureForgiven { version }));
            events.extend(no_trial.then_some(Event::TrialWithdrawn));
            events.extend(good.map(|version| Event::GoodChosen {
                version,
                tries: Tries::Unlimited,
            }));
            events.extend(trial.map(|version| Event::TrialChosen { version, tries }));
            if events.is_empty() {
                return Err(Error::input(
                    "say what to boot: --good, --trial, --no-trial or --forgive",
                ));
            }
            let disk = Disk::open(&disk, true)?;
            disk.choose(events)?;
            show(&disk, console)
        }
        Order::Loader {
            disk,
            replace,
            trust,
        } => {
            let loader = Loader::open(&replace, &trust::newest(&trust)?)?;
            let disk = Disk::open(&disk, true)?;
            disk.replace_loader(&loader)?;
            show(&disk, console)
        }
    }
}

struct Disk {
    path: PathBuf,
    file: File,
    layout: Layout,
}

/// What `show` says.
#[derive(Debug, Serialize)]
struct Report {
    disk: PathBuf,
    releases: Vec<Release>,
    trust_roots: Vec<String>,
    generation: u32,
    good: Option<Version>,
    good_tries: String,
    trial: Option<Version>,
    trial_tries: u8,
    failed: Vec<Version>,
    damaged: Vec<String>,
    boots: Option<Version>,
    loader: Option<Digest>,
}

#[derive(Debug, Serialize)]
struct Release {
    version: String,
    sequence: Option<Sequence>,
    kernel: Option<String>,
}

impl Disk {
    fn open(path: &Path, write: bool) -> Result<Self> {
        let mut file = File::options()
            .read(true)
            .write(write)
            .open(path)
            .map_err(|e| cannot("open", path, e))?;
        let layout = Layout::read(&mut file, path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            layout,
        })
    }

    fn esp(&self) -> Result<Esp> {
        Esp::open(&self.file, &self.path, self.layout.esp)
    }

    fn data(&self) -> Result<Data> {
        Data::open(&self.file, &self.path, self.layout.data)
    }

    fn choose(&self, events: Vec<Event>) -> Result<()> {
        let installed = self.data()?.list("/releases")?;
        let esp = self.esp()?;
        let picked = esp.boot_state()?;
        let mut state = picked.state.clone();
        for event in events {
            if let Event::TrialChosen { version, .. } | Event::GoodChosen { version, .. } = &event
                && !installed.iter().any(|name| name == version.as_str())
            {
                let list = installed.join(", ");
                return Err(Error::input(format!(
                    "{}: expected one of {list}, got {version}",
                    self.path.display()
                )));
            }
            state = step(&state, event).map_err(|e| {
                let order = match &e.event {
                    Event::TrialChosen { version, .. } => format!("--trial {version}"),
                    Event::GoodChosen { version, .. } => format!("--good {version}"),
                    Event::FailureForgiven { version } => format!("--forgive {version}"),
                    _ => "--no-trial".into(),
                };
                Error::input(format!("{}: {order}: not possible", self.path.display()))
                    .because(e.reason)
            })?;
        }
        esp.set_boot_state(&state, picked.write_order())?;
        esp.close()?;
        self.sync()
    }

    fn replace_loader(&self, loader: &Loader) -> Result<()> {
        let failed = |e: std::io::Error| cannot("replace the loader of", &self.path, e);
        let esp = self.esp()?;
        if esp.read(LOADER)?.as_deref() != Some(&loader.efi[..]) {
            esp.write(OLD_LOADER, &loader.efi)?;
            esp.close()?;
            self.sync()?;
            if self.esp()?.read(OLD_LOADER)?.as_deref() != Some(&loader.efi[..]) {
                return Err(failed(std::io::Error::other(
                    "the new one read back differently",
                )));
            }
            // Up to here the old one boots, from here the new one.
            exchange(
                &self.file,
                self.layout.esp.start,
                &LOADERS,
                "BOOTX64 EFI",
                "BOOTX64 OLD",
            )
            .map_err(failed)?;
            self.sync()?;
        }
        if !loader.bios.is_installed(&self.file).map_err(failed)? {
            loader
                .bios
                .install(&self.file, self.layout.bios, || self.file.sync_all())
                .map_err(failed)?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.file
            .sync_all()
            .map_err(|e| cannot("write", &self.path, e))
    }
}

fn show(disk: &Disk, console: &Console) -> Result<()> {
    let data = disk.data()?;
    let names = data.list("/releases")?;
    let mut releases: Vec<Release> = names.iter().map(|name| release(&data, name)).collect();
    releases.sort_by_key(|release| std::cmp::Reverse(release.sequence));
    let installed: Vec<Version> = releases
        .iter()
        .filter_map(|r| r.version.parse().ok())
        .collect();
    let esp = disk.esp()?;
    let Picked { state, damaged, .. } = esp.boot_state()?;
    let first = candidates(&state, &installed).into_iter().next();
    let BootState {
        generation,
        good,
        good_tries,
        trial,
        trial_tries,
        failed,
    } = state;
    let report = Report {
        disk: disk.path.clone(),
        releases,
        trust_roots: data.list("/trust")?,
        generation,
        good,
        good_tries: match good_tries {
            Tries::Unlimited => "unlimited".into(),
            Tries::Left(n) => n.to_string(),
        },
        trial,
        trial_tries,
        failed,
        damaged: damaged
            .iter()
            .map(|(copy, damage)| format!("{}: {damage}", copy.path()))
            .collect(),
        boots: first.map(|candidate| candidate.version),
        loader: esp.read(LOADER)?.map(|bytes| Digest::of(&bytes)),
    };
    console.result(&report, || report.text())
}

fn release(data: &Data, version: &str) -> Release {
    let manifest = data
        .read(&format!("/releases/{version}/{}", name::MANIFEST))
        .ok()
        .and_then(|bytes| Envelope::parse(&bytes, manifest::PAYLOAD_TYPE).ok())
        .and_then(|envelope| Manifest::from_payload(&envelope.payload).ok());
    Release {
        version: version.to_owned(),
        sequence: manifest.as_ref().map(|m| m.sequence),
        kernel: manifest.map(|m| m.kernel.kernel_version),
    }
}

impl Report {
    fn text(&self) -> String {
        let or_none = |v: &Option<Version>| {
            v.as_ref()
                .map_or_else(|| "none".into(), ToString::to_string)
        };
        let mut text = format!("{}\n", self.disk.display());
        for release in &self.releases {
            let unknown = || "unreadable manifest".to_owned();
            let sequence = release
                .sequence
                .map_or_else(unknown, |s| format!("sequence {s}"));
            let kernel = release.kernel.as_deref().unwrap_or("?");
            text += &format!(
                "  release  {:16} {sequence}, kernel {kernel}\n",
                release.version
            );
        }
        text += &format!(
            "  good     {} (tries: {})\n",
            or_none(&self.good),
            self.good_tries
        );
        text += &format!(
            "  trial    {} (tries: {})\n",
            or_none(&self.trial),
            self.trial_tries
        );
        let failed: Vec<String> = self.failed.iter().map(ToString::to_string).collect();
        if !failed.is_empty() {
            text += &format!("  failed   {}\n", failed.join(", "));
        }
        for damage in &self.damaged {
            text += &format!("  damaged  {damage}\n");
        }
        text += &format!("  boots    {}\n", or_none(&self.boots));
        text += &format!("  trust    {}\n", self.trust_roots.join(", "));
        if let Some(digest) = self.loader {
            text += &format!("  loader   BOOTX64.EFI {digest}\n");
        }
        text
    }
}
