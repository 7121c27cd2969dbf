//! Reading telemetry back.

use std::ops::Range;

use rusqlite::{Connection, params};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::store::StoreError;

/// Values of one answer, in bytes of JSON; what is behind them is left out.
const ANSWER: usize = 4 << 20;

/// One value of one key at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Sample {
    /// The key.
    pub key: String,
    /// Milliseconds since 1970.
    pub ts: i64,
    /// The value.
    pub value: Value,
}

/// Samples of a key within `time` (milliseconds since 1970), the newest first; at most `limit`.
///
/// # Errors
/// The database's.
pub fn samples(
    connection: &Connection,
    device: &str,
    key: &str,
    time: Range<i64>,
    limit: usize,
) -> Result<Vec<Sample>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT key, ts, value FROM sample WHERE device = ?1 AND key = ?2 AND ts >= ?3 AND ts < ?4 ORDER BY ts DESC LIMIT ?5",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    bounded(query.query(params![device, key, time.start, time.end, limit])?)
}

/// The newest sample of each key.
///
/// # Errors
/// The database's.
pub fn newest(connection: &Connection, device: &str) -> Result<Vec<Sample>, StoreError> {
    // Walks from key to key by the index, and doesn't read what lies between.
    let mut query = connection.prepare_cached(
        "WITH RECURSIVE keys (key) AS (
             SELECT min(key) FROM sample WHERE device = ?1
             UNION ALL
             SELECT (SELECT min(key) FROM sample WHERE device = ?1 AND key > keys.key) FROM keys WHERE keys.key IS NOT NULL
         )
         SELECT s.key, s.ts, s.value FROM keys JOIN sample s
         ON s.device = ?1 AND s.key = keys.key
            AND s.ts = (SELECT max(ts) FROM sample WHERE device = ?1 AND key = keys.key)
         ORDER BY s.key LIMIT 10000",
    )?;
    bounded(query.query([device])?)
}

/// As many as come to [`ANSWER`]: a device chose how large they are.
fn bounded(mut rows: rusqlite::Rows<'_>) -> Result<Vec<Sample>, StoreError> {
    let (mut samples, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let value = row.get_ref(2)?.as_str().map_err(rusqlite::Error::from)?;
        bytes += value.len();
        if bytes > ANSWER {
            break;
        }
        samples.push(Sample {
            key: row.get(0)?,
            ts: row.get(1)?,
            value: serde_json::from_str(value).unwrap_or(Value::Null),
        });
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_each_key_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cairn.db");
        drop(crate::store::Store::open(&path).unwrap());
        let connection = Connection::open(&path).unwrap();
        assert!(newest(&connection, "a").unwrap().is_empty());
        for (device, key, ts) in [
            ("a", "x", 1),
            ("a", "x", 3),
            ("a", "y", 2),
            ("b", "x", 9),
            ("b", "z", 9),
        ] {
            connection
                .execute(
                    "INSERT INTO sample VALUES (?1, ?2, ?3, '1')",
                    params![device, key, ts],
                )
                .unwrap();
        }
        let found: Vec<_> = newest(&connection, "a")
            .unwrap()
            .into_iter()
            .map(|s| (s.key, s.ts))
            .collect();
        assert_eq!(found, [("x".to_owned(), 3), ("y".to_owned(), 2)]);
        assert_eq!(samples(&connection, "a", "x", 0..3, 10).unwrap().len(), 1);
        // However much a device has sent, an answer fits into memory.
        let large = format!("\"{}\"", "x".repeat(65_000));
        for ts in 0..100 {
            connection
                .execute(
                    "INSERT INTO sample VALUES ('c', 'x', ?1, ?2)",
                    params![ts, large],
                )
                .unwrap();
        }
        let found = samples(&connection, "c", "x", 0..i64::MAX, 10_000).unwrap();
        assert_eq!((found.len(), found[0].ts), (ANSWER / large.len(), 99));
    }
}
