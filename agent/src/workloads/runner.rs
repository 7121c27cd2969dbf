//! The loop: look at Docker, decide, store what is remembered, do; and tell what has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_wire::workload::{Name, Status, WorkloadState, Workloads, report};
use cairn_workload::images::{Present, clean_up};
use cairn_workload::seen::{Run, current_name};
use cairn_workload::{Action, Memory, Missing, Seen, Trouble, World, step};
use rand::Rng;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::engine::Engine;
use super::steer::{Ask, Waiting};
use super::{Runs, Settings};
use crate::clock::Clock;
use crate::disks;
use crate::files;
use crate::outbox::{Outbox, Priority};
use crate::shutdown::{Shutdown, boxed};
use crate::told::Told;

/// The longest memory, in bytes.
const LIMIT: u64 = 8 << 20;
/// How often Docker is looked at without a word from it.
const ROUND: Duration = Duration::from_secs(30);
/// How long Docker is left alone when it doesn't answer.
const ABSENT: Duration = Duration::from_secs(5);
/// How long after a change its next ones are waited for, so that many are one.
const GATHER: Duration = Duration::from_millis(20);

/// What is needed.
pub struct Deps {
    /// `[workloads]`.
    pub settings: Settings,
    /// The file of what is remembered.
    pub memory: PathBuf,
    /// Whose node it is ([`super::label`]).
    pub node: String,
    /// What is declared; none: nobody has said.
    pub declared: watch::Receiver<Option<Arc<Workloads>>>,
    /// Where disks should be mounted and aren't.
    pub missing: watch::Receiver<disks::Missing>,
    /// Where volumes lie that have a name only.
    pub volumes: PathBuf,
    /// What of it runs.
    pub running: watch::Sender<Runs>,
    /// How each workload is.
    pub status: watch::Sender<Arc<BTreeMap<Name, Status>>>,
    /// What operators ask.
    pub asked: mpsc::Receiver<Ask>,
    /// Where reports go.
    pub outbox: Outbox,
    /// The time.
    pub clock: Clock,
}

/// Something that is being done.
struct Begun {
    action: Action,
    /// A pull, which may take for ever, is given up when this is dropped.
    wanted: Option<oneshot::Sender<()>>,
}

/// What was done, and how it ended; none: it was given up.
type Ended = (Action, Option<Result<(), Trouble>>);

struct Runner<E> {
    engine: Arc<E>,
    deps: Deps,
    memory: Memory,
    told: Told<Name, Status>,
    /// Each workload's Docker container, as it was seen last.
    current: BTreeMap<Name, String>,
    waiting: Waiting,
    /// What is being done for each workload.
    busy: BTreeMap<Name, Begun>,
    work: JoinSet<Ended>,
    /// Of these Docker didn't tell when it was asked last.
    unclear: BTreeSet<Name>,
    /// Images are being removed.
    clearing: Option<JoinHandle<()>>,
    /// Docker's last answer was none.
    absent: bool,
}

/// Runs workloads until told to end. What Docker runs goes on.
pub async fn run<E: Engine>(engine: E, deps: Deps, mut shutdown: Shutdown) {
    let engine = Arc::new(engine);
    let heard = Arc::new(Notify::new());
    let listening = {
        let (engine, heard) = (engine.clone(), heard.clone());
        boxed(async move {
            loop {
                engine.listen(&heard).await;
                tokio::time::sleep(ABSENT).await;
                heard.notify_one();
            }
        })
    };
    let (mut declared, mut missing) = (deps.declared.clone(), deps.missing.clone());
    let mut runner = Runner::new(engine, deps);
    let looking = boxed(async move {
        loop {
            declared.mark_unchanged();
            missing.mark_unchanged();
            let pause = runner.round().await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = heard.notified() => runner.gather().await,
                changed = declared.changed() => if changed.is_err() { return },
                Ok(()) = missing.changed() => {}
                Some(ended) = runner.work.join_next() => runner.ended(ended),
                Some(ask) = runner.deps.asked.recv() => runner.take(ask),
            }
        }
    });
    tokio::select! {
        () = shutdown.requested() => {}
        () = listening => {}
        () = looking => {}
    }
}

impl<E: Engine> Runner<E> {
    fn new(engine: Arc<E>, deps: Deps) -> Self {
        let kept = files::read(&deps.memory, LIMIT).ok().flatten();
        let kept = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let mut memory: Memory = kept.unwrap_or_default();
        memory.begin(&deps.clock.now().boot);
        Self {
            engine,
            deps,
            memory,
            told: Told::default(),
            current: BTreeMap::new(),
            waiting: Waiting::default(),
            busy: BTreeMap::new(),
            work: JoinSet::new(),
            unclear: BTreeSet::new(),
            clearing: None,
            absent: false,
        }
    }

    /// Looks once, and begins what is to be done; how long to wait for the next look at most.
    async fn round(&mut self) -> Duration {
        let view = match self.engine.look(&self.deps.node).await {
            Ok(view) => view,
            Err(trouble) => {
                if !self.absent {
                    tracing::warn!(%trouble, "workloads are left as they are");
                }
                self.absent = true;
                return ABSENT;
            }
        };
        self.absent = false;
        let node = &self.deps.node;
        let ours = view.seen.iter().filter_map(|seen| {
            let name = seen.workload(node)?;
            (seen.name == current_name(&name)).then(|| (name, seen.id.clone()))
        });
        self.current = ours.collect();
        let unclear = view.seen.iter().filter(|seen| seen.run == Run::Unclear);
        let unclear: BTreeSet<Name> = unclear.filter_map(|seen| seen.workload(node)).collect();
        for name in unclear.difference(&self.unclear) {
            tracing::warn!(workload = %name, "Docker doesn't tell how it is; it is left as it is");
        }
        self.unclear = unclear;
        self.deps.running.send_if_modified(|running| {
            let before = running.as_deref().map(Vec::as_slice);
            let known = view.running_after(before.unwrap_or_default());
            let changed = running.as_deref() != Some(&known);
            if changed {
                *running = Some(Arc::new(known));
            }
            changed
        });
        let declared = self.deps.declared.borrow().clone();
        let images: BTreeSet<String> = view
            .images
            .iter()
            .flat_map(|image| image.names.iter().cloned())
            .collect();
        let now_ms = self.deps.clock.now().mono_ms;
        let world = World {
            node: &self.deps.node,
            declared: declared.as_deref(),
            allowed: &self.deps.settings.allowed,
            missing: &self.missing(),
            seen: &view.seen,
            images: &images,
            now_ms,
        };
        let (mut memory, mut turn) = step(&world, &self.memory);
        for action in &turn.actions {
            if let Action::Pull { image, .. } = action {
                memory.pulling(&image.local());
            }
        }
        if !self.remember(memory) {
            return ABSENT;
        }
        // What was told of them last holds on.
        for name in &self.unclear {
            let told = self.told.get(name).cloned();
            turn.status.extend(told.map(|told| (name.clone(), told)));
        }
        let moving = turn.actions.iter().map(Action::workload);
        let moving = moving.chain(self.busy.keys()).chain(&self.unclear);
        self.waiting.settle(&turn.status, &moving.collect());
        for (name, begun) in &mut self.busy {
            let pulls = matches!(begun.action, Action::Pull { .. });
            if pulls && !self.unclear.contains(name) && !turn.actions.contains(&begun.action) {
                begun.wanted = None;
            }
        }
        self.tell(turn.status);
        for action in turn.actions {
            if !self.busy.contains_key(action.workload()) {
                self.begin(action);
            }
        }
        let clears = self.clearing.as_ref().is_some_and(|it| !it.is_finished());
        if self.busy.is_empty() && !clears {
            self.make_room(&view.images, &view.seen, declared.as_deref());
        }
        let due = turn
            .wake_ms
            .map(|at| Duration::from_millis(at.saturating_sub(now_ms).max(1)));
        let round = match self.unclear.is_empty() {
            true => ROUND,
            false => ABSENT,
        };
        due.map_or(round, |due| due.min(round))
    }

    fn begin(&mut self, action: Action) {
        tracing::info!(workload = %action.workload(), action = word(&action), "workload");
        let (wanted, unwanted) = oneshot::channel();
        let begun = Begun {
            action: action.clone(),
            wanted: Some(wanted),
        };
        self.busy.insert(action.workload().clone(), begun);
        let engine = self.engine.clone();
        self.work.spawn(boxed(async move {
            let result = tokio::select! {
                result = engine.perform(&action) => Some(result),
                _ = unwanted => None,
            };
            (action, result)
        }));
    }

    /// After a change: waits for those that follow. What was begun here and is done goes on at once: Docker tells of it before it answers.
    async fn gather(&mut self) {
        tokio::select! {
            () = tokio::time::sleep(GATHER) => {}
            Some(ended) = self.work.join_next() => self.ended(ended),
        }
    }

    fn missing(&self) -> Missing {
        let volumes = self.deps.volumes.to_str();
        let missing = self.deps.missing.borrow();
        let folders = missing.iter().flat_map(|folders| folders.iter());
        Missing {
            folders: folders.filter_map(|at| at.as_str().parse().ok()).collect(),
            volumes: volumes.and_then(|path| path.parse().ok()),
        }
    }

    fn ended(&mut self, ended: Result<Ended, tokio::task::JoinError>) {
        let (action, result) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(%error, "an order to Docker broke");
                // Whose it was isn't known; the next look shows what became of it.
                if self.work.is_empty() {
                    self.busy.clear();
                }
                return;
            }
        };
        self.busy.remove(action.workload());
        let Some(result) = result else {
            tracing::info!(workload = %action.workload(), action = word(&action), "given up");
            return;
        };
        if let Err(trouble) = &result {
            tracing::warn!(workload = %action.workload(), action = word(&action), %trouble, "workload");
        }
        let chance = rand::thread_rng().gen_range(0.0..=1.0);
        let mut memory = self.memory.clone();
        let now_ms = self.deps.clock.now().mono_ms;
        memory.note(&action, result.as_ref().err(), now_ms, chance);
        self.remember(memory);
    }

    /// Keeps it on the disk before anything is done by it; whether that worked.
    fn remember(&mut self, memory: Memory) -> bool {
        if memory == self.memory {
            return true;
        }
        let stored = serde_json::to_vec(&memory)
            .map_err(std::io::Error::from)
            .and_then(|json| files::replace(&self.deps.memory, &json));
        if let Err(error) = &stored {
            tracing::warn!(file = %self.deps.memory.display(), %error, "cannot keep what is known of workloads");
            return false;
        }
        self.memory = memory;
        true
    }

    /// An operator asks for something.
    fn take(&mut self, ask: Ask) {
        let (name, known) = match &ask {
            Ask::Steer(name, ..) | Ask::Logs(name, ..) => (name.clone(), self.told.get(name)),
        };
        let missing = || format!("there is no workload {name} here");
        let current = self.current.get(&name).cloned();
        match ask {
            Ask::Steer(name, command, reply) if known.is_some() => {
                tracing::info!(workload = %name, ?command, "ordered");
                let mut memory = self.memory.clone();
                memory.command(&name, command, current.as_deref());
                if self.remember(memory) {
                    self.waiting.add(name, reply);
                } else {
                    drop(reply.send(Err("the order cannot be kept on the disk".to_owned())));
                }
            }
            Ask::Steer(_, _, reply) => drop(reply.send(Err(missing()))),
            Ask::Logs(_, lines, reply) => {
                let Some(id) = current else {
                    return drop(reply.send(Err(missing())));
                };
                let engine = self.engine.clone();
                tokio::spawn(boxed(async move {
                    let lines = engine.logs(&id, lines).await;
                    drop(reply.send(lines.map_err(|trouble| trouble.to_string())));
                }));
            }
        }
    }

    fn tell(&mut self, status: BTreeMap<Name, Status>) {
        self.deps.status.send_replace(Arc::new(status.clone()));
        let outbox = &self.deps.outbox;
        self.told.update(Instant::now(), status, |name, status| {
            outbox.append(Priority::Event, report::values(name, status));
        });
        self.told
            .retain(|status| status.state != WorkloadState::Removed);
    }

    /// Has images removed, for which nobody waits: Docker may take long.
    fn make_room(&mut self, present: &[Present], seen: &[Seen], declared: Option<&Workloads>) {
        let wanted = declared
            .iter()
            .flat_map(|declared| declared.usable())
            .map(|workload| workload.image.local())
            .collect();
        let budget = self.deps.settings.image_budget;
        let (memory, gone) = clean_up(&self.memory, budget, present, seen, &wanted);
        if !self.remember(memory) {
            return;
        }
        let engine = self.engine.clone();
        self.clearing = Some(tokio::spawn(boxed(async move {
            for name in gone {
                match engine.remove_image(&name).await {
                    Ok(()) => {
                        tracing::info!(image = name, "removed, to keep to workloads.image-budget")
                    }
                    Err(trouble) => tracing::warn!(image = name, %trouble, "cannot be removed"),
                }
            }
        })));
    }
}

fn word(action: &Action) -> &'static str {
    match action {
        Action::Pull { .. } => "pull",
        Action::Create(_) => "create",
        Action::Start { .. } => "start",
        Action::Stop { .. } => "stop",
        Action::SetAside { .. } => "set aside",
        Action::Restore { .. } => "restore",
        Action::Remove { .. } => "remove",
    }
}

#[cfg(test)]
mod tests;
