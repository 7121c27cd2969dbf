//! What people see of alarms.

use cairn_alarm::Template;
use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::channel::{Channel, shown};
use super::json;
use crate::store::StoreError;

/// An alarm: one life of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct AlarmView {
    /// Its number.
    pub id: i64,
    /// The device.
    pub device: String,
    /// The template.
    pub template: String,
    /// Which line, file system or the like; empty if there is but one.
    pub instance: String,
    /// `device-state`, `line-latency`, `line-loss`, `uplink-speed`, `tampering`, `storage-use` or `other`.
    pub resource: String,
    /// Whose device it is; none: the operator's own.
    pub supplier: Option<String>,
    /// `info`, `warning` or `critical`.
    pub severity: String,
    /// `pending`, `firing`, `acknowledged` or `resolved`.
    pub status: String,
    /// Whether it was kept firing since it changed too often.
    pub flapping: bool,
    /// What is wrong, as `above 90`.
    pub condition: String,
    /// The value with which it began.
    pub value: Option<Value>,
    /// When it began, in seconds since 1970.
    pub began: i64,
    /// When it fired.
    pub fired: Option<i64>,
    /// When it was acknowledged.
    pub acknowledged: Option<i64>,
    /// By whom.
    pub acknowledged_by: Option<String>,
    /// When it was over.
    pub resolved: Option<i64>,
}

/// An alarm with all that happened to it.
#[derive(Debug, Serialize, ToSchema)]
pub struct AlarmDetails {
    /// The alarm.
    #[serde(flatten)]
    pub alarm: AlarmView,
    /// What happened, in order.
    pub history: Vec<HistoryEntry>,
    /// Who was told, or is to be.
    pub deliveries: Vec<DeliveryView>,
}

/// Something that happened to an alarm.
#[derive(Debug, Serialize, ToSchema)]
pub struct HistoryEntry {
    /// Seconds since 1970.
    pub time: i64,
    /// `fired`, `escalated`, `flapping`, `acknowledged`, `resolved` or `withdrawn`.
    pub kind: String,
    /// For people.
    pub text: String,
}

/// A message to a channel.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeliveryView {
    /// The channel.
    pub channel: String,
    /// `fired`, `escalated-1` or `resolved`.
    pub notice: String,
    /// `queued`, `sent` or `failed`: given up.
    pub state: String,
    /// Attempts so far.
    pub attempts: u32,
    /// When the next attempt is made, in seconds since 1970.
    pub next: Option<i64>,
    /// Why the last attempt failed.
    pub reason: Option<String>,
    /// When it was sent or given up, in seconds since 1970.
    pub done: Option<i64>,
}

/// A silence.
#[derive(Debug, Serialize, ToSchema)]
pub struct SilenceView {
    /// Its number.
    pub id: i64,
    /// Which devices and templates, from when until when (seconds since 1970).
    #[schema(value_type = Object)]
    pub silence: Value,
    /// What for.
    pub note: String,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// By whom.
    pub created_by: String,
}

/// Which alarms.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub(super) statuses: Vec<String>,
    pub(super) device: Option<String>,
    pub(super) template: Option<String>,
    pub(super) severity: Option<String>,
    pub(super) supplier: Option<String>,
    pub(super) before: Option<i64>,
    pub(super) limit: usize,
}

const ALARM: &str = "SELECT id, device, template, instance, resource, supplier, severity, status, flapping, condition, value, began,
    fired, acknowledged, acknowledged_by, resolved FROM alarm";

fn alarm(row: &Row<'_>) -> rusqlite::Result<AlarmView> {
    let value: Option<String> = row.get("value")?;
    Ok(AlarmView {
        id: row.get("id")?,
        device: row.get("device")?,
        template: row.get("template")?,
        instance: row.get("instance")?,
        resource: row.get("resource")?,
        supplier: row.get("supplier")?,
        severity: row.get("severity")?,
        status: row.get("status")?,
        flapping: row.get("flapping")?,
        condition: row.get("condition")?,
        value: value.map(|text| json(&text)).transpose()?,
        began: row.get("began")?,
        fired: row.get("fired")?,
        acknowledged: row.get("acknowledged")?,
        acknowledged_by: row.get("acknowledged_by")?,
        resolved: row.get("resolved")?,
    })
}

/// Alarms, the newest first.
pub(super) fn list(connection: &Connection, wanted: &Wanted) -> Result<Vec<AlarmView>, StoreError> {
    let (mut sql, mut values) = (format!("{ALARM} WHERE 1"), Vec::<Sql>::new());
    let columns = [
        ("device", &wanted.device),
        ("template", &wanted.template),
        ("severity", &wanted.severity),
        ("supplier", &wanted.supplier),
    ];
    for (column, value) in columns {
        if let Some(value) = value {
            sql.push_str(&format!(" AND {column} = ?"));
            values.push(value.clone().into());
        }
    }
    if !wanted.statuses.is_empty() {
        let places = vec!["?"; wanted.statuses.len()].join(", ");
        sql.push_str(&format!(" AND status IN ({places})"));
        values.extend(wanted.statuses.iter().cloned().map(Sql::from));
    }
    if let Some(before) = wanted.before {
        sql.push_str(" AND id < ?");
        values.push(before.into());
    }
    sql.push_str(" ORDER BY id DESC LIMIT ?");
    values.push(i64::try_from(wanted.limit).unwrap_or(i64::MAX).into());
    let mut query = connection.prepare_cached(&sql)?;
    let rows = query.query_map(params_from_iter(values), alarm)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// One alarm; to a supplier's people only those of their devices, and only the deliveries to their channels.
pub(super) fn show(
    connection: &Connection,
    id: i64,
    supplier: Option<&str>,
) -> Result<Option<AlarmDetails>, StoreError> {
    let mut query = connection.prepare_cached(&format!(
        "{ALARM} WHERE id = ?1 AND (?2 IS NULL OR supplier = ?2)"
    ))?;
    let Some(alarm) = query.query_row(params![id, supplier], alarm).optional()? else {
        return Ok(None);
    };
    let mut query = connection
        .prepare_cached("SELECT time, kind, text FROM alarm_event WHERE alarm = ?1 ORDER BY id")?;
    let history = query.query_map([id], |row| {
        Ok(HistoryEntry {
            time: row.get(0)?,
            kind: row.get(1)?,
            text: row.get(2)?,
        })
    })?;
    let mut query = connection.prepare_cached(
        "SELECT channel, notice, state, attempts, next / 1000, reason, done FROM alarm_delivery
         WHERE alarm = ?1 AND (?2 IS NULL OR EXISTS (
             SELECT 1 FROM alarm_channel WHERE name = channel AND settings ->> 'supplier' = ?2))
         ORDER BY id LIMIT 1000",
    )?;
    let deliveries = query.query_map(params![id, supplier], |row| {
        let state: String = row.get(2)?;
        let next: i64 = row.get(4)?;
        Ok(DeliveryView {
            channel: row.get(0)?,
            notice: row.get(1)?,
            attempts: row.get(3)?,
            next: (state == "queued").then_some(next),
            state,
            reason: row.get(5)?,
            done: row.get(6)?,
        })
    })?;
    Ok(Some(AlarmDetails {
        alarm,
        history: history.collect::<Result<_, _>>()?,
        deliveries: deliveries.collect::<Result<_, _>>()?,
    }))
}

/// Templates by name, from behind `after`.
pub(super) fn templates(
    connection: &Connection,
    after: &str,
    limit: usize,
) -> Result<Vec<Template>, StoreError> {
    let mut query = connection
        .prepare_cached("SELECT rule FROM alarm_template WHERE name > ?1 ORDER BY name LIMIT ?2")?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = query.query_map(params![after, limit], |row| json(row.get_ref(0)?.as_str()?))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Channels by name, from behind `after`, without their secrets.
pub(super) fn channels(
    connection: &Connection,
    after: &str,
    limit: usize,
) -> Result<Vec<Value>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT settings FROM alarm_channel WHERE name > ?1 ORDER BY name LIMIT ?2",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = query.query_map(params![after, limit], |row| {
        let channel: Channel = json(row.get_ref(0)?.as_str()?)?;
        Ok(shown(&channel))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Silences, the newest first.
pub(super) fn silences(
    connection: &Connection,
    before: Option<i64>,
    limit: usize,
) -> Result<Vec<SilenceView>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT id, rule, note, created, created_by FROM alarm_silence WHERE id < ?1 ORDER BY id DESC LIMIT ?2",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = query.query_map(params![before.unwrap_or(i64::MAX), limit], |row| {
        Ok(SilenceView {
            id: row.get(0)?,
            silence: json(row.get_ref(1)?.as_str()?)?,
            note: row.get(2)?,
            created: row.get(3)?,
            created_by: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
