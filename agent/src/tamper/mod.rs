//! Signs of tampering: looks at the node again and again, and tells what isn't as it should be, with evidence.
//!
//! What is expected is what was baked into the signed image and what the first boot makes of it; the rules are pure functions in
//! `cairn_tamper`. What can't be looked at is unknown: it has a reason, and no count.
//!
//! | Module | Owns |
//! |---|---|
//! | `settings` | `[tamper]` |
//! | `image` | the image below what is mounted over it |
//! | `kmsg` | the kernel's messages |
//! | `etc` | the upper layer of `/etc` |
//! | `looks` | units, accounts, modules, what was booted, mounts |
//! | `ports` | who listens |
//! | `memory` | what outlives the agent |

mod etc;
mod image;
mod kmsg;
mod looks;
mod memory;
mod ports;
pub mod settings;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use cairn_tamper::clock::Look;
use cairn_tamper::kernel::{self, Trouble};
use cairn_tamper::presets::Enabled;
use cairn_tamper::sockets::{Port, Protocol};
use cairn_tamper::watch::Change;
use cairn_tamper::{Finding, Kind};
use cairn_wire::Object;
use cairn_wire::workload::{Workloads, parts};
use serde_json::Value;
use tokio::sync::watch;

use crate::clock::{Clock, Raw};
use crate::outbox::{Outbox, Priority};
use crate::shutdown::Shutdown;
use crate::telemetry::{Sources, disks};
use crate::workloads::{self, Running, Runs};
use image::{Digests, Image};
use kmsg::Kmsg;
use memory::{Errors, Memory, Shelf};
use ports::{Expected, Ports};

pub use settings::{Input, Settings};

/// What others show of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shown {
    /// For each sample: counts of findings, and errors of disks.
    pub sample: Object,
    /// For a person: what is found, and what can't be looked at.
    pub status: Value,
}

/// What is needed.
pub struct Deps {
    /// `[tamper]`.
    pub settings: Settings,
    /// The agent's own folder.
    pub folder: PathBuf,
    /// Where the node's files are.
    pub sources: Sources,
    /// The clocks.
    pub clock: Clock,
    /// Where events go.
    pub outbox: Outbox,
    /// The workloads that are declared; their ports are expected.
    pub declared: watch::Receiver<Option<Arc<Workloads>>>,
    /// Those that run; their ports are expected, too.
    pub running: watch::Receiver<Runs>,
    /// `[workloads]`: whether any are run.
    pub workloads: workloads::Settings,
    /// What others show.
    pub shown: watch::Sender<Shown>,
}

/// Looks until `shutdown`.
pub async fn run(deps: Deps, mut shutdown: Shutdown) {
    let mut ticks = tokio::time::interval(deps.settings.interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut guard = Guard::new(&deps);
    loop {
        let at = tokio::select! {
            at = async { ticks.tick().await; deps.at().await } => at,
            () = shutdown.requested() => return,
        };
        // It reads many files; nobody else waits for it.
        let looked = tokio::task::spawn_blocking(move || {
            let change = guard.look(at);
            (guard, change)
        });
        let looked = tokio::select! {
            looked = looked => looked,
            () = shutdown.requested() => return,
        };
        match looked {
            Ok((back, change)) => {
                guard = back;
                tell(&deps, &guard, &change);
            }
            Err(error) => {
                return tracing::error!(%error, "signs of tampering are looked for no more");
            }
        }
    }
}

fn tell(deps: &Deps, guard: &Guard, change: &Change) {
    for finding in &change.appeared {
        let Finding {
            kind,
            subject,
            what,
            ..
        } = finding;
        tracing::warn!(kind = kind.as_str(), subject, what, "a sign of tampering");
    }
    for Finding { kind, subject, .. } in &change.over {
        tracing::info!(kind = kind.as_str(), subject, "a sign of tampering is gone");
    }
    if !change.is_empty() {
        let told = guard.memory.watch.told(change);
        deps.outbox.append(Priority::Event, told);
    }
    deps.shown.send_replace(guard.shown());
}

/// What a look needs to know of the rest of the agent.
struct At {
    raw: Raw,
    synchronised: Option<SystemTime>,
    units: Result<String, String>,
    published: BTreeSet<Port>,
    containers: Option<BTreeSet<String>>,
}

impl Deps {
    async fn at(&self) -> At {
        let kinds = &self.settings.kinds;
        let asked = kinds.contains(&Kind::Units) || kinds.contains(&Kind::Ports);
        let units = match looks::release(&self.sources) {
            Ok(_) if asked => looks::ask_systemd().await,
            Ok(_) => Err("it is off".to_owned()),
            Err(reason) => Err(reason),
        };
        let declared = self.declared.borrow().clone();
        let running = self.running.borrow().clone();
        // Where no workloads are run nobody asks Docker, and what it runs is nobody's.
        let running = running.or_else(|| (!self.workloads.is_enabled()).then(Arc::default));
        let ids = |running: &Arc<Vec<Running>>| running.iter().map(|one| one.id.clone()).collect();
        At {
            raw: self.clock.raw(),
            synchronised: Clock::synchronised(),
            units,
            published: published(declared.as_deref(), running.as_deref().map(Vec::as_slice)),
            containers: running.as_ref().map(ids),
        }
    }
}

/// The node's ports that lead to workloads: as they are declared, and as they run still or already.
fn published(declared: Option<&Workloads>, running: Option<&[Running]>) -> BTreeSet<Port> {
    let declared = declared.into_iter().flat_map(Workloads::usable);
    let declared = declared.flat_map(|workload| &workload.ports);
    let declared = declared.map(|port| (port.protocol, port.host));
    let running = running.into_iter().flatten();
    let running = running.flat_map(|one| one.ports.iter().copied());
    let port = |(protocol, number)| Port {
        protocol: match protocol {
            parts::Protocol::Tcp => Protocol::Tcp,
            parts::Protocol::Udp => Protocol::Udp,
        },
        number,
    };
    declared.chain(running).map(port).collect()
}

/// Everything that is remembered from look to look.
struct Guard {
    settings: Settings,
    sources: Sources,
    shelf: Shelf,
    memory: Memory,
    kmsg: Result<Kmsg, String>,
    image: Result<Image, String>,
    enabled: Option<Enabled>,
    digests: Digests,
    modules: BTreeSet<String>,
    ports: Ports,
    accounted: Option<(u64, Option<SystemTime>)>,
}

impl Guard {
    fn new(deps: &Deps) -> Self {
        let sources = deps.sources.clone();
        let (shelf, mut memory) = Shelf::open(&deps.folder, &deps.clock.now().boot);
        for kind in Kind::ALL {
            if !deps.settings.kinds.contains(&kind) {
                memory.watch.forget(kind);
            }
        }
        let path = sources.root.join("dev/kmsg");
        let kmsg = Kmsg::open(&path).map_err(|error| format!("{}: {error}", path.display()));
        // Before anything is compared with it, it must be an image.
        let image = looks::release(&sources).and_then(|_| {
            Image::below(&sources.root)
                .map_err(|error| format!("the image below /etc cannot be seen: {error}"))
        });
        Self {
            settings: deps.settings.clone(),
            sources,
            shelf,
            memory,
            kmsg,
            image,
            enabled: None,
            digests: Digests::default(),
            modules: BTreeSet::new(),
            ports: Ports::default(),
            accounted: None,
        }
    }

    /// Looks at everything once.
    fn look(&mut self, at: At) -> Change {
        // What the last look found is told by now: it may come twice after a crash, and is never lost.
        if let Err(error) = self.shelf.keep(&self.memory) {
            tracing::warn!(%error, "what was found of tampering cannot be kept");
        }
        let heard = self.listen();
        let mut all = vec![(Kind::Verity, heard), (Kind::Clock, Ok(self.clock(&at)))];
        match &self.image {
            Ok(_) => self.compare(at, &mut all),
            Err(reason) => {
                let others = Kind::ALL
                    .into_iter()
                    .filter(|kind| !matches!(kind, Kind::Verity | Kind::Clock));
                all.extend(others.map(|kind| (kind, Err(reason.clone()))));
            }
        }
        let mut change = Change::default();
        for (kind, seen) in all {
            if !self.settings.kinds.contains(&kind) {
                continue;
            }
            match seen {
                Ok(findings) => change.add(self.memory.watch.saw(kind, findings)),
                Err(reason) => {
                    if self.memory.watch.could_not_see(kind, &reason) {
                        tracing::info!(
                            kind = kind.as_str(),
                            reason,
                            "it cannot be told whether there are signs of tampering"
                        );
                    }
                }
            }
        }
        change
    }

    /// What the kernel said since the last look.
    fn listen(&mut self) -> Result<Vec<Finding>, String> {
        let kmsg = self.kmsg.as_mut().map_err(|reason| reason.clone())?;
        let memory = &mut self.memory;
        let drained = kmsg.drain(|message| {
            // An earlier agent has heard it.
            if message.sequence < memory.next {
                return;
            }
            memory.next = message.sequence.saturating_add(1);
            let Some(trouble) = kernel::trouble(message) else {
                return;
            };
            if let Some(finding) = trouble.finding() {
                memory.damaged(finding);
            }
            match trouble {
                Trouble::Disk { device } => {
                    if let Some(errors) = memory.errors_of(device) {
                        errors.io = errors.io.saturating_add(1);
                    }
                }
                Trouble::FileSystem { device } => {
                    if let Some(errors) = memory.errors_of(device) {
                        errors.fs = errors.fs.saturating_add(1);
                    }
                }
                Trouble::Verity { .. } => {}
            }
        });
        match drained {
            Ok(false) => {}
            Ok(true) => tracing::debug!("the kernel threw messages away before they were read"),
            Err(error) => return Err(format!("the kernel's messages cannot be read: {error}")),
        }
        Ok(self.memory.damaged.clone())
    }

    fn clock(&mut self, at: &At) -> Vec<Finding> {
        let marks = (at.raw.set, at.synchronised);
        let before = self.accounted.replace(marks);
        self.memory.jumps.saw(Look {
            steady_ms: at.raw.mono_ms,
            wall_ms: at.raw.wall_ms,
            known: at.raw.known,
            accounted: before.is_some_and(|before| before != marks),
        })
    }

    /// What can only be judged beside the image.
    fn compare(&mut self, at: At, all: &mut Vec<(Kind, Result<Vec<Finding>, String>)>) {
        let Ok(image) = &self.image else { return };
        let (settings, sources) = (&self.settings, &self.sources);
        let wanted = |kind| settings.kinds.contains(&kind);
        if wanted(Kind::Etc) {
            let upper = sources.data.join("state/etc/upper");
            let enabled = self.enabled.get_or_insert_with(|| etc::enabled(image));
            let found = etc::look(&upper, image, enabled, &settings.files, &mut self.digests);
            let found = found.map_err(|error| format!("{}: {error}", upper.display()));
            all.push((Kind::Etc, found));
        }
        if wanted(Kind::Mounts) {
            all.push((Kind::Mounts, looks::mounts(sources)));
        }
        if wanted(Kind::Users) {
            all.push((Kind::Users, looks::users(sources, image, &settings.users)));
        }
        if wanted(Kind::Modules) {
            let known = &mut self.modules;
            let found = looks::modules(sources, known, &settings.modules);
            all.push((Kind::Modules, found));
        }
        if wanted(Kind::Medium) {
            let found =
                looks::release(sources).and_then(|release| looks::medium(sources, &release));
            all.push((Kind::Medium, found));
        }
        let units = at
            .units
            .map(|said| looks::units(&said, sources, image, &settings.units));
        let (units, strange) = match units {
            Ok((units, strange)) => (Ok(units), Ok(strange)),
            Err(reason) => (Err(reason.clone()), Err(reason)),
        };
        all.push((Kind::Units, strange));
        if wanted(Kind::Ports) {
            let ports = &mut self.ports;
            let found = units.and_then(|units| {
                let expected = Expected {
                    ports: settings.ports.clone(),
                    units,
                    published: at.published,
                    containers: at.containers,
                    found: self.memory.watch.found(Kind::Ports),
                };
                ports.look(sources, &expected)
            });
            all.push((Kind::Ports, found));
        }
    }

    fn shown(&self) -> Shown {
        let mut sample = self.memory.watch.counts();
        if self.kmsg.is_ok() {
            for (disk, errors) in self.errors() {
                sample.insert(format!("disk.{disk}.io_errors"), errors.io.into());
                sample.insert(format!("disk.{disk}.fs_errors"), errors.fs.into());
            }
        }
        Shown {
            sample,
            status: self.memory.watch.status(),
        }
    }

    /// Errors by disk, those of its partitions with it; 0 for one that nobody complained of.
    fn errors(&self) -> BTreeMap<String, Errors> {
        let disks = disks::names(&self.sources.root);
        let mut by_disk: BTreeMap<String, Errors> = disks
            .iter()
            .map(|disk| (disk.clone(), Errors::default()))
            .collect();
        for (device, errors) in &self.memory.errors {
            let is_part = |disk: &&String| {
                disks::folder(&self.sources.root, disk)
                    .join(device)
                    .exists()
            };
            let disk = disks.iter().find(is_part).unwrap_or(device);
            // As many as there may be disks: a sample has an end.
            if by_disk.len() >= disks::MANY && !by_disk.contains_key(disk) {
                continue;
            }
            let sum = by_disk.entry(disk.clone()).or_default();
            sum.io = sum.io.saturating_add(errors.io);
            sum.fs = sum.fs.saturating_add(errors.fs);
        }
        by_disk
    }
}
