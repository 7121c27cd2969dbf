//! Listeners, start and shutdown.
//!
//! | Module | Owns |
//! |---|---|
//! | [`listen`] | accepting: bounded, never held up by a handshake |
//! | [`https`] | HTTP over TLS, with the device of a certificate beside each request |
//! | [`stall`] | a peer that doesn't read is given up |
//! | [`admin`] | health and metrics over plain HTTP |
//! | [`upkeep`] | what is done now and then |

mod admin;
mod https;
mod listen;
mod stall;
mod upkeep;

use std::net::SocketAddr;

use rusqlite::Transaction;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::alarms;
use crate::app::{App, OpenError};
use crate::ca::CaError;
use crate::config::Config;
use crate::devices;
use crate::registry;
use crate::store::StoreError;
use crate::stream::{self, Kind};
use crate::tls::{self, Current, TlsError};

/// The server can't start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A part.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The certificate authority.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A listener.
    #[error("cannot listen on {address} ({what}): {source}")]
    Listen {
        /// For what.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Open files.
    #[error("cannot set the limit of open files: {0}")]
    Limit(std::io::Error),
}

/// A server that listens.
pub struct Server {
    /// Its parts.
    pub app: App,
    /// Where HTTPS is.
    pub https: SocketAddr,
    /// Where MQTT is.
    pub mqtt: SocketAddr,
    /// Where health and metrics are.
    pub admin: SocketAddr,
    listeners: Listeners,
    current: std::sync::Arc<Current>,
}

struct Listeners {
    https: TcpListener,
    mqtt: TcpListener,
    admin: TcpListener,
}

impl Server {
    /// Opens everything and binds the listeners. Nobody is served before [`Server::run`].
    ///
    /// # Errors
    /// If something can't be opened or bound; the error names it.
    pub async fn bind(config: Config) -> Result<Self, ServeError> {
        let app = App::open(config)?;
        app.store
            .write::<_, StoreError, _>(|tx| {
                all_offline(tx)?;
                alarms::manage::seed(tx)
            })
            .await?;
        let identity = app
            .ca
            .server_identity(&app.config.data.join("tls"), &app.config.names)?;
        let current = Current::new(identity)?;
        let listeners = Listeners {
            https: listen::bind("https", app.config.https)?,
            mqtt: listen::bind("mqtt", app.config.mqtt)?,
            admin: listen::bind("admin", app.config.admin)?,
        };
        let at = |what, listener: &TcpListener, address| {
            listener.local_addr().map_err(|source| ServeError::Listen {
                what,
                address,
                source,
            })
        };
        let https = at("https", &listeners.https, app.config.https)?;
        let mqtt = at("mqtt", &listeners.mqtt, app.config.mqtt)?;
        let admin = at("admin", &listeners.admin, app.config.admin)?;
        app.set_mqtt_port(mqtt.port());
        Ok(Self {
            app,
            https,
            mqtt,
            admin,
            listeners,
            current,
        })
    }

    /// Serves until the token is cancelled; then drains what is under way and returns.
    ///
    /// # Errors
    /// If TLS can't be set up.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), ServeError> {
        let Self {
            app,
            listeners,
            current,
            ..
        } = self;
        let https_tls = tls::server_config(&app.ca, current.clone(), &["http/1.1"])?;
        let mqtt_tls = tls::server_config(&app.ca, current.clone(), &[])?;
        let tracker = TaskTracker::new();
        let engine = tokio::spawn(
            app.rollouts
                .clone()
                .run(app.sessions.clone(), shutdown.clone()),
        );
        tracker.spawn(app.workloads.clone().run(
            app.store.clone(),
            app.sessions.clone(),
            shutdown.clone(),
        ));
        tracker.spawn(alarms::run(app.store.clone(), shutdown.clone()));
        tracker.spawn(upkeep::run(app.clone(), current, shutdown.clone()));
        tracker.spawn(admin::serve(app.clone(), listeners.admin, shutdown.clone()));
        let router = https::router(app.clone());
        let serve = {
            let (app, stop) = (app.clone(), shutdown.clone());
            move |io, from| https::serve(app.clone(), router.clone(), io, from, stop.clone())
        };
        let https = (
            listeners.https,
            https_tls,
            shutdown.clone(),
            tracker.clone(),
        );
        tracker.spawn(listen::accept(
            app.clone(),
            "https",
            https.0,
            https.1,
            serve,
            https.2,
            https.3,
        ));
        let serve = {
            let (app, stop) = (app.clone(), shutdown.clone());
            move |io, _from| devices::mqtt::serve(app.clone(), io, stop.clone())
        };
        let mqtt = (listeners.mqtt, mqtt_tls, shutdown.clone(), tracker.clone());
        tracker.spawn(listen::accept(
            app.clone(),
            "mqtt",
            mqtt.0,
            mqtt.1,
            serve,
            mqtt.2,
            mqtt.3,
        ));
        tracker.close();

        shutdown.cancelled().await;
        tracing::info!("shutting down");
        let drained = tokio::time::timeout(app.config.drain, async {
            tracker.wait().await;
            let _ = engine.await;
        });
        if drained.await.is_err() {
            tracing::warn!(left = tracker.len(), "connections were cut off");
        }
        // Whoever waited for the database has been told; this comes after all of it.
        app.store.write::<_, StoreError, _>(all_offline).await?;
        Ok(())
    }
}

/// Who was connected isn't any more, and whoever reads the stream is told so.
fn all_offline(tx: &Transaction<'_>) -> Result<(), StoreError> {
    for device in registry::all_offline(tx)? {
        let body = json!({ "online": false });
        stream::one(tx, Kind::Connection, &device, devices::now_ms(), &body)?;
    }
    Ok(())
}

/// Raises the limit of open files to what the system allows: each device is one.
///
/// # Errors
/// If the system says no.
pub fn raise_file_limit() -> Result<u64, ServeError> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, wanted).map_err(|error| ServeError::Limit(error.into()))?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}
