//! Reading telemetry back.

use rusqlite::{Connection, params};
use serde::Serialize;
use serde_json::Value;

use crate::store::StoreError;

/// Most samples that are given at once.
const PAGE: usize = 10_000;

/// The newest value of a key.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Latest {
    /// The key.
    pub key: String,
    /// Milliseconds since 1970.
    pub ts: i64,
    /// The value.
    pub value: Value,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    /// Milliseconds since 1970.
    pub ts: i64,
    /// The value.
    pub value: Value,
}

/// The newest value of each key of a device, by key.
///
/// # Errors
/// The database's.
pub fn latest(connection: &Connection, device: &str) -> Result<Vec<Latest>, StoreError> {
    // Jumps from key to key instead of reading every sample.
    let mut statement = connection.prepare_cached(
        "WITH RECURSIVE k (key) AS (
             SELECT min(key) FROM sample WHERE device = ?1
             UNION ALL
             SELECT (SELECT min(key) FROM sample WHERE device = ?1 AND key > k.key) FROM k WHERE k.key IS NOT NULL)
         SELECT s.key, s.ts, s.value FROM k JOIN sample s
             ON s.device = ?1 AND s.key = k.key
             AND s.ts = (SELECT max(ts) FROM sample WHERE device = ?1 AND key = k.key)
         WHERE k.key IS NOT NULL ORDER BY s.key LIMIT ?2",
    )?;
    let rows = statement.query_map(
        params![device, i64::try_from(PAGE).unwrap_or(i64::MAX)],
        |row| {
            Ok(Latest {
                key: row.get(0)?,
                ts: row.get(1)?,
                value: value(&row.get::<_, String>(2)?),
            })
        },
    )?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The newest samples of one key, the newest first; at most `limit`.
///
/// # Errors
/// The database's.
pub fn series(
    connection: &Connection,
    device: &str,
    key: &str,
    limit: usize,
) -> Result<Vec<Sample>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT ts, value FROM sample WHERE device = ?1 AND key = ?2 ORDER BY ts DESC LIMIT ?3",
    )?;
    let limit = i64::try_from(limit.min(PAGE)).unwrap_or(i64::MAX);
    let rows = statement.query_map(params![device, key, limit], |row| {
        Ok(Sample {
            ts: row.get(0)?,
            value: value(&row.get::<_, String>(1)?),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn value(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or(Value::Null)
}
