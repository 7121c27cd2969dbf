//! What a device may ask, by MQTT or HTTP.

use cairn_wire::attributes::{Request, Response};
use cairn_wire::rpc::Call;
use cairn_wire::{Object, WireError, desired};
use rusqlite::Connection;
use serde::Deserialize;
use serde_json::{Value, json};

use super::now_ms;
use crate::app::App;
use crate::registry::attributes::{self, AttributeError, Scope};
use crate::registry::{DeviceId, digest};
use crate::store::StoreError;

/// Longest time that a claim may stand, in milliseconds: a week.
const MAX_CLAIM: i64 = 7 * 24 * 3_600_000;

/// Looks up attributes. The revision of the desired state is one of the shared ones.
///
/// # Errors
/// The database's.
pub fn attributes(
    connection: &Connection,
    device: &DeviceId,
    request: &Request,
) -> Result<Response, StoreError> {
    let names = |keys: &Option<String>| -> Option<Vec<String>> {
        keys.as_ref().map(|keys| {
            keys.split(',')
                .filter(|key| !key.is_empty())
                .map(str::to_owned)
                .collect()
        })
    };
    let (client, shared) = (names(&request.client_keys), names(&request.shared_keys));
    let everything = client.is_none() && shared.is_none();
    let look = |scope, keys: &Option<Vec<String>>| -> Result<Object, StoreError> {
        match keys {
            Some(keys) => {
                let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
                attributes::get(connection, device, scope, Some(&keys))
            }
            None if everything => attributes::get(connection, device, scope, None),
            None => Ok(Object::new()),
        }
    };
    let mut response = Response {
        client: look(Scope::Client, &client)?,
        shared: look(Scope::Shared, &shared)?,
    };
    if everything || shared.is_some_and(|keys| keys.iter().any(|key| key == desired::ATTRIBUTE)) {
        let revision = crate::desired::revision(connection, device)?;
        if revision > 0 {
            response
                .shared
                .insert(desired::ATTRIBUTE.into(), revision.into());
        }
    }
    Ok(response)
}

/// Answers a device's call to the server.
pub fn call(call: &Call) -> Value {
    match call.method.as_str() {
        "getCurrentTime" => json!({ "time": now_ms() }),
        // ThingsBoard's clients ask this right after they have connected.
        "getSessionLimits" => json!({
            "maxPayloadSize": cairn_wire::MAX_PAYLOAD,
            "maxInflightMessages": 100,
            "rateLimits": {},
        }),
        other => {
            json!({ "error": format!("unknown method {:?}", other.chars().take(64).collect::<String>()) })
        }
    }
}

/// A claim: the device says by which secret a person may make it theirs.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    #[serde(default)]
    secret_key: String,
    #[serde(default)]
    duration_ms: Option<i64>,
}

impl Claim {
    /// Reads one; empty is one too.
    ///
    /// # Errors
    /// If it isn't one.
    pub fn parse(payload: &[u8]) -> Result<Self, WireError> {
        let payload = if payload.is_empty() { b"{}" } else { payload };
        serde_json::from_slice(payload).map_err(|source| WireError::Json {
            what: "a claim",
            source,
        })
    }
}

/// Keeps a claim, as the server attribute `claim`: the secret as SHA-256, and until when (milliseconds since 1970).
///
/// # Errors
/// The database's.
pub async fn claim(app: &App, device: &DeviceId, claim: Claim) -> Result<(), AttributeError> {
    let until = now_ms() + claim.duration_ms.unwrap_or(60_000).clamp(0, MAX_CLAIM);
    let mut values = Object::new();
    values.insert(
        "claim".into(),
        json!({ "secret_sha256": digest(claim.secret_key.as_bytes()), "until": until }),
    );
    let device = device.clone();
    app.store
        .write(move |tx| attributes::set(tx, &device, Scope::Server, &values))
        .await
}
