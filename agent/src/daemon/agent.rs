//! The parts of the agent, and how they know of each other.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use cairn_release::Digest;
use cairn_wire::Object;
use cairn_wire::workload::{self, Name};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Notify, Semaphore, watch};

use super::Paths;
use super::tasks::Tasks;
use crate::clock::Clock;
use crate::config::Settings;
use crate::identity::keeper::Standing;
use crate::link::backoff::Backoff;
use crate::link::desired::Orders;
use crate::link::health::Health;
use crate::link::http::Target;
use crate::link::{self, Http, endpoint};
use crate::metrics::{self, Snapshot};
use crate::outbox::Outbox;
use crate::rpc::reset::Reset;
use crate::rpc::{Rpc, Service};
use crate::shutdown::Shutdown;
use crate::socket::Report;
use crate::telemetry::{self, Process, Sources};
use crate::update::{self, Updater};
use crate::{diagnostics, disks, lines, neighbours, status, tamper, traffic, workloads};

/// What is the same for as long as the agent runs.
pub(super) struct Agent {
    pub(super) paths: Paths,
    pub(super) clock: Clock,
    pub(super) outbox: Outbox,
    pub(super) standing: watch::Receiver<Standing>,
    pub(super) target: watch::Sender<Arc<Target>>,
    pub(super) http: Http,
    pub(super) orders: Orders,
    pub(super) health: Health,
    pub(super) refused: Arc<Notify>,
    pub(super) reload_link: watch::Sender<()>,
    /// Where measurements and facts are read.
    pub(super) sources: Sources,
    /// When the agent started.
    pub(super) started: Option<i64>,
    /// The updater at work.
    pub(super) updater: watch::Sender<Option<update::Handle>>,
    /// The workloads that run.
    pub(super) running: watch::Sender<workloads::Runs>,
    /// How each workload is.
    pub(super) workloads: watch::Sender<Arc<BTreeMap<Name, workload::Status>>>,
    /// Where they are asked.
    pub(super) steering: watch::Sender<Option<workloads::Handle>>,
    /// Where disks should be mounted and aren't.
    pub(super) missing: watch::Sender<disks::Missing>,
    /// Whose turn it is to touch disks.
    pub(super) disks_turn: Arc<Mutex<()>>,
    /// What it does, as the socket tells it.
    pub(super) progress: watch::Sender<Value>,
    /// How its lines are, as the socket tells it.
    pub(super) lines: watch::Sender<Object>,
    /// The signs of tampering.
    pub(super) tampering: watch::Sender<tamper::Shown>,
    /// What disks say of their own health.
    pub(super) disks: watch::Sender<Arc<Object>>,
}

impl Agent {
    /// Points HTTP at the server that settings and identity name now.
    pub(super) fn aim(&self, settings: &Settings) {
        let identity = self.standing.borrow().identity.clone();
        match endpoint::target(&settings.link, identity.as_ref()) {
            Ok(target) => drop(self.target.send_replace(Arc::new(target))),
            Err(error) => tracing::error!(%error, "HTTP stays with the old server"),
        }
        self.orders.look();
    }

    /// Starts what goes by the settings.
    pub(super) fn start(self: &Arc<Self>, round: &mut Tasks, settings: &Settings) {
        let backoff = Backoff::new(settings.link.reconnect_min, settings.link.reconnect_max);
        let (http, health, refused) =
            (self.http.clone(), self.health.clone(), self.refused.clone());
        let (orders, poll) = (self.orders.clone(), settings.link.poll);
        round.spawn(|shutdown| orders.run(http, health, poll, backoff, refused, shutdown));

        let paths = update::Paths {
            data: self.paths.data.clone(),
            agent: self.paths.agent(),
            run: self.paths.run.clone(),
        };
        let sharing = settings.neighbours.share.then(|| {
            let shelf = Arc::new(paths.shelf(self.clock.clone()));
            let (neighbours, service) = neighbours::pair(
                settings.neighbours.clone(),
                self.standing.clone(),
                self.clock.clone(),
                shelf.clone(),
            );
            round.spawn(|shutdown| service.run(shutdown));
            update::Sharing { neighbours, shelf }
        });
        let updater = Updater::new(update::Deps {
            settings: settings.update.clone(),
            paths,
            http: self.http.clone(),
            sharing,
            link: self.health.watch(),
            orders: self.orders.watch(),
            outbox: self.outbox.clone(),
            clock: self.clock.clone(),
        });
        self.updater.send_replace(Some(updater.handle()));
        let (status, progress) = (updater.status(), self.progress.clone());
        round.spawn(|shutdown| updater.run(shutdown));
        round.spawn(|shutdown| tell(status, progress, shutdown));

        self.lay_disks_out(round, &settings.disks);
        self.run_workloads(round, &settings.workloads);

        let (outbox, sources) = (self.outbox.clone(), self.sources.clone());
        let measured = settings.telemetry.clone();
        let (updating, agent) = (self.updater.subscribe(), self.clone());
        let others = telemetry::Others {
            facts: move || facts_of_update(&updating),
            measured: move || agent.measured(),
        };
        round.spawn(|shutdown| telemetry::run(measured, outbox, sources, others, shutdown));
        let (sources, disks) = (self.sources.clone(), self.disks.clone());
        round.spawn(|shutdown| telemetry::smart::run(sources, disks, shutdown));
        let guarding = tamper::Deps {
            settings: settings.tamper.clone(),
            folder: self.paths.agent(),
            sources: self.sources.clone(),
            clock: self.clock.clone(),
            outbox: self.outbox.clone(),
            declared: self.orders.workloads(),
            running: self.running.subscribe(),
            workloads: settings.workloads.clone(),
            shown: self.tampering.clone(),
        };
        round.spawn(|shutdown| tamper::run(guarding, shutdown));
        let watching = lines::Deps {
            report: settings.telemetry.interval,
            folder: self.paths.agent(),
            clock: self.clock.clone(),
            outbox: self.outbox.clone(),
            http: self.http.clone(),
            broker: settings.link.broker.clone(),
            shown: self.lines.clone(),
        };
        let watched = settings.lines.clone();
        round.spawn(|shutdown| lines::run(watched, watching, shutdown));
        if settings.traffic.meter {
            let metering = traffic::Deps {
                settings: settings.traffic.clone(),
                folder: self.paths.agent(),
                clock: self.clock.clone(),
                outbox: self.outbox.clone(),
                standing: self.standing.clone(),
                workloads: settings
                    .workloads
                    .is_enabled()
                    .then(|| self.running.subscribe()),
            };
            round.spawn(|shutdown| traffic::run(metering, shutdown));
        }
        if let Some(address) = settings.metrics.listen {
            let agent = self.clone();
            round.spawn(|shutdown| async move {
                match TcpListener::bind(address).await {
                    Ok(listener) => {
                        metrics::serve(listener, move || agent.snapshot(), shutdown).await
                    }
                    Err(error) => tracing::error!(%address, %error, "cannot serve metrics"),
                }
            });
        }
    }

    fn lay_disks_out(&self, round: &mut Tasks, settings: &disks::Settings) {
        if !settings.enabled {
            self.missing.send_replace(Some(Arc::default()));
            return;
        }
        // Before workloads are looked at for the first time.
        disks::publish(self.orders.disks().borrow().as_deref(), &self.missing);
        let deps = disks::Deps {
            settings: settings.clone(),
            look: disks::look::Look {
                catalogue: disks::look::Hardware,
                data: self.paths.data.clone(),
            },
            mounter: disks::mounter::Mounter::of_node(),
            memory: self.paths.disks_memory(),
            declared: self.orders.disks(),
            missing: self.missing.clone(),
            outbox: self.outbox.clone(),
            turn: self.disks_turn.clone(),
        };
        round.spawn(|shutdown| disks::run(deps, shutdown));
    }

    fn run_workloads(&self, round: &mut Tasks, settings: &workloads::Settings) {
        if !settings.is_enabled() {
            self.steering.send_replace(None);
            tracing::info!(socket = %settings.socket.display(), "no workloads are run: there is no Docker, or [workloads] says so");
            return;
        }
        let machine_id = Path::new("/etc/machine-id");
        let node = workloads::label::of_node(&self.paths.agent(), machine_id);
        let engine = workloads::docker::Socket::new(
            settings.socket.clone(),
            node.clone(),
            settings.volumes(&self.paths.data),
            self.orders.logins(),
        );
        let (handle, asked) = workloads::steer::pair();
        self.steering.send_replace(Some(handle));
        let deps = workloads::Deps {
            settings: settings.clone(),
            memory: self.paths.agent().join("workloads-memory.json"),
            node,
            declared: self.orders.workloads(),
            missing: self.missing.subscribe(),
            volumes: settings.volumes(&self.paths.data),
            running: self.running.clone(),
            status: self.workloads.clone(),
            asked,
            outbox: self.outbox.clone(),
            clock: self.clock.clone(),
        };
        round.spawn(|shutdown| workloads::run(engine, deps, shutdown));
    }

    /// What other parts than telemetry itself have measured.
    fn measured(&self) -> Object {
        let mut measured = self.tampering.borrow().sample.clone();
        measured.extend(self.disks.borrow().as_ref().clone());
        measured
    }

    /// For metrics.
    fn snapshot(&self) -> Snapshot {
        let update = self
            .updater
            .borrow()
            .as_ref()
            .map(|updater| updater.status().borrow().clone())
            .unwrap_or_default();
        Snapshot {
            release: update.running.map(|running| running.version.to_string()),
            slot: update.slot,
            link_up: *self.health.watch().borrow() == link::State::Up,
            link_connects: self.health.connects(),
            certificate_until: self
                .standing
                .borrow()
                .identity
                .as_ref()
                .map(|identity| identity.not_after),
            update: update.update.and_then(|update| {
                Some(
                    serde_json::to_value(update.state)
                        .ok()?
                        .as_str()?
                        .to_owned(),
                )
            }),
            releases_failed: update.failed.len() as u64,
            outbox: self.outbox.stats(),
            process: Process::read(&self.sources),
            started: self.started,
            not_ready: self.not_ready(),
        }
    }

    /// Why nothing can be told to a server.
    fn not_ready(&self) -> Option<String> {
        let standing = self.standing.borrow();
        let known = standing.identity.is_some()
            || self.target.borrow().token.is_some()
            || self.health.connects() > 0;
        if known {
            None
        } else {
            Some(
                standing
                    .problem
                    .clone()
                    .unwrap_or_else(|| "not enrolled".to_owned()),
            )
        }
    }

    pub(super) fn forgive(&self) -> Service<Digest, ()> {
        let updater = self.updater.subscribe();
        let progress = self.progress.subscribe();
        Arc::new(move |release: Digest| {
            let updater = updater.borrow().clone();
            let digest = release.to_string();
            let known = progress.borrow()["failed"]
                .as_array()
                .is_some_and(|failed| failed.iter().any(|entry| entry["digest"] == digest));
            Box::pin(async move {
                if updater.is_some() && !known {
                    return Err(format!(
                        "no release with the digest {digest} is remembered as failed here"
                    ));
                }
                let told = match updater {
                    Some(updater) => updater.forgive(release).await,
                    None => false,
                };
                if told {
                    Ok(())
                } else {
                    Err("no updates are made just now".to_owned())
                }
            })
        })
    }

    /// Keeps what a program of the node reports.
    pub(super) fn report(&self) -> Service<Report, ()> {
        let outbox = self.outbox.clone();
        Arc::new(move |report| {
            let outbox = outbox.clone();
            Box::pin(async move {
                report.check()?;
                outbox.append(report.priority, report.values);
                outbox.flush().await.map_err(|error| error.to_string())
            })
        })
    }

    /// All there is to say, whenever it is asked for.
    pub(super) fn show(self: &Arc<Self>) -> Arc<dyn Fn() -> Value + Send + Sync> {
        let agent = self.clone();
        let (link, order) = (self.health.watch(), self.orders.watch());
        Arc::new(move || {
            json!({
                "agent": env!("CARGO_PKG_VERSION"),
                "running": true,
                "standing": status::identity(&agent.standing.borrow(), &agent.clock),
                "link": *link.borrow(),
                "time": status::time(&agent.clock),
                "boot": status::boot(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default()),
                "releases": status::releases(&agent.paths.data),
                "order": order.borrow().as_ref().map(|order| json!({ "id": order.id, "version": order.version, "digest": order.digest })),
                "update": *agent.progress.borrow(),
                "workloads": **agent.workloads.borrow(),
                "last_boot_failure": status::last_boot_failure(&agent.paths.data),
                "lines": *agent.lines.borrow(),
                "tamper": agent.tampering.borrow().status,
                "outbox": agent.outbox.stats(),
            })
        })
    }

    pub(super) fn rpc(
        self: &Arc<Self>,
        settings: watch::Receiver<Arc<crate::rpc::settings::Settings>>,
        status: Arc<dyn Fn() -> Value + Send + Sync>,
    ) -> Rpc {
        let (agent, outbox) = (self.clone(), self.outbox.clone());
        Rpc {
            settings,
            device: Arc::new(move || {
                Some(agent.standing.borrow().identity.as_ref()?.device.clone())
            }),
            status: status.clone(),
            forgive: self.forgive(),
            diagnose: {
                let (sources, status) = (self.sources.clone(), status.clone());
                Arc::new(move |()| {
                    let (sources, status) = (sources.clone(), status());
                    Box::pin(async move { Ok(diagnostics::collect(&sources, &status).await) })
                })
            },
            flush: Arc::new(move |()| {
                let outbox = outbox.clone();
                Box::pin(async move { outbox.flush().await.map_err(|error| error.to_string()) })
            }),
            workloads: self.steering.subscribe(),
            http: self.http.clone(),
            reset: Reset::new(&self.paths.data),
            restarting: Arc::new(Semaphore::new(1)),
        }
    }
}

/// Passes the updater's state on as JSON.
async fn tell(
    mut status: watch::Receiver<update::Status>,
    progress: watch::Sender<Value>,
    mut shutdown: Shutdown,
) {
    loop {
        let now = serde_json::to_value(&*status.borrow_and_update()).unwrap_or_default();
        progress.send_replace(now);
        tokio::select! {
            () = shutdown.requested() => return,
            changed = status.changed() => if changed.is_err() { return },
        }
    }
}

/// What the fleet is asked for: which release is good here, and how the last update ended.
fn facts_of_update(updater: &watch::Receiver<Option<update::Handle>>) -> Object {
    let status = updater
        .borrow()
        .as_ref()
        .map(|updater| updater.status().borrow().clone());
    let Some(status) = status else {
        return Object::new();
    };
    let mut facts = Object::new();
    if let Some(good) = status.good {
        facts.insert("boot_good".to_owned(), good.as_str().into());
    }
    if let Some(failure) = status
        .last
        .and_then(|last| Some((last.version, last.failure?)))
    {
        facts.insert(
            "last_update_failure".to_owned(),
            format!("{}: {}", failure.0, failure.1.reason).into(),
        );
    }
    facts
}
