//! A device's attributes, telemetry and evidence.

use std::io;
use std::path::PathBuf;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use cairn_wire::Object;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{ApiError, Body, Page, Path, Query, to_the_end};
use crate::app::App;
use crate::devices::now_ms;
use crate::people::{Need, audit, scope_type};
use crate::registry::attributes::{self, AttributeError, Scope};
use crate::registry::{self, DeviceId, is_label};
use crate::releases::files;
use crate::telemetry::{Sample, Series as _, Window};

/// No file of evidence is larger, in bytes.
const EVIDENCE_LIMIT: u64 = 8 << 20;
/// Samples in an answer if nobody says how many, and at most.
const USUAL_SAMPLES: usize = 100;
const MOST_SAMPLES: usize = 10_000;
/// Longest step, in seconds: a year.
const MOST_STEP: i64 = 366 * 86_400;

/// A device's attributes.
#[derive(Debug, Serialize, ToSchema)]
pub struct Attributes {
    /// The device's own words.
    #[schema(value_type = Object)]
    client: Object,
    /// The operator's for the device.
    #[schema(value_type = Object)]
    shared: Object,
    /// The operator's, not for the device.
    #[schema(value_type = Object)]
    server: Object,
}

/// Attributes to set or, with `null`, to delete.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AttributeChange {
    /// For the device; it is told at once, or when it next asks.
    #[serde(default)]
    #[schema(value_type = Object)]
    shared: Object,
    /// Not for the device.
    #[serde(default)]
    #[schema(value_type = Object)]
    server: Object,
}

/// Which telemetry.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    /// The samples of this key, the newest first; without it the newest of each key.
    key: Option<String>,
    /// Not before this, in milliseconds since 1970.
    from: Option<i64>,
    /// Before this, in milliseconds since 1970.
    to: Option<i64>,
    /// At most so many, up to 10000; 100 if not said.
    limit: Option<usize>,
}

/// Which steps of which key.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Steps {
    /// The key.
    key: String,
    /// How long a step is, in seconds. Steps begin at multiples of that since 1970. What is too old for whole samples has steps of 5
    /// minutes, later of an hour, and what is made of these.
    step: i64,
    /// The first step begins here or later, in milliseconds since 1970; 100 steps before `to` if not said.
    from: Option<i64>,
    /// The last step begins before this; now if not said.
    to: Option<i64>,
}

/// A step of time.
#[derive(Debug, Serialize, ToSchema)]
pub struct WindowView {
    /// Its numbers.
    #[serde(flatten)]
    window: Window,
    /// Their mean.
    avg: f64,
}

/// A file of evidence.
#[derive(Debug, Serialize, ToSchema)]
pub struct Evidence {
    /// Its name.
    name: String,
    /// Bytes.
    size: u64,
    /// When it came, in seconds since 1970.
    time: i64,
}

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(attributes, set_attributes))
        .routes(routes!(telemetry))
        .routes(routes!(telemetry_windows))
        .routes(routes!(evidence))
        .routes(routes!(evidence_file))
}

impl From<AttributeError> for ApiError {
    fn from(error: AttributeError) -> Self {
        match error {
            AttributeError::NoDevice => Self::not_found("such device"),
            AttributeError::Store(error) => error.into(),
            error => Self::bad("bad-attribute", error.to_string()),
        }
    }
}

/// A device's attributes.
#[utoipa::path(get, path = "/v1/devices/{id}/attributes", tag = "devices", params(("id" = String, Path)),
    security(("token" = ["devices:read"])), responses((status = 200, body = Attributes)))]
async fn attributes(
    _: Need<scope_type::DevicesRead>,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Attributes>, ApiError> {
    let found = app
        .store
        .read::<_, ApiError, _>(move |connection| {
            registry::get(connection, &id)?.ok_or_else(|| ApiError::no_device(&id))?;
            let scope = |scope| attributes::get(connection, &id, scope, None);
            Ok(Attributes {
                client: scope(Scope::Client)?,
                shared: scope(Scope::Shared)?,
                server: scope(Scope::Server)?,
            })
        })
        .await?;
    Ok(Json(found))
}

/// Sets a device's shared and server attributes; `null` deletes one.
#[utoipa::path(patch, path = "/v1/devices/{id}/attributes", tag = "devices", params(("id" = String, Path)),
    request_body = AttributeChange, security(("token" = ["devices:write"])), responses((status = 204)))]
async fn set_attributes(
    caller: Need<scope_type::DevicesWrite>,
    State(app): State<App>,
    Path(id): Path<String>,
    Body(change): Body<AttributeChange>,
) -> Result<StatusCode, ApiError> {
    if change
        .shared
        .keys()
        .any(|key| key == cairn_wire::desired::ATTRIBUTE)
    {
        return Err(ApiError::bad(
            "bad-attribute",
            format!("{} is set by rollouts", cairn_wire::desired::ATTRIBUTE),
        ));
    }
    let (shared, deleted) = split(change.shared);
    let (server, server_deleted) = split(change.server);
    let (device, pushed) = (id.clone(), shared.clone());
    to_the_end(async move {
    let gone = app
        .store
        .write::<_, ApiError, _>(move |tx| {
            attributes::set(tx, &id, Scope::Shared, &shared)?;
            attributes::set(tx, &id, Scope::Server, &server)?;
            let gone = attributes::delete(tx, &id, Scope::Shared, &deleted)?;
            attributes::delete(tx, &id, Scope::Server, &server_deleted)?;
            // Names only: a value may be a secret.
            let names = |set: &Object| set.keys().cloned().collect::<Vec<_>>();
            let detail = json!({
                "shared": names(&shared), "server": names(&server), "deleted": deleted, "server_deleted": server_deleted,
            });
            audit(tx, &caller.who(), "device.attributes", &format!("device/{id}"), &detail)?;
            Ok(gone)
        })
        .await?;
    if !pushed.is_empty() {
        app.sessions.attributes_changed(&device, &pushed);
    }
    if !gone.is_empty() {
        app.sessions.attributes_deleted(&device, &gone);
    }
    Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// What to set, and what to delete.
fn split(object: Object) -> (Object, Vec<String>) {
    let (deleted, set): (Vec<_>, Vec<_>) =
        object.into_iter().partition(|(_, value)| value.is_null());
    (
        set.into_iter().collect(),
        deleted.into_iter().map(|(key, _)| key).collect(),
    )
}

/// A device's telemetry: the newest value of each key, or the values of one key.
#[utoipa::path(get, path = "/v1/devices/{id}/telemetry", tag = "devices", params(("id" = String, Path), Wanted),
    security(("token" = ["devices:read"])), responses((status = 200, body = Page<Sample>)))]
async fn telemetry(
    _: Need<scope_type::DevicesRead>,
    State(app): State<App>,
    Path(id): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Page<Sample>>, ApiError> {
    let limit = wanted.limit.unwrap_or(USUAL_SAMPLES);
    if !(1..=MOST_SAMPLES).contains(&limit) {
        return Err(ApiError::bad(
            "bad-limit",
            format!("expected a limit of 1 to {MOST_SAMPLES}, got {limit}"),
        ));
    }
    let (from, to) = (
        wanted.from.unwrap_or(i64::MIN),
        wanted.to.unwrap_or(i64::MAX),
    );
    let items = app
        .store
        .read::<_, ApiError, _>(move |connection| {
            registry::get(connection, &id)?.ok_or_else(|| ApiError::no_device(&id))?;
            Ok(match &wanted.key {
                Some(key) => connection.samples(&id, key, from..to, limit)?,
                None => connection.newest(&id, "")?,
            })
        })
        .await?;
    Ok(Json(Page::new(items, None)))
}

/// What the numbers of a key of a device's telemetry come to in each step of time, the oldest first.
#[utoipa::path(get, path = "/v1/devices/{id}/telemetry/windows", tag = "devices", params(("id" = String, Path), Steps),
    security(("token" = ["devices:read"])), responses((status = 200, body = Page<WindowView>)))]
async fn telemetry_windows(
    _: Need<scope_type::DevicesRead>,
    State(app): State<App>,
    Path(id): Path<String>,
    Query(steps): Query<Steps>,
) -> Result<Json<Page<WindowView>>, ApiError> {
    let step = steps.step.saturating_mul(1000);
    if !(1..=MOST_STEP).contains(&steps.step) {
        return Err(ApiError::bad(
            "bad-step",
            format!(
                "expected a step of 1 to {MOST_STEP} seconds, got {}",
                steps.step
            ),
        ));
    }
    let to = steps.to.unwrap_or_else(now_ms);
    let usual = step.saturating_mul(USUAL_SAMPLES as i64);
    let from = steps.from.unwrap_or_else(|| to.saturating_sub(usual));
    if to.saturating_sub(from) / step > MOST_SAMPLES as i64 {
        return Err(ApiError::bad(
            "bad-step",
            format!("from `from` to `to` are more than {MOST_SAMPLES} steps; take longer steps"),
        ));
    }
    let items = app
        .store
        .read::<_, ApiError, _>(move |connection| {
            registry::get(connection, &id)?.ok_or_else(|| ApiError::no_device(&id))?;
            Ok(connection.windows(&id, &steps.key, from..to, step)?)
        })
        .await?;
    let items = items.into_iter().map(|window| WindowView {
        avg: window.avg(),
        window,
    });
    Ok(Json(Page::new(items.collect(), None)))
}

/// Where a device's evidence lies.
fn evidence_folder(app: &App, device: &str) -> Result<PathBuf, ApiError> {
    let id: DeviceId = device.parse().map_err(|_| ApiError::no_device(device))?;
    Ok(app.config.data.join("evidence").join(id.as_str()))
}

/// Removes the evidence of a device that is gone.
pub(super) async fn remove_evidence(app: &App, device: &str) {
    let Ok(folder) = evidence_folder(app, device) else {
        return;
    };
    let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(folder)).await;
    if let Ok(Err(error)) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(device, %error, "the evidence of a removed device stays");
    }
}

/// What a device has uploaded as evidence, the newest first.
#[utoipa::path(get, path = "/v1/devices/{id}/evidence", tag = "devices", params(("id" = String, Path)),
    security(("token" = ["devices:read"])), responses((status = 200, body = Page<Evidence>)))]
async fn evidence(
    _: Need<scope_type::DevicesRead>,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Page<Evidence>>, ApiError> {
    let folder = evidence_folder(&app, &id)?;
    app.store
        .read::<_, ApiError, _>(move |connection| {
            registry::get(connection, &id)?.ok_or_else(|| ApiError::no_device(&id))
        })
        .await?;
    let items = tokio::task::spawn_blocking(move || list_evidence(&folder))
        .await
        .map_err(ApiError::internal)??;
    Ok(Json(Page::new(items, None)))
}

fn list_evidence(folder: &std::path::Path) -> io::Result<Vec<Evidence>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut items = Vec::new();
    for entry in entries {
        let entry = entry?;
        let (name, about) = (entry.file_name(), entry.metadata()?);
        if let Some(name) = name.to_str()
            && is_label(name)
            && !name.starts_with('.')
            && about.is_file()
        {
            let time = about
                .modified()?
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs());
            items.push(Evidence {
                name: name.into(),
                size: about.len(),
                time: i64::try_from(time).unwrap_or(i64::MAX),
            });
        }
    }
    items.sort_by(|a, b| b.time.cmp(&a.time).then(a.name.cmp(&b.name)));
    Ok(items)
}

/// A file of evidence.
#[utoipa::path(get, path = "/v1/devices/{id}/evidence/{name}", tag = "devices",
    params(("id" = String, Path), ("name" = String, Path)), security(("token" = ["devices:read"])),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream")))]
async fn evidence_file(
    _: Need<scope_type::DevicesRead>,
    State(app): State<App>,
    Path((id, name)): Path<(String, String)>,
) -> Result<impl IntoResponse, ApiError> {
    let nothing = || {
        ApiError::not_found(format!(
            "such evidence of {:?}",
            id.chars().take(80).collect::<String>()
        ))
    };
    if !is_label(&name) || name.starts_with('.') {
        return Err(nothing());
    }
    let path = evidence_folder(&app, &id)?.join(name);
    let bytes = match tokio::task::spawn_blocking(move || files::read(&path, EVIDENCE_LIMIT))
        .await
        .map_err(ApiError::internal)?
    {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(nothing()),
        bytes => bytes?,
    };
    // A device chose the bytes: no browser shall make a page of them.
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_DISPOSITION, "attachment"),
    ];
    Ok((headers, Bytes::from(bytes)))
}
