//! The node's lines: how long a round trip takes, how much is lost, how fast they are. The figures are `cairn_line`'s.
//!
//! Telemetry of a line: `line.<name>.latency_ms`, `line.<name>.loss_percent` and `line.<name>.jitter_ms` as often as the node
//! is measured, `line.<name>.method` when it changes and daily, `line.<name>.up_bps` and `line.<name>.down_bps` after a speed test.
//! What isn't known is left out.
//!
//! | Module | Owns |
//! |---|---|
//! | [`settings`] | `[lines]` |
//! | `echo` | ICMP's messages |
//! | [`probe`] | one probe |
//! | `watched` | one target |
//! | `speed` | speed tests |
//! | `ledger` | what they have taken |

mod echo;
mod ledger;
pub mod probe;
pub mod settings;
mod speed;
#[cfg(test)]
mod tests;
mod watched;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cairn_line::{Figures, Method, figures};
use cairn_wire::Object;
use futures_util::future::join_all;
use rand::Rng as _;
use serde_json::Value;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::clock::Clock;
use crate::link::Http;
use crate::link::settings::Broker;
use crate::outbox::{Outbox, Priority};
use crate::shutdown::Shutdown;
use crate::told::Told;
use ledger::Ledger;
use settings::Direction;
use speed::{Tested, Tester};
use watched::{Place, Watched};

pub use settings::{Input, Settings};

/// What watching lines needs of the agent.
#[derive(Clone)]
pub struct Deps {
    /// How often figures are told.
    pub report: Duration,
    /// The agent's own folder.
    pub folder: PathBuf,
    /// What time it is.
    pub clock: Clock,
    /// Where figures go.
    pub outbox: Outbox,
    /// The control plane.
    pub http: Http,
    /// Where it is if it has no HTTP.
    pub broker: Option<Broker>,
    /// What a person sees: by line, what is told of it.
    pub shown: watch::Sender<Object>,
}

/// Watches all lines until `shutdown`.
pub async fn run(settings: Settings, deps: Deps, shutdown: Shutdown) {
    deps.shown.send_replace(Object::new());
    let folder = deps.folder.clone();
    let ledger = match tokio::task::spawn_blocking(move || Ledger::open(&folder)).await {
        Ok(ledger) => Arc::new(Mutex::new(ledger)),
        Err(error) => return tracing::error!(%error, "lines cannot be watched"),
    };
    let lines = settings.0.into_iter().map(|line| {
        let line = Line::new(line, deps.clone(), ledger.clone());
        line.run(shutdown.clone())
    });
    join_all(lines).await;
}

struct Line {
    settings: settings::Line,
    deps: Deps,
    began: Instant,
    watched: Vec<Watched>,
    tester: Option<Tester>,
    /// The method.
    told: Told<(), Method>,
    /// What a person sees.
    shown: Object,
}

impl Line {
    fn new(settings: settings::Line, deps: Deps, ledger: Arc<Mutex<Ledger>>) -> Self {
        let watched = settings.targets.iter();
        let watched = watched.map(|target| Watched::new(target.clone(), &settings));
        let tester = settings.speed.clone().map(|speed| {
            // A connection of its own: what else the agent says must not share it.
            let http = deps.http.over(settings.interface.clone());
            Tester::new(&settings.name, speed, http, deps.clock.clone(), ledger)
        });
        Self {
            watched: watched.collect(),
            tester,
            settings,
            deps,
            began: Instant::now(),
            told: Told::default(),
            shown: Object::new(),
        }
    }

    async fn run(mut self, mut shutdown: Shutdown) {
        // The stream begins at random (RFC 3432, section 4), and lines don't probe in step.
        let late = self
            .settings
            .interval
            .mul_f64(rand::thread_rng().gen_range(0.0..1.0));
        let mut rounds = interval_at(Instant::now() + late, self.settings.interval);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reports = interval_at(Instant::now() + self.deps.report, self.deps.report);
        reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let work = async {
                tokio::select! {
                    _ = rounds.tick() => {
                        self.round().await;
                        // Not beside the probes: they would wait behind its bytes.
                        self.test().await;
                    }
                    _ = reports.tick() => self.report(),
                }
            };
            tokio::select! {
                () = work => {}
                () = shutdown.requested() => return,
            }
        }
    }

    /// Probes all targets once.
    async fn round(&mut self) {
        let server = self.server();
        let (settings, began) = (&self.settings, self.began);
        let rounds = self
            .watched
            .iter_mut()
            .map(|watched| watched.round(settings, server.as_ref(), began));
        join_all(rounds).await;
    }

    /// Where the control plane is.
    fn server(&self) -> Option<Place> {
        let base = self
            .deps
            .http
            .target()
            .base
            .as_deref()
            .and_then(|base| reqwest::Url::parse(base).ok());
        let by_http = base.and_then(|url| {
            let host = url.host_str()?.trim_matches(['[', ']']);
            Some((host.to_owned(), url.port_or_known_default()?))
        });
        let broker = self.deps.broker.as_ref();
        by_http.or_else(|| broker.map(|broker| (broker.host.clone(), broker.port)))
    }

    /// What the line's targets show together, if any was probed.
    fn figures(&mut self) -> Option<(Method, Figures)> {
        let began = self.began;
        let shown = self
            .watched
            .iter_mut()
            .filter_map(|watched| watched.figures(began));
        let (methods, of): (Vec<_>, Vec<_>) = shown.unzip();
        let (index, best) = figures::best(&of)?;
        Some((*methods.get(index)?, best))
    }

    fn report(&mut self) {
        let Some((method, figures)) = self.figures() else {
            return;
        };
        let ms = |time: Duration| Value::from((time.as_secs_f64() * 1e6).round() / 1e3);
        let loss = (figures.loss_percent * 100.0).round() / 100.0;
        let values = vec![
            ("latency_ms", figures.latency.map(ms)),
            ("loss_percent", Some(loss.into())),
            ("jitter_ms", figures.jitter.map(ms)),
        ];
        self.tell(Priority::Sample, values);
        let mut news = None;
        self.told
            .update(Instant::now().into_std(), [((), method)], |(), method| {
                news = Some(method.as_str());
            });
        if let Some(method) = news {
            self.tell(Priority::Fact, vec![("method", Some(method.into()))]);
        }
    }

    /// Tests how fast the line is, if that is due.
    async fn test(&mut self) {
        let Some(tester) = &mut self.tester else {
            return;
        };
        if !tester.is_due() {
            return;
        }
        let tested = tester.test().await;
        for Tested {
            direction,
            bits_per_second,
        } in tested
        {
            let (key, problem) = match direction {
                Direction::Up => ("up_bps", "up_problem"),
                Direction::Down => ("down_bps", "down_problem"),
            };
            let line = &self.settings.name;
            match bits_per_second {
                Ok(figure) => {
                    tracing::info!(
                        line,
                        ?direction,
                        bits_per_second = figure,
                        "a line was tested"
                    );
                    self.tell(Priority::Sample, vec![(key, Some(figure.into()))]);
                    self.show(vec![(problem, None)]);
                }
                Err(reason) => {
                    tracing::warn!(line, ?direction, reason, "a line could not be tested");
                    self.show(vec![(problem, Some(reason.into()))]);
                }
            }
        }
    }

    /// To the control plane and to a person; what isn't known any more is left out.
    fn tell(&mut self, priority: Priority, values: Vec<(&'static str, Option<Value>)>) {
        let name = &self.settings.name;
        let known = values
            .iter()
            .filter_map(|(key, value)| Some((format!("line.{name}.{key}"), value.clone()?)));
        self.deps.outbox.append(priority, known.collect::<Object>());
        self.show(values);
    }

    /// To a person alone.
    fn show(&mut self, values: Vec<(&'static str, Option<Value>)>) {
        for (key, value) in values {
            match value {
                Some(value) => self.shown.insert(key.to_owned(), value),
                None => self.shown.remove(key),
            };
        }
        let (name, shown) = (self.settings.name.clone(), self.shown.clone());
        self.deps
            .shown
            .send_modify(|lines| drop(lines.insert(name, shown.into())));
    }
}
