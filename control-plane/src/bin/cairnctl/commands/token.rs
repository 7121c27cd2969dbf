//! Enrolment tokens.

use std::path::PathBuf;

use cairn_wire::enrol::EnrolFile;
use serde_json::{Value, json};

use super::{cell, field, moment, seconds};
use crate::client::{Client, address, part};
use crate::error::{Error, Result};
use crate::output::{Output, table};
use crate::settings;

/// What to do with enrolment tokens.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a token
    Create {
        /// How many devices may enrol with it
        #[arg(long, default_value_t = 1, value_name = "N")]
        uses: u32,
        /// How long it can be used, as 7d
        #[arg(long, default_value = "7d", value_parser = seconds, value_name = "DURATION")]
        expires: i64,
        /// The group that the devices come into
        #[arg(long)]
        group: Option<String>,
        /// A tag that the devices get (repeatable)
        #[arg(long = "tag", value_name = "TAG")]
        tags: Vec<String>,
        /// The supplier whose devices they are; else the operator's own
        #[arg(long, value_name = "NAME")]
        supplier: Option<String>,
        /// What it is for
        #[arg(long, default_value = "")]
        note: String,
        /// Write enrol.toml for a node: server, CA and token
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// The server's address for that file; else as the server says itself
        #[arg(long, value_name = "https://HOST:PORT", requires = "out", value_parser = address)]
        server: Option<String>,
    },
    /// List the tokens
    List,
    /// Revoke a token; devices that it made stay
    Revoke {
        /// The token's id
        id: String,
    },
}

/// Runs `token`.
///
/// # Errors
/// If the server can't be reached or says no.
pub async fn run(command: Command, output: &Output) -> Result<()> {
    let client = Client::open()?;
    match command {
        Command::Create {
            uses,
            expires,
            group,
            tags,
            supplier,
            note,
            out,
            server,
        } => {
            let body = json!({ "uses": uses, "lifetime": expires, "group": group, "tags": tags, "supplier": supplier, "note": note });
            let mut token = client.post("/v1/enrolment-tokens", &body).await?;
            let Some(path) = out else {
                return output.result(&token, || format!("{}\n", cell(&token, "token")));
            };
            let text = |name: &str| field(&token, name).as_str().map(str::to_owned);
            let missing = |name| Error::new(format!("the server's answer lacks {name}"));
            let file = EnrolFile {
                server: server
                    .or_else(|| text("server"))
                    .unwrap_or_else(|| client.server().to_owned()),
                ca: text("ca").ok_or_else(|| missing("ca"))?,
                token: text("token").ok_or_else(|| missing("token"))?,
            };
            let toml = toml::to_string(&file)
                .map_err(|error| Error::new("cannot write the token").because(error))?;
            let replaced = path.exists();
            settings::write_secret(&path, toml.as_bytes())?;
            if replaced {
                output.note(&format!(
                    "note: {} was replaced; the token that it held stays good until it is revoked (`cairnctl token list`)",
                    path.display()
                ));
            }
            // It is in the file; what goes to a log needn't have it.
            if let Value::Object(token) = &mut token {
                token.remove("token");
                token.remove("ca");
                token.insert("server".into(), file.server.clone().into());
                token.insert("out".into(), path.display().to_string().into());
            }
            output.result(&token, || {
                format!(
                    "token {} for {} in {}\n",
                    cell(&token, "id"),
                    file.server,
                    path.display()
                )
            })
        }
        Command::List => {
            let items = client.list("/v1/enrolment-tokens", &[], usize::MAX).await?;
            output.result(&Value::from(items.clone()), || {
                let rows: Vec<_> = items
                    .iter()
                    .map(|t| {
                        vec![
                            cell(t, "id"),
                            cell(t, "uses"),
                            cell(t, "group"),
                            cell(t, "tags"),
                            cell(t, "supplier"),
                            moment(t, "expires"),
                            cell(t, "note"),
                        ]
                    })
                    .collect();
                table(
                    "no enrolment tokens",
                    &[
                        "ID",
                        "USES LEFT",
                        "GROUP",
                        "TAGS",
                        "SUPPLIER",
                        "EXPIRES",
                        "NOTE",
                    ],
                    &rows,
                )
            })
        }
        Command::Revoke { id } => {
            client
                .delete(&format!("/v1/enrolment-tokens/{}", part(&id)))
                .await?;
            output.result(&json!({ "revoked": id }), || format!("revoked {id}"))
        }
    }
}
