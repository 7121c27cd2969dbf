//! Keeps a session with the server: connects, waits ever longer after failures, starts anew with a renewed certificate.

use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::pump::Queue;
use super::session::{End, Parts};
use super::settings::Transport;
use super::{device_http, endpoint, mqtt};
use crate::shutdown::Shutdown;

/// A connection that lasted this long wasn't a failed one.
const LASTED: Duration = Duration::from_secs(60);

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
