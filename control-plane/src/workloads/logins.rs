//! Users of registries that images come from.

use std::collections::BTreeSet;

use cairn_wire::workload::{Login, Workloads};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::Serialize;
use utoipa::ToSchema;

use crate::desired::{self, NEXT};
use crate::store::StoreError;

/// The most of them.
pub const MAX: i64 = 1000;

/// One of them, without its password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LoginView {
    /// The registry's host, with its port if it has one.
    pub registry: String,
    /// The user.
    pub user: String,
    /// When it was set, in seconds since 1970.
    pub changed: i64,
    /// By whom.
    pub changed_by: String,
}

/// Keeps one; devices that run an image of that registry get another revision. `false` if there are too many.
///
/// # Errors
/// The database's.
pub fn set(tx: &Transaction<'_>, login: &Login, who: &str, now: i64) -> Result<bool, StoreError> {
    let registry = login.registry.as_str();
    let others: i64 = tx.query_row(
        "SELECT count(*) FROM registry_login WHERE registry <> ?1",
        [registry],
        |row| row.get(0),
    )?;
    if others >= MAX {
        return Ok(false);
    }
    tx.execute(
        "INSERT INTO registry_login VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (registry) DO UPDATE SET user = excluded.user, password = excluded.password,
             changed = excluded.changed, changed_by = excluded.changed_by",
        params![registry, login.user, login.password.reveal(), now, who],
    )?;
    renew(tx, registry, now)?;
    Ok(true)
}

/// Removes one. Whether there was one.
///
/// # Errors
/// The database's.
pub fn remove(tx: &Transaction<'_>, registry: &str, now: i64) -> Result<bool, StoreError> {
    let found = tx.execute("DELETE FROM registry_login WHERE registry = ?1", [registry])?;
    renew(tx, registry, now)?;
    Ok(found > 0)
}

fn renew(tx: &Transaction<'_>, registry: &str, now: i64) -> Result<(), StoreError> {
    tx.execute(
        &format!(
            "UPDATE desired SET revision = {NEXT} WHERE device IN
                 (SELECT device FROM placement JOIN workload ON workload = name
                  WHERE ended IS NULL AND substr(declared ->> '$.image', 1, length(?1) + 1) = ?1 || '/')"
        ),
        params![registry, now],
    )?;
    desired::publish_untold(tx, now)
}

/// All of them, by registry.
///
/// # Errors
/// The database's.
pub fn list(connection: &Connection) -> Result<Vec<LoginView>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT registry, user, changed, changed_by FROM registry_login ORDER BY registry",
    )?;
    let rows = query.query_map([], |row| {
        Ok(LoginView {
            registry: row.get(0)?,
            user: row.get(1)?,
            changed: row.get(2)?,
            changed_by: row.get(3)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Those that a device needs for its workloads.
pub(super) fn needed(
    connection: &Connection,
    workloads: &Workloads,
) -> Result<Vec<Login>, StoreError> {
    let registries: BTreeSet<&str> = workloads
        .usable()
        .map(|workload| workload.image.registry())
        .collect();
    let mut query = connection.prepare_cached(
        "SELECT json_object('registry', registry, 'user', user, 'password', password)
         FROM registry_login WHERE registry = ?1",
    )?;
    let mut logins = Vec::new();
    for registry in registries {
        let found: Option<String> = query.query_row([registry], |row| row.get(0)).optional()?;
        // It was read before it was kept.
        logins.extend(found.and_then(|text| serde_json::from_str(&text).ok()));
    }
    Ok(logins)
}
