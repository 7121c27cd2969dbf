//! The registry: devices, what is known of them, and what they prove themselves with.
//!
//! Functions over a connection or a transaction, so that a change and its line in the audit log are one. After a change of shared
//! attributes, or a revocation, tell [`crate::sessions::Sessions`].
//!
//! | Module | Owns |
//! |---|---|
//! | [`attributes`] | client, shared and server attributes |
//! | [`enrolment`] | one-time tokens, enrolment, renewal |
//! | [`credentials`] | who a connection is: certificate, access token, basic |
//! | [`profiles`] | ThingsBoard's provisioning profiles |
//! | [`packages`] | packages that are served in chunks |
//! | `removal` | forgetting a device |

pub mod attributes;
pub mod credentials;
mod device_id;
pub mod enrolment;
pub mod packages;
pub mod profiles;
mod removal;

use cairn_wire::Object;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::Serialize;
use sha2::Digest;

pub use device_id::{DeviceId, IdError, is_label};
pub use removal::{forget_removed, remove};

use crate::alarms;
use crate::ca::now;
use crate::store::StoreError;

/// A device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Device {
    /// Its id, for ever.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Its group.
    pub group: String,
    /// Its tags, sorted.
    pub tags: Vec<String>,
    /// Seconds since 1970.
    pub created: i64,
    /// What it said of itself when it enrolled.
    pub facts: Object,
    /// Whose it is; none: the operator's own.
    pub supplier: Option<String>,
    /// Since when it is shut out.
    pub revoked: Option<i64>,
    /// Since when it shall run no workloads.
    pub drained: Option<i64>,
    /// When it last sent something.
    pub last_seen: Option<i64>,
    /// Whether it is connected, as far as the database knows; [`crate::sessions::Sessions::online`] knows better.
    pub online: bool,
}

/// Which devices.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this group.
    pub group: Option<String>,
    /// With this tag.
    pub tag: Option<String>,
    /// Connected, or not.
    pub online: Option<bool>,
    /// With an id above this one: the last of the page before.
    pub after: Option<String>,
    /// At most so many; 0 means [`PAGE`].
    pub limit: usize,
}

/// Longest list that is given at once.
pub const PAGE: usize = 1000;

/// What to change of a device.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// A new name.
    pub name: Option<String>,
    /// A new group.
    pub group: Option<String>,
    /// A new supplier; the inner `None`: the operator himself.
    pub supplier: Option<Option<String>>,
    /// Whether it shall run no workloads.
    pub drained: Option<bool>,
    /// Tags to add.
    pub add_tags: Vec<String>,
    /// Tags to take away.
    pub remove_tags: Vec<String>,
}

const COLUMNS: &str = "id, name, grp, created, facts, revoked, last_seen, online,
    (SELECT json_group_array(tag) FROM (SELECT tag FROM device_tag WHERE device = device.id ORDER BY tag)), supplier, drained";

fn read(row: &Row<'_>) -> rusqlite::Result<Device> {
    let facts: String = row.get(4)?;
    let tags: String = row.get(8)?;
    Ok(Device {
        id: row.get(0)?,
        name: row.get(1)?,
        group: row.get(2)?,
        created: row.get(3)?,
        facts: serde_json::from_str(&facts).unwrap_or_default(),
        revoked: row.get(5)?,
        last_seen: row.get(6)?,
        online: row.get(7)?,
        tags: serde_json::from_str(&tags).unwrap_or_default(),
        supplier: row.get(9)?,
        drained: row.get(10)?,
    })
}

/// Devices in the order of their ids.
///
/// # Errors
/// The database's.
pub fn list(connection: &Connection, filter: &Filter) -> Result<Vec<Device>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM device
         WHERE id > ?1 AND (?2 IS NULL OR grp = ?2) AND (?3 IS NULL OR online = ?3)
           AND (?4 IS NULL OR EXISTS (SELECT 1 FROM device_tag t WHERE t.device = device.id AND t.tag = ?4))
         ORDER BY id LIMIT ?5"
    );
    let limit = if filter.limit == 0 {
        PAGE
    } else {
        filter.limit.min(PAGE)
    };
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(
        params![
            filter.after.as_deref().unwrap_or(""),
            filter.group,
            filter.online,
            filter.tag,
            i64::try_from(limit).unwrap_or(i64::MAX)
        ],
        read,
    )?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// How many devices there are.
///
/// # Errors
/// The database's.
pub fn count(connection: &Connection) -> Result<u64, StoreError> {
    let count: i64 = connection
        .prepare_cached("SELECT count(*) FROM device")?
        .query_row([], |row| row.get(0))?;
    Ok(count.unsigned_abs())
}

/// One device; `None` if there is none of this id.
///
/// # Errors
/// The database's.
pub fn get(connection: &Connection, id: &str) -> Result<Option<Device>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM device WHERE id = ?1");
    Ok(connection
        .prepare_cached(&sql)?
        .query_row([id], read)
        .optional()?)
}

/// Whether there is a device of this id.
///
/// # Errors
/// The database's.
pub fn exists(connection: &Connection, id: &str) -> Result<bool, StoreError> {
    Ok(connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM device WHERE id = ?1)")?
        .query_row([id], |row| row.get(0))?)
}

/// Changes a device and gives it back; `None` if there is none of this id. Check names with [`is_label`] before.
///
/// # Errors
/// The database's.
pub fn set(
    transaction: &Transaction<'_>,
    id: &str,
    change: &Change,
) -> Result<Option<Device>, StoreError> {
    let found = transaction
        .prepare_cached(
            "UPDATE device SET name = coalesce(?2, name), grp = coalesce(?3, grp) WHERE id = ?1",
        )?
        .execute(params![id, change.name, change.group])?;
    if found == 0 {
        return Ok(None);
    }
    if let Some(supplier) = &change.supplier {
        transaction
            .prepare_cached(
                "UPDATE device SET supplier = ?2, supplier_since = ?3 WHERE id = ?1 AND supplier IS NOT ?2",
            )?
            .execute(params![id, supplier, now()])?;
    }
    if let Some(drained) = change.drained {
        transaction
            .prepare_cached(
                "UPDATE device SET drained = CASE WHEN ?2 THEN coalesce(drained, ?3) END WHERE id = ?1",
            )?
            .execute(params![id, drained, now()])?;
    }
    tag(transaction, id, &change.add_tags)?;
    for tag in &change.remove_tags {
        transaction
            .prepare_cached("DELETE FROM device_tag WHERE device = ?1 AND tag = ?2")?
            .execute(params![id, tag])?;
    }
    alarms::device_changed(transaction, id)?;
    get(transaction, id)
}

fn tag(transaction: &Transaction<'_>, id: &str, tags: &[String]) -> Result<(), StoreError> {
    for tag in tags {
        transaction
            .prepare_cached("INSERT OR IGNORE INTO device_tag (device, tag) VALUES (?1, ?2)")?
            .execute(params![id, tag])?;
    }
    Ok(())
}

/// Shuts a device out for good: its certificates, its key and all other credentials. `false` if there is none of this id. Then call
/// [`crate::sessions::Sessions::close`].
///
/// # Errors
/// The database's.
pub fn revoke(transaction: &Transaction<'_>, id: &str) -> Result<bool, StoreError> {
    let now = now();
    let found = transaction
        .prepare_cached("UPDATE device SET revoked = coalesce(revoked, ?2) WHERE id = ?1")?
        .execute(params![id, now])?;
    transaction
        .prepare_cached(
            "UPDATE certificate SET revoked = ?2 WHERE device = ?1 AND revoked IS NULL",
        )?
        .execute(params![id, now])?;
    transaction
        .prepare_cached("DELETE FROM credential WHERE device = ?1")?
        .execute([id])?;
    alarms::device_changed(transaction, id)?;
    Ok(found > 0)
}

/// Notes that devices were seen, and whether they are connected.
///
/// # Errors
/// The database's.
pub fn seen(transaction: &Transaction<'_>, id: &str, online: bool) -> Result<(), StoreError> {
    transaction
        .prepare_cached("UPDATE device SET last_seen = ?2, online = ?3 WHERE id = ?1")?
        .execute(params![id, now(), online])?;
    alarms::seen(transaction, id)
}

/// At the start nobody is connected. Gives those who were.
///
/// # Errors
/// The database's.
pub fn all_offline(transaction: &Transaction<'_>) -> Result<Vec<String>, StoreError> {
    let mut change =
        transaction.prepare_cached("UPDATE device SET online = 0 WHERE online RETURNING id")?;
    let gone = change.query_map([], |row| row.get(0))?;
    Ok(gone.collect::<Result<_, _>>()?)
}

/// SHA-256 in hex: how tokens lie in the database.
pub fn digest(secret: &[u8]) -> String {
    hex::encode(sha2::Sha256::digest(secret))
}

#[cfg(test)]
mod tests;
