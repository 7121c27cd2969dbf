//! Which records were taken, by their numbers: a run for each stretch without a hole, so that millions of records are a few rows.

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use crate::store::{Store, StoreError};

/// Runs of one log that are remembered, the newest. A sender that leaves that many holes isn't one of ours; what it sends again from
/// before them is still known by its time.
const MOST: i64 = 10_000;

/// All numbers from `first` to `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: i64,
    last: i64,
}

/// The run that grows, of one log. Records of a log come in their order nearly always: then a number costs no more than a comparison, and
/// many of them one row.
#[derive(Debug, Default)]
pub struct Runs {
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    log: String,
    run: Run,
    /// Whether it is in the database, and up to where.
    written: Option<i64>,
    /// Where the next run begins, if there is one.
    next: Option<i64>,
}

impl Runs {
    /// Notes a number of a log; whether it is there for the first time. Call [`Runs::finish`] before the transaction ends.
    ///
    /// # Errors
    /// The database's.
    pub fn first(
        &mut self,
        tx: &Transaction<'_>,
        device: &str,
        log: &str,
        number: i64,
    ) -> Result<bool, StoreError> {
        if let Some(open) = self.open.as_mut().filter(|open| open.log == log) {
            if (open.run.first..=open.run.last).contains(&number) {
                return Ok(false);
            }
            if open.run.last.checked_add(1) == Some(number)
                && open.next.is_none_or(|next| number < next - 1)
            {
                open.run.last = number;
                return Ok(true);
            }
        }
        self.finish(tx, device)?;
        let before = beside(tx, device, log, number, Side::Before)?;
        if before.is_some_and(|run| number <= run.last) {
            return Ok(false);
        }
        let after = beside(tx, device, log, number, Side::After)?;
        let before = before.filter(|run| run.last + 1 == number);
        let joined = after.filter(|run| run.first - 1 == number);
        if let Some(joined) = joined {
            tx.prepare_cached(
                "DELETE FROM record_run WHERE device = ?1 AND log = ?2 AND first = ?3",
            )?
            .execute(params![device, log, joined.first])?;
        }
        let next = match joined {
            None => after.map(|run| run.first),
            Some(joined) => {
                beside(tx, device, log, joined.first, Side::After)?.map(|run| run.first)
            }
        };
        self.open = Some(Open {
            log: log.to_owned(),
            run: Run {
                first: before.map_or(number, |run| run.first),
                last: joined.map_or(number, |run| run.last),
            },
            written: before.map(|run| run.last),
            next,
        });
        Ok(true)
    }

    /// Writes what isn't in the database yet.
    ///
    /// # Errors
    /// The database's.
    pub fn finish(&mut self, tx: &Transaction<'_>, device: &str) -> Result<(), StoreError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let Run { first, last } = open.run;
        if open.written == Some(last) {
            return Ok(());
        }
        tx.prepare_cached(
            "INSERT INTO record_run (device, log, first, last) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (device, log, first) DO UPDATE SET last = excluded.last",
        )?
        .execute(params![device, open.log, first, last])?;
        Ok(())
    }
}

enum Side {
    /// At the number, or before it.
    Before,
    After,
}

fn beside(
    connection: &Connection,
    device: &str,
    log: &str,
    number: i64,
    side: Side,
) -> Result<Option<Run>, StoreError> {
    let sql = match side {
        Side::Before => {
            "SELECT first, last FROM record_run WHERE device = ?1 AND log = ?2 AND first <= ?3 ORDER BY first DESC LIMIT 1"
        }
        Side::After => {
            "SELECT first, last FROM record_run WHERE device = ?1 AND log = ?2 AND first > ?3 ORDER BY first LIMIT 1"
        }
    };
    Ok(connection
        .prepare_cached(sql)?
        .query_row(params![device, log, number], |row| {
            Ok(Run {
                first: row.get(0)?,
                last: row.get(1)?,
            })
        })
        .optional()?)
}

/// Forgets the oldest runs of logs that have too many; gives how many.
pub(super) async fn forget(store: &Store) -> Result<u64, StoreError> {
    let full = store
        .read::<_, StoreError, _>(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT device, log, count(*) FROM record_run GROUP BY device, log HAVING count(*) > ?1",
            )?;
            let rows = query.query_map([MOST], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            Ok(rows.collect::<Result<Vec<(String, String, i64)>, _>>()?)
        })
        .await?;
    let mut forgotten = 0;
    for (device, log, runs) in full {
        let gone = store
            .write::<_, StoreError, _>(move |tx| {
                Ok(tx
                    .prepare_cached(
                        "DELETE FROM record_run WHERE device = ?1 AND log = ?2 AND first IN
                            (SELECT first FROM record_run WHERE device = ?1 AND log = ?2 ORDER BY first LIMIT ?3)",
                    )?
                    .execute(params![device, log, (runs - MOST).min(MOST)])?)
            })
            .await?;
        forgotten += gone as u64;
    }
    Ok(forgotten)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use rusqlite::Connection;

    use super::*;

    fn database() -> (tempfile::TempDir, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cairn.db");
        drop(Store::open(&path).unwrap());
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch("PRAGMA synchronous = OFF")
            .unwrap();
        (folder, connection)
    }

    /// Numbers in and out of order, again, and with holes; in transactions of some of them, each with a log.
    fn arrivals() -> impl Strategy<Value = Vec<Vec<(bool, i64)>>> {
        let near = (any::<bool>(), 1_i64..60);
        let stretch = (any::<bool>(), 1_i64..50, 1_i64..12).prop_map(|(log, from, many)| {
            (from..from + many)
                .map(move |number| (log, number))
                .collect::<Vec<_>>()
        });
        let transaction = prop_oneof![
            prop::collection::vec(near, 1..12),
            stretch.clone(),
            stretch.prop_map(|mut stretch| {
                stretch.reverse();
                stretch
            }),
            Just(vec![
                (true, i64::MAX),
                (true, i64::MAX - 1),
                (true, 0),
                (true, i64::MAX)
            ]),
        ];
        prop::collection::vec(transaction, 1..30)
    }

    thread_local! {
        static DATABASE: std::cell::RefCell<(tempfile::TempDir, Connection)> = std::cell::RefCell::new(database());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn each_number_is_new_once_and_runs_never_touch(arrivals in arrivals()) {
            DATABASE.with_borrow_mut(|(_, connection)| {
                connection.execute("DELETE FROM record_run", []).unwrap();
                let mut naive: BTreeMap<bool, BTreeSet<i64>> = BTreeMap::new();
                for transaction in arrivals {
                    let tx = connection.transaction().unwrap();
                    let mut runs = Runs::default();
                    for (log, number) in transaction {
                        let name = if log { "aa" } else { "bb" };
                        let new = runs.first(&tx, "x", name, number).unwrap();
                        prop_assert_eq!(new, naive.entry(log).or_default().insert(number), "{} {}", name, number);
                    }
                    runs.finish(&tx, "x").unwrap();
                    tx.commit().unwrap();
                    for (log, numbers) in &naive {
                        let mut expected: Vec<(i64, i64)> = Vec::new();
                        for number in numbers {
                            match expected.last_mut() {
                                Some((_, last)) if *last + 1 == *number => *last = *number,
                                _ => expected.push((*number, *number)),
                            }
                        }
                        let mut query = connection
                            .prepare("SELECT first, last FROM record_run WHERE log = ?1 ORDER BY first").unwrap();
                        let rows = query
                            .query_map([if *log { "aa" } else { "bb" }], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
                        let rows: Vec<(i64, i64)> = rows.collect::<Result<_, _>>().unwrap();
                        prop_assert_eq!(&rows, &expected);
                    }
                }
                Ok(())
            })?;
        }
    }
}
