//! Devices: list, show, change, revoke, remove.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use rusqlite::Transaction;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::enrolment_tokens::check_labels;
use super::{ApiError, Body, Page, PageQuery, Path, Query, to_the_end};
use crate::app::App;
use crate::people::{Need, audit, scope_type};
use crate::registry::{self, Change, Filter};
use crate::store::StoreError;

/// A device.
#[derive(Debug, Serialize, ToSchema)]
pub struct Device {
    /// Its id, for ever.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Its group.
    pub group: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Whose it is; none: the operator's own.
    pub supplier: Option<String>,
    /// Whether it is connected.
    pub online: bool,
    /// When it last sent something, in seconds since 1970.
    pub last_seen: Option<i64>,
    /// When it was enrolled.
    pub created: i64,
    /// Since when it is shut out.
    pub revoked: Option<i64>,
    /// Since when it shall run no workloads.
    pub drained: Option<i64>,
    /// What it said of itself when it enrolled.
    #[schema(value_type = Object)]
    pub facts: cairn_wire::Object,
}

/// Which devices.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    /// Only of this group.
    group: Option<String>,
    /// Only with this tag.
    tag: Option<String>,
    /// Only those that are connected, or that aren't.
    online: Option<bool>,
}

/// What to change of a device.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceChange {
    /// A new name.
    name: Option<String>,
    /// A new group.
    group: Option<String>,
    /// Whose it is from now on; empty: the operator's own.
    supplier: Option<String>,
    /// Whether it shall run no workloads; those that may run elsewhere move.
    drained: Option<bool>,
    /// Tags to add.
    #[serde(default)]
    add_tags: Vec<String>,
    /// Tags to take away.
    #[serde(default)]
    remove_tags: Vec<String>,
}

/// The routes.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show, change, remove))
        .routes(routes!(revoke))
}

fn view(app: &App, device: registry::Device) -> Device {
    let online = app.sessions.online(&device.id);
    let registry::Device {
        id,
        name,
        group,
        tags,
        supplier,
        created,
        facts,
        revoked,
        drained,
        last_seen,
        ..
    } = device;
    Device {
        id,
        name,
        group,
        tags,
        supplier,
        online,
        last_seen,
        created,
        revoked,
        drained,
        facts,
    }
}

/// Devices by id.
#[utoipa::path(get, path = "/v1/devices", tag = "devices", params(Wanted, PageQuery),
    security(("token" = ["devices:read"])), responses((status = 200, body = Page<Device>)))]
async fn list(
    _: Need<scope_type::DevicesRead>,
    State(app): State<App>,
    Query(wanted): Query<Wanted>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Device>>, ApiError> {
    let limit = page.limit()?;
    let filter = Filter {
        group: wanted.group,
        tag: wanted.tag,
        online: wanted.online,
        after: page.cursor()?,
        limit,
    };
    let devices = app
        .store
        .read::<_, ApiError, _>(move |connection| Ok(registry::list(connection, &filter)?))
        .await?;
    // A full page may be the last; then the next one is empty.
    let last = devices
        .last()
        .map(|device| device.id.clone())
        .filter(|_| devices.len() == limit);
    Ok(Json(Page::new(
        devices
            .into_iter()
            .map(|device| view(&app, device))
            .collect(),
        last,
    )))
}

/// One device.
#[utoipa::path(get, path = "/v1/devices/{id}", tag = "devices", params(("id" = String, Path)),
    security(("token" = ["devices:read"])), responses((status = 200, body = Device)))]
async fn show(
    _: Need<scope_type::DevicesRead>,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Device>, ApiError> {
    let device = app
        .store
        .read::<_, ApiError, _>(move |connection| {
            registry::get(connection, &id)?.ok_or_else(|| ApiError::no_device(&id))
        })
        .await?;
    Ok(Json(view(&app, device)))
}

/// Changes name, group, supplier or tags; drains it, or ends that.
#[utoipa::path(patch, path = "/v1/devices/{id}", tag = "devices", params(("id" = String, Path)), request_body = DeviceChange,
    security(("token" = ["devices:write"])), responses((status = 200, body = Device)))]
async fn change(
    caller: Need<scope_type::DevicesWrite>,
    State(app): State<App>,
    Path(id): Path<String>,
    Body(wanted): Body<DeviceChange>,
) -> Result<Json<Device>, ApiError> {
    if wanted.add_tags.len() + wanted.remove_tags.len() > 100 {
        return Err(ApiError::bad(
            "too-many-tags",
            "expected at most 100 tags at once",
        ));
    }
    check_labels(
        wanted
            .add_tags
            .iter()
            .chain(&wanted.remove_tags)
            .chain(&wanted.group)
            .chain(wanted.supplier.iter().filter(|name| !name.is_empty())),
    )?;
    if wanted.name.as_ref().is_some_and(|name| {
        name.is_empty() || name.len() > 128 || name.chars().any(char::is_control)
    }) {
        return Err(ApiError::bad(
            "bad-name",
            "expected a name of one line, 1 to 128 bytes",
        ));
    }
    let device = app
        .store
        .write::<_, ApiError, _>(move |tx| {
            let detail = json!({
                "name": wanted.name, "group": wanted.group, "add_tags": wanted.add_tags, "remove_tags": wanted.remove_tags,
                "supplier": wanted.supplier, "drained": wanted.drained,
            });
            let change = Change {
                name: wanted.name,
                group: wanted.group,
                supplier: wanted.supplier.map(|name| Some(name).filter(|name| !name.is_empty())),
                drained: wanted.drained,
                add_tags: wanted.add_tags,
                remove_tags: wanted.remove_tags,
            };
            let device = registry::set(tx, &id, &change)?.ok_or_else(|| ApiError::no_device(&id))?;
            if device.tags.len() > 100 {
                return Err(ApiError::bad("too-many-tags", "a device has at most 100 tags"));
            }
            audit(tx, &caller.who(), "device.change", &format!("device/{id}"), &detail)?;
            Ok(device)
        })
        .await?;
    // What it runs may depend on any of it.
    app.workloads.wake();
    Ok(Json(view(&app, device)))
}

/// Shuts a device out: its certificates, its key, and all other credentials. What it sent stays.
#[utoipa::path(post, path = "/v1/devices/{id}/revoke", tag = "devices", params(("id" = String, Path)),
    security(("token" = ["devices:write"])), responses((status = 204)))]
async fn revoke(
    caller: Need<scope_type::DevicesWrite>,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    to_the_end(async move {
        shut_out(&app, caller.who(), id, "device.revoke", registry::revoke).await?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// Forgets a device and everything that it sent. It can't come back but by a new enrolment.
#[utoipa::path(delete, path = "/v1/devices/{id}", tag = "devices", params(("id" = String, Path)),
    security(("token" = ["devices:write"])), responses((status = 204)))]
async fn remove(
    caller: Need<scope_type::DevicesWrite>,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    to_the_end(async move {
        let device = id.clone();
        shut_out(&app, caller.who(), id, "device.remove", registry::remove).await?;
        super::device_data::remove_evidence(&app, &device).await;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// Does `change`, which says whether there is such a device, with its line in the audit log; then the device's connections end.
async fn shut_out(
    app: &App,
    who: String,
    id: String,
    action: &'static str,
    change: fn(&Transaction<'_>, &str) -> Result<bool, StoreError>,
) -> Result<(), ApiError> {
    let device = id.clone();
    app.store
        .write::<_, ApiError, _>(move |tx| {
            if !change(tx, &id)? {
                return Err(ApiError::no_device(&id));
            }
            Ok(audit(
                tx,
                &who,
                action,
                &format!("device/{id}"),
                &json!({}),
            )?)
        })
        .await?;
    app.sessions.close(&device);
    Ok(())
}
