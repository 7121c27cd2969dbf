//! What a session with the server needs, and how it ends, whatever carries it.

use std::sync::Arc;

use cairn_wire::Object;
use tokio::sync::{Notify, mpsc, watch};

use super::calls::{FromServer, ToServer};
use super::desired::Orders;
use super::health::Health;
use super::pump::{Pump, Queue};
use super::settings::Settings;
use super::{Http, State};
use crate::clock::Clock;
use crate::identity::keeper::Standing;

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
