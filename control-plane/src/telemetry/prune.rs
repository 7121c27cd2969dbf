//! Forgetting: samples that are too old, and the numbers of records that nobody will send again.

use rusqlite::params;

use crate::store::{Store, StoreError};

/// Rows deleted in one transaction, so that devices hardly wait.
const STEP: i64 = 5_000;
/// Records of one log whose numbers are remembered: several times what an outbox holds. One that comes again after that is still
/// known by its time.
const REMEMBERED: i64 = 2_000_000;

/// Deletes samples before `cutoff` (milliseconds since 1970) and record numbers far behind the newest, a little at a time. Gives the
/// number of rows.
///
/// # Errors
/// The database's.
pub async fn prune(store: &Store, cutoff: i64) -> Result<u64, StoreError> {
    let mut deleted = 0;
    let mut place = Some((String::new(), String::new()));
    while let Some((device, key)) = place {
        place = store
            .read::<_, StoreError, _>(move |connection| {
                let mut next = connection.prepare_cached(
                    "SELECT device, key FROM sample WHERE (device, key) > (?1, ?2) ORDER BY device, key LIMIT 1",
                )?;
                let mut rows = next.query(params![device, key])?;
                Ok(match rows.next()? {
                    Some(row) => Some((row.get(0)?, row.get(1)?)),
                    None => None,
                })
            })
            .await?;
        let Some((device, key)) = place.clone() else {
            break;
        };
        deleted += steps(
            store,
            "DELETE FROM sample WHERE device = ?1 AND key = ?2 AND ts IN
            (SELECT ts FROM sample WHERE device = ?1 AND key = ?2 AND ts < ?3 LIMIT ?4)",
            device,
            key,
            cutoff,
        )
        .await?;
    }
    let mut place = Some((String::new(), String::new()));
    while let Some((device, log)) = place {
        let found = store
            .read::<_, StoreError, _>(move |connection| {
                let mut next = connection.prepare_cached(
                    "SELECT device, log, (SELECT max(seq) FROM record m WHERE m.device = r.device AND m.log = r.log)
                     FROM record r WHERE (device, log) > (?1, ?2) ORDER BY device, log LIMIT 1",
                )?;
                let mut rows = next.query(params![device, log])?;
                Ok(match rows.next()? {
                    Some(row) => Some((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?)),
                    None => None,
                })
            })
            .await?;
        let Some((device, log, newest)) = found else {
            break;
        };
        deleted += steps(
            store,
            "DELETE FROM record WHERE device = ?1 AND log = ?2 AND seq IN
            (SELECT seq FROM record WHERE device = ?1 AND log = ?2 AND seq < ?3 LIMIT ?4)",
            device.clone(),
            log.clone(),
            newest.saturating_sub(REMEMBERED),
        )
        .await?;
        place = Some((device, log));
    }
    Ok(deleted)
}

async fn steps(
    store: &Store,
    sql: &'static str,
    first: String,
    second: String,
    below: i64,
) -> Result<u64, StoreError> {
    let mut deleted = 0;
    loop {
        let (first, second) = (first.clone(), second.clone());
        let gone = store
            .write::<_, StoreError, _>(move |tx| {
                Ok(tx
                    .prepare_cached(sql)?
                    .execute(params![first, second, below, STEP])?)
            })
            .await?;
        deleted += gone as u64;
        if i64::try_from(gone).unwrap_or(0) < STEP {
            return Ok(deleted);
        }
    }
}
