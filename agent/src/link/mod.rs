//! The way to the server: MQTT or ThingsBoard's HTTP API for what the node tells and is told, HTTP for files.

pub mod backoff;
pub mod calls;
pub mod desired;
pub mod device_http;
pub mod endpoint;
pub mod health;
pub mod http;
#[cfg(test)]
mod memory;
pub mod mqtt;
pub mod pump;
pub mod queue;
pub mod runner;
pub mod session;
pub mod settings;
pub mod tls;

use std::fmt;

pub use http::{Http, HttpResponse};

/// How the way to the server is.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "reason")]
pub enum State {
    /// Not known yet.
    #[default]
    Connecting,
    /// The server takes what the node says.
    Up,
    /// The server answers, but with an error: the node's own link works.
    ServerFailing(String),
    /// The server can't be reached; why.
    Down(String),
}

impl State {
    /// Its name in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Up => "up",
            Self::ServerFailing(_) => "server-failing",
            Self::Down(_) => "down",
        }
    }
}

/// For people.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Up => f.write_str("link up"),
            Self::ServerFailing(reason) => write!(f, "the server is failing: {reason}"),
            Self::Down(reason) => write!(f, "link down: {reason}"),
        }
    }
}

/// A request didn't get the answer that it should.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// There is no server to ask: the node isn't enrolled, or the server has no HTTP.
    #[error("no server for HTTP is known")]
    NoServer,
    /// The address isn't one.
    #[error("not a URL that can be asked: {0:?}")]
    Url(String),
    /// Certificate or key can't be used.
    #[error("the node's identity cannot be used for TLS: {0}")]
    Tls(String),
    /// No answer came, or it broke off.
    #[error("{url}: {reason}")]
    Transport {
        /// What was asked.
        url: String,
        /// What the libraries say, innermost last.
        reason: String,
    },
    /// The server answered with an error.
    #[error("{url}: the server answered {status}{}", message.as_deref().map(|m| format!(": {m}")).unwrap_or_default())]
    Status {
        /// What was asked.
        url: String,
        /// HTTP's status code.
        status: u16,
        /// The server's word for it, for programs, if it gave one.
        code: Option<String>,
        /// The server's sentence, if it gave one.
        message: Option<String>,
        /// When to ask again, if the server said.
        retry_after: Option<std::time::Duration>,
    },
    /// The answer is longer than it may be, or can't be read.
    #[error("{url}: {reason}")]
    Answer {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl LinkError {
    /// Whether the server was reached and has a fault of its own (5xx, 429).
    pub fn server_fault(&self) -> bool {
        matches!(self, Self::Status { status, .. } if *status >= 500 || *status == 429)
    }

    /// Whether the server was reached and doesn't take this node's identity.
    pub fn refused(&self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status, 401 | 403),
            Self::Transport { reason, .. } => refusing_alert(reason),
            _ => false,
        }
    }
}

/// Whether a TLS error says that the peer turned our certificate down.
pub fn refusing_alert(text: &str) -> bool {
    [
        "CertificateExpired",
        "CertificateUnknown",
        "CertificateRevoked",
        "BadCertificate",
        "AccessDenied",
        "UnknownCA",
        "CertificateRequired",
    ]
    .iter()
    .any(|alert| text.contains(alert))
}

#[cfg(test)]
mod tests;
