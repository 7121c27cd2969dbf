//! The state machine over the database.

use std::collections::HashSet;

use cairn_alarm::{Condition, Event, Template, Track, step};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde_json::Value;

use super::case::Case;
use super::device::Device;
use super::rules;
use super::{life, readable, to_json};
use crate::store::StoreError;

impl Case<'_> {
    /// Something happened: does what follows but for the track, which the caller saves. An alarm of a device that the template no longer
    /// means is withdrawn, whatever happened.
    pub(super) fn take(
        &self,
        template: &Template,
        instance: &str,
        before: &Track,
        event: Event,
        value: Option<&Value>,
    ) -> Result<Track, StoreError> {
        let silenced = self.rules.silenced(&template.name, &self.device, self.now);
        let event = if before.status().is_some() && !self.selects(template) {
            Event::Withdraw
        } else {
            event
        };
        let (track, effects) = step(template, before, event, self.now, silenced);
        if !effects.is_empty() {
            life::apply(self, template, instance, &track, &effects, value)?;
        }
        Ok(track)
    }
}

/// A device was seen.
pub(super) fn seen(tx: &Transaction<'_>, device: &str, now: i64) -> Result<(), StoreError> {
    let open = open(tx, device)?;
    if open.is_empty() {
        return Ok(());
    }
    let rules = rules::rules(tx)?;
    let Some(device) = Device::read(tx, device)? else {
        return Ok(());
    };
    let case = Case {
        tx,
        rules: &rules,
        device,
        now,
    };
    for (name, instance) in open {
        let Some(template) = rules
            .template(&name)
            .filter(|template| template.when == Condition::Offline)
        else {
            continue;
        };
        change(&case, template, &instance, Event::Heard(now))?;
    }
    Ok(())
}

/// Loads a track, lets something happen to it, and saves it.
pub(super) fn change(
    case: &Case<'_>,
    template: &Template,
    instance: &str,
    event: Event,
) -> Result<(), StoreError> {
    let (tx, device) = (case.tx, case.device.id.as_str());
    let Some(before) = load(tx, device, &template.name, instance)? else {
        return Ok(());
    };
    let after = case.take(template, instance, &before, event, None)?;
    // What was due is no more, also if nothing else has changed.
    save(tx, device, &template.name, instance, &after)
}

/// Templates and instances of which a device has an open life.
pub(super) fn open(
    connection: &Connection,
    device: &str,
) -> Result<HashSet<(String, String)>, StoreError> {
    let mut query = connection
        .prepare_cached("SELECT template, instance FROM alarm_track WHERE device = ?1 AND open")?;
    let rows = query.query_map([device], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A track, if there is one.
pub(super) fn load(
    connection: &Connection,
    device: &str,
    template: &str,
    instance: &str,
) -> Result<Option<Track>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT state FROM alarm_track WHERE device = ?1 AND template = ?2 AND instance = ?3",
    )?;
    let state = query
        .query_row((device, template, instance), |row| {
            row.get::<_, Option<String>>(0)
        })
        .optional()?;
    Ok(state.map(|text| {
        // One that can't be read must not hold up the others.
        text.and_then(|text| readable("a track", &text))
            .unwrap_or_default()
    }))
}

/// Keeps a track.
pub(super) fn save(
    tx: &Transaction<'_>,
    device: &str,
    template: &str,
    instance: &str,
    track: &Track,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO alarm_track (device, template, instance, state, open, due) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO UPDATE SET state = excluded.state, open = excluded.open, due = excluded.due",
    )?
    .execute(params![
        device,
        template,
        instance,
        to_json(track)?,
        track.status().is_some(),
        track.due()
    ])?;
    Ok(())
}
