//! `cairn-agent run`: starts everything, reloads on SIGHUP, ends in good order on SIGTERM.

mod agent;
mod tasks;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use cairn_wire::Object;
use sd_notify::NotifyState;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};

use agent::Agent;
use tasks::Tasks;

use crate::clock::Clock;
use crate::config;
use crate::identity::keeper::{Keeper, Standing};
use crate::link::Http;
use crate::link::backoff::Backoff;
use crate::link::calls::{self, AT_A_TIME};
use crate::link::desired::Orders;
use crate::link::health::Health;
use crate::link::http::Target;
use crate::link::pump::Pump;
use crate::link::runner;
use crate::link::session::Parts;
use crate::outbox::Outbox;
use crate::rpc::command;
use crate::rpc::reset::Reset;
use crate::shutdown;
use crate::socket::{Services, Socket};
use crate::status;
use crate::tamper;
use crate::telemetry::{self, Sources};

/// How long everything together may take to end.
const FAREWELL: Duration = Duration::from_secs(10);
/// How long the machine may take to accept that it shall restart.
const RESTART: Duration = Duration::from_secs(60);

/// Where things lie.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Where DATA is mounted.
    pub data: PathBuf,
    /// Where what lives as long as the boot lies.
    pub run: PathBuf,
    /// Folders of configuration fragments, the later wins.
    pub config: Vec<PathBuf>,
}

impl Paths {
    /// The agent's own folder.
    pub fn agent(&self) -> PathBuf {
        self.data.join("agent")
    }

    /// The socket.
    pub fn socket(&self) -> PathBuf {
        self.run.join("agent.sock")
    }

    /// The folder of the identity.
    pub fn identity(&self) -> PathBuf {
        self.agent().join("identity")
    }

    /// Where an enrolment file may lie.
    pub fn enrol_files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.agent().join("enrol.toml")];
        if self.data == Path::new("/data") {
            files.push(PathBuf::from("/etc/cairn/enrol.toml"));
        }
        files
    }

    /// The file of what is remembered of disks.
    pub fn disks_memory(&self) -> PathBuf {
        self.agent().join("disks-memory.json")
    }

    /// Makes the agent's own folder, which nobody else may look into.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn make_agent(&self) -> std::io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(self.agent())?;
        let only_owner = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(self.agent(), only_owner)
    }
}

/// Runs the agent until it is told to end.
///
/// # Errors
/// If it can't start: a setting is wrong, a folder can't be written to, another agent runs.
pub async fn run(paths: Paths) -> anyhow::Result<()> {
    let (_, mut settings) = config::load(&paths.config)?;
    paths
        .make_agent()
        .with_context(|| unwritable(&paths.agent()))?;
    std::fs::create_dir_all(&paths.run).with_context(|| unwritable(&paths.run))?;
    let socket = Socket::bind(&paths.socket())
        .with_context(|| format!("cannot listen at {}", paths.socket().display()))?;
    take_up_reset(&paths).await;

    let built = status::running(&paths.data).map_or(0, |manifest| manifest.created.unix());
    let clock = Clock::open(&paths.agent(), built);
    let outbox = Outbox::open(
        &paths.agent().join("outbox"),
        &settings.outbox,
        clock.clone(),
    )?;
    let refused = Arc::new(Notify::new());
    let look_again = Arc::new(Notify::new());
    let (standing_sender, standing) = watch::channel(Standing::default());
    let keeper = Keeper {
        folder: paths.identity(),
        enrol_files: paths.enrol_files(),
        clock: clock.clone(),
        standing: standing_sender,
        refused: refused.clone(),
        look_again: look_again.clone(),
        backoff: Backoff::new(settings.link.reconnect_min, settings.link.reconnect_max),
    };
    keeper.load();
    let target = watch::channel(Arc::new(Target::default())).0;
    let agent = Arc::new(Agent {
        http: Http::new(clock.clone(), target.subscribe()),
        orders: Orders::open(&paths.agent()),
        health: Health::default(),
        reload_link: watch::channel(()).0,
        sources: Sources::system(&paths.data),
        started: clock.now().wall_ms.map(|ms| ms / 1000),
        updater: watch::channel(None).0,
        running: watch::channel(None).0,
        workloads: watch::channel(Arc::default()).0,
        steering: watch::channel(None).0,
        missing: watch::channel(None).0,
        disks_turn: Arc::default(),
        progress: watch::channel(Value::Null).0,
        lines: watch::channel(Object::new()).0,
        tampering: watch::channel(tamper::Shown::default()).0,
        disks: watch::channel(Arc::default()).0,
        paths,
        clock,
        outbox,
        standing,
        target,
        refused,
    });
    agent.aim(&settings);

    // What lives until the end.
    let mut lasting = Tasks::new();
    let (from_server, server_calls) = mpsc::channel(AT_A_TIME);
    let (_caller, to_server) = calls::caller();
    let (allowed, allowed_now) = watch::channel(Arc::new(settings.rpc.clone()));
    let reload = Arc::new(Notify::new());
    let show = agent.show();
    lasting.spawn(|shutdown| keeper.run(shutdown));
    let rpc = agent.rpc(allowed_now, show.clone());
    lasting.spawn(|shutdown| rpc.run(server_calls, shutdown));
    let services = Services {
        status: show,
        progress: agent.progress.subscribe(),
        forgive: agent.forgive(),
        report: agent.report(),
        reload: {
            let reload = reload.clone();
            Arc::new(move || reload.notify_one())
        },
    };
    lasting.spawn(|shutdown| socket.run(services, shutdown));

    let mut parts = Parts {
        settings: settings.link.clone(),
        pump: Pump::new(agent.outbox.clone()),
        http: agent.http.clone(),
        standing: agent.standing.clone(),
        reload: agent.reload_link.clone(),
        refused: agent.refused.clone(),
        from_server,
        to_server,
        orders: agent.orders.clone(),
        health: agent.health.clone(),
        facts: {
            let sources = agent.sources.clone();
            Arc::new(move || telemetry::facts(&sources))
        },
        clock: agent.clock.clone(),
    };

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut watchdog = watchdog();
    let mut identity = agent.standing.clone();
    notify(&[NotifyState::Ready]);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "the agent runs");

    // Each round is one set of settings.
    loop {
        let mut round = Tasks::new();
        let awaits_docker = settings.workloads.awaits_docker();
        agent.start(&mut round, &settings);
        let (link_trigger, link_shutdown) = shutdown::pair();
        let link = tokio::spawn(runner::run(parts, link_shutdown));
        let next = loop {
            tokio::select! {
                _ = terminate.recv() => break None,
                _ = interrupt.recv() => break None,
                _ = hang_up.recv() => {}
                () = reload.notified() => {}
                Ok(()) = identity.changed() => {
                    agent.aim(&settings);
                    continue;
                }
                _ = watchdog.tick() => {
                    notify(&[NotifyState::Watchdog]);
                    continue;
                }
                () = settings.workloads.docker(), if awaits_docker => {
                    tracing::info!("Docker is there now");
                    break Some(settings.clone());
                }
            }
            look_again.notify_one();
            match config::load(&agent.paths.config) {
                Ok((_, new)) if new == settings => {
                    tracing::info!("reloaded; no setting has changed");
                    // The token or the CA may have.
                    agent.aim(&settings);
                    agent.reload_link.send_replace(());
                }
                Ok((_, new)) => break Some(new),
                Err(error) => {
                    tracing::error!(error = %format_args!("{error:#}"), "the settings cannot be used; the old ones stay in force")
                }
            }
        };
        if next.is_none() {
            notify(&[NotifyState::Stopping]);
            tracing::info!("the agent ends");
        }
        let farewell = async {
            link_trigger.pull();
            let parts = link.await;
            round.end().await;
            parts
        };
        let ended = tokio::time::timeout(FAREWELL, farewell).await;
        let Some(new) = next else { break };
        parts = ended.context("a part of the agent doesn't end")??;
        if new.outbox != settings.outbox {
            tracing::warn!("[outbox] is read at the agent's next start");
        }
        settings = new;
        parts.settings = settings.link.clone();
        allowed.send_replace(Arc::new(settings.rpc.clone()));
        agent.aim(&settings);
        tracing::info!("reloaded; the new settings are in force");
    }
    let _ = tokio::time::timeout(FAREWELL, lasting.end()).await;
    if let Err(error) = agent.outbox.flush().await {
        tracing::error!(%error, "cannot keep what waits to be sent");
    }
    Ok(())
}

fn unwritable(folder: &Path) -> String {
    format!(
        "cannot make the folder {} (run as root, or give --data and --run-dir)",
        folder.display()
    )
}

/// A factory reset that a power cut ended is carried on.
async fn take_up_reset(paths: &Paths) {
    let reset = Reset::new(&paths.data);
    match tokio::task::spawn_blocking(move || reset.take_up()).await {
        Ok(Ok(true)) => {
            tracing::warn!("a factory reset was cut short and is done now; restarting the node");
            if let Err(error) =
                command::succeed(&["systemctl", "--no-block", "reboot"], RESTART).await
            {
                tracing::error!(error, "cannot restart the node");
            }
        }
        Ok(Ok(false)) => {
            let reset = Reset::new(&paths.data);
            // Nobody waits for it; what it doesn't get done is done at the next start.
            tokio::task::spawn_blocking(move || {
                if let Err(error) = reset.clean_up() {
                    tracing::warn!(%error, "cannot delete what a factory reset moved aside");
                }
            });
        }
        Ok(Err(error)) => tracing::error!(%error, "cannot carry a factory reset on"),
        Err(error) => tracing::error!(%error, "cannot carry a factory reset on"),
    }
}

fn notify(state: &[NotifyState<'_>]) {
    // An error means that systemd doesn't listen.
    let _ = sd_notify::notify(state);
}

/// Ticks twice as often as systemd's watchdog wants to hear of us; hardly ever without one.
fn watchdog() -> tokio::time::Interval {
    let every = sd_notify::watchdog_enabled().map_or(Duration::from_secs(3600), |limit| {
        (limit / 2).max(Duration::from_millis(100))
    });
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}
