//! Which device has which rollout's order.

use cairn_wire::ReleaseOrder;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::sql;
use crate::desired::{self, NEXT};
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
    desired::publish(tx, device, now)
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
    desired::publish(tx, device, now)
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
    desired::publish_untold(tx, now)
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

/// The release that a device shall run, if a rollout says so.
pub(super) fn release(
    connection: &Connection,
    device: &str,
) -> Result<Option<ReleaseOrder>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT rollout, attempt FROM desired WHERE device = ?1 AND rollout IS NOT NULL",
    )?;
    let row = query
        .query_row([device], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((rollout, attempt)) = row else {
        return Ok(None);
    };
    let template = sql::template(connection, rollout)?;
    Ok(template.map(|(tag, template)| ReleaseOrder {
        id: id(&tag, attempt),
        ..template
    }))
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
