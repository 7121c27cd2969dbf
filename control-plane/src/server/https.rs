//! HTTP over TLS, with the device of a certificate beside each request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower_http::timeout::RequestBodyTimeoutLayer;

use super::stall::Stall;
use crate::app::App;
use crate::devices::{self, Peer, PeerRefused};
use crate::registry::credentials::Refused;
use crate::web::ApiError;
use crate::{api, releases};

/// From one request to the head of the next, and within a head.
const HEAD: Duration = Duration::from_secs(60);
/// Between two pieces of a body.
const BODY: Duration = Duration::from_secs(30);
/// Without a byte of an answer that the peer takes. A slow link gets on in it: it is for what the buffers hold, some 64 KiB.
const STALL: Duration = Duration::from_secs(60);
/// Headers of a request.
const HEADERS: usize = 64;
/// A request's head in bytes.
const HEAD_BYTES: usize = 32 * 1024;

/// All routes.
pub(super) fn router(app: App) -> Router {
    Router::new()
        .merge(devices::http::router())
        .merge(api::router())
        .merge(releases::router())
        .route("/healthz", get(|| std::future::ready("ok\n")))
        .fallback(|| std::future::ready(ApiError::not_found("such path")))
        .method_not_allowed_fallback(|| {
            std::future::ready(ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "bad-method",
                "this path has no such method",
            ))
        })
        .layer(RequestBodyTimeoutLayer::new(BODY))
        .with_state(app)
}

/// Serves one connection to its end.
pub(super) async fn serve(
    app: App,
    router: Router,
    io: TlsStream<TcpStream>,
    from: SocketAddr,
    shutdown: CancellationToken,
) {
    let certificate = io
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|der| der.clone().into_owned());
    let (mut peer, mut refused, mut admission, mut ends) = (Peer::default(), None, None, None);
    if let Some(certificate) = certificate {
        match devices::admit(&app, certificate).await {
            Ok((device, place, until)) => {
                peer = Peer(Some(device));
                admission = Some(place);
                ends = until;
            }
            Err(Refused::Store(error)) => {
                tracing::error!(%error, "a device can't be looked up");
                return;
            }
            Err(error) => {
                tracing::info!(%from, %error, "a client certificate was refused");
                refused = Some(PeerRefused(error.code()));
            }
        }
    }
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        let extensions = request.extensions_mut();
        extensions.insert(peer.clone());
        extensions.insert(ConnectInfo(from));
        if let Some(refused) = refused {
            extensions.insert(refused);
        }
        let router = router.clone();
        async move {
            let response: Response = router
                .oneshot(request)
                .await
                .unwrap_or_else(|never: Infallible| match never {});
            Ok::<_, Infallible>(response.into_response())
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(HEADERS)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(Stall::new(io, STALL)), service);
    let mut connection = std::pin::pin!(connection);
    let ended = async {
        match &admission {
            Some(admission) => admission.closed().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        done = connection.as_mut() => {
            if let Err(error) = done {
                tracing::debug!(%from, %error, "an HTTPS connection ended");
            }
            return;
        }
        // Shut out, or its certificate has ended: whatever is under way ends here.
        () = ended => return,
        () = devices::over(ends) => return,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    // The request that is under way gets its answer; the server as a whole doesn't wait for ever.
    let _ = connection.await;
}
