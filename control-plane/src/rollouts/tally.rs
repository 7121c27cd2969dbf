//! How many there are, for metrics: from the rollouts' own counts, however many devices they have.

use cairn_rollout::{DeviceState, Status};
use rusqlite::Connection;

use super::sql;
use crate::store::StoreError;

/// Counts by name; every name is there.
#[derive(Debug, PartialEq, Eq)]
pub struct Tally {
    /// Rollouts by status.
    pub rollouts: Vec<(&'static str, i64)>,
    /// Devices by state, over all rollouts that run.
    pub devices: Vec<(&'static str, i64)>,
}

pub(super) fn tally(connection: &Connection) -> Result<Tally, StoreError> {
    let mut count = connection.prepare_cached("SELECT count(*) FROM rollout WHERE status = ?1")?;
    let mut rollouts = Vec::new();
    for status in Status::NAMES {
        rollouts.push((status, count.query_row([status], |row| row.get(0))?));
    }
    let running = sql::running(connection)?;
    let devices = DeviceState::ALL.map(|state| {
        let count: u64 = running
            .iter()
            .map(|stored| stored.rollout.counts.of(state))
            .sum();
        (state.as_str(), i64::try_from(count).unwrap_or(i64::MAX))
    });
    Ok(Tally {
        rollouts,
        devices: devices.to_vec(),
    })
}
