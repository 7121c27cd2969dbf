//! What a device shall be, as one document: its revision, and who has been told. What stands in the document is `rollouts`'
//! and `workloads`'; each gives the revisions of what it changes.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::sessions::Sessions;
use crate::store::{Store, StoreError};

/// Devices that are told in one transaction: others' changes wait for it.
const CHUNK: usize = 500;

/// A revision that was never given out: one more, or the time (`?2`), if that is more.
pub const NEXT: &str = "max(desired.revision + 1, ?2)";

/// The document's revision; 0 if nothing was ever wanted of the device.
///
/// # Errors
/// The database's.
pub fn revision(connection: &Connection, device: &str) -> Result<u64, StoreError> {
    let mut query = connection.prepare_cached("SELECT revision FROM desired WHERE device = ?1")?;
    let revision: Option<i64> = query.query_row([device], |row| row.get(0)).optional()?;
    Ok(u64::try_from(revision.unwrap_or(0)).unwrap_or(0))
}

/// Gives a device another revision, the first if it had none. Nothing happens to a device that is gone.
///
/// # Errors
/// The database's.
pub fn renew(tx: &Transaction<'_>, device: &str, now: i64) -> Result<(), StoreError> {
    tx.prepare_cached(&format!(
        "INSERT INTO desired (device, revision) SELECT id, ?2 FROM device WHERE id = ?1
         ON CONFLICT (device) DO UPDATE SET revision = {NEXT}"
    ))?
    .execute(params![device, now])?;
    publish(tx, device, now)
}

/// The shared attribute, so that a device that asks for its attributes hears of it.
///
/// # Errors
/// The database's.
pub fn publish(tx: &Transaction<'_>, device: &str, now: i64) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO attribute (device, scope, key, value, updated)
         SELECT device, 'shared', ?2, CAST(revision AS TEXT), ?3 FROM desired WHERE device = ?1
         ON CONFLICT (device, scope, key) DO UPDATE SET value = excluded.value, updated = excluded.updated",
    )?
    .execute(params![device, cairn_wire::desired::ATTRIBUTE, now])?;
    Ok(())
}

/// The same of all that haven't been told of their last revision.
///
/// # Errors
/// The database's.
pub fn publish_untold(tx: &Transaction<'_>, now: i64) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO attribute (device, scope, key, value, updated)
         SELECT device, 'shared', ?1, CAST(revision AS TEXT), ?2 FROM desired WHERE told < revision
         ON CONFLICT (device, scope, key) DO UPDATE SET value = excluded.value, updated = excluded.updated",
        params![cairn_wire::desired::ATTRIBUTE, now],
    )?;
    Ok(())
}

/// Tells connected devices of their new revisions. The others ask when they connect.
///
/// # Errors
/// The database's.
pub async fn push(store: &Store, sessions: &Sessions) -> Result<(), StoreError> {
    loop {
        let devices = store.read(untold).await?;
        let more = devices.len() == CHUNK;
        if !devices.is_empty() {
            for (device, revision) in &devices {
                sessions.desired_changed(device, u64::try_from(*revision).unwrap_or(0));
            }
            store.write(move |tx| told(tx, &devices)).await?;
        }
        if !more {
            return Ok(());
        }
    }
}

fn untold(connection: &Connection) -> Result<Vec<(String, i64)>, StoreError> {
    let mut query = connection
        .prepare_cached("SELECT device, revision FROM desired WHERE told < revision LIMIT ?1")?;
    let most = i64::try_from(CHUNK).unwrap_or(i64::MAX);
    let rows = query.query_map([most], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn told(tx: &Transaction<'_>, devices: &[(String, i64)]) -> Result<(), StoreError> {
    let mut note =
        tx.prepare_cached("UPDATE desired SET told = max(told, ?2) WHERE device = ?1")?;
    for told in devices {
        note.execute(params![told.0, told.1])?;
    }
    Ok(())
}
