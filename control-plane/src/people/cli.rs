//! `cairn-control account add`: works on the database, also while the server runs.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::Role;
use super::accounts::{self, AccountError};
use super::password::{self, PasswordError};
use crate::store::{Store, StoreError};

/// The name under which the audit log has what was done on the server itself.
pub(crate) const WHO: &str = "cli";

/// The account can't be made.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The folder can't be made.
    #[error("cannot make the folder {path}")]
    Folder {
        /// The folder.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The password can't be used.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The name can't be used.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The database's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Opens the database of a data folder for one change from outside of the server; makes both if they aren't there.
pub(crate) fn open(data_dir: &Path) -> Result<Connection, CliError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .map_err(|source| CliError::Folder {
            path: data_dir.display().to_string(),
            source,
        })?;
    let path = data_dir.join("cairn.db");
    // Brings the schema up to date.
    drop(Store::open(&path)?);
    let connection = Connection::open(&path).map_err(StoreError::from)?;
    connection
        .execute_batch(
            "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 10000;",
        )
        .map_err(StoreError::from)?;
    Ok(connection)
}

/// Adds an account.
///
/// # Errors
/// If the name or password can't be used, and then nothing is made; or if the database can't.
pub fn cli_add_account(
    data_dir: &Path,
    name: &str,
    role: Role,
    password: &str,
) -> Result<(), CliError> {
    accounts::check_name(name)?;
    let phc = password::hash(password)?;
    let mut connection = open(data_dir)?;
    let tx = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(StoreError::from)?;
    accounts::add(&tx, WHO, name, role, None, &phc)?;
    tx.commit().map_err(StoreError::from)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_made_once_and_audited() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        assert!(cli_add_account(&data, "Ada!", Role::Viewer, "correct horse battery").is_err());
        assert!(cli_add_account(&data, "bob", Role::Viewer, "short").is_err());
        assert!(!data.exists(), "a mistake makes nothing");
        cli_add_account(&data, "ada", Role::Admin, "correct horse battery").unwrap();
        let again =
            cli_add_account(&data, "ada", Role::Viewer, "correct horse battery").unwrap_err();
        assert_eq!(again.to_string(), "there is an account ada already");

        let connection = open(&data).unwrap();
        assert_eq!(accounts::list(&connection, "", 10).unwrap().len(), 1);
        let log = super::super::audit::list(
            &connection,
            &super::super::audit::Wanted {
                limit: 10,
                ..Default::default()
            },
        );
        let log = log.unwrap();
        assert_eq!(
            (log.len(), log[0].who.as_str(), log[0].action.as_str()),
            (1, "cli", "account.add")
        );
        let kept: String = connection
            .query_row("SELECT password FROM account", [], |row| row.get(0))
            .unwrap();
        assert!(kept.starts_with("$argon2id$") && !kept.contains("horse"));
    }
}
