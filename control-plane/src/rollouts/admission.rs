//! Which devices get a slot. A rollout's start touches no device: each gets its slot when it is there, as it connects, polls,
//! or is found by a sweep over the connected ones.
//!
//! One rollout owns a device at a time. A newer one gets it once the older one has an outcome for it, or has halted and taken its
//! order back; and a device that a newer one had is never given back to an older one, which notes it as superseded.

use cairn_rollout::{DeviceEvent, DeviceState, Event, Selector, admit};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Transaction, params_from_iter};

use super::sql::{self, Stored};
use crate::store::StoreError;

/// The selector as SQL over `device d`, and its parameters.
fn condition(selector: &Selector, rollout: i64) -> (String, Vec<Value>) {
    match selector {
        Selector::All => ("1".into(), Vec::new()),
        Selector::Group(group) => ("d.grp = ?".into(), vec![group.clone().into()]),
        Selector::Tags(tags) => {
            let one = "EXISTS (SELECT 1 FROM device_tag t WHERE t.device = d.id AND t.tag = ?)";
            (
                vec![one; tags.len().max(1)].join(" AND "),
                tags.iter().cloned().map(Value::from).collect(),
            )
        }
        // The list itself lies in its table.
        Selector::Devices(_) => (
            "EXISTS (SELECT 1 FROM rollout_device r WHERE r.rollout = ? AND r.device = d.id)"
                .into(),
            vec![rollout.into()],
        ),
    }
}

/// How many devices a rollout is for. One statement.
pub(super) fn count(
    connection: &Connection,
    selector: &Selector,
    rollout: i64,
) -> Result<u64, StoreError> {
    let (condition, parameters) = condition(selector, rollout);
    let sql = match selector {
        // From the short list to the devices, not the other way.
        Selector::Devices(_) => {
            "SELECT count(*) FROM rollout_device r JOIN device d ON d.id = r.device
             WHERE d.revoked IS NULL AND r.rollout = ?"
                .to_owned()
        }
        _ => format!("SELECT count(*) FROM device d WHERE d.revoked IS NULL AND {condition}"),
    };
    let mut query = connection.prepare_cached(&sql)?;
    Ok(query.query_row(params_from_iter(parameters), |row| sql::unsigned(row, 0))?)
}

/// Among which devices to look.
pub(super) enum Among<'a> {
    /// The connected ones.
    Online,
    /// This one.
    Device(&'a str),
}

/// A device that may get a slot in a rollout.
pub(super) struct Candidate {
    pub(super) device: String,
    superseded: bool,
}

/// Devices that match and have no slot in this rollout, and that no other one owns. Those that came after its start don't count:
/// the waves are over the devices of then.
pub(super) fn candidates(
    connection: &Connection,
    stored: &Stored,
    selector: &Selector,
    among: &Among<'_>,
    limit: u64,
) -> Result<Vec<Candidate>, StoreError> {
    let (condition, mut parameters) = condition(selector, stored.id);
    let among = match among {
        Among::Online => "d.online = 1",
        Among::Device(device) => {
            parameters.insert(0, Value::from((*device).to_owned()));
            "d.id = ?"
        }
    };
    let rollout = stored.id;
    parameters.push(stored.rollout.started.unwrap_or(i64::MAX).into());
    parameters.push(i64::try_from(limit).unwrap_or(i64::MAX).into());
    let mut query = connection.prepare_cached(&format!(
        "SELECT d.id, EXISTS (SELECT 1 FROM assignment a WHERE a.device = d.id AND a.rollout > {rollout}
                              AND a.state NOT IN ('withdrawn', 'superseded')) AS newer
         FROM device d WHERE {among} AND {condition} AND d.revoked IS NULL AND d.created <= ?
           AND NOT EXISTS (SELECT 1 FROM assignment a WHERE a.rollout = {rollout} AND a.device = d.id)
           AND (newer OR NOT EXISTS (SELECT 1 FROM assignment a WHERE a.device = d.id AND a.open AND NOT (a.state = 'held' AND a.rollout < {rollout}))) LIMIT ?"
    ))?;
    let rows = query.query_map(params_from_iter(parameters), |row| {
        Ok(Candidate {
            device: row.get(0)?,
            superseded: row.get(1)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Held devices of a rollout that are connected.
pub(super) fn held(
    connection: &Connection,
    rollout: i64,
    limit: usize,
) -> Result<Vec<String>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT a.device FROM assignment a JOIN device d ON d.id = a.device
         WHERE a.rollout = ?1 AND a.state = 'held' AND d.online = 1 AND d.revoked IS NULL LIMIT ?2",
    )?;
    let rows = query.query_map((rollout, i64::try_from(limit).unwrap_or(i64::MAX)), |row| {
        row.get(0)
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Those of the devices that [`arrive`] may have something for.
pub(super) fn wanted(
    connection: &Connection,
    devices: Vec<String>,
    now: i64,
) -> Result<Vec<String>, StoreError> {
    let mut giving = Vec::new();
    let mut holding = false;
    for stored in sql::running(connection)? {
        holding |= stored.rollout.counts.of(DeviceState::Held) > 0;
        if admit(&stored.rollout, now) > 0 {
            let selector = sql::selector(connection, stored.id)?;
            giving.push((stored, selector));
        }
    }
    let mut held = connection
        .prepare_cached("SELECT 1 FROM assignment WHERE device = ?1 AND state = 'held'")?;
    let mut wanted = Vec::new();
    for device in devices {
        let mut found = holding && held.exists([&device])?;
        for (stored, selector) in &giving {
            found = found
                || !candidates(connection, stored, selector, &Among::Device(&device), 1)?
                    .is_empty();
        }
        if found {
            wanted.push(device);
        }
    }
    Ok(wanted)
}

/// These devices are there: each gets a slot where there is one for it, the newest rollout first. Gives the number of orders given.
pub(super) fn arrive(
    tx: &Transaction<'_>,
    devices: &[String],
    now: i64,
) -> Result<usize, StoreError> {
    let mut running = Vec::new();
    for stored in sql::running(tx)? {
        let selector = sql::selector(tx, stored.id)?;
        running.push((stored, selector, false));
    }
    let (mut orders, mut taken) = (0, Vec::new());
    for device in devices {
        if comes_back(tx, &mut running, device, now)? {
            orders += 1;
            continue;
        }
        for (stored, selector, changed) in &mut running {
            if admit(&stored.rollout, now) == 0 {
                continue;
            }
            let found = candidates(tx, stored, selector, &Among::Device(device), 1)?;
            let Some(candidate) = found.first() else {
                continue;
            };
            let event = if candidate.superseded {
                Event::Supersede
            } else {
                Event::Admit
            };
            orders += usize::from(!candidate.superseded);
            let _ = stored.take(tx, Some(device), event, now)?;
            *changed = true;
            taken.push((stored.id, device));
        }
    }
    for (stored, _, _) in running.iter().filter(|(_, _, changed)| *changed) {
        stored.save(tx)?;
    }
    for (rollout, device) in taken {
        let_go(tx, device, rollout, now)?;
    }
    Ok(orders)
}

/// Older rollouts that had halted and hold the device give it up.
fn let_go(tx: &Transaction<'_>, device: &str, to: i64, now: i64) -> Result<(), StoreError> {
    let older: Vec<i64> = tx
        .prepare_cached(
            "SELECT rollout FROM assignment WHERE device = ?1 AND state = 'held' AND rollout < ?2",
        )?
        .query_map((device, to), |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for id in older {
        if let (Some(mut stored), Some(before)) =
            (sql::load(tx, id)?, sql::assignment(tx, id, device)?)
        {
            stored.device(tx, device, &before, DeviceEvent::TakenOver, now)?;
            stored.save(tx)?;
        }
    }
    Ok(())
}

fn comes_back(
    tx: &Transaction<'_>,
    running: &mut [(Stored, Selector, bool)],
    device: &str,
    now: i64,
) -> Result<bool, StoreError> {
    let held: Option<i64> = tx
        .prepare_cached("SELECT rollout FROM assignment WHERE device = ?1 AND state = 'held' ORDER BY rollout DESC")?
        .query_row([device], |row| row.get(0))
        .optional()?;
    let Some((stored, _, changed)) =
        held.and_then(|id| running.iter_mut().find(|(stored, _, _)| stored.id == id))
    else {
        return Ok(false);
    };
    let Some(before) = sql::assignment(tx, stored.id, device)? else {
        return Ok(false);
    };
    if !stored.rollout.plan.open_at(now) {
        return Ok(false);
    }
    stored.device(tx, device, &before, DeviceEvent::Return, now)?;
    *changed = true;
    Ok(true)
}
