//! The audit log: who changed what, written in the change's own transaction. Beside changes it has wrong passwords.

use rusqlite::{Connection, Transaction, params};
use serde::Serialize;
use serde_json::Value;

use crate::store::StoreError;

/// What the server itself did.
pub const SYSTEM: &str = "system";

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
#[schema(as = AuditEntry)]
pub struct Entry {
    /// Its number; it only grows.
    pub id: i64,
    /// Seconds since 1970.
    pub time: i64,
    /// The account (and `account/token-id` for an API token), `cli` or `system`.
    pub who: String,
    /// As `device.revoke`.
    pub action: String,
    /// As `device/edge-7`.
    pub subject: String,
    /// What exactly.
    pub detail: Value,
}

/// Writes a line: `action` as `device.revoke`, `subject` as `device/edge-7`. `detail` must hold no secret.
///
/// # Errors
/// The database's; then the change must not happen either.
pub fn audit(
    tx: &Transaction<'_>,
    who: &str,
    action: &str,
    subject: &str,
    detail: &Value,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO audit (time, who, action, subject, detail) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![
        super::now(),
        who,
        action,
        subject,
        detail.to_string()
    ])?;
    Ok(())
}

/// What of the log is wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only what is older than this line.
    pub before: Option<i64>,
    /// Only of this subject.
    pub subject: Option<String>,
    /// Only by this caller.
    pub who: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// Lines of the log, the newest first.
///
/// # Errors
/// The database's.
pub fn list(connection: &Connection, wanted: &Wanted) -> Result<Vec<Entry>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT id, time, who, action, subject, detail FROM audit
         WHERE id < ?1 AND (?2 IS NULL OR subject = ?2) AND (?3 IS NULL OR who = ?3) ORDER BY id DESC LIMIT ?4",
    )?;
    let rows = query.query_map(
        params![
            wanted.before.unwrap_or(i64::MAX),
            wanted.subject,
            wanted.who,
            i64::try_from(wanted.limit).unwrap_or(i64::MAX)
        ],
        |row| {
            let detail: String = row.get(5)?;
            Ok(Entry {
                id: row.get(0)?,
                time: row.get(1)?,
                who: row.get(2)?,
                action: row.get(3)?,
                subject: row.get(4)?,
                detail: serde_json::from_str(&detail).unwrap_or(Value::Null),
            })
        },
    )?;
    Ok(rows.collect::<Result<_, _>>()?)
}
