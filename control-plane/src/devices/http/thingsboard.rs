//! ThingsBoard's HTTP device API: `/api/v1/{token}/…`. The token `me` is the device of the connection's certificate.

use std::time::Instant;

use axum::extract::State;
use axum::http::{Extensions, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use cairn_wire::Record;
use cairn_wire::attributes::{Request, Response as Attributes, parse_set};
use cairn_wire::rpc::Call;
use cairn_wire::topic::Package;
use serde::Deserialize;
use serde_json::{Value, json};

use super::poll;
use super::token::who;
use crate::app::App;
use crate::devices::mqtt::{client_attributes, provision, share};
use crate::devices::now_ms;
use crate::devices::requests::{self, Claim};
use crate::registry;
use crate::registry::DeviceId;
use crate::registry::packages::{self, PackageError};
use crate::store::StoreError;
use crate::stream::{self, Kind};
use crate::telemetry::{self, Intake, quota};
use crate::web::{ApiError, Path, Query, Raw};

/// What a byte of JSON is in memory at most, read: records of one value each.
const READ: usize = 128;
/// Largest piece of a package that is given at once.
const MAX_CHUNK: u64 = 1 << 20;

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/api/v1/provision", post(provision_device))
        .route("/api/v1/{token}/telemetry", post(post_telemetry))
        .route(
            "/api/v1/{token}/attributes",
            get(get_attributes).post(post_attributes),
        )
        .route("/api/v1/{token}/attributes/updates", get(poll::attributes))
        .route("/api/v1/{token}/rpc", get(poll::calls).post(post_call))
        .route("/api/v1/{token}/rpc/{id}", post(post_answer))
        .route("/api/v1/{token}/claim", post(post_claim))
        .route("/api/v1/{token}/firmware", get(get_firmware))
        .route("/api/v1/{token}/software", get(get_software))
}

fn bad(error: impl std::error::Error) -> ApiError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        text = format!("{text}: {deeper}");
        cause = deeper.source();
    }
    ApiError::bad("bad-message", text)
}

/// Takes a message's cost from what the device has left, and refuses it if nothing is. It may be more than that; then the next
/// one waits.
fn charge(app: &App, device: &DeviceId, cost: usize) -> Result<(), ApiError> {
    let now = Instant::now();
    let wait = app.quota.charge(device, 0, now);
    if wait.is_zero() {
        app.quota.charge(device, cost, now);
        return Ok(());
    }
    app.metrics.slowed.inc();
    let seconds = wait.as_secs() + 1;
    Err(ApiError {
        retry_after: Some(seconds),
        ..ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "quota",
            format!("this device has used up its telemetry quota; try again in {seconds} s"),
        )
    })
}

async fn post_telemetry(
    State(app): State<App>,
    Path(token): Path<String>,
    extensions: Extensions,
    Raw(body): Raw,
) -> Result<StatusCode, ApiError> {
    let device = who(&app, token, &extensions).await?;
    let _share = share(body.len() * READ).await;
    let records = Record::parse_all(&body).map_err(bad)?;
    telemetry::check(&records).map_err(bad)?;
    charge(&app, &device, quota::cost(body.len(), &records))?;
    let received = now_ms();
    let online = app.sessions.online(&device);
    let counts = app
        .store
        .write::<_, ApiError, _>(move |tx| {
            if !registry::exists(tx, &device)? {
                return Err(ApiError::not_found("such device"));
            }
            let mut intake = Intake::new(tx, &device, received)?;
            let counts = intake.records(records)?;
            intake.finish()?;
            registry::seen(tx, &device, online)?;
            Ok(counts)
        })
        .await?;
    app.metrics.took(counts);
    Ok(StatusCode::OK)
}

async fn post_attributes(
    State(app): State<App>,
    Path(token): Path<String>,
    extensions: Extensions,
    Raw(body): Raw,
) -> Result<StatusCode, ApiError> {
    let device = who(&app, token, &extensions).await?;
    let _share = share(body.len() * READ).await;
    let values = parse_set(&body).map_err(bad)?;
    charge(&app, &device, quota::of_values(body.len(), values.len()))?;
    app.store
        .write::<_, StoreError, _>(move |tx| {
            let set = client_attributes(tx, &device, &values)?;
            if set.is_ok() {
                stream::one(
                    tx,
                    Kind::Attributes,
                    &device,
                    now_ms(),
                    &json!({ "values": values }),
                )?;
            }
            Ok(set)
        })
        .await?
        .map_err(bad)?;
    Ok(StatusCode::OK)
}

async fn get_attributes(
    State(app): State<App>,
    Path(token): Path<String>,
    Query(request): Query<Request>,
    extensions: Extensions,
) -> Result<Json<Attributes>, ApiError> {
    let device = who(&app, token, &extensions).await?;
    let found = app
        .store
        .read::<_, StoreError, _>(move |connection| {
            requests::attributes(connection, &device, &request)
        })
        .await?;
    Ok(Json(found))
}

async fn post_call(
    State(app): State<App>,
    Path(token): Path<String>,
    extensions: Extensions,
    Raw(body): Raw,
) -> Result<Json<Value>, ApiError> {
    who(&app, token, &extensions).await?;
    let call = Call::parse(&body).map_err(bad)?;
    Ok(Json(requests::call(&call)))
}

async fn post_answer(
    State(app): State<App>,
    Path((token, id)): Path<(String, u32)>,
    extensions: Extensions,
    Raw(body): Raw,
) -> Result<StatusCode, ApiError> {
    let device = who(&app, token, &extensions).await?;
    let value = serde_json::from_slice(&body)
        .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&body)));
    if app.sessions.answered(&device, id, value) {
        Ok(StatusCode::OK)
    } else {
        Err(ApiError::not_found(format!(
            "call {id} that waits for this device's answer"
        )))
    }
}

async fn post_claim(
    State(app): State<App>,
    Path(token): Path<String>,
    extensions: Extensions,
    Raw(body): Raw,
) -> Result<StatusCode, ApiError> {
    let device = who(&app, token, &extensions).await?;
    let claim = Claim::parse(&body).map_err(bad)?;
    requests::claim(&app, &device, claim).await?;
    Ok(StatusCode::OK)
}

async fn provision_device(State(app): State<App>, Raw(body): Raw) -> Result<Response, ApiError> {
    let request = cairn_wire::provision::Request::parse(&body).map_err(bad)?;
    let answer = provision(&app, request).await?;
    let status = match answer.get("status").and_then(Value::as_str) {
        Some("SUCCESS") => StatusCode::OK,
        Some("NOT_FOUND") => StatusCode::NOT_FOUND,
        _ => StatusCode::BAD_REQUEST,
    };
    Ok((status, Json(answer)).into_response())
}

#[derive(Deserialize)]
struct Wanted {
    title: String,
    version: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    chunk: u64,
}

async fn get_firmware(
    state: State<App>,
    path: Path<String>,
    query: Query<Wanted>,
    extensions: Extensions,
) -> Result<Response, ApiError> {
    package(state, path, query, extensions, Package::Firmware).await
}

async fn get_software(
    state: State<App>,
    path: Path<String>,
    query: Query<Wanted>,
    extensions: Extensions,
) -> Result<Response, ApiError> {
    package(state, path, query, extensions, Package::Software).await
}

async fn package(
    State(app): State<App>,
    Path(token): Path<String>,
    Query(wanted): Query<Wanted>,
    extensions: Extensions,
    kind: Package,
) -> Result<Response, ApiError> {
    let device = who(&app, token, &extensions).await?;
    let data = app.config.data.clone();
    let bytes = app
        .store
        .read::<_, PackageError, _>(move |connection| {
            // The device's own attributes decide; what it names in the request must be that.
            let Some(stored) = packages::assigned(
                connection,
                &device,
                kind,
                Some((&wanted.title, &wanted.version)),
            )?
            else {
                return Ok(Err(ApiError::not_found("such package for this device")));
            };
            if wanted.size == 0 && stored.size > MAX_CHUNK {
                return Ok(Err(ApiError::bad(
                    "too-large",
                    format!("ask for pieces of at most {MAX_CHUNK} bytes (size, chunk)"),
                )));
            }
            packages::chunk(&data, &stored, wanted.size, wanted.chunk, MAX_CHUNK).map(Ok)
        })
        .await
        .map_err(ApiError::internal)??;
    Ok((
        [(axum::http::header::CONTENT_TYPE, "application/octet-stream")],
        bytes,
    )
        .into_response())
}
