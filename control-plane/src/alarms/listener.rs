//! Which samples matter: listens while telemetry is stored, and judges at the end of the same transaction. A sample that is well, of
//! something that was well, costs a comparison of its key and one look into an index.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use cairn_alarm::{Event, Track, Verdict};
use rusqlite::Transaction;
use serde_json::Value;

use super::case::Case;
use super::device::Device;
use super::judge;
use super::rules::{self, Rules};
use crate::store::StoreError;
use crate::telemetry::Series as _;

/// Instances that a device may have of one template.
const MANY: i64 = 256;
/// Longest text of a value that is kept with an alarm, in characters.
const SHOWN: usize = 200;

/// Hears the samples of one device.
pub struct Listener {
    rules: Arc<Rules>,
    found: Vec<Found>,
}

/// A sample that a template looks at.
struct Found {
    template: usize,
    instance: String,
    key: String,
    ts: i64,
    verdict: Verdict,
    /// What is wrong, for people.
    value: Option<Value>,
}

/// A track as it was, and as it is.
struct Kept {
    before: Option<Track>,
    after: Track,
}

impl Listener {
    /// With the rules in force.
    ///
    /// # Errors
    /// The database's.
    pub fn new(tx: &Transaction<'_>) -> Result<Self, StoreError> {
        Ok(Self {
            rules: rules::rules(tx)?,
            found: Vec::new(),
        })
    }

    /// A sample is stored at this time (milliseconds since 1970).
    pub fn sample(&mut self, key: &str, ts: i64, value: &Value) {
        for (at, template) in self.rules.templates.iter().enumerate() {
            let Some(instance) = template
                .key
                .as_ref()
                .and_then(|pattern| pattern.instance(key))
            else {
                continue;
            };
            if let Some(verdict) = template.when.judge(value) {
                self.found.push(Found {
                    template: at,
                    instance: instance.to_owned(),
                    key: key.to_owned(),
                    ts,
                    verdict,
                    value: (verdict == Verdict::Crosses).then(|| shown(value)),
                });
            }
        }
    }

    /// All samples are stored: judges what they mean.
    ///
    /// # Errors
    /// The database's.
    pub fn finish(self, tx: &Transaction<'_>, device: &str, now: i64) -> Result<(), StoreError> {
        if self.found.is_empty() {
            return Ok(());
        }
        let Self { rules, found } = self;
        let open = judge::open(tx, device)?;
        let mut times: HashMap<&str, BTreeSet<i64>> = HashMap::new();
        for one in &found {
            times.entry(one.key.as_str()).or_default().insert(one.ts);
        }
        let mut case: Option<Case<'_>> = None;
        let mut kept: HashMap<(usize, &str), Kept> = HashMap::new();
        let mut ignored: HashSet<(usize, &str)> = HashSet::new();
        // Of each key, the newest of what was there before.
        let mut before: HashMap<&str, Option<i64>> = HashMap::new();
        for one in &found {
            let Some(template) = rules.templates.get(one.template) else {
                continue;
            };
            let place = (one.template, one.instance.as_str());
            let waits = template.when.waits();
            let known = kept.contains_key(&place)
                || open.contains(&(template.name.clone(), one.instance.clone()));
            if ignored.contains(&place) || (!known && !waits && one.verdict != Verdict::Crosses) {
                continue;
            }
            if case.is_none() {
                case = Device::read(tx, device)?.map(|device| Case {
                    tx,
                    rules: &rules,
                    device,
                    now,
                });
            }
            let Some(case) = &case else {
                return Ok(());
            };
            let track = match kept.entry(place) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    let before = judge::load(tx, device, &template.name, &one.instance)?;
                    let new = before.is_none();
                    if (new || !known)
                        && (!case.selects(template)
                            || (waits && !new)
                            || (new && full(tx, device, &template.name)?))
                    {
                        ignored.insert(place);
                        continue;
                    }
                    if new {
                        // Counted from now on.
                        tx.prepare_cached("INSERT INTO alarm_track (device, template, instance) VALUES (?1, ?2, ?3)")?
                            .execute((device, &template.name, &one.instance))?;
                    }
                    entry.insert(Kept {
                        after: before.clone().unwrap_or_default(),
                        before,
                    })
                }
            };
            let event = if waits {
                Event::Heard(one.ts.min(now))
            } else {
                if track.after.status().is_none() && one.verdict == Verdict::Crosses {
                    let key = one.key.as_str();
                    let newest = match before.entry(key) {
                        Entry::Occupied(known) => *known.get(),
                        Entry::Vacant(new) => {
                            let times = times.remove(key).unwrap_or_default();
                            *new.insert(tx.newest_but(device, key, &times)?)
                        }
                    };
                    // Late: it says nothing about now.
                    if newest > Some(one.ts) {
                        continue;
                    }
                }
                Event::Sample {
                    ts: one.ts,
                    verdict: one.verdict,
                }
            };
            track.after = case.take(
                template,
                &one.instance,
                &track.after,
                event,
                one.value.as_ref(),
            )?;
        }
        for ((at, instance), track) in kept {
            if let Some(template) = rules.templates.get(at)
                && track.before.as_ref() != Some(&track.after)
            {
                judge::save(tx, device, &template.name, instance, &track.after)?;
            }
        }
        Ok(())
    }
}

/// Bounded: a device chose how long it is.
fn shown(value: &Value) -> Value {
    match value {
        Value::String(text) => text
            .chars()
            .filter(|c| !c.is_control())
            .take(SHOWN)
            .collect::<String>()
            .into(),
        Value::Array(_) | Value::Object(_) => Value::Null,
        value => value.clone(),
    }
}

/// Whether a device has as many instances as it may: it could make up any number. What is over gives way.
fn full(tx: &Transaction<'_>, device: &str, template: &str) -> Result<bool, StoreError> {
    let count = || -> Result<i64, StoreError> {
        let mut query = tx.prepare_cached(
            "SELECT count(*) FROM alarm_track WHERE device = ?1 AND template = ?2",
        )?;
        Ok(query.query_row((device, template), |row| row.get(0))?)
    };
    if count()? < MANY {
        return Ok(false);
    }
    tx.prepare_cached(
        "DELETE FROM alarm_track WHERE device = ?1 AND template = ?2 AND NOT open AND due IS NULL AND state IS NOT NULL",
    )?
    .execute((device, template))?;
    let full = count()? >= MANY;
    if full {
        tracing::debug!(
            device,
            template,
            "too many instances; this one raises no alarm"
        );
    }
    Ok(full)
}
