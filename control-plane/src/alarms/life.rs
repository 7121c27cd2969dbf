//! Alarms as rows, their history, and what is queued for whom.

use std::collections::BTreeSet;

use cairn_alarm::{Effect, Notice, Status, Template, Track};
use rusqlite::{Connection, OptionalExtension, Transaction, named_params, params};
use serde_json::{Value, json};

use super::case::Case;
use super::message::{Facts, notice_name, word};
use super::to_json;
use crate::store::StoreError;
use crate::stream::{self, Kind};

/// Events kept of one alarm; more are not written.
const MAX_EVENTS: i64 = 200;

/// The row of a life.
fn row(
    connection: &Connection,
    device: &str,
    template: &str,
    instance: &str,
    life: u64,
) -> Result<Option<i64>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT id FROM alarm WHERE device = ?1 AND template = ?2 AND instance = ?3 AND life = ?4 ORDER BY id DESC LIMIT 1",
    )?;
    let life = i64::try_from(life).unwrap_or(i64::MAX);
    Ok(query
        .query_row(params![device, template, instance, life], |row| row.get(0))
        .optional()?)
}

/// Something for an alarm's history, and for the stream.
pub(super) fn event(
    tx: &Transaction<'_>,
    alarm: i64,
    time: i64,
    kind: &str,
    text: &str,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO alarm_event (alarm, time, kind, text)
         SELECT ?1, ?2, ?3, ?4 WHERE (SELECT count(*) FROM alarm_event WHERE alarm = ?1) < ?5",
    )?
    .execute(params![alarm, time, kind, text, MAX_EVENTS])?;
    let (device, body) = tx
        .prepare_cached("SELECT device, template, instance, severity FROM alarm WHERE id = ?1")?
        .query_row([alarm], |row| {
            let body = json!({
                "alarm": alarm, "event": kind, "text": text, "template": row.get::<_, String>(1)?,
                "instance": row.get::<_, String>(2)?, "severity": row.get::<_, String>(3)?,
            });
            Ok((row.get::<_, String>(0)?, body))
        })?;
    stream::one(tx, Kind::Alarm, &device, time.saturating_mul(1000), &body)
}

/// Does what the state machine says.
pub(super) fn apply(
    case: &Case<'_>,
    template: &Template,
    instance: &str,
    track: &Track,
    effects: &[Effect],
    value: Option<&Value>,
) -> Result<(), StoreError> {
    let (tx, device, time) = (case.tx, case.device.id.as_str(), case.now / 1000);
    let newest = track.life();
    for effect in effects {
        if *effect == Effect::Began {
            begin(case, template, instance, newest, value)?;
            continue;
        }
        let life = match effect {
            Effect::Notify { life, .. } => *life,
            _ => newest,
        };
        let Some(alarm) = row(tx, device, &template.name, instance, life)? else {
            continue;
        };
        let status = |status: Status, column: &str| -> Result<(), StoreError> {
            tx.prepare_cached(&format!(
                "UPDATE alarm SET status = ?2, {column} = ?3 WHERE id = ?1"
            ))?
            .execute(params![alarm, status.as_str(), time])?;
            Ok(())
        };
        match effect {
            Effect::Began => {}
            Effect::Lapsed => {
                tx.prepare_cached("DELETE FROM alarm WHERE id = ?1")?
                    .execute([alarm])?;
            }
            Effect::Fired => {
                status(Status::Firing, "fired")?;
                event(tx, alarm, time, "fired", &template.when.to_string())?;
            }
            // Who it was is written by the caller.
            Effect::Acknowledged => status(Status::Acknowledged, "acknowledged")?,
            Effect::Flapping => {
                tx.prepare_cached("UPDATE alarm SET flapping = 1 WHERE id = ?1")?
                    .execute([alarm])?;
                let text = "it changes too often; it is kept firing until it is quiet";
                event(tx, alarm, time, "flapping", text)?;
            }
            Effect::Escalated(level) => {
                let severity = template.severity_at(*level);
                tx.prepare_cached("UPDATE alarm SET severity = ?2 WHERE id = ?1")?
                    .execute(params![alarm, severity.as_str()])?;
                let text = format!("nobody has acknowledged it; {severity} now");
                event(tx, alarm, time, "escalated", &text)?;
            }
            Effect::Resolved => {
                status(Status::Resolved, "resolved")?;
                event(tx, alarm, time, "resolved", "")?;
            }
            Effect::Withdrawn => {
                status(Status::Resolved, "resolved")?;
                let text = "the template no longer means this device, or it was shut out";
                event(tx, alarm, time, "withdrawn", text)?;
                unqueue(tx, alarm, time)?;
            }
            Effect::Notify { notice, .. } => {
                queue(case, template, alarm, *notice)?;
            }
        }
    }
    Ok(())
}

fn begin(
    case: &Case<'_>,
    template: &Template,
    instance: &str,
    life: u64,
    value: Option<&Value>,
) -> Result<(), StoreError> {
    case
        .tx
        .prepare_cached(
            "INSERT INTO alarm (device, template, instance, life, supplier, resource, condition, severity, status, value, began)
             VALUES (:device, :template, :instance, :life, :supplier, :resource, :condition, :severity, 'pending', :value, :began)",
        )?
        .execute(named_params! {
            ":device": case.device.id,
            ":template": template.name,
            ":instance": instance,
            ":life": i64::try_from(life).unwrap_or(i64::MAX),
            ":supplier": case.device.supplier,
            ":resource": word(&template.resource),
            ":condition": template.when.to_string(),
            ":severity": template.severity.as_str(),
            ":value": value.map(to_json).transpose()?,
            ":began": case.now / 1000,
        })?;
    Ok(())
}

/// Nobody is told any more of an alarm that was withdrawn. `time` is in seconds.
pub(super) fn unqueue(tx: &Transaction<'_>, alarm: i64, time: i64) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE alarm_delivery SET state = 'failed', reason = 'the alarm was withdrawn', done = ?2
         WHERE alarm = ?1 AND state = 'queued'",
    )?
    .execute(params![alarm, time])?;
    Ok(())
}

/// Queues a notice for all who are to be told. Who was told that it fires is told that it is over, whatever the rules say by then.
fn queue(
    case: &Case<'_>,
    template: &Template,
    alarm: i64,
    notice: Notice,
) -> Result<(), StoreError> {
    let (tx, now) = (case.tx, case.now);
    let told = |alarm: i64| -> Result<BTreeSet<String>, StoreError> {
        let mut query =
            tx.prepare_cached("SELECT DISTINCT channel FROM alarm_delivery WHERE alarm = ?1")?;
        let rows = query.query_map([alarm], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    };
    let wanted = |level| -> BTreeSet<String> {
        let names = case.rules.channels(template, &case.device, level);
        names.into_iter().map(str::to_owned).collect()
    };
    let channels = match notice {
        Notice::Fired => wanted(0),
        Notice::Escalated(level) => wanted(level),
        Notice::Resolved => told(alarm)?,
    };
    if channels.is_empty() {
        return Ok(());
    }
    let facts = to_json(&Facts::read(tx, alarm, template, &case.device, notice)?)?;
    let mut insert = tx.prepare_cached(
        "INSERT OR IGNORE INTO alarm_delivery (alarm, channel, notice, facts, created, next) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for channel in &channels {
        insert.execute(params![
            alarm,
            channel,
            notice_name(notice),
            facts,
            now / 1000,
            now
        ])?;
    }
    Ok(())
}
