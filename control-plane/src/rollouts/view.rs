//! What people see of rollouts.

use std::collections::BTreeMap;

use cairn_rollout::{DeviceState, Plan, Reason, Rollout, Selector, Status};
use cairn_wire::{ReleaseOrder, When};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use serde::Serialize;
use utoipa::ToSchema;

use super::{order, sql};
use crate::store::StoreError;

/// Devices named one by one that are shown.
const SHOWN_DEVICES: i64 = 1_000;

/// A rollout.
#[derive(Debug, Serialize, ToSchema)]
pub struct RolloutView {
    /// Its number.
    pub id: i64,
    /// What people call it.
    pub name: String,
    /// The release.
    pub release: ReleaseView,
    /// Which devices.
    #[schema(value_type = Object)]
    pub select: Selector,
    /// `draft`, `running`, `paused`, `halted`, `finished` or `aborted`.
    pub status: &'static str,
    /// Why it halted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How it goes.
    #[schema(value_type = Object)]
    pub plan: Plan,
    /// When devices restart.
    #[schema(value_type = String)]
    pub when: When,
    /// Whether devices forget that the release failed on them before.
    pub forgive: bool,
    /// Whether a signed order for a lower sequence goes with it.
    pub downgrade: bool,
    /// Devices that matched at the start.
    pub matched: u64,
    /// The wave that it is in, from 1; 0 before the start.
    pub wave: usize,
    /// Devices that have a slot by the end of each wave.
    pub targets: Vec<u64>,
    /// Devices that have a slot.
    pub admitted: u64,
    /// Devices that have a slot and no outcome yet.
    pub open: u64,
    /// Devices that run the release and are healthy.
    pub good: u64,
    /// Devices that said that they failed, or were silent over a deadline.
    pub failed: u64,
    /// Devices by state.
    pub counts: BTreeMap<&'static str, u64>,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// By whom.
    pub created_by: String,
    /// When it was started.
    pub started: Option<i64>,
    /// When it finished or was aborted.
    pub ended: Option<i64>,
    /// What is allowed but may not be what is wanted; after it was made only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

/// The release of a rollout.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReleaseView {
    /// Its version.
    pub version: String,
    /// Its place in the order of releases.
    pub sequence: u64,
    /// SHA-256 of its manifest's payload.
    pub digest: String,
    /// Its channel.
    pub channel: String,
}

/// A device in a rollout.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeviceView {
    /// The device.
    pub device: String,
    /// Where it is.
    pub state: &'static str,
    /// Number of its order, from 1; 0 if it never got one.
    pub attempt: u32,
    /// The order's id.
    pub order: Option<String>,
    /// Since when, in seconds since 1970.
    pub since: i64,
    /// When something happens by itself: a deadline, a retry.
    pub due: Option<i64>,
    /// What it said it runs.
    pub running: Option<String>,
    /// Its last word for people.
    pub note: Option<String>,
    /// Why it is there.
    pub reason: Option<ReasonView>,
}

/// Why a device is where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReasonView {
    /// For programs: the device's own word as `fell-back` or `unhealthy`, or `deadline`.
    pub code: String,
    /// For people.
    pub text: String,
    /// Name of the evidence that the device uploaded.
    pub evidence: Option<String>,
}

impl From<Reason> for ReasonView {
    fn from(reason: Reason) -> Self {
        Self {
            code: reason.code,
            text: reason.text,
            evidence: reason.evidence,
        }
    }
}

/// Something that happened to a device in a rollout, or to a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TimelineEvent {
    /// Its number; it only grows.
    pub id: i64,
    /// The rollout.
    pub rollout: i64,
    /// The release.
    pub release: String,
    /// The device; none: the rollout as a whole.
    pub device: Option<String>,
    /// When the server heard of it, in seconds since 1970.
    pub time: i64,
    /// Number of the device's order.
    pub attempt: Option<u32>,
    /// The state that the device came into; none: a remark.
    pub state: Option<String>,
    /// For people.
    pub text: String,
    /// Why.
    pub reason: Option<ReasonView>,
}

const ROLLOUT: &str = "SELECT id, name, version, digest, sequence, channel, template, selector, created, created_by, state FROM rollout";

fn rollout(row: &Row<'_>) -> rusqlite::Result<RolloutView> {
    let state: Rollout = sql::json(row, "state")?;
    let template: ReleaseOrder = sql::json(row, "template")?;
    let counts = &state.counts;
    let by_state = DeviceState::ALL
        .into_iter()
        .map(|state| (state.as_str(), counts.of(state)))
        .filter(|(_, count)| *count > 0);
    Ok(RolloutView {
        id: row.get("id")?,
        name: row.get("name")?,
        release: ReleaseView {
            version: row.get("version")?,
            sequence: sql::unsigned(row, "sequence")?,
            digest: row.get("digest")?,
            channel: row.get("channel")?,
        },
        select: sql::json(row, "selector")?,
        status: state.status.as_str(),
        reason: match &state.status {
            Status::Halted { reason } => Some(reason.clone()),
            _ => None,
        },
        when: template.when,
        forgive: template.forgive,
        downgrade: template.downgrade.is_some(),
        matched: state.matched,
        wave: if state.started.is_some() {
            state.wave + 1
        } else {
            0
        },
        admitted: counts.admitted(),
        open: counts.open(),
        good: counts.of(DeviceState::Good),
        failed: counts.failures(),
        counts: by_state.collect(),
        created: row.get("created")?,
        created_by: row.get("created_by")?,
        started: state.started,
        ended: state.ended,
        hints: Vec::new(),
        targets: state.targets,
        plan: state.plan,
    })
}

/// One rollout. Of devices that it names one by one the first thousand are shown.
pub(super) fn show(connection: &Connection, id: i64) -> Result<Option<RolloutView>, StoreError> {
    let mut query = connection.prepare_cached(&format!("{ROLLOUT} WHERE id = ?1"))?;
    let Some(mut view) = query.query_row([id], rollout).optional()? else {
        return Ok(None);
    };
    if let Selector::Devices(devices) = &mut view.select {
        let mut query = connection.prepare_cached(
            "SELECT device FROM rollout_device WHERE rollout = ?1 ORDER BY device LIMIT ?2",
        )?;
        for device in query.query_map(params![id, SHOWN_DEVICES], |row| row.get(0))? {
            devices.insert(device?);
        }
    }
    Ok(Some(view))
}

/// Rollouts with a number below `before`, the newest first.
pub(super) fn list(
    connection: &Connection,
    status: Option<&str>,
    before: Option<i64>,
    limit: usize,
) -> Result<Vec<RolloutView>, StoreError> {
    let mut query = connection.prepare_cached(&format!(
        "{ROLLOUT} WHERE id < ?1 AND (?2 IS NULL OR status = ?2) ORDER BY id DESC LIMIT ?3"
    ))?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = query.query_map(params![before.unwrap_or(i64::MAX), status, limit], rollout)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Devices of a rollout with an id above `after`.
pub(super) fn devices(
    connection: &Connection,
    id: i64,
    state: Option<DeviceState>,
    after: &str,
    limit: usize,
) -> Result<Vec<DeviceView>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT a.*, r.tag FROM assignment a JOIN rollout r ON r.id = a.rollout
         WHERE a.rollout = ?1 AND a.device > ?2 AND (?3 IS NULL OR a.state = ?3) ORDER BY a.device LIMIT ?4",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = query.query_map(
        params![id, after, state.map(DeviceState::as_str), limit],
        |row| {
            let tag: String = row.get("tag")?;
            let a = sql::assignment_of(row)?;
            Ok(DeviceView {
                device: row.get("device")?,
                state: a.state.as_str(),
                attempt: a.attempt,
                order: (a.attempt > 0).then(|| order::id(&tag, a.attempt)),
                since: a.since,
                due: a.due,
                running: a.running.map(|version| version.to_string()),
                note: a.note,
                reason: a.reason.map(Into::into),
            })
        },
    )?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Whose timeline.
pub(super) enum Timeline<'a> {
    /// A device's over all rollouts.
    Device(&'a str),
    /// A rollout's own, without its devices'.
    Rollout(i64),
}

/// Events with a number below `before`, the newest first.
pub(super) fn timeline(
    connection: &Connection,
    of: &Timeline<'_>,
    before: Option<i64>,
    limit: usize,
) -> Result<Vec<TimelineEvent>, StoreError> {
    let (condition, parameter): (_, Value) = match of {
        Timeline::Device(device) => ("e.device = ?1", (*device).to_owned().into()),
        Timeline::Rollout(id) => ("e.rollout = ?1 AND e.device IS NULL", (*id).into()),
    };
    let mut query = connection.prepare_cached(&format!(
        "SELECT e.*, r.version FROM rollout_event e JOIN rollout r ON r.id = e.rollout
         WHERE {condition} AND e.id < ?2 ORDER BY e.id DESC LIMIT ?3"
    ))?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let parameters: [Value; 3] = [parameter, before.unwrap_or(i64::MAX).into(), limit.into()];
    let rows = query.query_map(params_from_iter(parameters), |row| {
        let reason: Option<String> = row.get("reason")?;
        let reason = reason.and_then(|text| serde_json::from_str::<Reason>(&text).ok());
        Ok(TimelineEvent {
            id: row.get("id")?,
            rollout: row.get("rollout")?,
            release: row.get("version")?,
            device: row.get("device")?,
            time: row.get("time")?,
            attempt: row.get("attempt")?,
            state: row.get("state")?,
            text: row.get("text")?,
            reason: reason.map(Into::into),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
