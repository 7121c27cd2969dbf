//! API tokens.

use std::path::PathBuf;

use cairn_control_plane::people::Scope;
use serde_json::{Value, json};

use super::{cell, field, moment, seconds};
use crate::client::{Client, part};
use crate::error::{Error, Result};
use crate::output::{Output, table};
use crate::settings;

/// What to do with API tokens.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a token; it is shown this once
    Create {
        /// What it may do, as releases:write (repeatable)
        #[arg(long = "scope", value_name = "SCOPE", required = true)]
        scopes: Vec<Scope>,
        /// How long, as 90d
        #[arg(long, default_value = "90d", value_parser = seconds, value_name = "DURATION")]
        expires: i64,
        /// What it is for
        #[arg(long, default_value = "")]
        note: String,
        /// Write the token into a file that only you can read
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// List the tokens
    List,
    /// Revoke a token
    Revoke {
        /// The token's id
        id: String,
    },
}

/// Runs `api-token`.
///
/// # Errors
/// If the server can't be reached or says no.
pub async fn run(command: Command, output: &Output) -> Result<()> {
    let client = Client::open()?;
    match command {
        Command::Create {
            scopes,
            expires,
            note,
            out,
        } => {
            let body = json!({ "scopes": scopes, "lifetime": expires, "note": note });
            let mut token = client.post("/v1/api-tokens", &body).await?;
            if let Some(path) = out {
                let secret = field(&token, "token")
                    .as_str()
                    .ok_or_else(|| Error::new("the server gave no token"))?;
                settings::write_secret(&path, format!("{secret}\n").as_bytes())?;
                if let Value::Object(token) = &mut token {
                    token.remove("token");
                    token.insert("out".into(), path.display().to_string().into());
                }
                return output.result(&token, || {
                    format!("token {} in {}", cell(&token, "id"), path.display())
                });
            }
            output.result(&token, || cell(&token, "token"))
        }
        Command::List => {
            let items = client.list("/v1/api-tokens", &[], usize::MAX).await?;
            output.result(&Value::from(items.clone()), || {
                let rows: Vec<_> = items
                    .iter()
                    .map(|t| {
                        vec![
                            cell(t, "id"),
                            cell(t, "account"),
                            cell(t, "scopes"),
                            moment(t, "expires"),
                            moment(t, "last_used"),
                            cell(t, "note"),
                        ]
                    })
                    .collect();
                table(
                    "no API tokens",
                    &["ID", "ACCOUNT", "SCOPES", "EXPIRES", "LAST USED", "NOTE"],
                    &rows,
                )
            })
        }
        Command::Revoke { id } => {
            client
                .delete(&format!("/v1/api-tokens/{}", part(&id)))
                .await?;
            output.result(&json!({ "revoked": id }), || format!("revoked {id}"))
        }
    }
}
