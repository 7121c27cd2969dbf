//! Changing templates, channels and silences, and acknowledging: each in a transaction with its line in the audit log.

use cairn_alarm::{Condition, Event, Selector, Severity, Silence, Template};
use rusqlite::{OptionalExtension, Transaction, params};
use serde_json::{Value, json};

use super::case::Case;
use super::channel::Channel;
use super::device::Device;
use super::judge;
use super::rules;
use super::{life, now_ms, readable, to_json};
use crate::people::audit;
use crate::registry;
use crate::store::StoreError;
use crate::web::ApiError;

/// Most templates, channels and silences, each.
const MANY: i64 = 500;

/// Writes the built-in templates, once; who has deleted one doesn't get it back.
///
/// # Errors
/// The database's.
pub fn seed(tx: &Transaction<'_>) -> Result<(), StoreError> {
    let new = tx.execute("UPDATE alarm_rules SET seeded = 1 WHERE NOT seeded", [])?;
    if new > 0 {
        for template in cairn_alarm::builtin::all() {
            write(tx, &template)?;
        }
    }
    Ok(())
}

/// Makes a template, or replaces the one of its name. What it looks at differently than before is withdrawn.
pub(super) fn put_template(
    tx: &Transaction<'_>,
    who: &str,
    template: &Template,
) -> Result<(), ApiError> {
    template
        .check()
        .map_err(|error| ApiError::bad("bad-template", error.to_string()))?;
    for name in template.named_channels() {
        let settings = settings(tx, name)?.unwrap_or_default();
        if !settings.is_object() || settings["supplier"].is_string() {
            let text = format!("channels: the operator has no channel \"{name}\"; make it first");
            return Err(ApiError::bad("bad-template", text));
        }
    }
    if template_rule(tx, &template.name)?.is_none() {
        room(tx, "SELECT count(*) FROM alarm_template", "templates")?;
    }
    write(tx, template)?;
    let detail = serde_json::to_value(template).unwrap_or_default();
    let subject = format!("alarm-template/{}", template.name);
    Ok(audit(tx, who, "alarm-template.put", &subject, &detail)?)
}

fn write(tx: &Transaction<'_>, template: &Template) -> Result<(), StoreError> {
    let now = now_ms();
    let before = template_rule(tx, &template.name)?;
    let same = before.as_ref().is_some_and(|before| {
        template.enabled && before.when == template.when && before.key == template.key
    });
    if before.is_some() && !same {
        withdraw(tx, &template.name, now)?;
    }
    let watches = template.enabled && template.when == Condition::Offline;
    let hold = watches.then(|| i64::from(template.hold.0) * 1000);
    tx.execute(
        "INSERT INTO alarm_template (name, rule, offline, changed) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET rule = excluded.rule, offline = excluded.offline, changed = excluded.changed",
        params![template.name, to_json(template)?, hold, now / 1000],
    )?;
    // What has begun may be over, or due at another time. A look too many does no harm.
    tx.execute(
        "UPDATE alarm_track SET due = ?2 WHERE template = ?1 AND (open OR due IS NOT NULL)",
        params![template.name, now],
    )?;
    if let Some(hold) = hold {
        tx.execute(
            "INSERT OR IGNORE INTO alarm_track (device, template, instance, due) SELECT id, ?1, '', ?2 FROM device",
            params![template.name, now + hold],
        )?;
    }
    rules::changed(tx)
}

/// A template as it is kept.
pub(super) fn template_rule(
    connection: &rusqlite::Connection,
    name: &str,
) -> Result<Option<Template>, StoreError> {
    let mut query = connection.prepare_cached("SELECT rule FROM alarm_template WHERE name = ?1")?;
    Ok(query
        .query_row([name], |row| super::json(row.get_ref(0)?.as_str()?))
        .optional()?)
}

/// Removes a template. `false`: there is none.
pub(super) fn remove_template(
    tx: &Transaction<'_>,
    who: &str,
    name: &str,
) -> Result<bool, StoreError> {
    if tx.execute("DELETE FROM alarm_template WHERE name = ?1", [name])? == 0 {
        return Ok(false);
    }
    withdraw(tx, name, now_ms())?;
    rules::changed(tx)?;
    let subject = format!("alarm-template/{name}");
    audit(tx, who, "alarm-template.remove", &subject, &json!({}))?;
    Ok(true)
}

/// Ends all that a template has begun; nobody is told but who reads the stream.
fn withdraw(tx: &Transaction<'_>, template: &str, now: i64) -> Result<(), StoreError> {
    let mut open = tx.prepare(
        "SELECT id FROM alarm WHERE template = ?1 AND status IN ('firing', 'acknowledged')",
    )?;
    let open = open.query_map([template], |row| row.get(0))?;
    for alarm in open.collect::<Result<Vec<i64>, _>>()? {
        let text = "the template was changed or removed";
        life::event(tx, alarm, now / 1000, "withdrawn", text)?;
        life::unqueue(tx, alarm, now / 1000)?;
    }
    tx.execute(
        "UPDATE alarm SET status = 'resolved', resolved = ?2 WHERE template = ?1 AND status IN ('firing', 'acknowledged')",
        params![template, now / 1000],
    )?;
    tx.execute(
        "DELETE FROM alarm WHERE template = ?1 AND status = 'pending'",
        [template],
    )?;
    tx.execute("DELETE FROM alarm_track WHERE template = ?1", [template])?;
    Ok(())
}

fn room(tx: &Transaction<'_>, sql: &str, what: &str) -> Result<(), ApiError> {
    let count: i64 = tx.query_row(sql, [], |row| row.get(0))?;
    if count >= MANY {
        let text = format!("there are {MANY} {what}, more can't be; remove some");
        return Err(ApiError::conflict("too-many", text));
    }
    Ok(())
}

/// A channel's settings, with its secrets.
pub(super) fn settings(
    connection: &rusqlite::Connection,
    name: &str,
) -> Result<Option<Value>, StoreError> {
    let mut query =
        connection.prepare_cached("SELECT settings FROM alarm_channel WHERE name = ?1")?;
    Ok(query
        .query_row([name], |row| super::json(row.get_ref(0)?.as_str()?))
        .optional()?)
}

/// Makes a channel, or replaces the one of its name.
pub(super) fn put_channel(
    tx: &Transaction<'_>,
    who: &str,
    name: &str,
    wanted: Value,
) -> Result<Channel, ApiError> {
    let before = settings(tx, name)?;
    if before.is_none() {
        room(tx, "SELECT count(*) FROM alarm_channel", "channels")?;
    }
    let (channel, settings) = Channel::parse(wanted, before.as_ref())
        .map_err(|error| ApiError::bad("bad-channel", error))?;
    tx.execute(
        "INSERT INTO alarm_channel (name, settings, changed) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET settings = excluded.settings, changed = excluded.changed",
        params![name, to_json(&settings)?, now_ms() / 1000],
    )?;
    rules::changed(tx)?;
    let subject = format!("alarm-channel/{name}");
    let detail = super::channel::shown(&channel);
    audit(tx, who, "alarm-channel.put", &subject, &detail)?;
    Ok(channel)
}

/// Removes a channel that no template names. `false`: there is none.
pub(super) fn remove_channel(
    tx: &Transaction<'_>,
    who: &str,
    name: &str,
) -> Result<bool, ApiError> {
    let mut rules = tx.prepare("SELECT rule FROM alarm_template ORDER BY name")?;
    let rules = rules.query_map([], |row| {
        Ok(readable("a template", row.get_ref(0)?.as_str()?))
    })?;
    let rules: Vec<Option<Template>> = rules.collect::<Result<_, _>>()?;
    let naming = rules.iter().flatten();
    let naming = naming.filter(|template| template.named_channels().contains(name));
    let naming: Vec<&str> = naming.map(|template| template.name.as_str()).collect();
    if !naming.is_empty() {
        let text = format!("templates name this channel: {}", naming.join(", "));
        return Err(ApiError::conflict("in-use", text));
    }
    if tx.execute("DELETE FROM alarm_channel WHERE name = ?1", [name])? == 0 {
        return Ok(false);
    }
    rules::changed(tx)?;
    let subject = format!("alarm-channel/{name}");
    audit(tx, who, "alarm-channel.remove", &subject, &json!({}))?;
    Ok(true)
}

/// Silences alarms; gives its number.
pub(super) fn add_silence(
    tx: &Transaction<'_>,
    who: &str,
    silence: &Silence,
    note: &str,
) -> Result<i64, ApiError> {
    silence
        .select
        .check()
        .map_err(|error| ApiError::bad("bad-silence", format!("select: {error}")))?;
    // A slip of the pen would silence nothing.
    if let Selector::Devices(devices) = &silence.select {
        for device in devices {
            if !registry::exists(tx, device)? {
                return Err(ApiError::no_device(device));
            }
        }
    }
    for template in &silence.templates {
        if template_rule(tx, template)?.is_none() {
            return Err(ApiError::none_named("alarm template", template));
        }
    }
    room(tx, "SELECT count(*) FROM alarm_silence", "silences")?;
    tx.execute(
        "INSERT INTO alarm_silence (rule, until, note, created, created_by) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![to_json(silence)?, silence.until, note, now_ms() / 1000, who],
    )?;
    let id = tx.last_insert_rowid();
    rules::changed(tx)?;
    let detail = json!({ "silence": silence, "note": note });
    let subject = format!("alarm-silence/{id}");
    audit(tx, who, "alarm-silence.add", &subject, &detail)?;
    Ok(id)
}

/// Ends a silence; who fires still is told of now. `false`: there is none.
pub(super) fn remove_silence(tx: &Transaction<'_>, who: &str, id: i64) -> Result<bool, StoreError> {
    let until: Option<i64> = tx
        .query_row(
            "DELETE FROM alarm_silence WHERE id = ?1 RETURNING until",
            [id],
            |row| row.get(0),
        )
        .optional()?;
    let Some(until) = until else {
        return Ok(false);
    };
    tx.execute(
        "UPDATE alarm_track SET due = ?2 WHERE due = ?1",
        params![until.saturating_mul(1000), now_ms()],
    )?;
    rules::changed(tx)?;
    let subject = format!("alarm-silence/{id}");
    audit(tx, who, "alarm-silence.remove", &subject, &json!({}))?;
    Ok(true)
}

/// Somebody has seen an alarm; a supplier's people only those of their devices.
pub(super) fn acknowledge(
    tx: &Transaction<'_>,
    who: &str,
    id: i64,
    supplier: Option<&str>,
) -> Result<(), ApiError> {
    type Row = (String, String, String, i64, String);
    let found: Option<Row> = tx
        .query_row(
            "SELECT device, template, instance, life, status FROM alarm WHERE id = ?1 AND (?2 IS NULL OR supplier = ?2)",
            params![id, supplier],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
        )
        .optional()?;
    let missing = || ApiError::not_found(format!("alarm {id}"));
    let (device, name, instance, life, status) = found.ok_or_else(missing)?;
    match status.as_str() {
        "acknowledged" => return Ok(()),
        "firing" => {}
        status => {
            let text = format!("alarm {id} is {status}; one that fires can be acknowledged");
            return Err(ApiError::conflict("bad-state", text));
        }
    }
    let rules = rules::rules(tx)?;
    let track = judge::load(tx, &device, &name, &instance)?;
    let (Some(template), Some(track)) = (rules.template(&name), track) else {
        return Err(missing());
    };
    if i64::try_from(track.life()) != Ok(life) {
        return Err(missing());
    }
    let device = Device::read(tx, &device)?.ok_or_else(missing)?;
    let case = Case {
        tx,
        rules: &rules,
        device,
        now: now_ms(),
    };
    judge::change(&case, template, &instance, Event::Acknowledge)?;
    tx.execute(
        "UPDATE alarm SET acknowledged_by = ?2 WHERE id = ?1",
        params![id, who],
    )?;
    life::event(
        tx,
        id,
        case.now / 1000,
        "acknowledged",
        &format!("by {who}"),
    )?;
    let subject = format!("alarm/{id}");
    Ok(audit(tx, who, "alarm.acknowledge", &subject, &json!({}))?)
}

/// Severities as they are written, for queries.
pub(super) const SEVERITIES: [&str; 3] = ["info", "warning", "critical"];

const _: () = assert!(SEVERITIES.len() == Severity::Critical as usize + 1);
