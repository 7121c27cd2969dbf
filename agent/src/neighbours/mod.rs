//! The other nodes of the site: an image that one of them has needn't come over the uplink again.
//!
//! Nodes find each other by multicast DNS, and talk HTTP over TLS, where both ends show the certificate that the
//! control plane's CA gave to the device; nobody else is answered. What a neighbour sends is checked block by block
//! against the signed manifest, so one that lies costs only time.
//!
//! | Module | Owns |
//! |---|---|
//! | [`settings`] | `[neighbours]` |
//! | [`offer`] | what this node has of an image |
//! | `discovery` | who is there |
//! | `server` | answering them |

mod discovery;
pub mod offer;
mod server;
pub mod settings;
#[cfg(test)]
pub(crate) mod tests;

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use cairn_release::Digest;
use cairn_wire::neighbour::{self, Holding};
use futures_util::future::join_all;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::identity::Identity;
use crate::identity::keeper::Standing;
use crate::link::http::Target;
use crate::link::{Http, LinkError};
use crate::shutdown::Shutdown;
use discovery::Known;

pub use offer::Offer;
pub use settings::{Input, Settings};

/// How long a neighbour may take to say what it has.
const ANSWER: Duration = Duration::from_secs(3);
/// How long after a failure the next start is tried.
const AGAIN: Duration = Duration::from_secs(30);

/// A neighbour that has blocks of an image, or wants them.
#[derive(Debug, Clone)]
pub struct Neighbour {
    /// The device's id.
    pub id: String,
    /// Where the image's bytes are.
    pub url: String,
    /// What it says.
    pub holding: Holding,
}

/// What this node has to give.
pub trait Shelf: Send + Sync + 'static {
    /// What it has of an image, if anything.
    fn find(&self, image: &Digest) -> Option<Arc<Offer>>;
    /// Reads bytes of an image that were found.
    ///
    /// # Errors
    /// If it is gone, or the disk fails.
    fn read(&self, image: &Digest, bytes: Range<u64>) -> io::Result<Vec<u8>>;
}

/// Asks the neighbours. Cheap to clone.
#[derive(Clone)]
pub struct Neighbours {
    known: Known,
    http: Http,
}

/// Finds the neighbours and answers them.
pub struct Service {
    settings: Settings,
    standing: watch::Receiver<Standing>,
    clock: Clock,
    shelf: Arc<dyn Shelf>,
    known: Known,
    target: watch::Sender<Arc<Target>>,
}

/// The two halves; nobody is known before the second one runs.
pub fn pair(
    settings: Settings,
    standing: watch::Receiver<Standing>,
    clock: Clock,
    shelf: Arc<dyn Shelf>,
) -> (Neighbours, Service) {
    let (target, targets) = watch::channel(Arc::new(Target::default()));
    let known = Known::default();
    let neighbours = Neighbours {
        known: known.clone(),
        http: Http::to_devices(clock.clone(), targets),
    };
    let service = Service {
        settings,
        standing,
        clock,
        shelf,
        known,
        target,
    };
    (neighbours, service)
}

impl Neighbours {
    /// Who has something of an image, or wants it: asks all.
    pub async fn holding(&self, image: &Digest) -> Vec<Neighbour> {
        self.known.settled().await;
        let asked = self
            .known
            .all()
            .into_iter()
            .map(|(id, address)| async move {
                let path = format!("https://{address}{}{image}", neighbour::PATH);
                let answer = tokio::time::timeout(ANSWER, self.ask(&path)).await;
                let error = match answer {
                    Ok(Ok(None)) => return None,
                    // Anybody may announce anything.
                    Ok(Ok(Some(holding))) if holding.device != id => {
                        format!("it is {:?}", holding.device)
                    }
                    Ok(Ok(Some(holding))) => {
                        let url = format!("{path}{}", neighbour::BYTES);
                        return Some(Neighbour { id, url, holding });
                    }
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "no answer".to_owned(),
                };
                tracing::info!(
                    neighbour = id,
                    error,
                    "the neighbour is left alone for a while"
                );
                self.known.is_ill(&id);
                None
            });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// `None` if it has nothing of it.
    async fn ask(&self, url: &str) -> Result<Option<Holding>, LinkError> {
        let answer = match self.http.get(url, None, &[]).await {
            Err(LinkError::Status { status: 404, .. }) => return Ok(None),
            answer => answer?,
        };
        let bytes = answer.bytes(neighbour::MAX_HOLDING).await?;
        let holding = serde_json::from_slice(&bytes).map_err(|error| LinkError::Answer {
            url: url.to_owned(),
            reason: error.to_string(),
        });
        holding.map(Some)
    }

    /// To get bytes of what they have.
    pub fn http(&self) -> &Http {
        &self.http
    }
}

impl Service {
    /// Answers neighbours and looks for them, as long as the node has an identity.
    pub async fn run(self, mut shutdown: Shutdown) {
        let mut standing = self.standing.clone();
        loop {
            let identity = standing.borrow().identity.clone();
            let work = async {
                let Some(identity) = &identity else {
                    return std::future::pending().await;
                };
                let Err(error) = self.serve(identity).await;
                tracing::error!(%error, "cannot share images with neighbours");
                tokio::time::sleep(AGAIN).await;
            };
            let renewed = |now: &Standing| match (&now.identity, &identity) {
                (Some(now), Some(before)) => !Arc::ptr_eq(now, before),
                (now, before) => now.is_some() != before.is_some(),
            };
            tokio::select! {
                () = work => {}
                Ok(_) = standing.wait_for(renewed) => {}
                () = shutdown.requested() => return,
            }
        }
    }

    async fn serve(&self, identity: &Arc<Identity>) -> io::Result<Infallible> {
        let target = Target {
            identity: Some(identity.clone()),
            ..Target::default()
        };
        self.target.send_replace(Arc::new(target));
        let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, self.settings.port)).await {
            // A kernel without IPv6.
            Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, self.settings.port)).await?,
            Ok(listener) => listener,
        };
        let port = listener.local_addr()?.port();
        let found = async {
            loop {
                let Err(error) = discovery::run(&identity.device, port, &self.known).await;
                tracing::error!(%error, "cannot look for neighbours");
                tokio::time::sleep(AGAIN).await;
            }
        };
        let answered = server::run(
            listener,
            identity,
            self.clock.clone(),
            self.shelf.clone(),
            self.settings.rate,
        );
        tokio::select! {
            never = found => never,
            ended = answered => ended,
        }
    }
}
