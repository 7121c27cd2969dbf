//! Remote calls to a device.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use cairn_wire::rpc;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{ApiError, Body, Path, Query};
use crate::app::App;
use crate::people::{Caller, Need, audit, scope_type};
use crate::registry;
use crate::sessions::RpcError;

/// Seconds to wait for a device's answer if nobody says how many, and at most.
const USUAL_WAIT: u64 = 30;
const LONGEST_WAIT: u64 = 600;
/// Lines of a log if nobody says how many.
const USUAL_LINES: u64 = 100;

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

/// How much of a log.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Lines {
    /// The last so many lines, up to 1000; 100 if not said.
    lines: Option<u64>,
}

/// What a device may be asked to do with a workload.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WorkloadAction {
    Start,
    Stop,
    Restart,
    Redeploy,
}

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(call))
        .routes(routes!(steer))
        .routes(routes!(workload_logs))
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
    let call = rpc::Call {
        method: call.method,
        params: call.params,
    };
    let answer = ask(&app, &caller, &id, call, seconds).await?;
    Ok(Json(Answer { answer }))
}

/// Starts, stops, restarts or redeploys a workload of a device, and waits until the device says what became of it.
#[utoipa::path(post, path = "/v1/devices/{id}/workloads/{name}/{action}", tag = "workloads",
    params(("id" = String, Path), ("name" = String, Path), ("action" = String, Path, description = "start, stop, restart or redeploy")),
    security(("token" = ["rpc"])), responses((status = 200, body = Answer),
        (status = 409, description = "the device isn't connected"), (status = 504, description = "no answer in time")))]
async fn steer(
    caller: Need<scope_type::Rpc>,
    State(app): State<App>,
    Path((id, name, action)): Path<(String, String, String)>,
) -> Result<Json<Answer>, ApiError> {
    let action: WorkloadAction = serde_json::from_value(json!(action)).map_err(|_| {
        ApiError::bad(
            "bad-action",
            "expected start, stop, restart or redeploy as the action",
        )
    })?;
    let call = rpc::Call {
        method: rpc::method::WORKLOAD.into(),
        params: json!({ "name": name, "action": action }),
    };
    let answer = ask(&app, &caller, &id, call, LONGEST_WAIT).await?;
    Ok(Json(Answer { answer }))
}

/// The last lines that a workload wrote on a device.
#[utoipa::path(get, path = "/v1/devices/{id}/workloads/{name}/logs", tag = "workloads",
    params(("id" = String, Path), ("name" = String, Path), Lines), security(("token" = ["rpc"])),
    responses((status = 200, body = Answer), (status = 409, description = "the device isn't connected")))]
async fn workload_logs(
    caller: Need<scope_type::Rpc>,
    State(app): State<App>,
    Path((id, name)): Path<(String, String)>,
    Query(lines): Query<Lines>,
) -> Result<Json<Answer>, ApiError> {
    let call = rpc::Call {
        method: rpc::method::WORKLOAD_LOGS.into(),
        params: json!({ "name": name, "lines": lines.lines.unwrap_or(USUAL_LINES) }),
    };
    let answer = ask(&app, &caller, &id, call, USUAL_WAIT).await?;
    Ok(Json(Answer { answer }))
}

/// Calls a device and gives its answer; both in the audit log.
async fn ask(
    app: &App,
    caller: &Caller,
    device: &str,
    call: rpc::Call,
    seconds: u64,
) -> Result<Value, ApiError> {
    let (who, id) = (caller.who(), device.to_owned());
    let mut detail = json!({ "method": call.method });
    if call.method == rpc::method::WORKLOAD {
        // Params of other calls may hold a secret.
        detail["params"] = call.params.clone();
    }
    app.store
        .write::<_, ApiError, _>(move |tx| {
            registry::get(tx, &id)?.ok_or_else(|| ApiError::no_device(&id))?;
            Ok(audit(
                tx,
                &who,
                "device.rpc",
                &format!("device/{id}"),
                &detail,
            )?)
        })
        .await?;
    app.sessions
        .rpc(device, call, Duration::from_secs(seconds))
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
        })
}
