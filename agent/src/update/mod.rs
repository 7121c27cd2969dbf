//! Updates of the node: the state machine's decisions ([`cairn_update`]) carried out.
//!
//! | Module | Owns |
//! |---|---|
//! | [`settings`] | `[update]` and `[health]` |
//! | [`effects`] | everything that an update does to the world, as a trait |
//! | [`real`] | that trait on a node |
//! | `executor` | the loop: store, then do |
//! | `actions` | how each action is done |
//! | `fetch` | getting files, resumed and bounded |
//! | `trust` | which keys count |
//! | `boot` | changing the boot state |
//! | `judge` | watching a release on trial |
//! | [`report`], [`status`] | what others are told |

mod actions;
mod boot;
pub mod effects;
mod executor;
mod fetch;
mod judge;
pub mod real;
pub mod report;
pub mod settings;
pub mod status;
mod trust;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

use cairn_release::Digest;
use cairn_wire::ReleaseOrder;
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::link::{self, Http};
use crate::outbox::Outbox;
use crate::shutdown::Shutdown;
use executor::{Ends, Executor};

pub use real::{Paths, Sharing};
pub use settings::{HealthInput, Input, Settings};
pub use status::Status;

/// What an [`Updater`] needs.
pub struct Deps {
    /// `[update]` and `[health]`.
    pub settings: Settings,
    /// Where things are.
    pub paths: Paths,
    /// To fetch with.
    pub http: Http,
    /// The neighbours, if images are shared.
    pub sharing: Option<Sharing>,
    /// How the way to the server is.
    pub link: watch::Receiver<link::State>,
    /// What the control plane wants; none at first: not known yet.
    pub orders: watch::Receiver<Option<ReleaseOrder>>,
    /// Where reports go.
    pub outbox: Outbox,
    /// The time.
    pub clock: Clock,
}

/// Updates the node, one release at a time.
pub struct Updater {
    executor: Executor<real::Real>,
    evidence: std::path::PathBuf,
    http: Http,
    handle: Handle,
}

/// Looks at an [`Updater`] that runs, and asks it for things. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    status: watch::Receiver<Status>,
    forgiven: mpsc::Sender<Digest>,
}

impl Handle {
    /// What is going on.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Lets a release be tried again that failed; `false` if the updater has ended.
    pub async fn forgive(&self, release: Digest) -> bool {
        self.forgiven.send(release).await.is_ok()
    }
}

impl Updater {
    /// Takes up what is stored; nothing happens before [`Updater::run`].
    pub fn new(deps: Deps) -> Self {
        let Deps {
            settings,
            paths,
            http,
            sharing,
            link,
            orders,
            outbox,
            clock,
        } = deps;
        let (status, status_end) = watch::channel(Status::default());
        let (forgiven_end, forgiven) = mpsc::channel(8);
        let evidence = paths.evidence();
        let real = real::Real::new(paths, http.clone(), sharing, link, outbox, clock);
        let executor = Executor::new(
            real,
            settings,
            Ends {
                orders,
                forgiven,
                status,
            },
        );
        Self {
            executor,
            evidence,
            http,
            handle: Handle {
                status: status_end,
                forgiven: forgiven_end,
            },
        }
    }

    /// To look at it and ask it for things while it runs.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// What is going on.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.handle.status()
    }

    /// Updates until it is told to end.
    pub async fn run(self, shutdown: Shutdown) {
        let Self {
            executor,
            evidence,
            http,
            handle,
        } = self;
        tokio::select! {
            () = executor.run(shutdown) => {}
            () = real::upload(&evidence, &http) => {}
        }
        // Kept until here so that the executor's ends stay open.
        drop(handle);
    }
}
