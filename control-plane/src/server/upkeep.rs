//! What is done now and then: old telemetry is forgotten, and that of removed devices; traffic is packed; the server's certificate is renewed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::devices::now_ms;
use crate::registry;
use crate::telemetry;
use crate::tls::Current;
use crate::traffic::days;

const SWEEP: Duration = Duration::from_secs(30);
const DAY_MS: i64 = 86_400_000;

pub(super) async fn run(app: App, current: Arc<Current>, shutdown: CancellationToken) {
    tokio::join!(sweeps(&app, &current, &shutdown), removed(&app, &shutdown));
}

/// Also what was left when the server ended.
async fn removed(app: &App, shutdown: &CancellationToken) {
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        let forget = async {
            sweep.tick().await;
            if let Err(error) = registry::forget_removed(&app.store).await {
                tracing::warn!(%error, "what removed devices sent can't be deleted");
            }
        };
        tokio::select! {
            () = forget => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn sweeps(app: &App, current: &Current, shutdown: &CancellationToken) {
    let mut sweep = tokio::time::interval(SWEEP);
    // Not at the start: a fleet is coming back then.
    let every = app.config.upkeep;
    let mut round = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    loop {
        tokio::select! {
            _ = sweep.tick() => {
                app.sessions.sweep();
                app.quota.sweep(Instant::now());
                app.speed.sweep(Instant::now());
            }
            _ = round.tick() => {
                certificate(app, current).await;
                tokio::select! {
                    () = forget(app) => {}
                    () = shutdown.cancelled() => return,
                }
            }
            () = shutdown.cancelled() => return,
        }
    }
}

async fn forget(app: &App) {
    match days::pack(&app.store, now_ms() / 300_000).await {
        Ok(days) => tracing::debug!(days, "old traffic packed"),
        Err(error) => tracing::warn!(%error, "old traffic can't be packed"),
    }
    let cutoff = now_ms() - i64::from(app.config.telemetry_days) * DAY_MS;
    match telemetry::prune(&app.store, cutoff).await {
        Ok(rows) => tracing::debug!(rows, "old telemetry deleted"),
        Err(error) => tracing::warn!(%error, "old telemetry can't be deleted"),
    }
}

/// From the disk as long as it fits; made anew when it nears its end.
async fn certificate(app: &App, current: &Current) {
    let (ca, folder, names) = (
        app.ca.clone(),
        app.config.data.join("tls"),
        app.config.names.clone(),
    );
    let identity = tokio::task::spawn_blocking(move || ca.server_identity(&folder, &names)).await;
    let replaced = match identity {
        Ok(Ok(identity)) => current.replace(identity).map_err(|error| error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = replaced {
        tracing::error!(error, "the server's certificate can't be renewed");
    }
}
