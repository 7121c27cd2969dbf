//! Keeps a session with the server: connects, waits ever longer after failures, starts anew with a renewed certificate.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_wire::Object;
use tokio::sync::{Notify, mpsc, watch};

use super::backoff::Backoff;
use super::calls::{FromServer, ToServer};
use super::desired::Orders;
use super::health::Health;
use super::pump::{Pump, Queue};
use super::settings::{Settings, Transport};
use super::{Http, State, device_http, endpoint, mqtt};
use crate::clock::Clock;
use crate::identity::keeper::Standing;
use crate::shutdown::Shutdown;

/// A connection that lasted this long wasn't a failed one.
const LASTED: Duration = Duration::from_secs(60);

/// All that a session needs.
pub struct Parts<Q: Queue> {
    /// The settings.
    pub settings: Settings,
    /// Telemetry on its way.
    pub pump: Pump<Q>,
    /// HTTP, for the transport of that name.
    pub http: Http,
    /// The node's identity.
    pub standing: watch::Receiver<Standing>,
    /// Told when the session shall start anew.
    pub reload: watch::Sender<()>,
    /// Told when the server refuses the identity.
    pub refused: Arc<Notify>,
    /// Who does what the server calls for.
    pub from_server: mpsc::Sender<FromServer>,
    /// Calls to the server.
    pub to_server: mpsc::Receiver<ToServer>,
    /// What the server orders.
    pub orders: Orders,
    /// Whom to tell how it goes.
    pub health: Health,
    /// What the node is, as client attributes.
    pub facts: Arc<dyn Fn() -> Object + Send + Sync>,
    /// The clock.
    pub clock: Clock,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// As told.
    Shutdown,
    /// To start anew at once.
    Reload,
    /// There is none to connect to: the node isn't enrolled yet.
    NoServer,
    /// The server doesn't take this identity.
    Refused(String),
    /// The server answers, but not as it should. `blamed`: on a message.
    Failing {
        /// Why.
        reason: String,
        /// Whether a message may be the cause.
        blamed: bool,
    },
    /// There is no connection (any more). `blamed`: the server may have closed it because of a message.
    Lost {
        /// Why.
        reason: String,
        /// Whether a message may be the cause.
        blamed: bool,
    },
}

impl End {
    /// Lost, and no message is to blame.
    pub fn lost(reason: impl Into<String>) -> Self {
        Self::Lost {
            reason: reason.into(),
            blamed: false,
        }
    }

    /// How the session is after it; none: it is about to begin again, or not at all.
    pub fn state(&self) -> Option<State> {
        match self {
            Self::Shutdown | Self::Reload => None,
            // No link is broken, and no server fails.
            Self::NoServer => Some(State::Connecting),
            Self::Refused(reason) | Self::Failing { reason, .. } => {
                Some(State::ServerFailing(reason.clone()))
            }
            Self::Lost { reason, .. } => Some(State::Down(reason.clone())),
        }
    }

    /// Before the server took anything, no message can be to blame.
    pub fn with_proof(self, proven: bool) -> Self {
        match self {
            Self::Lost { reason, blamed } => Self::Lost {
                reason,
                blamed: blamed && proven,
            },
            Self::Failing { reason, blamed } => Self::Failing {
                reason,
                blamed: blamed && proven,
            },
            end => end,
        }
    }
}

/// Works until told to stop, and gives back what another one may work with.
pub async fn run<Q: Queue>(mut parts: Parts<Q>, mut shutdown: Shutdown) -> Parts<Q> {
    let mut backoff = Backoff::new(parts.settings.reconnect_min, parts.settings.reconnect_max);
    // Nodes of one site start together after a power cut.
    let first = backoff.next(None);
    backoff.reset();
    if pause(first.min(Duration::from_secs(2)), &mut parts, &mut shutdown).await {
        return parts;
    }
    let mut told = false;
    loop {
        let started = Instant::now();
        let end = connect(&mut parts, &mut shutdown).await;
        if shutdown.is_requested() || end == End::Shutdown {
            return parts;
        }
        if started.elapsed() >= LASTED {
            backoff.reset();
        }
        if let Some(state) = end.state() {
            parts.health.session(state);
        }
        let wait = match end {
            End::Shutdown => return parts,
            End::Reload => {
                tracing::info!("the session starts anew");
                Duration::ZERO
            }
            End::NoServer => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!("no server is known: the node isn't enrolled yet");
                }
                // Looking costs nothing, and once there is one nothing has failed before.
                backoff.reset();
                backoff.next(None)
            }
            End::Refused(reason) => {
                tracing::warn!(reason, "the server refuses this node");
                parts.refused.notify_one();
                backoff.next(None)
            }
            End::Failing { reason, .. } => {
                tracing::warn!(reason, "the server fails");
                backoff.next(None)
            }
            End::Lost { reason, .. } => {
                tracing::warn!(reason, "no connection");
                backoff.next(None)
            }
        };
        // Whether the server answers at all is asked over HTTP.
        parts.orders.look();
        if pause(wait, &mut parts, &mut shutdown).await {
            return parts;
        }
        let held = parts.health.held();
        if !held.is_zero() && pause(held, &mut parts, &mut shutdown).await {
            return parts;
        }
    }
}

/// Waits; a new identity ends the wait. `true`: it is time to stop.
async fn pause<Q: Queue>(wait: Duration, parts: &mut Parts<Q>, shutdown: &mut Shutdown) -> bool {
    let mut reload = parts.reload.subscribe();
    tokio::select! {
        biased;
        () = shutdown.requested() => true,
        () = tokio::time::sleep(wait) => false,
        Ok(()) = parts.standing.changed() => false,
        Ok(()) = reload.changed() => false,
    }
}

/// One connection, from its beginning to its end.
pub(super) async fn connect<Q: Queue>(parts: &mut Parts<Q>, shutdown: &mut Shutdown) -> End {
    let identity = parts.standing.borrow_and_update().identity.clone();
    let target = match endpoint::target(&parts.settings, identity.as_ref()) {
        Ok(target) => target,
        Err(error) => return End::lost(error.to_string()),
    };
    match parts.settings.transport {
        Transport::Http => device_http::session(parts, shutdown).await,
        Transport::Mqtt => match endpoint::broker(&parts.settings, identity.as_ref()) {
            Err(error) => End::lost(error.to_string()),
            Ok(None) => End::NoServer,
            Ok(Some(broker)) => {
                let client_id = endpoint::client_id(&parts.settings, identity.as_ref());
                tracing::debug!(host = broker.host, port = broker.port, "connecting");
                mqtt::session(parts, &broker, &client_id, &target, shutdown).await
            }
        },
    }
}
