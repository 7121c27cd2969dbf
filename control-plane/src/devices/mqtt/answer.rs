//! Messages that are answered by a message: attributes, calls, claims, chunks of packages.

use bytes::Bytes;
use cairn_wire::attributes::Request;
use cairn_wire::rpc::Call;
use cairn_wire::topic::{self, FromDevice, Package};
use serde_json::Value;

use super::Closed;
use super::ingest::{Job, Outcome};
use crate::app::App;
use crate::devices::requests::{self, Claim};
use crate::registry::DeviceId;
use crate::registry::packages::{self, PackageError};
use crate::sessions::Wants;
use crate::store::StoreError;

/// Largest package that is given as a whole, to who asks for no chunk size.
pub(super) const MAX_WHOLE: usize = 1 << 20;
/// Largest chunk that may be asked for.
const MAX_CHUNK: u64 = cairn_wire::MAX_PAYLOAD as u64;

/// A message as the device sent it.
pub(super) struct Asked {
    /// The packet's number, if it wants an acknowledgement.
    pub(super) packet: Option<u16>,
    pub(super) topic: FromDevice,
    pub(super) payload: Bytes,
}

/// Starts to answer.
pub(super) fn answer(app: &App, device: &DeviceId, asked: Asked) -> Job {
    let (app, device) = (app.clone(), device.clone());
    tokio::spawn(async move {
        let mut outcome = match this(&app, &device, &asked).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::error!(device = %device, %error, "a message can't be answered");
                return Outcome {
                    closed: Some(Closed::Storage),
                    ..Outcome::default()
                };
            }
        };
        if outcome.closed != Some(Closed::Malformed) {
            outcome.acknowledge.extend(asked.packet);
        }
        outcome
    })
}

async fn this(app: &App, device: &DeviceId, asked: &Asked) -> Result<Outcome, StoreError> {
    match asked.topic {
        FromDevice::AttributesRequest(id) => {
            let Ok(request) = Request::parse(&asked.payload) else {
                return Ok(malformed());
            };
            let device = device.clone();
            let response = app
                .store
                .read(move |connection| requests::attributes(connection, &device, &request))
                .await?;
            let payload = serde_json::to_vec(&response).unwrap_or_default();
            Ok(sends(
                Wants::ATTRIBUTE_ANSWERS,
                topic::attributes_response(id),
                payload,
            ))
        }
        FromDevice::RpcRequest(id) => {
            let Ok(call) = Call::parse(&asked.payload) else {
                return Ok(malformed());
            };
            let payload = requests::call(&call).to_string().into_bytes();
            Ok(sends(Wants::CALL_ANSWERS, topic::rpc_response(id), payload))
        }
        FromDevice::RpcResponse(id) => {
            // Whatever it says is the answer; text that isn't JSON is a string.
            let value = serde_json::from_slice(&asked.payload)
                .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&asked.payload)));
            if !app.sessions.answered(device, id, value) {
                tracing::debug!(device = %device, id, "an answer that nobody waits for");
            }
            Ok(Outcome::default())
        }
        FromDevice::Claim => {
            let Ok(claim) = Claim::parse(&asked.payload) else {
                return Ok(malformed());
            };
            match requests::claim(app, device, claim).await {
                Ok(()) => Ok(Outcome::default()),
                Err(crate::registry::attributes::AttributeError::Store(error)) => Err(error),
                Err(_) => Ok(malformed()),
            }
        }
        FromDevice::Chunk {
            package,
            request,
            chunk,
        } => {
            let wants = wants(package);
            match chunk_of(app, device, package, &asked.payload, chunk).await? {
                Ok(bytes) => Ok(sends(
                    wants,
                    topic::chunk_response(package, request, chunk),
                    bytes,
                )),
                Err(reason) => {
                    let mut outcome = sends(wants, topic::chunk_error(package), reason.into());
                    // ThingsBoard tells, then disconnects.
                    outcome.closed = Some(Closed::Refused);
                    Ok(outcome)
                }
            }
        }
        // Not for this module, or not for this connection.
        FromDevice::Telemetry | FromDevice::Attributes | FromDevice::Provision => Ok(malformed()),
    }
}

pub(super) fn wants(package: Package) -> Wants {
    match package {
        Package::Firmware => Wants::FIRMWARE,
        Package::Software => Wants::SOFTWARE,
    }
}

fn malformed() -> Outcome {
    Outcome {
        closed: Some(Closed::Malformed),
        ..Outcome::default()
    }
}

fn sends(wants: Wants, topic: String, payload: Vec<u8>) -> Outcome {
    Outcome {
        send: vec![(wants, topic, payload.into())],
        ..Outcome::default()
    }
}

async fn chunk_of(
    app: &App,
    device: &DeviceId,
    package: Package,
    length: &[u8],
    number: u32,
) -> Result<Result<Vec<u8>, &'static str>, StoreError> {
    let length = match std::str::from_utf8(length).ok().map(str::trim) {
        Some("") => 0,
        Some(text) => match text.parse::<u64>() {
            Ok(length) if length <= MAX_CHUNK => length,
            Ok(_) => return Ok(Err("the chunk size is over 65536")),
            Err(_) => return Ok(Err("the chunk size is no number")),
        },
        None => return Ok(Err("the chunk size is no number")),
    };
    let (id, data) = (device.clone(), app.config.data.clone());
    let chunk = app
        .store
        .read::<_, PackageError, _>(move |connection| {
            let Some(stored) = packages::assigned(connection, &id, package, None)? else {
                return Ok(Err("no package is assigned to this device"));
            };
            if length == 0 && stored.size > MAX_WHOLE as u64 {
                return Ok(Err(
                    "the package is too large for one chunk, give a chunk size",
                ));
            }
            packages::chunk(&data, &stored, length, u64::from(number), MAX_WHOLE as u64).map(Ok)
        })
        .await;
    match chunk {
        Ok(chunk) => Ok(chunk),
        Err(PackageError::Store(error)) => Err(error),
        Err(error) => {
            tracing::error!(%error, "a package can't be read");
            Ok(Err("the package can't be read"))
        }
    }
}
