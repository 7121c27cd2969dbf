//! What a device's report does.

use cairn_rollout::DeviceEvent;
use cairn_wire::UpdateReport;
use rusqlite::Transaction;

use super::{admission, order, sql};
use crate::store::StoreError;

/// Takes a report. Late, double and foreign ones do no harm; see `cairn_rollout::device`.
pub(super) fn take(
    tx: &Transaction<'_>,
    device: &str,
    report: &UpdateReport,
    now: i64,
) -> Result<(), StoreError> {
    let Some((tag, attempt)) = order::parts(&report.order) else {
        return Ok(());
    };
    let Some(mut stored) = sql::by_tag(tx, tag)? else {
        return Ok(());
    };
    let Some(before) = sql::assignment(tx, stored.id, device)? else {
        tracing::debug!(device, order = %report.order, "a report about another device's order");
        return Ok(());
    };
    let owned = order::owns(tx, device, stored.id)?;
    let was = stored.rollout.clone();
    let event = DeviceEvent::report(&stored.target, report, attempt, owned);
    stored.device(tx, device, &before, event, now)?;
    if stored.rollout != was {
        stored.save(tx)?;
    }
    // Another rollout may have waited for this device.
    let settled =
        sql::assignment(tx, stored.id, device)?.is_some_and(|after| !after.state.is_open());
    if before.state.is_open() && settled {
        admission::arrive(tx, &[device.to_owned()], now)?;
    }
    Ok(())
}
