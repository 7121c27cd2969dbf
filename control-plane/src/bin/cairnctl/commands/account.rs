//! Accounts.

use reqwest::Method;
use serde_json::{Value, json};

use super::{cell, moment};
use crate::client::{Client, part};
use crate::error::Result;
use crate::output::{Output, table};
use crate::prompt;

/// What an account is for.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Role {
    /// Everything, accounts included
    Admin,
    /// Devices, releases, rollouts and alarms
    Operator,
    /// Looks, and changes nothing
    Viewer,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
        }
    }
}

/// What to do with accounts.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Add an account
    Add {
        /// Its name
        name: String,
        /// What it is for
        #[arg(long)]
        role: Role,
        /// Whose people it is of: it sees and acknowledges the alarms of this supplier's devices, and nothing else
        #[arg(long, value_name = "NAME")]
        supplier: Option<String>,
        /// Read the password from stdin, one line
        #[arg(long)]
        password_stdin: bool,
    },
    /// List the accounts
    List,
    /// Give an account another role
    Role {
        /// Its name
        name: String,
        /// What it is for
        role: Role,
    },
    /// Remove an account with its sessions and API tokens
    Remove {
        /// Its name
        name: String,
    },
    /// Change a password: one's own, or with a name anybody's
    Password {
        /// The account; one's own if not given
        name: Option<String>,
        /// Read the password from stdin: the new one; for one's own, the old one and then the new one
        #[arg(long)]
        password_stdin: bool,
    },
}

/// Runs `account`.
///
/// # Errors
/// If the server can't be reached or says no.
pub async fn run(command: Command, output: &Output) -> Result<()> {
    let client = Client::open()?;
    let account = |name: &str, rest: &str| format!("/v1/accounts/{}{rest}", part(name));
    match command {
        Command::Add {
            name,
            role,
            supplier,
            password_stdin,
        } => {
            let password = prompt::new_password(&format!("Password for {name}"), password_stdin)?;
            let body = json!({ "name": name, "role": role.as_str(), "supplier": supplier, "password": *password });
            let added = client.post("/v1/accounts", &body).await?;
            output.result(&added, || format!("added {name} ({})", role.as_str()))
        }
        Command::List => {
            let items = client.list("/v1/accounts", &[], usize::MAX).await?;
            output.result(&Value::from(items.clone()), || {
                let rows: Vec<_> = items
                    .iter()
                    .map(|a| {
                        vec![
                            cell(a, "name"),
                            cell(a, "role"),
                            cell(a, "supplier"),
                            moment(a, "created"),
                        ]
                    })
                    .collect();
                table(
                    "no accounts",
                    &["NAME", "ROLE", "SUPPLIER", "CREATED"],
                    &rows,
                )
            })
        }
        Command::Role { name, role } => {
            let changed = client
                .with(
                    Method::PATCH,
                    &account(&name, ""),
                    &json!({ "role": role.as_str() }),
                )
                .await?;
            output.result(&changed, || format!("{name} is {} now", role.as_str()))
        }
        Command::Remove { name } => {
            client.delete(&account(&name, "")).await?;
            output.result(&json!({ "removed": name }), || format!("removed {name}"))
        }
        Command::Password {
            name: Some(name),
            password_stdin,
        } => {
            let password =
                prompt::new_password(&format!("New password for {name}"), password_stdin)?;
            client
                .with(
                    Method::PUT,
                    &account(&name, "/password"),
                    &json!({ "password": *password }),
                )
                .await?;
            output.result(&json!({ "changed": name }), || {
                format!("{name} has another password, and no session")
            })
        }
        Command::Password {
            name: None,
            password_stdin,
        } => {
            let old = prompt::password("Old password", password_stdin)?;
            let new = prompt::new_password("New password", password_stdin)?;
            client
                .with(
                    Method::PUT,
                    "/v1/account/password",
                    &json!({ "old": *old, "new": *new }),
                )
                .await?;
            output.result(&json!({ "changed": true }), || {
                "changed; log in again with the new password".into()
            })
        }
    }
}
