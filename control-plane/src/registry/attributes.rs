//! Attributes: *client* ones are the device's own words, *shared* ones the operator's for the device, *server* ones not for it.

use std::collections::HashSet;

use cairn_wire::Object;
use rusqlite::{Connection, Transaction, params};

use crate::ca::now;
use crate::store::StoreError;

/// Attributes of one scope that a device may have; more are refused.
pub const MAX_KEYS: u32 = 1024;
/// All of a scope, keys and values as JSON, in bytes: an answer with all that a device may see is one message.
pub const MAX_BYTES: u32 = 256 * 1024;
/// Longest key in bytes.
pub const MAX_KEY: usize = 255;

/// Whose attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The device's.
    Client,
    /// The operator's, for the device.
    Shared,
    /// The operator's; the device doesn't see them.
    Server,
}

impl Scope {
    /// As the database has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Shared => "shared",
            Self::Server => "server",
        }
    }
}

/// Attributes can't be set.
#[derive(Debug, thiserror::Error)]
pub enum AttributeError {
    /// A key.
    #[error("the attribute key {0:?} is empty or longer than {MAX_KEY} bytes")]
    Key(String),
    /// Too many.
    #[error("a device may have {MAX_KEYS} {0} attributes, this would make more")]
    TooMany(&'static str),
    /// Too much.
    #[error("the {0} attributes of a device may have {MAX_BYTES} bytes, this would make more")]
    TooLarge(&'static str),
    /// No such device.
    #[error("there is no such device")]
    NoDevice,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for AttributeError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// All attributes of a scope, or those of these keys.
///
/// # Errors
/// The database's.
pub fn get(
    connection: &Connection,
    device: &str,
    scope: Scope,
    keys: Option<&[&str]>,
) -> Result<Object, StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT key, value FROM attribute WHERE device = ?1 AND scope = ?2")?;
    let rows = statement.query_map(params![device, scope.as_str()], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
    })?;
    let keys: Option<HashSet<&str>> = keys.map(|keys| keys.iter().copied().collect());
    let mut found = Object::new();
    for row in rows {
        let (key, value) = row?;
        if keys.as_ref().is_none_or(|keys| keys.contains(key.as_str())) {
            found.insert(
                key,
                serde_json::from_str(&value).unwrap_or(serde_json::Value::Null),
            );
        }
    }
    Ok(found)
}

/// Sets attributes. After shared ones call [`crate::sessions::Sessions::attributes_changed`].
///
/// # Errors
/// If a key is too long, there are too many, there is no such device, or the database says no.
pub fn set(
    transaction: &Transaction<'_>,
    device: &str,
    scope: Scope,
    values: &Object,
) -> Result<(), AttributeError> {
    let known: bool = transaction
        .prepare_cached("SELECT count(*) FROM device WHERE id = ?1")?
        .query_row([device], |row| row.get(0))?;
    if !known {
        return Err(AttributeError::NoDevice);
    }
    let now = now();
    {
        let mut statement = transaction.prepare_cached(
            "INSERT INTO attribute (device, scope, key, value, updated) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO UPDATE SET value = excluded.value, updated = excluded.updated",
        )?;
        for (key, value) in values {
            if key.is_empty() || key.len() > MAX_KEY {
                return Err(AttributeError::Key(key.chars().take(64).collect()));
            }
            statement.execute(params![device, scope.as_str(), key, value.to_string(), now])?;
        }
    }
    let (count, bytes): (u32, u32) = transaction
        .prepare_cached(
            "SELECT count(*), coalesce(sum(length(CAST(json_quote(key) AS BLOB)) + length(CAST(value AS BLOB))), 0)
             FROM attribute WHERE device = ?1 AND scope = ?2",
        )?
        .query_row(params![device, scope.as_str()], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    if count > MAX_KEYS {
        return Err(AttributeError::TooMany(scope.as_str()));
    }
    if bytes > MAX_BYTES {
        return Err(AttributeError::TooLarge(scope.as_str()));
    }
    Ok(())
}

/// Deletes attributes; gives those that there were. After shared ones call [`crate::sessions::Sessions::attributes_deleted`].
///
/// # Errors
/// The database's.
pub fn delete(
    transaction: &Transaction<'_>,
    device: &str,
    scope: Scope,
    keys: &[String],
) -> Result<Vec<String>, StoreError> {
    let mut statement = transaction
        .prepare_cached("DELETE FROM attribute WHERE device = ?1 AND scope = ?2 AND key = ?3")?;
    let mut gone = Vec::new();
    for key in keys {
        if statement.execute(params![device, scope.as_str(), key])? > 0 {
            gone.push(key.clone());
        }
    }
    Ok(gone)
}
