//! ThingsBoard's HTTP device API instead of MQTT, for networks that let nothing else through: records are posted, calls and
//! attributes are waited for by long polls.

use std::time::Duration;

use cairn_wire::attributes::{Change, Response};
use cairn_wire::rpc::Call;
use serde_json::Value;

use super::calls::{self, FromServer};
use super::pump::Queue;
use super::session::{End, Parts};
use super::{Http, LinkError, State};
use crate::link::desired::{KEYS, Orders};
use crate::shutdown::Shutdown;

/// How long the server may hold an answer back.
const POLL: Duration = Duration::from_secs(25);
/// The longest answer, in bytes.
const LIMIT: usize = cairn_wire::MAX_PAYLOAD;

/// Works until a request fails, or it is to end.
pub async fn session<Q: Queue>(parts: &mut Parts<Q>, shutdown: &mut Shutdown) -> End {
    let http = parts.http.clone();
    let api = http.device_api();
    let mut standing = parts.standing.clone();
    let mut reload = parts.reload.subscribe();
    if let Err(error) = greet(&http, &api, &(parts.facts)(), &parts.orders).await {
        return judge(&error);
    }
    parts.health.session(State::Up);
    parts.orders.look();
    let (orders, from_server) = (parts.orders.clone(), parts.from_server.clone());
    let end = tokio::select! {
        biased;
        () = shutdown.requested() => End::Shutdown,
        Ok(()) = standing.changed() => End::Reload,
        Ok(()) = reload.changed() => End::Reload,
        error = records(parts, &http, &api) => judge(&error),
        error = attributes(&http, &api, &orders) => judge(&error),
        error = calls(&http, &api, &from_server) => judge(&error),
    };
    // Batches that are on their way may have arrived: their numbers tell.
    parts.pump.ended(false).await;
    end
}

async fn greet(
    http: &Http,
    api: &str,
    facts: &cairn_wire::Object,
    orders: &Orders,
) -> Result<(), LinkError> {
    let facts = Value::Object(facts.clone()).to_string().into_bytes();
    http.post_json(&format!("{api}/attributes"), facts).await?;
    let answer = http
        .get(
            &format!("{api}/attributes?sharedKeys={}", KEYS.join(",")),
            None,
            &[],
        )
        .await?;
    match Response::parse(&answer.bytes(LIMIT).await?) {
        Ok(response) => orders.attributes(response.shared),
        Err(error) => tracing::warn!(%error, "the server said something that cannot be read"),
    }
    Ok(())
}

/// Sends records; returns with the first error that isn't the fault of one message.
async fn records<Q: Queue>(parts: &mut Parts<Q>, http: &Http, api: &str) -> LinkError {
    let path = format!("{api}/telemetry");
    let queue = parts.pump.queue().clone();
    loop {
        queue.ready().await;
        let Some(message) = parts.pump.next().await else {
            continue;
        };
        match http.post_json(&path, message.payload).await {
            Ok(_) => parts.pump.acked(message.ticket).await,
            Err(LinkError::Status {
                status: 400 | 413 | 422,
                ..
            }) => parts.pump.rejected(message.ticket).await,
            Err(error) => return error,
        }
    }
}

async fn attributes(http: &Http, api: &str, orders: &Orders) -> LinkError {
    let path = format!("{api}/attributes/updates?timeout={}", POLL.as_millis());
    loop {
        match poll(http, &path).await {
            Ok(None) => {}
            Ok(Some(body)) => match Change::parse(&body) {
                Ok(change) => orders.change(change),
                Err(error) => {
                    tracing::warn!(%error, "the server said something that cannot be read")
                }
            },
            Err(error) => return error,
        }
    }
}

async fn calls(
    http: &Http,
    api: &str,
    from_server: &tokio::sync::mpsc::Sender<FromServer>,
) -> LinkError {
    let path = format!("{api}/rpc?timeout={}", POLL.as_millis());
    loop {
        let body = match poll(http, &path).await {
            Ok(None) => continue,
            Ok(Some(body)) => body,
            Err(error) => return error,
        };
        let id = serde_json::from_slice::<Value>(&body)
            .ok()
            .and_then(|value| value.get("id")?.as_u64());
        let (Some(id), Ok(call)) = (id, Call::parse(&body)) else {
            tracing::warn!("the server called with something that cannot be read");
            continue;
        };
        tracing::info!(id, method = %call.method.chars().take(64).collect::<String>(), "called");
        let Ok(reply) = calls::hand_over(from_server, call).await else {
            continue;
        };
        if let Err(error) = http
            .post_json(&format!("{api}/rpc/{id}"), calls::to_payload(&reply))
            .await
        {
            return error;
        }
    }
}

/// One long poll; `None` if nothing came. An answer without content that comes at once isn't asked for again at once.
async fn poll(http: &Http, path: &str) -> Result<Option<Vec<u8>>, LinkError> {
    let asked = std::time::Instant::now();
    let body = match http.wait_for(path, POLL).await {
        Ok(answer) => answer.bytes(LIMIT).await?,
        Err(LinkError::Status { status: 408, .. }) => Vec::new(),
        Err(error) => return Err(error),
    };
    if !body.is_empty() {
        return Ok(Some(body));
    }
    if asked.elapsed() < Duration::from_secs(1) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(None)
}

fn judge(error: &LinkError) -> End {
    let reason = error.to_string();
    if error.refused() {
        return End::Refused(reason);
    }
    match error {
        LinkError::NoServer => End::NoServer,
        LinkError::Status { .. } | LinkError::Answer { .. } => End::Failing {
            reason,
            blamed: false,
        },
        _ => End::lost(reason),
    }
}
