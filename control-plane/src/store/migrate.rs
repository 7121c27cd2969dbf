//! The schema: numbered steps, each a file, run once and in order.

use std::path::Path;

use rusqlite::Connection;

use super::StoreError;

/// A step is never changed once it is released; a change is a new step.
const STEPS: &[&str] = &[
    include_str!("schema/001-devices.sql"),
    include_str!("schema/002-telemetry.sql"),
    include_str!("schema/003-people.sql"),
    include_str!("schema/004-releases.sql"),
    include_str!("schema/005-rollouts.sql"),
    include_str!("schema/006-removed.sql"),
    include_str!("schema/007-alarms.sql"),
    include_str!("schema/008-traffic.sql"),
    include_str!("schema/009-workloads.sql"),
    include_str!("schema/011-token-supplier.sql"),
];

pub(super) fn run(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > known {
        return Err(StoreError::Newer {
            path: path.display().to_string(),
            found,
            known,
        });
    }
    for (number, step) in STEPS
        .iter()
        .enumerate()
        .skip(usize::try_from(found).unwrap_or(0))
    {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(
            None,
            "user_version",
            i64::try_from(number + 1).unwrap_or(i64::MAX),
        )?;
        transaction.commit()?;
    }
    Ok(())
}
