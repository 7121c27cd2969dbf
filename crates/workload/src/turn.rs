//! All workloads once: what to do, and how each is.

use std::collections::BTreeMap;

use cairn_wire::workload::{Declared, Name, Status, Workload, WorkloadState};

use crate::action::Action;
use crate::course::Course;
use crate::memory::Memory;
use crate::world::{Fleet, World};

/// After how many refusals of Docker a stop is no longer waited for by others.
const STUCK: u32 = 3;

/// What comes of a turn. The memory is stored before anything is done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turn {
    /// What to do now, at most one thing for each workload, and only when what is being done for it has ended.
    pub actions: Vec<Action>,
    /// How each workload is; but for those of which Docker doesn't say: nothing is done for them either.
    pub status: BTreeMap<Name, Status>,
    /// When something is due that Docker won't tell of, in milliseconds since the boot.
    pub wake_ms: Option<u64>,
}

/// What is to become of a workload.
enum Aim {
    /// This runs; with a reason it is the last one that could be used.
    Run(Box<Workload>, Option<String>),
    /// Nothing of it stays; with a reason it is declared, and not allowed.
    Go(Option<String>),
    /// Nobody can tell; nothing is touched.
    Leave(String),
}

/// Looks at everything once.
pub fn step(world: &World<'_>, memory: &Memory) -> (Memory, Turn) {
    let mut memory = memory.clone();
    let mut turn = Turn::default();
    let mut fleets: BTreeMap<Name, Fleet<'_>> = BTreeMap::new();
    for seen in world.seen {
        if let Some((workload, ours)) = seen.ours(world.node) {
            fleets.entry(workload).or_default().add(ours);
        }
    }
    let aims = aims(world, &memory, &fleets);
    let last_to_stop = last_to_stop(&aims, &memory, &fleets);
    for (name, aim) in aims {
        let fleet = fleets.remove(&name).unwrap_or_default();
        if fleet.is_unclear() {
            continue;
        }
        let item = memory.items.entry(name.clone()).or_default();
        let mut course = Course::new(world, &name, item, &fleet);
        let refusal = match aim {
            Aim::Run(workload, refusal) => {
                if course.item.last.as_ref() != Some(&workload) {
                    course.item.last = Some(workload.clone());
                }
                course.pursue(&workload);
                refusal
            }
            Aim::Go(refusal) => {
                let waits = last_to_stop.is_some_and(|last| order(course.item) < last);
                course.retire(waits);
                refusal
            }
            Aim::Leave(reason) => Some(reason),
        };
        let (mut status, action, wake_ms) = course.end();
        if let Some(reason) = refusal {
            (status.state, status.reason) = (WorkloadState::Refused, reason);
        }
        if status.state == WorkloadState::Removed {
            memory.items.remove(&name);
        }
        turn.status.insert(name.clone(), status);
        turn.actions.extend(action);
        turn.wake_ms = turn.wake_ms.into_iter().chain(wake_ms).min();
    }
    (memory, turn)
}

fn aims(
    world: &World<'_>,
    memory: &Memory,
    fleets: &BTreeMap<Name, Fleet<'_>>,
) -> BTreeMap<Name, Aim> {
    let mut aims = BTreeMap::new();
    // One that nobody can name may be any of those that run.
    let mut unnamed = world.declared.is_none();
    for item in world.declared.iter().flat_map(|declared| declared.iter()) {
        let (name, reason) = match item {
            Declared::Usable(workload) => match world.allowed.check(workload) {
                Ok(()) => {
                    aims.insert(workload.name.clone(), Aim::Run(workload.clone(), None));
                    continue;
                }
                Err(reason) => (&workload.name, reason),
            },
            Declared::Unusable { name: None, .. } => {
                unnamed = true;
                continue;
            }
            Declared::Unusable {
                name: Some(name),
                reason,
            } => (name, reason.clone()),
        };
        aims.insert(name.clone(), as_before(world, memory, name, reason));
    }
    for name in fleets.keys().chain(memory.items.keys()) {
        if !aims.contains_key(name) {
            let last = memory.items.get(name).and_then(|item| item.last.clone());
            let aim = match last {
                Some(last) if unnamed && world.allowed.check(&last).is_ok() => Aim::Run(last, None),
                None if unnamed => Aim::Leave("nobody has said what it shall be".to_owned()),
                _ => Aim::Go(None),
            };
            aims.insert(name.clone(), aim);
        }
    }
    aims
}

/// What is declared can't be used: what was before stays in force.
fn as_before(world: &World<'_>, memory: &Memory, name: &Name, reason: String) -> Aim {
    match memory.items.get(name).and_then(|item| item.last.clone()) {
        Some(last) if world.allowed.check(&last).is_ok() => Aim::Run(last, Some(reason)),
        // The settings have changed since.
        Some(_) => Aim::Go(Some(reason)),
        None => Aim::Leave(reason),
    }
}

fn order(item: &crate::memory::Item) -> i16 {
    item.last.as_ref().map_or(0, |last| last.stop.order)
}

/// Of the workloads that go and run yet, the highest order: those below it wait. One that can't be stopped holds nobody up.
fn last_to_stop(
    aims: &BTreeMap<Name, Aim>,
    memory: &Memory,
    fleets: &BTreeMap<Name, Fleet<'_>>,
) -> Option<i16> {
    aims.iter()
        .filter(|(name, aim)| {
            matches!(aim, Aim::Go(_)) && fleets.get(name).is_some_and(Fleet::is_active)
        })
        .filter_map(|(name, _)| memory.items.get(name))
        .filter(|item| item.engine.as_ref().is_none_or(|wait| wait.times < STUCK))
        .map(order)
        .max()
}
