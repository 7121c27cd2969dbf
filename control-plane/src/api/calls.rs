//! Remote calls to a device.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use cairn_wire::rpc;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{ApiError, Body, Path};
use crate::app::App;
use crate::people::{Need, audit, scope_type};
use crate::registry;
use crate::sessions::RpcError;

/// Seconds to wait for a device's answer if nobody says how many, and at most.
const USUAL_WAIT: u64 = 30;
const LONGEST_WAIT: u64 = 600;

/// A call.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// What to do, as `reboot`.
    method: String,
    /// With what.
    #[serde(default)]
    params: Value,
    /// Seconds to wait for the answer; 30 if not said.
    timeout: Option<u64>,
}

/// What the device itself answered.
#[derive(Debug, Serialize, ToSchema)]
pub struct Answer {
    /// The answer as it came.
    answer: Value,
}

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(call))
}

/// Calls a device, and waits for its answer.
#[utoipa::path(post, path = "/v1/devices/{id}/rpc", tag = "devices", params(("id" = String, Path)), request_body = Call,
    security(("token" = ["rpc"])), responses((status = 200, body = Answer),
        (status = 409, description = "the device isn't connected"), (status = 504, description = "no answer in time")))]
async fn call(
    caller: Need<scope_type::Rpc>,
    State(app): State<App>,
    Path(id): Path<String>,
    Body(call): Body<Call>,
) -> Result<Json<Answer>, ApiError> {
    let seconds = call.timeout.unwrap_or(USUAL_WAIT);
    if !(1..=LONGEST_WAIT).contains(&seconds) {
        return Err(ApiError::bad(
            "bad-timeout",
            format!("expected a timeout of 1 to {LONGEST_WAIT} seconds, got {seconds}"),
        ));
    }
    if call.method.is_empty() || call.method.len() > 128 {
        return Err(ApiError::bad(
            "bad-method",
            "expected a method of 1 to 128 bytes",
        ));
    }
    let (device, method) = (id.clone(), call.method.clone());
    app.store
        .write::<_, ApiError, _>(move |tx| {
            registry::get(tx, &id)?.ok_or_else(|| ApiError::no_device(&id))?;
            // Params may hold a secret.
            Ok(audit(
                tx,
                &caller.who(),
                "device.rpc",
                &format!("device/{id}"),
                &json!({ "method": method }),
            )?)
        })
        .await?;
    let call = rpc::Call {
        method: call.method,
        params: call.params,
    };
    let answer = app
        .sessions
        .rpc(&device, call, Duration::from_secs(seconds))
        .await
        .map_err(|error| match error {
            RpcError::Offline => {
                ApiError::conflict("device-offline", format!("{device} isn't connected"))
            }
            RpcError::Timeout => ApiError::new(
                StatusCode::GATEWAY_TIMEOUT,
                "no-answer",
                format!(
                    "{device} didn't answer within {seconds} s; it may have done it nonetheless"
                ),
            ),
            error => ApiError::new(
                StatusCode::BAD_GATEWAY,
                "call-failed",
                format!("{device}: {error}"),
            ),
        })?;
    Ok(Json(Answer { answer }))
}
