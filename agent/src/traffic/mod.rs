//! Traffic by interface, workload and customer: the kernel's counters, read often and booked by `cairn_traffic`, told to the
//! control plane as a chain of signed records, one for each five minutes.
//!
//! The kernel counts whether the agent runs or not, and the book says up to where it was read: what an agent that was killed
//! didn't see is in the next reading. A power cut costs what wasn't kept, at most `[traffic] keep`.
//!
//! | Module | Owns |
//! |---|---|
//! | [`settings`] | `[traffic]` |
//! | `netlink` | questions to the kernel |
//! | `links` | interfaces and their counters |
//! | `ports` | counters of bridges' ports |
//! | `meters` | which counter counts for whom |
//! | `book` | what is kept on the disk |

mod book;
mod links;
mod meters;
mod netlink;
mod ports;
pub mod settings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use cairn_traffic::{Moment, Signed, chain};
use cairn_wire::Object;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::identity::Identity;
use crate::identity::keeper::Standing;
use crate::outbox::{Outbox, OutboxError, Priority};
use crate::shutdown::Shutdown;
use crate::workloads::{Running, Runs};
use book::{Book, Shelf};
use links::Link;
use ports::Bytes;

pub use settings::{Input, Settings};

/// How long after a failure workloads' ports are tried again.
const AGAIN: Duration = Duration::from_secs(60);

/// What metering needs of the agent.
pub struct Deps {
    /// `[traffic]`.
    pub settings: Settings,
    /// The agent's own folder.
    pub folder: PathBuf,
    /// What time it is.
    pub clock: Clock,
    /// Where records go.
    pub outbox: Outbox,
    /// Whose key signs.
    pub standing: watch::Receiver<Standing>,
    /// The workloads that run; none if there is no Docker.
    pub workloads: Option<watch::Receiver<Runs>>,
}

/// Meters until `shutdown`.
pub async fn run(deps: Deps, mut shutdown: Shutdown) {
    // Until the node is somebody there is nobody to pay.
    let mut standing = deps.standing.clone();
    tokio::select! {
        _ = standing.wait_for(|standing| standing.identity.is_some()) => {}
        () = shutdown.requested() => return,
    }
    match Metering::open(deps).await {
        Ok(metering) => metering.run(shutdown).await,
        Err(error) => tracing::error!(%error, "traffic cannot be metered"),
    }
}

/// Comes back when other workloads run; at once and with nothing if nobody will say so.
async fn others_run(workloads: &mut Option<watch::Receiver<Runs>>) -> Option<()> {
    workloads.as_mut()?.changed().await.ok()
}

struct Metering {
    deps: Deps,
    shelf: Shelf,
    book: Book,
    kept: Instant,
    /// Whether the book says more of ports than the disk does, but for their bytes.
    has_news: bool,
    /// When workloads' ports are tried again, after a failure.
    ports_again: Option<Instant>,
}

impl Metering {
    async fn open(deps: Deps) -> io::Result<Self> {
        let shelf = Shelf::new(&deps.folder);
        let boot = deps.clock.now().boot;
        let opened = shelf.clone();
        let book = blocking(move || opened.open(&boot)).await?;
        Ok(Self {
            deps,
            shelf,
            book,
            kept: Instant::now(),
            has_news: false,
            ports_again: None,
        })
    }

    async fn run(mut self, mut shutdown: Shutdown) {
        let mut workloads = self.deps.workloads.clone();
        let mut ticks = tokio::time::interval(self.deps.settings.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let ends = tokio::select! {
                _ = ticks.tick() => false,
                Some(()) = others_run(&mut workloads) => {
                    self.learn().await;
                    continue;
                }
                () = shutdown.requested() => true,
            };
            self.round(ends).await;
            if ends {
                return;
            }
        }
    }

    /// Learns whose ports are without reading their counters: a container may be gone before the next tick, and the agent killed.
    async fn learn(&mut self) {
        let Some(workloads) = self.workloads() else {
            return;
        };
        let looked = blocking(move || Ok((links::links()?, namespaces(workloads)))).await;
        match looked {
            Ok((links, namespaces)) => {
                self.has_news |= self.book.owners.learn(&links, namespaces.as_deref());
            }
            Err(error) => return tracing::error!(%error, "the kernel's interfaces cannot be read"),
        }
        if self.has_news
            && let Err(error) = self.keep().await
        {
            tracing::error!(%error, "whose traffic is whose cannot be kept");
        }
    }

    /// Reads all counters, and tells of slots that are over. The book is kept before a record of it goes anywhere.
    async fn round(&mut self, ends: bool) {
        let workloads = self.workloads();
        let counters = match blocking(move || Counters::read(workloads)).await {
            Ok(counters) => counters,
            Err(error) => return tracing::error!(%error, "the kernel's counters cannot be read"),
        };
        // A clock that is wrong knows no slot; the counters wait.
        let now = self.deps.clock.now();
        let Some(wall_ms) = now.wall_ms else { return };
        let at = Moment {
            boot: now.boot,
            steady_ms: i64::try_from(now.mono_ms).unwrap_or(i64::MAX),
            wall_ms,
        };
        let gone = self.take(&at, counters);
        let over = !self.book.ledger.pending().is_empty();
        let due = self.kept.elapsed() >= self.deps.settings.keep;
        if !(ends || over || due || self.has_news || !gone.is_empty()) {
            return;
        }
        if let Err(error) = self.keep().await {
            return tracing::error!(%error, "what was metered cannot be kept");
        }
        self.kept = Instant::now();
        self.forget(gone).await;
        if let Err(error) = self.tell().await {
            tracing::warn!(%error, "records of traffic wait");
        }
    }

    /// The workloads that run; none if they can't be metered.
    fn workloads(&self) -> Option<Runs> {
        if self.ports_again.is_some_and(|again| Instant::now() < again) {
            return None;
        }
        Some(self.deps.workloads.as_ref()?.borrow().clone())
    }

    /// Books what was read. Gives the ports that are gone: all that they counted is booked.
    fn take(&mut self, at: &Moment, counters: Counters) -> Vec<u32> {
        let Counters { links, ports } = counters;
        let wanted = self.deps.settings.interfaces.as_deref();
        let mut readings = meters::interfaces(&links, wanted);
        let mut gone = Vec::new();
        self.ports_again = match ports {
            None => self.ports_again,
            Some(Ok(ports)) => {
                if std::mem::take(&mut self.book.is_behind) {
                    let all = meters::all(&ports.counted);
                    self.book.ledger.overlook(at, all);
                    self.has_news = true;
                }
                let owners = &mut self.book.owners;
                self.has_news |= owners.learn(&links, ports.namespaces.as_deref());
                readings.extend(owners.readings(&links, &ports.counted));
                gone = owners.gone(&links, &ports.counted);
                None
            }
            Some(Err(error)) => {
                tracing::error!(%error, "traffic of workloads cannot be metered; is nftables installed?");
                Some(Instant::now() + AGAIN)
            }
        };
        self.book.ledger.read(at, readings);
        gone
    }

    async fn keep(&mut self) -> io::Result<()> {
        let (bytes, shelf) = (self.book.to_bytes()?, self.shelf.clone());
        blocking(move || shelf.keep(&bytes)).await?;
        self.has_news = false;
        Ok(())
    }

    /// After the book is kept: nobody needs these counters again.
    async fn forget(&mut self, gone: Vec<u32>) {
        if gone.is_empty() {
            return;
        }
        self.book.owners.forget(&gone);
        if let Err(error) = blocking(move || ports::forget(&gone)).await {
            tracing::warn!(%error, "counters of ended workloads stay");
        }
    }

    /// Gives records to the outbox. After a crash some go twice; the control plane takes each once.
    async fn tell(&mut self) -> Result<(), OutboxError> {
        let identity = self.deps.standing.borrow().identity.clone();
        let ledger = &mut self.book.ledger;
        let last = ledger.pending().last().map(|record| record.number);
        let (Some(identity), Some(last)) = (identity, last) else {
            return Ok(());
        };
        for record in ledger.pending() {
            let signed = Signed {
                record: record.clone(),
                signature: sign(&identity, record),
            };
            self.deps.outbox.append(Priority::Event, values(&signed));
        }
        self.deps.outbox.flush().await?;
        ledger.left(last);
        Ok(())
    }
}

fn sign(identity: &Identity, record: &cairn_traffic::Record) -> Option<String> {
    match identity.sign(&record.to_sign()) {
        Ok(signature) => Some(hex::encode(signature)),
        Err(error) => {
            tracing::error!(%error, "a record of traffic cannot be signed");
            None
        }
    }
}

fn values(signed: &Signed) -> Object {
    let value = serde_json::to_value(signed).unwrap_or_default();
    [(chain::KEY.to_owned(), value)].into_iter().collect()
}

/// What the kernel says at one moment.
struct Counters {
    links: Vec<Link>,
    /// None if nobody asked.
    ports: Option<io::Result<Ports>>,
}

/// Workloads' traffic.
struct Ports {
    /// What bridges' ports have counted.
    counted: BTreeMap<u32, Bytes>,
    /// The workloads that run, with the numbers of their network namespaces; none before anybody has looked.
    namespaces: Option<Vec<(i32, Running)>>,
}

impl Counters {
    /// Links come first: a port without one then has counted all it ever will.
    fn read(workloads: Option<Runs>) -> io::Result<Self> {
        let links = links::links()?;
        let ports = workloads.map(|workloads| {
            ports::count()?;
            Ok(Ports {
                namespaces: namespaces(workloads),
                counted: ports::counted()?,
            })
        });
        Ok(Self { links, ports })
    }
}

/// The workloads that run, with the kernel's numbers for their network namespaces. It has given them once links were read.
fn namespaces(workloads: Runs) -> Option<Vec<(i32, Running)>> {
    // A workload without a namespace has just ended.
    let namespace = |running: &Running| {
        let number = links::number_of(&running.namespace).ok().flatten()?;
        Some((number, running.clone()))
    };
    Some(workloads?.iter().filter_map(namespace).collect())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}
