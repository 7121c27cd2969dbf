//! ThingsBoard's long polls: a request that is answered when there is something, or with 408.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{Extensions, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::token::who;
use crate::app::App;
use crate::web::{ApiError, Path, Query};

/// How long a request waits if it doesn't say.
const WAIT_MS: u64 = 20_000;
/// The longest that it may say.
const MAX_WAIT_MS: u64 = 120_000;

#[derive(Deserialize)]
pub(super) struct Wait {
    /// Milliseconds.
    #[serde(default)]
    timeout: Option<u64>,
}

impl Wait {
    fn duration(&self) -> Duration {
        Duration::from_millis(
            self.timeout
                .filter(|ms| *ms > 0)
                .unwrap_or(WAIT_MS)
                .min(MAX_WAIT_MS),
        )
    }
}

fn too_many() -> ApiError {
    ApiError::new(
        StatusCode::TOO_MANY_REQUESTS,
        "too-many-polls",
        "this device has too many such requests open",
    )
}

fn nothing() -> ApiError {
    ApiError::new(
        StatusCode::REQUEST_TIMEOUT,
        "nothing",
        "nothing has come in the meantime",
    )
}

pub(super) async fn attributes(
    State(app): State<App>,
    Path(token): Path<String>,
    Query(wait): Query<Wait>,
    extensions: Extensions,
) -> Result<Response, ApiError> {
    let device = who(&app, token, &extensions).await?;
    let coming = app.sessions.poll_attributes(&device).ok_or_else(too_many)?;
    match tokio::time::timeout(wait.duration(), coming).await {
        Ok(Ok(payload)) => {
            Ok(([(header::CONTENT_TYPE, "application/json")], payload).into_response())
        }
        _ => Err(nothing()),
    }
}

pub(super) async fn calls(
    State(app): State<App>,
    Path(token): Path<String>,
    Query(wait): Query<Wait>,
    extensions: Extensions,
) -> Result<Response, ApiError> {
    let device = who(&app, token, &extensions).await?;
    let coming = app.sessions.poll_call(&device).ok_or_else(too_many)?;
    match tokio::time::timeout(wait.duration(), coming).await {
        Ok(Ok(polled)) => {
            let call = json!({ "id": polled.id, "method": polled.call.method, "params": polled.call.params });
            Ok(Json(call).into_response())
        }
        _ => Err(nothing()),
    }
}
