//! The loop: an event, the state stored, the actions done.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cairn_release::{Digest, Envelope, Manifest, manifest};
use cairn_update::state::{FORMAT, Running};
use cairn_update::{Action, Boot, Cause, Event, State, step};
use cairn_wire::ReleaseOrder;
use cairn_wire::report::FailureKind;
use tokio::sync::{mpsc, watch};

use super::actions::Doer;
use super::boot;
use super::effects::Effects;
use super::settings::Settings;
use super::status::{self, Status};
use crate::shutdown::Shutdown;

/// How often storing the state is tried before an update is given up over it.
const STORE_ATTEMPTS: u32 = 5;

type Work = Pin<Box<dyn Future<Output = Option<Event>> + Send>>;

/// Where orders come from, and where it is told what happens.
pub struct Ends {
    /// The control plane's order; it counts from its first change on.
    pub orders: watch::Receiver<Option<ReleaseOrder>>,
    /// Releases that an operator forgives.
    pub forgiven: mpsc::Receiver<Digest>,
    /// What others are shown.
    pub status: watch::Sender<Status>,
}

/// Runs the state machine over a world.
pub struct Executor<E: Effects> {
    doer: Arc<Doer<E>>,
    state: State,
    ends: Ends,
    queue: VecDeque<Action>,
    current: Option<(Action, Work)>,
}

impl<E: Effects> Executor<E> {
    /// Takes up what is stored.
    pub fn new(effects: E, settings: Settings, ends: Ends) -> Self {
        let state = load(&effects);
        let status = ends.status.clone();
        let note = Box::new(move |text: String| {
            status.send_if_modified(|status| status.note(text));
        });
        let doer = Arc::new(Doer {
            effects,
            settings,
            note,
        });
        Self {
            doer,
            state,
            ends,
            queue: VecDeque::new(),
            current: None,
        }
    }

    /// Runs until it is told to end. What is under way is taken up at the next start.
    pub async fn run(mut self, mut shutdown: Shutdown) {
        tokio::select! {
            () = shutdown.requested() => {}
            () = self.go() => {}
        }
    }

    async fn go(&mut self) {
        let Some(boot) = self.boot().await else {
            return self.unmanaged().await;
        };
        let keep = self
            .state
            .update
            .as_ref()
            .map(|update| update.order.version.clone())
            .or_else(|| {
                let last = self.state.last.as_ref()?;
                last.failure
                    .as_ref()
                    .is_some_and(|failure| failure.retry)
                    .then(|| last.version.clone())
            });
        if let Err(error) = self.doer.effects.clear_partials(keep.as_ref()).await {
            tracing::warn!(%error, "an unfinished download is still there");
        }
        self.take(Event::Started(Box::new(boot))).await;
        // Before the first change none only means that nothing is known yet.
        let first = self.ends.orders.borrow_and_update().clone();
        if let Some(order) = first {
            self.take(Event::Ordered(Some(Box::new(order)))).await;
        }
        loop {
            let event = self.next().await;
            if let Some(event) = event {
                self.take(event).await;
            }
        }
    }

    /// The next thing that happens.
    async fn next(&mut self) -> Option<Event> {
        if self.current.is_none()
            && let Some(action) = self.queue.pop_front()
        {
            let work = self.work(action.clone());
            self.current = Some((action, work));
        }
        let current = async {
            match &mut self.current {
                Some((_, work)) => work.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(digest) = self.ends.forgiven.recv() => Some(Event::Forgiven(digest)),
            Ok(()) = self.ends.orders.changed() => {
                let order = self.ends.orders.borrow_and_update().clone();
                Some(Event::Ordered(order.map(Box::new)))
            }
            event = current => {
                self.current = None;
                event
            }
        }
    }

    fn work(&self, action: Action) -> Work {
        let doer = self.doer.clone();
        match action {
            Action::Tidy { keep } => {
                Box::pin(doer.tidy(self.state.protected(), self.state.failed.clone(), keep))
            }
            action => Box::pin(doer.perform(action)),
        }
    }

    /// Stores what follows from an event, and only then lets it be done.
    async fn take(&mut self, event: Event) {
        let (next, actions) = step(&self.state, &self.doer.settings.rules, event);
        let (next, actions) = if next == self.state || self.store(&next).await {
            (next, actions)
        } else {
            // Giving up writes nothing that a cut could leave half done; going on would.
            let cause = Cause::passing(
                FailureKind::Storage,
                "the state of the update can't be stored",
            );
            let (given_up, more) = step(&next, &self.doer.settings.rules, Event::Failed(cause));
            if given_up == next {
                (next, actions)
            } else {
                (given_up, more)
            }
        };
        let ended = self.state.update.is_some() && next.update.is_none();
        self.state = next;
        self.show();
        let replaces = ended || actions.iter().any(is_work);
        if replaces {
            self.queue.retain(|action| !is_work(action));
            if self
                .current
                .as_ref()
                .is_some_and(|(action, _)| is_work(action))
            {
                self.current = None;
            }
        }
        self.queue.extend(actions);
    }

    async fn store(&mut self, state: &State) -> bool {
        // Names, numbers and lists always have a JSON form.
        let bytes = serde_json::to_vec_pretty(state).unwrap_or_default();
        for attempt in 1..=STORE_ATTEMPTS {
            match self.doer.effects.store(&bytes) {
                Ok(()) => return true,
                Err(error) => {
                    tracing::error!(%error, attempt, "cannot store the state of the update")
                }
            }
            self.doer.effects.sleep(Duration::from_secs(1)).await;
        }
        false
    }

    fn show(&self) {
        let state = &self.state;
        self.ends.status.send_modify(|status| status.take(state));
    }

    /// What booted; `None` on a machine that no bootloader of ours started.
    async fn boot(&mut self) -> Option<Boot> {
        let effects = &self.doer.effects;
        let booted = match effects.booted() {
            Ok(booted) => booted?,
            Err(error) => {
                tracing::error!(%error, "cannot find out what was booted");
                return None;
            }
        };
        let running = match self.running(&booted.release) {
            Ok(running) => running,
            Err(error) => {
                tracing::error!(release = %booted.release, error, "cannot read the manifest of what runs");
                return None;
            }
        };
        let trace = self
            .state
            .update
            .as_ref()
            .and_then(|update| effects.boot_failure(&update.order.version));
        let slot = booted.slot;
        self.ends.status.send_modify(|status| status.booted(slot));
        Some(Boot {
            boot_id: booted.boot_id,
            slot,
            running,
            view: boot::view(effects).await,
            trace,
        })
    }

    fn running(&self, version: &cairn_release::Version) -> Result<Running, String> {
        let bytes = self
            .doer
            .effects
            .manifest(version)
            .map_err(|error| error.to_string())?;
        // The initramfs has verified it; the digest says which it is.
        let envelope =
            Envelope::parse(&bytes, manifest::PAYLOAD_TYPE).map_err(|error| error.to_string())?;
        let manifest =
            Manifest::from_payload(&envelope.payload).map_err(|error| error.to_string())?;
        Ok(Running {
            version: manifest.version,
            sequence: manifest.sequence,
            digest: Digest::of(&envelope.payload),
            architecture: manifest.architecture,
            compatible: manifest.compatible,
        })
    }

    /// Orders can't be followed here, and whoever gives them is told.
    async fn unmanaged(&mut self) {
        tracing::warn!("this system wasn't started by Cairn's bootloader: it isn't updated");
        self.ends.status.send_modify(Status::unmanaged);
        let mut refused = None;
        loop {
            let order = self.ends.orders.borrow_and_update().clone();
            if let Some(order) = order.filter(|order| refused.as_ref() != Some(&order.id)) {
                let report =
                    status::refusal(&order, "this system wasn't started by Cairn's bootloader");
                match self.doer.effects.report(&report).await {
                    Ok(()) => refused = Some(order.id),
                    Err(error) => tracing::warn!(%error, "the outbox doesn't take a report"),
                }
            }
            if self.ends.orders.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

/// Whether an action is the work of a phase, of which there is one at a time.
fn is_work(action: &Action) -> bool {
    match action {
        Action::Report(_) | Action::Rearm { .. } | Action::Declare | Action::Tidy { .. } => false,
        Action::Check(_)
        | Action::Prepare { .. }
        | Action::Fetch { .. }
        | Action::Verify { .. }
        | Action::Place { .. }
        | Action::Measure
        | Action::Arm { .. }
        | Action::AwaitRestart(_)
        | Action::Restart
        | Action::Judge { .. }
        | Action::MakeGood { .. }
        | Action::Settle { .. } => true,
    }
}

fn load<E: Effects>(effects: &E) -> State {
    let bytes = match effects.load() {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return State::default(),
        Err(error) => {
            tracing::error!(%error, "cannot read the state of the update; it begins anew");
            return State::default();
        }
    };
    match serde_json::from_slice::<State>(&bytes) {
        Ok(state) if state.format == FORMAT => state,
        Ok(state) => {
            tracing::error!(
                format = state.format,
                "the state of the update has another format; it begins anew"
            );
            State::default()
        }
        Err(error) => {
            tracing::error!(%error, "the state of the update can't be read; it begins anew");
            State::default()
        }
    }
}
