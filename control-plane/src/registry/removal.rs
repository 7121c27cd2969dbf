//! Forgetting a device. For everybody it is gone at once; what it sent goes a little at a time, since millions of rows in one
//! transaction would keep every other device waiting. What is left to do is in the database, and goes on after kill -9.

use rusqlite::{Connection, OptionalExtension, Transaction};

use crate::store::{Store, StoreError};

/// Rows of a table deleted in one transaction.
pub(super) const STEP: usize = 5_000;

/// Forgets a device and everything that it sent. `false` if there is none of this id. Then call
/// [`crate::sessions::Sessions::close`]; [`forget_removed`] deletes what isn't gone with this. Until then its id isn't given again.
///
/// # Errors
/// The database's.
pub fn remove(transaction: &Transaction<'_>, id: &str) -> Result<bool, StoreError> {
    let found = transaction
        .prepare_cached("DELETE FROM device WHERE id = ?1")?
        .execute([id])?;
    if found > 0 {
        transaction
            .prepare_cached("INSERT OR IGNORE INTO removed (device) VALUES (?1)")?
            .execute([id])?;
        forget(transaction, id)?;
    }
    Ok(found > 0)
}

/// Deletes the rest of what removed devices sent.
///
/// # Errors
/// The database's.
pub async fn forget_removed(store: &Store) -> Result<(), StoreError> {
    while let Some(device) = store.read(removed).await? {
        store.write(move |tx| forget(tx, &device)).await?;
    }
    Ok(())
}

fn removed(connection: &Connection) -> Result<Option<String>, StoreError> {
    Ok(connection
        .prepare_cached("SELECT device FROM removed LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?)
}

/// Deletes a piece; the device isn't remembered any more once there is nothing left.
fn forget(transaction: &Transaction<'_>, device: &str) -> Result<(), StoreError> {
    for sql in [
        "DELETE FROM sample WHERE (device, key, ts) IN
            (SELECT device, key, ts FROM sample WHERE device = ?1 LIMIT ?2)",
        "DELETE FROM record_run WHERE (device, log, first) IN
            (SELECT device, log, first FROM record_run WHERE device = ?1 LIMIT ?2)",
        "DELETE FROM piece WHERE (device, key, day) IN
            (SELECT device, key, day FROM piece WHERE device = ?1 LIMIT ?2)",
        "DELETE FROM window_day WHERE (device, key, width, day) IN
            (SELECT device, key, width, day FROM window_day WHERE device = ?1 LIMIT ?2)",
    ] {
        let gone = transaction
            .prepare_cached(sql)?
            .execute((device, i64::try_from(STEP).unwrap_or(i64::MAX)))?;
        if gone == STEP {
            return Ok(());
        }
    }
    transaction
        .prepare_cached("DELETE FROM removed WHERE device = ?1")?
        .execute([device])?;
    Ok(())
}
