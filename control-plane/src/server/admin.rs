//! Health and metrics over plain HTTP, for the machine itself and its Prometheus.

use std::time::Duration;

use axum::Router;
use axum::extract;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::metrics::{State, Status};
use crate::rollouts::Rollouts;
use crate::store::StoreError;

/// Requests at once.
const AT_ONCE: usize = 64;
/// A database that takes longer for nothing isn't ready.
const READY: Duration = Duration::from_secs(5);
/// The whole of a connection.
const LIFE: Duration = Duration::from_secs(300);

static PLACES: Semaphore = Semaphore::const_new(AT_ONCE);

pub(super) async fn serve(app: App, listener: TcpListener, shutdown: CancellationToken) {
    let router = Router::new()
        .route("/healthz", get(|| std::future::ready("ok\n")))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(app);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "an admin connection can't be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = shutdown.cancelled() => return,
        };
        let Ok(place) = PLACES.try_acquire() else {
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        let stop = shutdown.clone();
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10))
                .max_headers(32)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = tokio::time::timeout(LIFE, connection) => {}
                () = stop.cancelled() => {}
            }
            drop(place);
        });
    }
}

/// Ready: the database takes a change. A real one, which needs room on the disk: the schema's number again.
async fn ready(extract::State(app): extract::State<App>) -> Response {
    let asked = app.store.write::<_, StoreError, _>(|tx| {
        let number: i64 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
        Ok(tx.pragma_update(None, "user_version", number)?)
    });
    match tokio::time::timeout(READY, asked).await {
        Ok(Ok(())) => "ready\n".into_response(),
        Ok(Err(error)) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {error}\n"),
        )
            .into_response(),
        Err(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: the database is too slow\n",
        )
            .into_response(),
    }
}

async fn metrics(extract::State(app): extract::State<App>) -> Response {
    match app.store.read(Rollouts::tally).await {
        Ok(tally) => {
            for (status, count) in tally.rollouts {
                let rollouts = app.metrics.rollouts.get_or_create_owned(&Status { status });
                rollouts.set(count);
            }
            for (state, count) in tally.devices {
                let devices = app
                    .metrics
                    .rollout_devices
                    .get_or_create_owned(&State { state });
                devices.set(count);
            }
        }
        Err(error) => tracing::warn!(%error, "rollouts can't be counted"),
    }
    match app.store.read(crate::alarms::tally).await {
        Ok((firing, queued)) => {
            app.metrics.alarms_firing.set(firing);
            app.metrics.alarm_messages_queued.set(queued);
        }
        Err(error) => tracing::warn!(%error, "alarms can't be counted"),
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.metrics.encode()).into_response()
}
