//! The stream of what devices send: groups, and reading in them.

use reqwest::Method;
use serde_json::{Value, json};

use super::{cell, field, moment};
use crate::client::{Client, part};
use crate::error::{Error, Result};
use crate::output::{Output, brief, table};

/// What to do with the stream.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List groups, and how far each is
    Groups,
    /// Make a group, or give it another filter
    Set {
        /// The group of readers
        #[arg(value_name = "NAME")]
        group: String,
        /// Only events of this kind: telemetry, attributes, connection or alarm (repeatable)
        #[arg(long = "kind", value_name = "KIND")]
        kinds: Vec<String>,
        /// Only of this device (repeatable)
        #[arg(long = "device", value_name = "ID", conflicts_with_all = ["of_group", "tags"])]
        devices: Vec<String>,
        /// Only of the devices of this group of devices
        #[arg(long = "group", value_name = "GROUP", conflicts_with = "tags")]
        of_group: Option<String>,
        /// Only of devices with this tag (repeatable: with all of them)
        #[arg(long = "tag", value_name = "TAG")]
        tags: Vec<String>,
        /// Begin with the oldest event that is kept, and not with the next one; counts only when the group is made
        #[arg(long)]
        oldest: bool,
    },
    /// Read a group's next events, one a line; the same again until they are acknowledged
    Read {
        /// The group
        group: String,
        /// Who of the group reads
        #[arg(long, default_value = "default", value_name = "NAME")]
        member: String,
        /// At most so many events
        #[arg(long, default_value_t = 100, value_name = "1-1000", value_parser = clap::value_parser!(u64).range(1..=1000))]
        limit: u64,
        /// Seconds to wait for an event
        #[arg(long, default_value_t = 20, value_name = "0-30", value_parser = clap::value_parser!(u64).range(..=30))]
        wait: u64,
        /// Acknowledge each batch once it is written to stdout, and read on until nobody reads that
        #[arg(long)]
        follow: bool,
    },
    /// Acknowledge what a member of a group was given
    Ack {
        /// The group
        group: String,
        /// What `read` said behind the events
        next: i64,
        /// Who of the group has done it
        #[arg(long, default_value = "default", value_name = "NAME")]
        member: String,
    },
    /// Forget a group, and how far it was
    Remove {
        /// The group
        group: String,
    },
}

/// Runs `stream`.
///
/// # Errors
/// If the server can't be reached or says no.
pub async fn run(command: Command, output: &Output) -> Result<()> {
    let client = Client::open()?;
    let path = |group: &str, rest: &str| format!("/v1/stream/groups/{}{rest}", part(group));
    match command {
        Command::Groups => {
            let items = client.list("/v1/stream/groups", &[], usize::MAX).await?;
            output.result(&Value::from(items.clone()), || groups(&items))
        }
        Command::Set {
            group,
            kinds,
            devices,
            of_group,
            tags,
            oldest,
        } => {
            let select = match (of_group, devices.is_empty(), tags.is_empty()) {
                (Some(group), ..) => json!({ "group": group }),
                (None, false, _) => json!({ "devices": devices }),
                (None, true, false) => json!({ "tags": tags }),
                (None, true, true) => json!("all"),
            };
            let from = if oldest { "oldest" } else { "now" };
            let body = json!({ "select": select, "kinds": kinds, "from": from });
            let made = client.with(Method::PUT, &path(&group, ""), &body).await?;
            output.result(&made, || groups(std::slice::from_ref(&made)))
        }
        Command::Read {
            group,
            member,
            limit,
            wait,
            follow,
        } => loop {
            let body = json!({ "member": member, "limit": limit, "wait": wait });
            let batch = named(client.post(&path(&group, "/read"), &body).await, &group)?;
            tell(&batch, output);
            let next = field(&batch, "next");
            if !follow {
                if let (Some(next), false) = (next.as_i64(), output.is_json()) {
                    output.note(&format!(
                        "acknowledge with: cairnctl stream ack {group} {next}"
                    ));
                }
                return match output.is_json() {
                    true => output.result(&batch, String::new),
                    false => output.bytes(&lines(&batch)),
                };
            }
            // What nobody reads isn't done.
            if !output.read_on(&lines(&batch))? {
                return Ok(());
            }
            if next.is_i64() {
                let body = json!({ "member": member, "next": next });
                named(client.post(&path(&group, "/ack"), &body).await, &group)?;
            }
        },
        Command::Ack {
            group,
            next,
            member,
        } => {
            let body = json!({ "member": member, "next": next });
            named(client.post(&path(&group, "/ack"), &body).await, &group)?;
            output.result(&json!({ "acknowledged": next }), || {
                format!("acknowledged all before {next}")
            })
        }
        Command::Remove { group } => {
            named(client.delete(&path(&group, "")).await, &group)?;
            output.result(&json!({ "removed": group }), || format!("removed {group}"))
        }
    }
}

/// The server doesn't say which group it doesn't have.
fn named(answer: Result<Value>, group: &str) -> Result<Value> {
    answer.map_err(|error| match error.is("not-found") {
        true => Error::new(format!("there is no stream group {group:?}"))
            .code("not-found")
            .hint("`cairnctl stream groups` lists them"),
        false => error,
    })
}

/// Lost events are said beside those that came.
fn tell(batch: &Value, output: &Output) {
    if let Some(lost @ 1..) = field(batch, "lost").as_i64() {
        output.note(&format!(
            "{lost} events were gone before this group came to them"
        ));
    }
}

/// One event a line, as JSON: it is for programs.
fn lines(batch: &Value) -> Vec<u8> {
    let events = field(batch, "events").as_array();
    let lines: Vec<String> = events
        .into_iter()
        .flatten()
        .map(|event| format!("{event}\n"))
        .collect();
    lines.concat().into_bytes()
}

fn groups(items: &[Value]) -> String {
    let rows: Vec<_> = items
        .iter()
        .map(|group| {
            let mut row = vec![
                cell(group, "name"),
                cell(group, "kinds"),
                brief(field(group, "select")),
            ];
            row.extend(["acknowledged", "behind", "lost"].map(|name| cell(group, name)));
            row.extend([cell(group, "members"), moment(group, "created")]);
            row
        })
        .collect();
    table(
        "no groups",
        &[
            "GROUP", "KINDS", "DEVICES", "DONE", "BEHIND", "LOST", "READING", "CREATED",
        ],
        &rows,
    )
}
