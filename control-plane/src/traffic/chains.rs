//! What came of each node's records.

use rusqlite::{Connection, params};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::store::StoreError;

/// Faults in an answer.
const FAULTS: usize = 100;

/// What a device sent.
#[derive(Debug, Serialize, ToSchema)]
pub struct Sent {
    /// Its chains: more than one if it ever lost what it had metered.
    pub chains: Vec<Chain>,
    /// What can't be right, the newest first, at most 100.
    pub faults: Vec<Fault>,
}

/// Records that are bound to each other.
#[derive(Debug, Serialize, ToSchema)]
pub struct Chain {
    /// Its name.
    pub chain: String,
    /// How many records are here.
    pub records: i64,
    /// How many are missing between the first and the last.
    pub missing: i64,
    /// When the first begins, in seconds since 1970.
    pub first: i64,
    /// When the last begins.
    pub last: i64,
}

/// A record that can't be right.
#[derive(Debug, Serialize, ToSchema)]
pub struct Fault {
    /// When it came, in milliseconds since 1970.
    pub time: i64,
    /// `unreadable`, `unusable`, `signature`, `changed` or `broken`.
    pub kind: String,
    /// Whether its bytes count all the same.
    pub counted: bool,
    /// What is wrong with it.
    pub reason: String,
    /// As it came.
    #[schema(value_type = Object)]
    pub body: Value,
}

/// Of one device.
///
/// # Errors
/// The database's.
pub fn sent(connection: &Connection, device: &str) -> Result<Sent, StoreError> {
    let mut chains = connection.prepare_cached(
        "SELECT chain, count(*), max(number) - min(number) + 1 - count(*), min(slot) * 300, max(slot) * 300
         FROM traffic_record WHERE device = ?1 GROUP BY chain ORDER BY max(slot) DESC",
    )?;
    let chains = chains.query_map([device], |row| {
        Ok(Chain {
            chain: row.get(0)?,
            records: row.get(1)?,
            missing: row.get(2)?,
            first: row.get(3)?,
            last: row.get(4)?,
        })
    })?;
    let mut faults = connection.prepare_cached(
        "SELECT time, kind, counted, reason, body FROM traffic_fault WHERE device = ?1 ORDER BY id DESC LIMIT ?2",
    )?;
    let faults = faults.query_map(params![device, FAULTS as i64], |row| {
        let body: String = row.get(4)?;
        Ok(Fault {
            time: row.get(0)?,
            kind: row.get(1)?,
            counted: row.get(2)?,
            reason: row.get(3)?,
            body: serde_json::from_str(&body).unwrap_or(Value::String(body)),
        })
    })?;
    Ok(Sent {
        chains: chains.collect::<Result<_, _>>()?,
        faults: faults.collect::<Result<_, _>>()?,
    })
}
