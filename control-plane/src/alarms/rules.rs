//! Templates, silences and channels as the judges need them. They are remembered by their tag, which is read each time: so they are
//! right within the transaction that changes them, after one that was undone, and when another process has changed them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use cairn_alarm::{Severity, Silence, Template};
use rusqlite::{Connection, Transaction};

use super::channel::Channel;
use super::device::Device;
use super::readable;
use crate::store::StoreError;

/// What is in force.
pub(super) struct Rules {
    tag: Vec<u8>,
    /// Those in use, by name.
    pub(super) templates: Vec<Template>,
    silences: Vec<Silence>,
    channels: Vec<Route>,
}

/// A channel, as far as it matters whom it tells.
struct Route {
    name: String,
    supplier: Option<String>,
    least: Severity,
}

thread_local! {
    static REMEMBERED: RefCell<Option<Arc<Rules>>> = const { RefCell::new(None) };
}

/// The rules in force.
pub(super) fn rules(connection: &Connection) -> Result<Arc<Rules>, StoreError> {
    let known = REMEMBERED.with_borrow(Clone::clone);
    let mut query = connection.prepare_cached("SELECT tag FROM alarm_rules")?;
    let tag = query.query_row([], |row| {
        let tag = row.get_ref(0)?.as_blob()?;
        Ok(known
            .as_ref()
            .is_none_or(|known| known.tag != tag)
            .then(|| tag.to_owned()))
    })?;
    match (tag, known) {
        (None, Some(known)) => Ok(known),
        (tag, _) => {
            let read = Arc::new(read(connection, tag.unwrap_or_default())?);
            REMEMBERED.set(Some(Arc::clone(&read)));
            Ok(read)
        }
    }
}

/// Says that rules have changed; in the transaction that changes them.
pub(super) fn changed(tx: &Transaction<'_>) -> Result<(), StoreError> {
    tx.execute("UPDATE alarm_rules SET tag = randomblob(16)", [])?;
    Ok(())
}

fn read(connection: &Connection, tag: Vec<u8>) -> Result<Rules, StoreError> {
    fn all<T: serde::de::DeserializeOwned>(
        connection: &Connection,
        what: &str,
        sql: &str,
    ) -> Result<Vec<T>, StoreError> {
        let mut query = connection.prepare(sql)?;
        let rows = query.query_map([], |row| Ok(readable(what, row.get_ref(0)?.as_str()?)))?;
        let read: Vec<Option<T>> = rows.collect::<Result<_, _>>()?;
        Ok(read.into_iter().flatten().collect())
    }
    let mut templates: Vec<Template> = all(
        connection,
        "a template",
        "SELECT rule FROM alarm_template ORDER BY name",
    )?;
    templates.retain(|template| template.enabled);
    let channels: Vec<Channel> = all(
        connection,
        "a channel",
        "SELECT settings FROM alarm_channel ORDER BY name",
    )?;
    Ok(Rules {
        tag,
        templates,
        silences: all(
            connection,
            "a silence",
            "SELECT rule FROM alarm_silence ORDER BY id",
        )?,
        channels: channels
            .into_iter()
            .filter(|channel| channel.enabled)
            .map(|channel| Route {
                name: channel.name,
                supplier: channel.supplier,
                least: channel.severity,
            })
            .collect(),
    })
}

impl Rules {
    /// A template that is in use.
    pub(super) fn template(&self, name: &str) -> Option<&Template> {
        let at = self
            .templates
            .binary_search_by(|template| template.name.as_str().cmp(name))
            .ok()?;
        self.templates.get(at)
    }

    /// Until when nobody is to be told, if that is so now.
    pub(super) fn silenced(&self, template: &str, device: &Device, now: i64) -> Option<i64> {
        self.silences
            .iter()
            .filter_map(|silence| {
                silence.covers(template, &device.id, &device.group, &device.tags, now)
            })
            .max()
    }

    /// Channels that hear of an alarm at this step of its escalation: the template's of the operator's, and all of the supplier's.
    pub(super) fn channels(
        &self,
        template: &Template,
        device: &Device,
        level: usize,
    ) -> BTreeSet<&str> {
        let severity = template.severity_at(level);
        let added = template.channels_at(level);
        self.channels
            .iter()
            .filter(|channel| channel.least <= severity)
            .filter(|channel| match &channel.supplier {
                Some(supplier) => device.supplier.as_ref() == Some(supplier),
                None => {
                    template
                        .channels
                        .as_ref()
                        .is_none_or(|named| named.contains(&channel.name))
                        || added.contains(channel.name.as_str())
                }
            })
            .map(|channel| channel.name.as_str())
            .collect()
    }
}
