//! What each device shall be: the revision, the order, and who has been told.

use cairn_wire::Desired;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::sql;
use crate::store::StoreError;

/// An order's id.
pub(super) fn id(tag: &str, attempt: u32) -> String {
    format!("{tag}.{attempt}")
}

/// The rollout's tag and the attempt in an order's id.
pub(super) fn parts(id: &str) -> Option<(&str, u32)> {
    let (tag, attempt) = id.rsplit_once('.')?;
    Some((tag, attempt.parse().ok()?))
}

/// A revision that was never given out: one more, or the time, if that is more.
const NEXT: &str = "max(desired.revision + 1, ?2)";

/// Gives a device an order. Nothing happens to a device that is gone.
pub(super) fn give(
    tx: &Transaction<'_>,
    device: &str,
    rollout: i64,
    attempt: u32,
    now: i64,
) -> Result<(), StoreError> {
    tx.prepare_cached(&format!(
        "INSERT INTO desired (device, revision, rollout, attempt) SELECT id, ?2, ?3, ?4 FROM device WHERE id = ?1
         ON CONFLICT (device) DO UPDATE SET revision = {NEXT}, rollout = excluded.rollout, attempt = excluded.attempt"
    ))?
    .execute(params![device, now, rollout, attempt])?;
    publish(tx, device, now)
}

/// Takes a rollout's order back from a device, if it is this rollout's that it has.
pub(super) fn take_back(
    tx: &Transaction<'_>,
    device: &str,
    rollout: i64,
    now: i64,
) -> Result<(), StoreError> {
    tx.prepare_cached(&format!(
        "UPDATE desired SET revision = {NEXT}, rollout = NULL WHERE device = ?1 AND rollout = ?3"
    ))?
    .execute(params![device, now, rollout])?;
    publish(tx, device, now)
}

/// Takes a rollout's orders back from all devices that are not armed. Three statements, however many devices.
pub(super) fn take_back_unarmed(
    tx: &Transaction<'_>,
    rollout: i64,
    now: i64,
) -> Result<(), StoreError> {
    tx.execute(
        &format!(
            "UPDATE desired SET revision = {NEXT}, rollout = NULL WHERE rollout = ?1 AND device IN
                 (SELECT device FROM assignment WHERE rollout = ?1
                  AND (state IN ('held', 'withdrawn') OR (state = 'expired' AND armed = 0)))"
        ),
        params![rollout, now],
    )?;
    // Every row that was changed is untold now.
    tx.execute(
        "INSERT INTO attribute (device, scope, key, value, updated)
         SELECT device, 'shared', ?1, CAST(revision AS TEXT), ?2 FROM desired WHERE told < revision
         ON CONFLICT (device, scope, key) DO UPDATE SET value = excluded.value, updated = excluded.updated",
        params![cairn_wire::desired::ATTRIBUTE, now],
    )?;
    Ok(())
}

/// The shared attribute, so that a device that asks for its attributes hears of it.
fn publish(tx: &Transaction<'_>, device: &str, now: i64) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO attribute (device, scope, key, value, updated)
         SELECT device, 'shared', ?2, CAST(revision AS TEXT), ?3 FROM desired WHERE device = ?1
         ON CONFLICT (device, scope, key) DO UPDATE SET value = excluded.value, updated = excluded.updated",
    )?
    .execute(params![device, cairn_wire::desired::ATTRIBUTE, now])?;
    Ok(())
}

/// Whether the device's order is this rollout's.
pub(super) fn owns(
    connection: &Connection,
    device: &str,
    rollout: i64,
) -> Result<bool, StoreError> {
    let mut query =
        connection.prepare_cached("SELECT 1 FROM desired WHERE device = ?1 AND rollout = ?2")?;
    Ok(query.exists(params![device, rollout])?)
}

/// What a device shall be.
pub(super) fn desired(connection: &Connection, device: &str) -> Result<Desired, StoreError> {
    let mut query = connection
        .prepare_cached("SELECT revision, rollout, attempt FROM desired WHERE device = ?1")?;
    let row = query
        .query_row([device], |row| {
            Ok((
                sql::unsigned(row, 0)?,
                row.get::<_, Option<i64>>(1)?,
                row.get::<_, u32>(2)?,
            ))
        })
        .optional()?;
    let Some((revision, rollout, attempt)) = row else {
        return Ok(Desired::default());
    };
    let release = match rollout {
        Some(rollout) => sql::template(connection, rollout)?,
        None => None,
    };
    let release = release.map(|(tag, template)| cairn_wire::ReleaseOrder {
        id: id(&tag, attempt),
        ..template
    });
    Ok(Desired {
        revision,
        release,
        workloads: None,
    })
}

/// Devices that haven't been told of their last revision.
pub(super) fn untold(
    connection: &Connection,
    limit: usize,
) -> Result<Vec<(String, u64)>, StoreError> {
    let mut query = connection
        .prepare_cached("SELECT device, revision FROM desired WHERE told < revision LIMIT ?1")?;
    let rows = query.query_map([i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
        Ok((row.get(0)?, sql::unsigned(row, 1)?))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Notes that a device was told.
pub(super) fn told(tx: &Transaction<'_>, device: &str, revision: u64) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE desired SET told = max(told, ?2) WHERE device = ?1")?
        .execute(params![device, i64::try_from(revision).unwrap_or(i64::MAX)])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_id_leads_back_to_its_rollout() {
        assert_eq!(parts(&id("r7-0a1b2c3d", 3)), Some(("r7-0a1b2c3d", 3)));
        assert_eq!(parts("fw-0123456789abcdef"), None);
        assert_eq!(parts("r7.x"), None);
    }
}
