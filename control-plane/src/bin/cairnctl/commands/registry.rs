//! Registries that images come from.

use reqwest::Method;
use serde_json::json;

use super::{cell, moment};
use crate::client::{Client, part};
use crate::error::Result;
use crate::output::{Output, table};
use crate::prompt;

/// What to do with registries.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List registries for which a user is known
    List,
    /// Set the user of a registry; devices that run an image from there are given it
    Set {
        /// Its host, as registry.example.org or registry.example.org:5000
        registry: String,
        /// The user
        #[arg(long)]
        user: String,
        /// Read the password, or a token that stands for one, from stdin
        #[arg(long)]
        password_stdin: bool,
    },
    /// Forget the user of a registry
    Remove {
        /// Its host
        registry: String,
    },
}

/// Runs `registry`.
///
/// # Errors
/// If the server can't be reached or says no.
pub async fn run(command: Command, output: &Output) -> Result<()> {
    let client = Client::open()?;
    let path = |registry: &str| format!("/v1/registry-logins/{}", part(registry));
    match command {
        Command::List => {
            let found = client.get("/v1/registry-logins").await?;
            output.result(&found, || {
                let rows: Vec<_> = found
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|login| {
                        vec![
                            cell(login, "registry"),
                            cell(login, "user"),
                            moment(login, "changed"),
                            cell(login, "changed_by"),
                        ]
                    })
                    .collect();
                table(
                    "no users of registries",
                    &["REGISTRY", "USER", "SET", "BY"],
                    &rows,
                )
            })
        }
        Command::Set {
            registry,
            user,
            password_stdin,
        } => {
            let password =
                prompt::password(&format!("Password of {user} at {registry}"), password_stdin)?;
            let body = json!({ "user": user, "password": *password });
            client.with(Method::PUT, &path(&registry), &body).await?;
            output.result(&json!({ "registry": registry, "user": user }), || {
                format!("{registry} is asked as {user}")
            })
        }
        Command::Remove { registry } => {
            client.delete(&path(&registry)).await?;
            output.result(&json!({ "removed": registry }), || {
                format!("{registry} is asked without a user")
            })
        }
    }
}
