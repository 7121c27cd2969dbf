//! `/v1/me/…`: what a device with a certificate of ours fetches and uploads.

use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use cairn_wire::Desired;
use http_body_util::{BodyExt, Limited};
use tokio::sync::Semaphore;

use super::turns::Turns;
use super::{certified, evidence};
use crate::app::App;
use crate::desired;
use crate::disks;
use crate::registry::is_label;
use crate::rollouts::Rollouts;
use crate::web::{ApiError, Path};
use crate::workloads::Workloads;

/// Uploads at once; each is in memory as a whole.
static UPLOADS: Semaphore = Semaphore::const_new(32);
/// An upload as a whole, so that nobody keeps a place by sending drop by drop.
const UPLOAD: Duration = Duration::from_secs(300);
/// Devices that upload right now: one file each.
static UPLOADING: Turns = Turns::new();

pub(super) fn router() -> Router<App> {
    Router::new().route("/v1/me/desired", get(wanted)).route(
        "/v1/me/evidence/{name}",
        put(upload).layer(DefaultBodyLimit::disable()),
    )
}

async fn wanted(
    State(app): State<App>,
    extensions: Extensions,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let device = certified(&extensions)?;
    app.rollouts.on_connect(&device);
    let desired: Desired = app
        .store
        .read::<_, ApiError, _>(move |connection| {
            // The revision first: what changes meanwhile has another.
            let revision = desired::revision(connection, &device)?;
            let (workloads, logins) = Workloads::declared(connection, &device)?;
            Ok(Desired {
                revision,
                release: Rollouts::release(connection, &device)?,
                workloads,
                logins,
                disks: disks::declared(connection, &device)?,
            })
        })
        .await?;
    let etag = format!("\"{}\"", desired.revision);
    let known = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let known = known
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag);
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Json(desired).into_response()
    };
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

async fn upload(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let device = certified(request.extensions())?;
    if !is_label(&name) {
        return Err(ApiError::bad(
            "bad-name",
            "expected 1 to 64 of A-Z, a-z, 0-9, point, underscore and dash as a name",
        ));
    }
    let _turn = UPLOADING.take(&device).ok_or_else(|| {
        ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "upload-busy",
            "this device uploads another file right now",
        )
    })?;
    let _place = UPLOADS.acquire().await.map_err(ApiError::internal)?;
    let body = Limited::new(request.into_body(), evidence::LARGEST).collect();
    let body = tokio::time::timeout(UPLOAD, body)
        .await
        .map_err(|_| {
            let message = format!("the file took longer than {} s", UPLOAD.as_secs());
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "too-slow", message)
        })?
        .map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                let message = format!("evidence may have {} bytes", evidence::LARGEST);
                ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message)
            } else {
                ApiError::bad("bad-body", "the body couldn't be read")
            }
        })?
        .to_bytes();
    let folder = evidence::folder(&app.config.data, &device);
    let name_ = name.clone();
    tokio::task::spawn_blocking(move || evidence::keep(&folder, &name_, &body))
        .await
        .map_err(ApiError::internal)??;
    tracing::info!(device = %device, name, "evidence");
    Ok(StatusCode::NO_CONTENT)
}
