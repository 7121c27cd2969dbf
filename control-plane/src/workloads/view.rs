//! What people see of workloads.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::declare;
use crate::store::StoreError;
use crate::telemetry::{Sample, Series as _};

/// A workload.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct WorkloadView {
    /// Its name.
    pub name: String,
    /// Who pays for it.
    pub customer: String,
    /// The customer's business.
    pub business: String,
    /// The image that it runs.
    pub image: String,
    /// Where it shall run: the rule, as it was declared.
    #[schema(value_type = Object)]
    pub place: Value,
    /// On how many devices it is.
    pub devices: i64,
    /// What no device was found for: `{"copies": n, "because": {reason: devices}}`; none if nothing is missing.
    #[schema(value_type = Object)]
    pub missing: Value,
    /// When it was declared so, in seconds since 1970.
    pub changed: i64,
    /// By whom.
    pub changed_by: String,
}

/// A workload on a device.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PlaceView {
    /// The workload.
    pub workload: String,
    /// The device.
    pub device: String,
    /// Since when it is there, in seconds since 1970.
    pub since: i64,
    /// When it was taken away; none: it is there.
    pub ended: Option<i64>,
    /// Why it was taken away: `removed`, `not-meant`, `drained`, `gone`, `failed` or `surplus`.
    pub ended_because: Option<String>,
    /// Whether the device is connected.
    pub online: bool,
    /// What the device itself said last of how it is; none if it hasn't said anything.
    pub state: Option<String>,
    /// Why it is so; empty if there is nothing to say.
    pub reason: String,
    /// When the device said that, in seconds since 1970.
    pub told: Option<i64>,
}

const WORKLOAD: &str = "SELECT name, declared, rule, missing, changed, changed_by,
    (SELECT count(*) FROM placement WHERE workload = name AND ended IS NULL) FROM workload";

fn workload(row: &Row<'_>) -> rusqlite::Result<WorkloadView> {
    let json = |column: usize| -> rusqlite::Result<Value> {
        let text: Option<String> = row.get(column)?;
        Ok(text
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default())
    };
    let declared = json(1)?;
    let word = |at: &str| {
        let word = declared.pointer(at).and_then(Value::as_str);
        word.unwrap_or_default().to_owned()
    };
    Ok(WorkloadView {
        name: row.get(0)?,
        customer: word("/owner/customer"),
        business: word("/owner/business"),
        image: word("/image"),
        place: json(2)?,
        missing: json(3)?,
        changed: row.get(4)?,
        changed_by: row.get(5)?,
        devices: row.get(6)?,
    })
}

/// Workloads by name, those behind `after`.
///
/// # Errors
/// The database's.
pub fn list(
    connection: &Connection,
    after: &str,
    limit: usize,
) -> Result<Vec<WorkloadView>, StoreError> {
    let mut query = connection.prepare_cached(&format!(
        "{WORKLOAD} WHERE name > ?1 ORDER BY name LIMIT ?2"
    ))?;
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = query.query_map(params![after, most], workload)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// One of them.
///
/// # Errors
/// The database's.
pub fn show(connection: &Connection, name: &str) -> Result<Option<WorkloadView>, StoreError> {
    let mut query = connection.prepare_cached(&format!("{WORKLOAD} WHERE name = ?1"))?;
    Ok(query.query_row([name], workload).optional()?)
}

/// As it was declared.
///
/// # Errors
/// The database's.
pub fn declaration(connection: &Connection, name: &str) -> Result<Option<Value>, StoreError> {
    Ok(declare::get(connection, name)?.map(|found| found.to_json()))
}

const PLACE: &str = "SELECT workload, device, since, ended, placement.reason, online FROM placement
    JOIN device ON id = device";

fn place(row: &Row<'_>) -> rusqlite::Result<PlaceView> {
    Ok(PlaceView {
        workload: row.get(0)?,
        device: row.get(1)?,
        since: row.get(2)?,
        ended: row.get(3)?,
        ended_because: row.get(4)?,
        online: row.get(5)?,
        state: None,
        reason: String::new(),
        told: None,
    })
}

/// Where a workload is, and where it was lately; by device, those behind `after`.
///
/// # Errors
/// The database's.
pub fn places(
    connection: &Connection,
    workload: &str,
    after: &str,
    limit: usize,
) -> Result<Vec<PlaceView>, StoreError> {
    let sql = format!("{PLACE} WHERE workload = ?1 AND device > ?2 ORDER BY device LIMIT ?3");
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut query = connection.prepare_cached(&sql)?;
    let rows = query.query_map(params![workload, after, most], place)?;
    told(connection, rows.collect::<Result<_, _>>()?)
}

/// The workloads of a device.
///
/// # Errors
/// The database's.
pub fn of_device(connection: &Connection, device: &str) -> Result<Vec<PlaceView>, StoreError> {
    let sql = format!("{PLACE} WHERE device = ?1 AND ended IS NULL ORDER BY workload");
    let mut query = connection.prepare_cached(&sql)?;
    let rows = query.query_map([device], place)?;
    told(connection, rows.collect::<Result<_, _>>()?)
}

/// With what the devices said.
fn told(connection: &Connection, mut places: Vec<PlaceView>) -> Result<Vec<PlaceView>, StoreError> {
    for place in &mut places {
        let keys = ["state", "reason"].map(|key| format!("workload.{}.{key}", place.workload));
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let newest = connection.newest_of(&place.device, &keys)?;
        // What isn't a text is nothing of our agent's.
        let text = |sample: Sample| Some((sample.value.as_str()?.to_owned(), sample.ts));
        let mut said = newest.into_iter().map(|sample| sample.and_then(text));
        let (state, reason) = (said.next().flatten(), said.next().flatten());
        place.told = state.as_ref().map(|(_, at)| at / 1000);
        place.state = state.map(|(state, _)| state);
        let silent = place.state.is_none() && place.ended.is_none();
        place.reason = match reason {
            Some((reason, _)) => reason,
            None if silent => "the device has told nothing of it yet".to_owned(),
            None => String::new(),
        };
    }
    Ok(places)
}
