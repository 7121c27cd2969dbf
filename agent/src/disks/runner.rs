//! The loop: look at all disks, decide, do one step for each, and look again; and tell what has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_topology::{Course, Guid, Step, courses};
use cairn_wire::disk::{DiskState, MountPoint, Name, Status, report};
use cairn_wire::{Disk as Wanted, Disks};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};

use super::hands::{self, Hands};
use super::look::{Catalogue, Look, Sight};
use super::mounter::{self, Mounter};
use super::mountinfo;
use super::tools;
use super::units::Unit;
use super::{Missing, Settings};
use crate::files;
use crate::outbox::{Outbox, Priority};
use crate::shutdown::{Shutdown, boxed};
use crate::told::Told;

/// The longest memory, in bytes.
const LIMIT: u64 = 1 << 20;
/// How often disks are looked at when there is nothing to do.
const ROUND: Duration = Duration::from_secs(300);
/// How long after a failure a step or a look is tried again; longer after each next one.
const RETRY: Duration = Duration::from_secs(10);

/// What is needed.
pub struct Deps<C> {
    /// `[disks]`.
    pub settings: Settings,
    /// Looks at disks.
    pub look: Look<C>,
    /// Mounts them.
    pub mounter: Mounter,
    /// The file of what is remembered.
    pub memory: PathBuf,
    /// What is declared; none: nobody has said.
    pub declared: watch::Receiver<Option<Arc<Disks>>>,
    /// Where mounts are missing.
    pub missing: watch::Sender<Missing>,
    /// Where reports go.
    pub outbox: Outbox,
    /// Whose turn it is to touch disks, as long as the process lives: a step goes on when its loop has ended.
    pub turn: Arc<Mutex<()>>,
}

/// What no disk can say of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Memory {
    /// How often each was erased by an order, by serial number.
    erasures: BTreeMap<String, u32>,
}

pub(super) struct Runner<C> {
    settings: Settings,
    pub(super) hands: Hands<C>,
    file: PathBuf,
    memory: Memory,
    /// What was done last for a disk: the same again means that it had no effect.
    done: BTreeMap<Name, Step>,
    failed: BTreeMap<Name, Failure>,
    /// How often in a row there was a disk that couldn't be looked at.
    blind: u32,
}

/// A step failed.
struct Failure {
    /// How often in a row.
    times: u32,
    /// Until when nothing is tried.
    until: Instant,
    reason: String,
}

/// What came of a round.
pub(super) struct Round {
    pub(super) status: BTreeMap<Name, Status>,
    pub(super) missing: BTreeSet<MountPoint>,
    /// How long nothing is to be done.
    pub(super) pause: Duration,
}

/// How long nothing is tried again after so many failures in a row.
fn pause_after(failures: u32) -> Duration {
    let longer = failures.saturating_sub(1).min(6);
    RETRY.saturating_mul(1 << longer).min(ROUND)
}

/// Lays disks out until told to end. What is mounted stays.
pub async fn run<C: Catalogue>(deps: Deps<C>, mut shutdown: Shutdown) {
    let Deps {
        settings,
        look,
        mounter,
        memory,
        mut declared,
        missing,
        outbox,
        turn,
    } = deps;
    let mut told: Told<Name, Status> = Told::default();
    let work = boxed(async move {
        // A step of the loop before this one may have something to remember yet.
        drop(turn.lock().await);
        let mut runner = Runner::new(settings, look, mounter, memory);
        loop {
            let turn = turn.clone().lock_owned().await;
            let wanted = declared.borrow_and_update().clone();
            publish(wanted.as_deref(), &missing);
            let pause = match wanted {
                None => {
                    drop(turn);
                    None
                }
                Some(wanted) => {
                    let before = missing.borrow().clone().unwrap_or_default();
                    let round = tokio::task::spawn_blocking(move || {
                        // Held to the end of the round, also if nobody waits for it any more.
                        let _turn = turn;
                        let round = runner.round(&wanted, &before);
                        (runner, round)
                    });
                    let round = match round.await {
                        Ok((back, round)) => {
                            runner = back;
                            round
                        }
                        Err(error) => {
                            tracing::error!(%error, "the part that lays out disks broke");
                            return;
                        }
                    };
                    told.update(Instant::now(), round.status, |name, status| {
                        tracing::info!(disk = %name, state = ?status.state, device = status.device, reason = status.reason, "disk");
                        outbox.append(Priority::Event, report::values(name, status));
                    });
                    replace(&missing, round.missing);
                    Some(round.pause)
                }
            };
            tokio::select! {
                changed = declared.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    runner.failed.clear();
                }
                () = tokio::time::sleep(pause.unwrap_or(ROUND)), if pause.is_some() => {}
            }
        }
    });
    tokio::select! {
        () = shutdown.requested() => {}
        () = work => {}
    }
}

impl<C: Catalogue> Runner<C> {
    pub(super) fn new(settings: Settings, look: Look<C>, mounter: Mounter, file: PathBuf) -> Self {
        let kept = files::read(&file, LIMIT).ok().flatten();
        let kept = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self {
            settings,
            hands: Hands { look, mounter },
            memory: kept.unwrap_or_default(),
            file,
            done: BTreeMap::new(),
            failed: BTreeMap::new(),
            blind: 0,
        }
    }

    /// Looks once, and does one step for each disk. `before` is where mounts were missing until now.
    pub(super) fn round(&mut self, declared: &Disks, before: &BTreeSet<MountPoint>) -> Round {
        if !self.done.is_empty() {
            tools::settle();
        }
        let looked = self.hands.look.all(&self.memory.erasures);
        self.blind = match &looked {
            Ok(sight) if sight.unseen.is_empty() => 0,
            _ => self.blind.saturating_add(1),
        };
        let Sight { disks, unseen } = match looked {
            Ok(sight) => sight,
            Err(error) => {
                tracing::warn!(%error, "cannot look at disks");
                return Round {
                    status: BTreeMap::new(),
                    missing: before.clone(),
                    pause: pause_after(self.blind),
                };
            }
        };
        let courses = courses(declared, &disks, &self.settings.mount_folders);
        let mut status: BTreeMap<Name, Status> = courses
            .iter()
            .map(|(name, course)| (name.clone(), state(course, &unseen)))
            .collect();
        if let Err(reason) = self.keep_units(declared, &courses) {
            tracing::warn!(reason, "mounts may not come back after a reboot");
        }
        let mut worked = false;
        for wanted in declared.usable() {
            let name = &wanted.name;
            let Some((course, status)) = courses.get(name).zip(status.get_mut(name)) else {
                continue;
            };
            if wanted.dry_run {
                if status.state == DiskState::Working {
                    status.state = DiskState::Planned;
                }
                continue;
            }
            if course.plan.steps.is_empty() {
                self.done.remove(name);
                self.failed.remove(name);
                continue;
            }
            let waits = self
                .failed
                .get(name)
                .is_some_and(|failure| Instant::now() < failure.until);
            if !waits {
                match self.step(wanted, course) {
                    Ok(()) => {
                        worked = true;
                        self.failed.remove(name);
                    }
                    Err(reason) => self.fail(name, reason),
                }
            }
            if let Some(failure) = self.failed.get(name) {
                (status.state, status.reason) = (DiskState::Failed, failure.reason.clone());
            }
        }
        let now = Instant::now();
        let due = self
            .failed
            .values()
            .map(|failure| failure.until.saturating_duration_since(now));
        let look = (self.blind > 0).then(|| pause_after(self.blind));
        let pause = if worked {
            Duration::ZERO
        } else {
            due.chain(look).min().unwrap_or(ROUND)
        };
        let mut missing = missing(declared, &courses);
        // Of a disk that can't be looked at just now it is as it was.
        let unseen: BTreeSet<&str> = unseen.values().flatten().map(String::as_str).collect();
        missing.retain(|at| before.contains(at) || !unseen.contains(at.as_str()));
        Round {
            missing,
            status,
            pause: pause.min(ROUND),
        }
    }

    fn fail(&mut self, name: &Name, reason: String) {
        let before = self.failed.get(name).map_or(0, |failure| failure.times);
        let times = before.saturating_add(1);
        let failure = Failure {
            times,
            until: Instant::now() + pause_after(times),
            reason,
        };
        self.failed.insert(name.clone(), failure);
    }

    fn step(&mut self, wanted: &Wanted, course: &Course<'_>) -> Result<(), String> {
        let (Some(disk), Some(step)) = (course.disk, course.plan.steps.first()) else {
            return Ok(());
        };
        // Before what is there is given up, it is known that something can be made in its place.
        hands::needs(&course.plan.steps)?;
        if self.done.remove(&wanted.name).as_ref() == Some(step) {
            return Err(format!("had no effect: {step}"));
        }
        tracing::info!(disk = %wanted.name, device = disk.title(), %step, "disk");
        self.hands
            .perform(wanted, &disk.node, step, &self.memory.erasures)?;
        self.done.insert(wanted.name.clone(), step.clone());
        if let (Step::Claim(_), Some(serial), false) = (step, &disk.serial, disk.is_empty()) {
            let count = self.memory.erasures.entry(serial.clone()).or_insert(0);
            *count = count.saturating_add(1);
            self.remember();
        }
        Ok(())
    }

    fn remember(&self) {
        let stored = serde_json::to_vec(&self.memory)
            .map_err(std::io::Error::from)
            .and_then(|json| files::replace(&self.file, &json));
        if let Err(error) = stored {
            tracing::error!(file = %self.file.display(), %error, "cannot keep that a disk was erased");
        }
    }

    /// What is found is mounted at the next boot, too; what isn't found now may be then.
    fn keep_units(
        &self,
        declared: &Disks,
        courses: &BTreeMap<Name, Course<'_>>,
    ) -> Result<(), String> {
        let mut units = Vec::new();
        let mut settled: BTreeSet<&str> = BTreeSet::new();
        for wanted in declared.usable().filter(|wanted| !wanted.dry_run) {
            let Some(course) = courses.get(&wanted.name) else {
                continue;
            };
            let Some(disk) = course.disk else { continue };
            let refused = course.plan.refused.is_some();
            if !refused {
                settled.insert(wanted.name.as_str());
            }
            // Beside what is refused, what is right is mounted.
            let mounts = |id: Guid| {
                let mut steps = course.plan.steps.iter();
                steps
                    .any(|step| matches!(step, Step::Mount { partition, .. } if partition.id == id))
            };
            let table = disk.surface.table.as_ref().map(|found| &found.table);
            let entries = || table.into_iter().flat_map(|table| table.entries.values());
            units.extend(wanted.partitions.iter().filter_map(|partition| {
                let id = disk.id(&wanted.name).partition(&partition.name);
                let entry = entries().find(|entry| entry.id == id)?;
                if entry.is_unfinished() || refused && !mounts(id) {
                    return None;
                }
                Some(Unit {
                    disk: wanted.name.clone(),
                    partition: id,
                    at: partition.mount.clone()?,
                    file_system: partition.file_system,
                    options: mounter::options(&partition.options),
                })
            }));
        }
        let names: BTreeSet<&str> = declared
            .iter()
            .filter_map(|item| item.name().map(Name::as_str))
            .collect();
        // If a name can't be read, it may be anyone's.
        let all_named = declared.iter().all(|item| item.name().is_some());
        let keep = |disk: &str| !settled.contains(disk) && (names.contains(disk) || !all_named);
        self.hands.mounter.sync(&units, &keep)
    }
}

/// What is told of a disk on which nothing has been done yet. One that isn't found may be one of those that can't be looked at.
fn state(course: &Course<'_>, unseen: &BTreeMap<String, Vec<String>>) -> Status {
    let plan = &course.plan;
    let mut reason = plan.refused.clone().unwrap_or_default();
    if course.disk.is_none() && !unseen.is_empty() {
        let unseen: Vec<&str> = unseen.keys().map(String::as_str).collect();
        reason = format!("{reason}; cannot be looked at now: {}", unseen.join(", "));
    }
    Status {
        state: match (&plan.refused, plan.steps.is_empty()) {
            (Some(_), _) => DiskState::Refused,
            (None, true) => DiskState::Applied,
            (None, false) => DiskState::Working,
        },
        device: course.disk.map(|disk| disk.title()).unwrap_or_default(),
        plan: plan.steps.iter().map(ToString::to_string).collect(),
        reason,
    }
}

fn missing(declared: &Disks, courses: &BTreeMap<Name, Course<'_>>) -> BTreeSet<MountPoint> {
    let mounted: BTreeSet<&str> = courses
        .values()
        .filter_map(|course| course.disk)
        .flat_map(|disk| disk.parts.iter().flat_map(|part| &part.mounts))
        .map(String::as_str)
        .collect();
    declared
        .usable()
        .filter(|wanted| !wanted.dry_run)
        .flat_map(Wanted::mounts)
        .filter(|at| !mounted.contains(at.as_str()))
        .cloned()
        .collect()
}

/// Says where nothing at all is mounted of what is declared; the next look says more.
pub fn publish(declared: Option<&Disks>, missing: &watch::Sender<Missing>) {
    let mounted = mountinfo::read().unwrap_or_default();
    let is_mounted = |at: &&MountPoint| {
        mounted
            .iter()
            .any(|mount| mount.at == Path::new(at.as_str()))
    };
    let wanted = declared.into_iter().flat_map(Disks::usable);
    let mut folders: BTreeSet<MountPoint> = wanted
        .filter(|wanted| !wanted.dry_run)
        .flat_map(Wanted::mounts)
        .filter(|at| !is_mounted(at))
        .cloned()
        .collect();
    // Something else may be mounted there: that was seen at the last look.
    let before = missing.borrow().clone();
    let declared: BTreeSet<&MountPoint> = declared
        .into_iter()
        .flat_map(Disks::usable)
        .flat_map(Wanted::mounts)
        .collect();
    let before = before.iter().flat_map(|before| before.iter());
    folders.extend(before.filter(|at| declared.contains(at)).cloned());
    replace(missing, folders);
}

fn replace(missing: &watch::Sender<Missing>, folders: BTreeSet<MountPoint>) {
    missing.send_if_modified(|missing| {
        let changed = missing.as_deref() != Some(&folders);
        if changed {
            *missing = Some(Arc::new(folders));
        }
        changed
    });
}

/// How the declared disks are, and what is left to do, for people. Nothing is changed.
///
/// # Errors
/// If the disks can't be looked at.
pub fn describe<C: Catalogue>(
    declared: &Disks,
    settings: &Settings,
    look: &Look<C>,
    memory: &Path,
) -> std::io::Result<BTreeMap<Name, Status>> {
    let kept = files::read(memory, LIMIT)?;
    let memory: Memory = kept
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let Sight { disks, unseen } = look.all(&memory.erasures)?;
    let courses = courses(declared, &disks, &settings.mount_folders);
    let told = courses.iter().map(|(name, course)| {
        let mut status = state(course, &unseen);
        if status.state == DiskState::Working {
            status.state = DiskState::Planned;
        }
        (name.clone(), status)
    });
    Ok(told.collect())
}
