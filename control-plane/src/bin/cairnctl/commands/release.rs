//! Releases.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{cell, field, moment, patches, upload};
use crate::client::{Client, part};
use crate::error::{Error, Result};
use crate::output::{self, Output, fields, table};

/// What to do with releases.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Upload a release folder and publish it; run again it goes on where it stopped
    ///
    /// Patches that lie in its folder `patches` follow when the release is published.
    Upload {
        /// The release folder
        dir: PathBuf,
        /// Where to publish it
        #[arg(long, default_value = "stable")]
        channel: String,
        /// Leave `latest` as it is; allows an older release, too
        #[arg(long)]
        keep_latest: bool,
    },
    /// List releases
    List {
        /// Only of this channel
        #[arg(long)]
        channel: Option<String>,
    },
    /// Show a release
    Show {
        /// Its version
        version: String,
    },
    /// Remove a release; nodes that have it keep it
    Remove {
        /// Its version
        version: String,
        /// Only from this channel; needed if it is in several
        #[arg(long)]
        channel: Option<String>,
    },
}

/// Runs `release`.
///
/// # Errors
/// If the server can't be reached or says no.
pub async fn run(command: Command, output: &Output) -> Result<()> {
    let client = Client::open()?;
    match command {
        Command::Upload {
            dir,
            channel,
            keep_latest,
        } => {
            let found = patches::find(&dir)?;
            let mut done = upload::upload(&client, &dir, &channel, keep_latest, output).await?;
            done["patches"] = patches::send(&client, &done, &found, output).await?;
            output.result(&done, || {
                let what = if field(&done, "unchanged") == true {
                    "was there already"
                } else {
                    "published"
                };
                let with = match found.len() {
                    0 => String::new(),
                    1 => ", with 1 patch".into(),
                    several => format!(", with {several} patches"),
                };
                format!(
                    "{} {what} in {}{with}",
                    cell(&done, "version"),
                    cell(&done, "channel")
                )
            })
        }
        Command::List { channel } => {
            let query: Vec<_> = channel
                .map(|channel| ("channel", channel))
                .into_iter()
                .collect();
            let items = client.list("/v1/releases", &query, usize::MAX).await?;
            output.result(&Value::from(items.clone()), || {
                let rows: Vec<_> = items
                    .iter()
                    .map(|r| {
                        vec![
                            cell(r, "version"),
                            cell(r, "channel"),
                            cell(r, "sequence"),
                            output::bytes(field(r, "size").as_u64().unwrap_or(0)),
                            moment(r, "published"),
                            cell(r, "published_by"),
                        ]
                    })
                    .collect();
                table(
                    "no releases",
                    &["VERSION", "CHANNEL", "SEQUENCE", "SIZE", "PUBLISHED", "BY"],
                    &rows,
                )
            })
        }
        Command::Show { version } => {
            let mut found = find(&client, &version).await?;
            for release in &mut found {
                release["patches"] = patches::list(&client, release).await?.into();
            }
            // One object in the usual case, as scripts like it.
            let value = match found.as_slice() {
                [one] => one.clone(),
                several => Value::from(several.to_vec()),
            };
            output.result(&value, || {
                found.iter().map(show).collect::<Vec<_>>().join("\n")
            })
        }
        Command::Remove { version, channel } => {
            let channel = match channel {
                Some(channel) => channel,
                None => match find(&client, &version).await?.as_slice() {
                    [one] => cell(one, "channel"),
                    _ => {
                        return Err(Error::new(format!("{version} is in several channels"))
                            .hint("name one with --channel"));
                    }
                },
            };
            client
                .delete(&format!(
                    "/v1/releases/{}/{}",
                    part(&channel),
                    part(&version)
                ))
                .await?;
            output.result(&json!({ "removed": version, "channel": channel }), || {
                format!("removed {version} from {channel}")
            })
        }
    }
}

/// A release by its version, in each channel that has it.
async fn find(client: &Client, version: &str) -> Result<Vec<Value>> {
    let found = client
        .list(
            "/v1/releases",
            &[("version", version.to_owned())],
            usize::MAX,
        )
        .await?;
    if found.is_empty() {
        return Err(Error::new(format!("there is no release {version}"))
            .code("not-found")
            .hint("`cairnctl release list` shows all"));
    }
    Ok(found)
}

fn show(release: &Value) -> String {
    let mut text = fields(&[
        ("version", cell(release, "version")),
        ("channel", cell(release, "channel")),
        ("sequence", cell(release, "sequence")),
        ("digest", cell(release, "digest")),
        ("architecture", cell(release, "architecture")),
        ("compatible", cell(release, "compatible")),
        ("kernel", cell(release, "kernel_version")),
        ("created", moment(release, "created")),
        ("published", moment(release, "published")),
        ("by", cell(release, "published_by")),
        ("notes", cell(release, "notes")),
    ]);
    let rows = |list: &str, folder: &str| -> Vec<_> {
        let files = field(release, list).as_array().into_iter().flatten();
        files
            .map(|f| {
                vec![
                    format!("{folder}{}", cell(f, "name")),
                    output::bytes(field(f, "size").as_u64().unwrap_or(0)),
                    cell(f, "sha256"),
                ]
            })
            .collect()
    };
    let rows = [rows("files", ""), rows("patches", "patches/")].concat();
    text.push_str(&table("no files", &["FILE", "SIZE", "SHA-256"], &rows));
    text
}
