//! How a device's disks shall be laid out: `/v1/devices/{id}/disks`. The device itself decides what may be done, and tells of it.

use axum::Json;
use axum::extract::State;
use cairn_wire::disk::Declared;
use cairn_wire::{Disk, Disks};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::desired;
use crate::people::{Need, audit, now, scope_type};
use crate::registry;
use crate::store::StoreError;
use crate::telemetry::Series as _;
use crate::web::{ApiError, Body, Path, read};

/// A device's disks.
#[derive(Debug, Serialize, ToSchema)]
pub struct LayoutView {
    /// The list as it was declared; none if nobody has said.
    #[schema(value_type = Vec<Object>)]
    disks: Value,
    /// How each of them is, as the device said last.
    states: Vec<StateView>,
}

/// How a disk is.
#[derive(Debug, Serialize, ToSchema)]
pub struct StateView {
    /// Its name in the layout.
    name: String,
    /// `planned`, `working`, `applied`, `refused` or `failed`; none if the device hasn't said.
    state: Option<String>,
    /// Which disk it is on the device; empty if none was found.
    device: String,
    /// What is left to do, step by step.
    plan: Vec<String>,
    /// Why it is so; empty if there is nothing to say.
    reason: String,
}

/// The routes with their descriptions.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(show, set))
}

/// The disks of a device's document; none: as they are.
///
/// # Errors
/// The database's.
pub fn declared(connection: &Connection, device: &str) -> Result<Option<Disks>, StoreError> {
    let text = text(connection, device)?;
    // It was read before it was kept.
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

fn text(connection: &Connection, device: &str) -> Result<Option<String>, StoreError> {
    let mut query =
        connection.prepare_cached("SELECT declared FROM disk_layout WHERE device = ?1")?;
    Ok(query.query_row([device], |row| row.get(0)).optional()?)
}

fn view(connection: &Connection, device: &str) -> Result<LayoutView, StoreError> {
    let Some(declared) = declared(connection, device)? else {
        return Ok(LayoutView {
            disks: Value::Null,
            states: Vec::new(),
        });
    };
    let mut states = Vec::new();
    for disk in declared.usable() {
        let keys = ["state", "device", "plan", "reason"]
            .map(|key| format!("disk_layout.{}.{key}", disk.name));
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let newest = connection.newest_of(device, &keys)?;
        let mut said = newest.into_iter().map(|sample| sample.map(|it| it.value));
        let mut said = || said.next().flatten().unwrap_or_default();
        let text = |value: Value| value.as_str().map(str::to_owned);
        states.push(StateView {
            name: disk.name.to_string(),
            state: text(said()),
            device: text(said()).unwrap_or_default(),
            plan: serde_json::from_value(said()).unwrap_or_default(),
            reason: text(said()).unwrap_or_default(),
        });
    }
    Ok(LayoutView {
        disks: serde_json::to_value(&declared).unwrap_or_default(),
        states,
    })
}

fn keep(
    tx: &Transaction<'_>,
    device: &str,
    disks: &Disks,
    who: &str,
    now: i64,
) -> Result<(), StoreError> {
    let declared = serde_json::to_string(disks).unwrap_or_default();
    if text(tx, device)?.as_ref() == Some(&declared) {
        return Ok(());
    }
    tx.execute(
        "INSERT INTO disk_layout VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (device) DO UPDATE SET declared = excluded.declared, changed = excluded.changed, changed_by = excluded.changed_by",
        params![device, declared, now, who],
    )?;
    desired::renew(tx, device, now)
}

/// A device's disks: what was declared, and what the device says of it.
#[utoipa::path(get, path = "/v1/devices/{id}/disks", tag = "devices", params(("id" = String, Path)),
    security(("token" = ["devices:read"])), responses((status = 200, body = LayoutView)))]
async fn show(
    _: Need<scope_type::DevicesRead>,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<LayoutView>, ApiError> {
    let found = app
        .store
        .read::<_, ApiError, _>(move |c| {
            registry::get(c, &id)?.ok_or_else(|| ApiError::no_device(&id))?;
            Ok(view(c, &id)?)
        })
        .await?;
    Ok(Json(found))
}

/// Declares how a device's disks shall be laid out, all of them. It destroys nothing that isn't named by serial number and word.
#[utoipa::path(put, path = "/v1/devices/{id}/disks", tag = "devices", params(("id" = String, Path)), request_body = Vec<Value>,
    security(("token" = ["devices:write"])), responses((status = 200, body = LayoutView)))]
async fn set(
    caller: Need<scope_type::DevicesWrite>,
    State(app): State<App>,
    Path(id): Path<String>,
    Body(body): Body<Value>,
) -> Result<Json<LayoutView>, ApiError> {
    let bad = |reason: String| ApiError::bad("bad-disks", reason);
    let items = body.as_array().cloned().unwrap_or_default();
    let disks: Disks = read(body).map_err(bad)?;
    for (disk, item) in disks.iter().zip(items) {
        if let Declared::Unusable { name, reason } = disk {
            let name = name.as_ref().map_or("a disk", |name| name.as_str());
            let reason = read::<Disk>(item).err().unwrap_or_else(|| reason.clone());
            return Err(bad(format!("{name}: {reason}")));
        }
    }
    let view = app
        .store
        .write::<_, ApiError, _>(move |tx| {
            registry::get(tx, &id)?.ok_or_else(|| ApiError::no_device(&id))?;
            keep(tx, &id, &disks, &caller.who(), now())?;
            let detail = json!({ "disks": disks });
            audit(
                tx,
                &caller.who(),
                "device.disks",
                &format!("device/{id}"),
                &detail,
            )?;
            Ok(view(tx, &id)?)
        })
        .await?;
    Ok(Json(view))
}
