//! Accepting: each connection is a task of its own from its first byte on, so that no handshake holds up another. Who comes when all
//! places are taken is sent away at once.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ServeError;
use crate::app::App;
use crate::metrics::Front;

/// Connections that the kernel keeps for us: a fleet that comes back at once.
const BACKLOG: u32 = 16_384;

/// Binds a listener.
///
/// # Errors
/// If it can't be bound.
pub(super) fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    let listen = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| ServeError::Listen {
        what,
        address,
        source,
    })
}

/// Accepts TLS connections and serves each, until the shutdown.
pub(super) async fn accept<F, S>(
    app: App,
    front: &'static str,
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    serve: F,
    shutdown: CancellationToken,
    tracker: TaskTracker,
) where
    F: Fn(TlsStream<TcpStream>, SocketAddr) -> S + Clone + Send + Sync + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(
        app.config.max_connections.min(Semaphore::MAX_PERMITS),
    ));
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let (stream, from) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of files, most likely; those that are closing give some back.
                    tracing::warn!(front, %error, "a connection can't be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = shutdown.cancelled() => return,
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(front, "a connection was sent away: all places are taken");
            continue;
        };
        app.metrics.accepted.get_or_create(&Front { front }).inc();
        let (app, acceptor, serve, shutdown) = (
            app.clone(),
            acceptor.clone(),
            serve.clone(),
            shutdown.clone(),
        );
        tracker.spawn(async move {
            let _ = stream.set_nodelay(true);
            let handshake = tokio::select! {
                handshake = tokio::time::timeout(app.config.handshake_timeout, Box::pin(acceptor.accept(stream))) => handshake,
                () = shutdown.cancelled() => return,
            };
            match handshake {
                Ok(Ok(stream)) => {
                    let open = app.metrics.open.get_or_create_owned(&Front { front });
                    open.inc();
                    serve(stream, from).await;
                    open.dec();
                }
                failed => {
                    app.metrics.handshake_failures.get_or_create(&Front { front }).inc();
                    match failed {
                        Ok(Err(error)) => tracing::debug!(front, %from, %error, "no TLS"),
                        _ => tracing::debug!(front, %from, "the TLS handshake took too long"),
                    }
                }
            }
            drop(place);
        });
    }
}
