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
    include_str!("schema/010-ingest.sql"),
    include_str!("schema/011-token-supplier.sql"),
    include_str!("schema/012-supplier-since.sql"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_before_are_known_by_runs_and_samples_stay() {
        let mut connection = Connection::open_in_memory().unwrap();
        for step in &STEPS[..9] {
            connection.execute_batch(step).unwrap();
        }
        connection.pragma_update(None, "user_version", 9).unwrap();
        for (log, seq) in [
            ("aa", 1),
            ("aa", 2),
            ("aa", 3),
            ("aa", 7),
            ("aa", 8),
            ("bb", 5),
        ] {
            connection
                .execute("INSERT INTO record VALUES ('x', ?1, ?2)", (log, seq))
                .unwrap();
        }
        connection
            .execute("INSERT INTO sample VALUES ('x', 'k', 5, '1.5')", [])
            .unwrap();
        run(&mut connection, Path::new("cairn.db")).unwrap();
        let mut query = connection
            .prepare("SELECT log, first, last FROM record_run ORDER BY log, first")
            .unwrap();
        let runs = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        let runs: Vec<(String, i64, i64)> = runs.unwrap().collect::<Result<_, _>>().unwrap();
        let run = |log: &str, first, last| (log.to_owned(), first, last);
        assert_eq!(runs, [run("aa", 1, 3), run("aa", 7, 8), run("bb", 5, 5)]);
        let value: String = connection
            .query_row("SELECT value FROM sample", [], |row| row.get(0))
            .unwrap();
        assert_eq!(value, "1.5");
    }
}
