//! Accounts in the database.

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use serde::Serialize;
use serde_json::json;

use super::{Role, audit, now};
use crate::registry::is_label;
use crate::store::StoreError;

/// An account, without its password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Account {
    /// 1 to 64 of `a-z0-9._-`, beginning with a letter or a digit.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Whose people it is of; none: the operator's.
    pub supplier: Option<String>,
    /// Seconds since 1970.
    pub created: i64,
    /// When its role or password was last changed.
    pub changed: i64,
}

/// An account can't be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// A name that can't be one.
    #[error(
        "expected an account name of 1 to 64 characters a-z0-9._- that begins with a letter or digit, got {0:?}"
    )]
    Name(String),
    /// A supplier's account that would be an admin, or a supplier that can't be one.
    #[error(
        "expected a supplier of 1 to 64 of A-Za-z0-9._-, whose account is an operator or a viewer"
    )]
    Supplier,
    /// There is one already.
    #[error("there is an account {0} already")]
    Exists(String),
    /// There is none.
    #[error("there is no account {0}")]
    Unknown(String),
    /// Nobody could manage accounts any more.
    #[error("{0} is the last admin; make another one first")]
    LastAdmin(String),
    /// The database's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for AccountError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

pub(super) fn check_name(name: &str) -> Result<(), AccountError> {
    let letter = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let good = name.len() <= 64
        && name.as_bytes().first().is_some_and(letter)
        && name.bytes().all(|b| letter(&b) || b"._-".contains(&b));
    good.then_some(())
        .ok_or_else(|| AccountError::Name(name.chars().take(80).collect()))
}

/// A supplier's people are never admins: those see everything.
fn check_supplier(role: Role, supplier: Option<&str>) -> Result<(), AccountError> {
    match supplier {
        Some(name) if role == Role::Admin || !is_label(name) => Err(AccountError::Supplier),
        _ => Ok(()),
    }
}

fn subject(name: &str) -> String {
    format!("account/{name}")
}

fn read(row: &Row<'_>) -> rusqlite::Result<Account> {
    let role: String = row.get(1)?;
    Ok(Account {
        name: row.get(0)?,
        // The schema lets nothing else in; if it did, it had the least to say.
        role: role.parse().unwrap_or(Role::Viewer),
        created: row.get(2)?,
        changed: row.get(3)?,
        supplier: row.get(4)?,
    })
}

/// Accounts by name, from behind `after`, at most `limit`.
///
/// # Errors
/// The database's.
pub fn list(
    connection: &Connection,
    after: &str,
    limit: usize,
) -> Result<Vec<Account>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT name, role, created, changed, supplier FROM account WHERE name > ?1 ORDER BY name LIMIT ?2",
    )?;
    let rows = query.query_map(
        params![after, i64::try_from(limit).unwrap_or(i64::MAX)],
        read,
    )?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// One account.
///
/// # Errors
/// The database's.
pub fn get(connection: &Connection, name: &str) -> Result<Option<Account>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT name, role, created, changed, supplier FROM account WHERE name = ?1",
    )?;
    Ok(query.query_row([name], read).optional()?)
}

/// Whether there is any account at all.
///
/// # Errors
/// The database's.
pub fn any(connection: &Connection) -> Result<bool, StoreError> {
    Ok(
        connection.query_row("SELECT EXISTS (SELECT 1 FROM account)", [], |row| {
            row.get(0)
        })?,
    )
}

/// The hash of an account's password.
///
/// # Errors
/// The database's.
pub fn password_hash(connection: &Connection, name: &str) -> Result<Option<String>, StoreError> {
    let mut query = connection.prepare_cached("SELECT password FROM account WHERE name = ?1")?;
    Ok(query.query_row([name], |row| row.get(0)).optional()?)
}

/// Makes an account, of a supplier or of the operator. `phc` is its password's hash.
///
/// # Errors
/// If the name can't be one or is taken.
pub fn add(
    tx: &Transaction<'_>,
    who: &str,
    name: &str,
    role: Role,
    supplier: Option<&str>,
    phc: &str,
) -> Result<Account, AccountError> {
    check_name(name)?;
    check_supplier(role, supplier)?;
    if get(tx, name)?.is_some() {
        return Err(AccountError::Exists(name.into()));
    }
    let account = Account {
        name: name.into(),
        role,
        supplier: supplier.map(str::to_owned),
        created: now(),
        changed: now(),
    };
    tx.prepare_cached(
        "INSERT INTO account (name, role, password, created, changed, supplier) VALUES (?1, ?2, ?3, ?4, ?4, ?5)",
    )?
    .execute(params![name, role.as_str(), phc, account.created, supplier])?;
    audit(
        tx,
        who,
        "account.add",
        &subject(name),
        &json!({ "role": role, "supplier": supplier }),
    )?;
    Ok(account)
}

/// Gives an account another password, and ends its sessions. Its API tokens stay.
///
/// # Errors
/// If there is no such account.
pub fn set_password(
    tx: &Transaction<'_>,
    who: &str,
    name: &str,
    phc: &str,
) -> Result<(), AccountError> {
    let changed = tx
        .prepare_cached("UPDATE account SET password = ?2, changed = ?3 WHERE name = ?1")?
        .execute(params![name, phc, now()])?;
    if changed == 0 {
        return Err(AccountError::Unknown(name.into()));
    }
    tx.prepare_cached("DELETE FROM access_token WHERE account = ?1 AND kind = 'session'")?
        .execute([name])?;
    Ok(audit(
        tx,
        who,
        "account.password",
        &subject(name),
        &json!({}),
    )?)
}

/// Gives an account another role. Its tokens lose at once what the new role lacks.
///
/// # Errors
/// If there is no such account, or it is the last admin.
pub fn set_role(
    tx: &Transaction<'_>,
    who: &str,
    name: &str,
    role: Role,
) -> Result<Account, AccountError> {
    let before = get(tx, name)?.ok_or_else(|| AccountError::Unknown(name.into()))?;
    check_supplier(role, before.supplier.as_deref())?;
    if role != Role::Admin {
        keep_an_admin(tx, &before)?;
    }
    tx.prepare_cached("UPDATE account SET role = ?2, changed = ?3 WHERE name = ?1")?
        .execute(params![name, role.as_str(), now()])?;
    audit(
        tx,
        who,
        "account.role",
        &subject(name),
        &json!({ "from": before.role, "to": role }),
    )?;
    Ok(Account {
        role,
        changed: now(),
        ..before
    })
}

/// Removes an account with its sessions and tokens.
///
/// # Errors
/// If there is no such account, or it is the last admin.
pub fn remove(tx: &Transaction<'_>, who: &str, name: &str) -> Result<(), AccountError> {
    let account = get(tx, name)?.ok_or_else(|| AccountError::Unknown(name.into()))?;
    keep_an_admin(tx, &account)?;
    tx.prepare_cached("DELETE FROM access_token WHERE account = ?1")?
        .execute([name])?;
    tx.prepare_cached("DELETE FROM account WHERE name = ?1")?
        .execute([name])?;
    Ok(audit(
        tx,
        who,
        "account.remove",
        &subject(name),
        &json!({ "role": account.role }),
    )?)
}

fn keep_an_admin(tx: &Transaction<'_>, account: &Account) -> Result<(), AccountError> {
    let others: i64 = tx.query_row(
        "SELECT count(*) FROM account WHERE role = 'admin' AND name <> ?1",
        [&account.name],
        |row| row.get(0),
    )?;
    if account.role == Role::Admin && others == 0 {
        return Err(AccountError::LastAdmin(account.name.clone()));
    }
    Ok(())
}
