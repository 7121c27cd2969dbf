//! What is done now and then: telemetry is packed, the old is forgotten, and that of removed devices; traffic is packed; the server's
//! certificate is renewed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::devices::now_ms;
use crate::registry;
use crate::store::StoreError;
use crate::stream::Stream as _;
use crate::telemetry;
use crate::tls::Current;
use crate::traffic::days;

const CERTIFICATE: Duration = Duration::from_secs(3600);
const SWEEP: Duration = Duration::from_secs(30);

pub(super) async fn run(app: App, current: Arc<Current>, shutdown: CancellationToken) {
    tokio::join!(
        sweeps(&app, &current, &shutdown),
        removed(&app, &shutdown),
        tidies(&app, &shutdown)
    );
}

/// Telemetry, the stream and traffic are made small. Not at the start: a fleet is coming back then.
async fn tidies(app: &App, shutdown: &CancellationToken) {
    let every = app.config.tidy_every;
    let mut turn = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let tidy = async {
            turn.tick().await;
            match telemetry::tidy(&app.store, &app.config.ages, now_ms()).await {
                Ok(done) => tracing::debug!(?done, "telemetry tidied"),
                Err(error) => tracing::warn!(%error, "telemetry can't be tidied"),
            }
            if let Err(error) = trim(app).await {
                tracing::warn!(%error, "the stream can't be trimmed");
            }
            match days::pack(&app.store, now_ms() / 300_000).await {
                Ok(days) => tracing::debug!(days, "old traffic packed"),
                Err(error) => tracing::warn!(%error, "old traffic can't be packed"),
            }
        };
        tokio::select! {
            () = tidy => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn trim(app: &App) -> Result<(), StoreError> {
    let keep = app.config.stream;
    let step = || app.store.write(move |tx| tx.trim(&keep, now_ms()));
    while step().await? > 0 {}
    Ok(())
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
    let first = tokio::time::Instant::now() + CERTIFICATE;
    let mut hourly = tokio::time::interval_at(first, CERTIFICATE);
    loop {
        tokio::select! {
            _ = sweep.tick() => {
                app.sessions.sweep();
                app.quota.sweep(Instant::now());
                app.speed.sweep(Instant::now());
            }
            _ = hourly.tick() => certificate(app, current).await,
            () = shutdown.cancelled() => return,
        }
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
