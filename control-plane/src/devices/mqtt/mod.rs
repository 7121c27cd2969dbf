//! MQTT 3.1.1 over TLS, and the part of MQTT 5 that says the same: one task per connection, on rumqttc's codec.
//!
//! No broker: a device talks to the server and to nobody else. QoS 0 and 1; a publish with QoS 2 ends the connection, as does one that
//! makes no sense. No session outlives its connection: after each connect a device subscribes again.
//!
//! | Module | Owns |
//! |---|---|
//! | [`wire`] | packets over a socket, with little memory while nothing happens |
//! | [`five`] | MQTT 5 in the terms of 3.1.1 |
//! | [`connect`] | CONNECT: who is it |
//! | [`connection`] | a device's connection |
//! | [`ingest`] | telemetry and attributes: batches, and acknowledgements once they are on the disk |
//! | [`answer`] | everything that is answered by a message |
//! | [`provision`] | the short life of a connection that provisions |

mod answer;
mod connect;
mod connection;
mod five;
mod ingest;
mod provision;
mod wire;

pub(crate) use ingest::{client_attributes, share};
pub(crate) use provision::provision;

use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::metrics::Reason;

/// Largest packet that a device may send: a payload, its topic and header.
pub const MAX_PACKET: usize = cairn_wire::MAX_PAYLOAD + 4096;

/// Why the server ends a connection; the word is the metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closed {
    /// The peer has gone, or said DISCONNECT.
    Gone,
    /// No packet within the time that the device promised.
    Silent,
    /// A packet or a message that makes no sense.
    Malformed,
    /// Somebody that nobody knows, or who is shut out.
    Refused,
    /// It has connected anew.
    Superseded,
    /// It was revoked or removed.
    Revoked,
    /// Its certificate has ended.
    Expired,
    /// It doesn't read.
    Slow,
    /// The database said no: what wasn't acknowledged comes again.
    Storage,
    /// The server is shutting down.
    Shutdown,
    /// A provisioning connection has had its time.
    Done,
}

impl Closed {
    fn word(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Silent => "silent",
            Self::Malformed => "malformed",
            Self::Refused => "refused",
            Self::Superseded => "superseded",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Slow => "slow",
            Self::Storage => "storage",
            Self::Shutdown => "shutdown",
            Self::Done => "done",
        }
    }
}

/// Serves one connection to its end.
pub async fn serve(app: App, io: TlsStream<TcpStream>, shutdown: CancellationToken) {
    let certificate: Option<CertificateDer<'static>> = io
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|der| der.clone().into_owned());
    let closed = connect::serve(&app, wire::Wire::new(io), certificate, &shutdown).await;
    app.metrics
        .mqtt_closed
        .get_or_create(&Reason {
            reason: closed.word(),
        })
        .inc();
}
