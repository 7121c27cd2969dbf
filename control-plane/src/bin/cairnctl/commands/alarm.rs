//! Alarms: what is wrong, and who is told.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{cell, field, moment, put_document};
use crate::client::{Client, part};
use crate::error::{Error, Result};
use crate::output::{Output, brief, fields, table};

/// What to do with alarms.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List alarms, the newest first; those that are open, if nothing else is said
    List {
        /// Only of this status: pending, firing, acknowledged or resolved (repeatable)
        #[arg(long, value_name = "STATUS")]
        status: Vec<String>,
        /// Also those that are over
        #[arg(long, conflicts_with = "status")]
        all: bool,
        /// Only of this device
        #[arg(long, value_name = "ID")]
        device: Option<String>,
        /// Only of this template
        #[arg(long, value_name = "NAME")]
        template: Option<String>,
        /// Only of this severity: info, warning or critical
        #[arg(long)]
        severity: Option<String>,
        /// Only of this supplier's devices
        #[arg(long, value_name = "NAME")]
        supplier: Option<String>,
        /// The last so many
        #[arg(long, default_value_t = 100, value_name = "N", value_parser = super::count())]
        last: usize,
    },
    /// Show an alarm, what happened to it, and who was told
    Show {
        /// Its number
        id: i64,
    },
    /// Acknowledge alarms: they escalate no more
    Ack {
        /// Their numbers
        #[arg(required = true)]
        ids: Vec<i64>,
    },
    /// Templates: what is wrong when
    #[command(subcommand)]
    Template(Kept),
    /// Channels: where people are told
    #[command(subcommand)]
    Channel(Channel),
    /// Silences: when nobody is told
    #[command(subcommand)]
    Silence(Silence),
}

/// What to do with what has a name and is written as JSON.
#[derive(Debug, clap::Subcommand)]
pub enum Kept {
    /// List them
    List,
    /// Show one as JSON, as `set` reads it
    Show {
        /// Its name
        name: String,
    },
    /// Make one, or replace it
    Set {
        /// Its name
        name: String,
        /// A file with JSON, as in docs/alarms.md; - is stdin
        file: PathBuf,
    },
    /// Remove one
    Remove {
        /// Its name
        name: String,
    },
}

/// What to do with channels.
#[derive(Debug, clap::Subcommand)]
pub enum Channel {
    #[command(flatten)]
    Kept(Kept),
    /// Send a test message, and say what became of it
    Test {
        /// Its name
        name: String,
    },
}

/// What to do with silences.
#[derive(Debug, clap::Subcommand)]
pub enum Silence {
    /// List silences
    List,
    /// Silence alarms for a while
    Add(Add),
    /// End a silence
    Remove {
        /// Its number
        id: i64,
    },
}

/// Options of `alarm silence add`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("select").required(true).args(["all", "group", "tags", "devices"])))]
pub struct Add {
    /// Of all devices
    #[arg(long)]
    all: bool,
    /// Of the devices of this group
    #[arg(long)]
    group: Option<String>,
    /// Of the devices with this tag (repeatable: with all of them)
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Of this device (repeatable)
    #[arg(long = "device", value_name = "ID")]
    devices: Vec<String>,
    /// Of this template only (repeatable)
    #[arg(long = "template", value_name = "NAME")]
    templates: Vec<String>,
    /// For how long, as 2h
    #[arg(long = "for", value_name = "DURATION", value_parser = super::seconds)]
    lasts: i64,
    /// Beginning in so long, as 30m [at once if not given]
    #[arg(long = "in", value_name = "DURATION", value_parser = super::seconds)]
    begins: Option<i64>,
    /// What for
    #[arg(long, default_value = "")]
    note: String,
}

impl Add {
    fn body(&self, now: i64) -> Value {
        let select = if let Some(group) = &self.group {
            json!({ "group": group })
        } else if !self.tags.is_empty() {
            json!({ "tags": self.tags })
        } else if !self.devices.is_empty() {
            json!({ "devices": self.devices })
        } else {
            json!("all")
        };
        let from = now.saturating_add(self.begins.unwrap_or(0));
        json!({ "select": select, "templates": self.templates, "from": from, "until": from.saturating_add(self.lasts), "note": self.note })
    }
}

/// Runs `alarm`.
///
/// # Errors
/// If the server can't be reached or says no.
pub async fn run(command: Command, output: &Output) -> Result<()> {
    let client = Client::open()?;
    match command {
        Command::List {
            status,
            all,
            device,
            template,
            severity,
            supplier,
            last,
        } => {
            let status = match (all, status.as_slice()) {
                (true, _) => None,
                (false, []) => Some("pending,firing,acknowledged".to_owned()),
                (false, some) => Some(some.join(",")),
            };
            let wanted = [
                ("status", status),
                ("device", device),
                ("template", template),
                ("severity", severity),
                ("supplier", supplier),
            ];
            let query: Vec<_> = wanted
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?)))
                .collect();
            let items = client.list("/v1/alarms", &query, last).await?;
            output.result(&Value::from(items.clone()), || list(&items))
        }
        Command::Show { id } => {
            let alarm = client.get(&format!("/v1/alarms/{id}")).await?;
            output.result(&alarm, || show(&alarm))
        }
        Command::Ack { ids } => {
            let (mut done, mut failed, mut errors) = (Vec::new(), Vec::new(), Vec::new());
            for id in ids {
                let path = format!("/v1/alarms/{id}/acknowledge");
                match client.post(&path, &json!({})).await {
                    Ok(alarm) => done.push(alarm),
                    Err(error) => {
                        failed.push(id.to_string());
                        errors.push(error);
                    }
                }
            }
            output.result(&Value::from(done.clone()), || {
                done.iter()
                    .map(|alarm| {
                        format!("alarm {} is {}\n", cell(alarm, "id"), cell(alarm, "status"))
                    })
                    .collect()
            })?;
            if failed.is_empty() {
                return Ok(());
            }
            let what = format!("not acknowledged: {}", failed.join(", "));
            Err(Error::new(what).because_of(errors))
        }
        Command::Template(command) => {
            kept(&client, "alarm-templates", "template", command, output).await
        }
        Command::Channel(Channel::Kept(command)) => {
            kept(&client, "alarm-channels", "channel", command, output).await
        }
        Command::Channel(Channel::Test { name }) => {
            let path = format!("/v1/alarm-channels/{}/test", part(&name));
            let tested = client.post(&path, &json!({})).await?;
            output.result(&tested, || format!("{name} took a test message"))
        }
        Command::Silence(command) => silence(&client, command, output).await,
    }
}

async fn kept(
    client: &Client,
    what: &str,
    one: &str,
    command: Kept,
    output: &Output,
) -> Result<()> {
    let path = |name: &str| format!("/v1/{what}/{}", part(name));
    match command {
        Kept::List => {
            let items = client.list(&format!("/v1/{what}"), &[], usize::MAX).await?;
            output.result(&Value::from(items.clone()), || match one {
                "template" => templates(&items),
                _ => channels(&items),
            })
        }
        Kept::Show { name } => {
            let found = client.get(&path(&name)).await?;
            output.result(&found, || format!("{found:#}"))
        }
        Kept::Set { name, file } => {
            let set = put_document(client, &path(&name), &file, "docs/alarms.md").await?;
            output.result(&set, || format!("{one} {name} is set"))
        }
        Kept::Remove { name } => {
            client.delete(&path(&name)).await?;
            output.result(&json!({ "removed": name }), || {
                format!("removed {one} {name}")
            })
        }
    }
}

async fn silence(client: &Client, command: Silence, output: &Output) -> Result<()> {
    match command {
        Silence::List => {
            let items = client.list("/v1/alarm-silences", &[], usize::MAX).await?;
            output.result(&Value::from(items.clone()), || silences(&items))
        }
        Silence::Add(add) => {
            let now = jiff::Timestamp::now().as_second();
            let made = client.post("/v1/alarm-silences", &add.body(now)).await?;
            output.result(&made, || {
                let until = moment(field(&made, "silence"), "until");
                format!("silence {} lasts until {until}", cell(&made, "id"))
            })
        }
        Silence::Remove { id } => {
            client.delete(&format!("/v1/alarm-silences/{id}")).await?;
            output.result(&json!({ "removed": id }), || format!("ended silence {id}"))
        }
    }
}

fn list(items: &[Value]) -> String {
    let rows: Vec<_> = items
        .iter()
        .map(|alarm| {
            vec![
                cell(alarm, "id"),
                cell(alarm, "status"),
                cell(alarm, "severity"),
                cell(alarm, "device"),
                cell(alarm, "template"),
                cell(alarm, "instance"),
                cell(alarm, "value"),
                moment(alarm, "began"),
            ]
        })
        .collect();
    table(
        "no alarms",
        &[
            "ID", "STATUS", "SEVERITY", "DEVICE", "TEMPLATE", "INSTANCE", "VALUE", "BEGAN",
        ],
        &rows,
    )
}

fn items<'v>(value: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> {
    field(value, name).as_array().into_iter().flatten()
}

fn show(alarm: &Value) -> String {
    let by = match field(alarm, "acknowledged_by") {
        Value::Null => String::new(),
        _ => format!(" by {}", cell(alarm, "acknowledged_by")),
    };
    let head = fields(&[
        ("alarm", cell(alarm, "id")),
        ("status", cell(alarm, "status")),
        ("severity", cell(alarm, "severity")),
        ("device", cell(alarm, "device")),
        ("supplier", cell(alarm, "supplier")),
        ("template", cell(alarm, "template")),
        ("instance", cell(alarm, "instance")),
        ("condition", cell(alarm, "condition")),
        ("value", cell(alarm, "value")),
        ("flapping", cell(alarm, "flapping")),
        ("began", moment(alarm, "began")),
        ("fired", moment(alarm, "fired")),
        ("acknowledged", moment(alarm, "acknowledged") + &by),
        ("resolved", moment(alarm, "resolved")),
    ]);
    let history: Vec<_> = items(alarm, "history")
        .map(|event| {
            vec![
                moment(event, "time"),
                cell(event, "kind"),
                cell(event, "text"),
            ]
        })
        .collect();
    let deliveries: Vec<_> = items(alarm, "deliveries")
        .map(|one| {
            vec![
                cell(one, "channel"),
                cell(one, "notice"),
                cell(one, "state"),
                cell(one, "attempts"),
                moment(one, "next"),
                cell(one, "reason"),
            ]
        })
        .collect();
    format!(
        "{head}\n{}\n{}",
        table("no history", &["TIME", "WHAT", "TEXT"], &history),
        table(
            "nobody was told",
            &["CHANNEL", "NOTICE", "STATE", "ATTEMPTS", "NEXT", "REASON"],
            &deliveries
        )
    )
}

fn templates(items: &[Value]) -> String {
    let rows: Vec<_> = items
        .iter()
        .map(|template| {
            vec![
                cell(template, "name"),
                cell(template, "enabled"),
                cell(template, "severity"),
                cell(template, "key"),
                brief(field(template, "when")),
                cell(template, "for"),
            ]
        })
        .collect();
    table(
        "no templates",
        &["NAME", "ENABLED", "SEVERITY", "KEY", "WHEN", "FOR"],
        &rows,
    )
}

fn channels(items: &[Value]) -> String {
    let rows: Vec<_> = items
        .iter()
        .map(|channel| {
            let kind = field(channel, "to")
                .as_object()
                .and_then(|to| to.keys().next());
            vec![
                cell(channel, "name"),
                kind.cloned().unwrap_or_default(),
                cell(channel, "enabled"),
                cell(channel, "severity"),
                cell(channel, "supplier"),
            ]
        })
        .collect();
    table(
        "no channels",
        &["NAME", "KIND", "ENABLED", "SEVERITY", "SUPPLIER"],
        &rows,
    )
}

fn silences(items: &[Value]) -> String {
    let rows: Vec<_> = items
        .iter()
        .map(|one| {
            let silence = field(one, "silence");
            vec![
                cell(one, "id"),
                brief(field(silence, "select")),
                cell(silence, "templates"),
                moment(silence, "from"),
                moment(silence, "until"),
                cell(one, "created_by"),
                cell(one, "note"),
            ]
        })
        .collect();
    table(
        "no silences",
        &["ID", "SELECT", "TEMPLATES", "FROM", "UNTIL", "BY", "NOTE"],
        &rows,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        add: Add,
    }

    #[test]
    fn a_silence_has_devices_a_beginning_and_an_end() {
        let line = Line::try_parse_from(["add", "--group", "g", "--for", "2h", "--in", "10m"]);
        let expected = json!({ "select": { "group": "g" }, "templates": [], "from": 700, "until": 7900, "note": "" });
        assert_eq!(line.unwrap().add.body(100), expected);
        assert!(Line::try_parse_from(["add", "--for", "2h"]).is_err());
        assert!(Line::try_parse_from(["add", "--all"]).is_err());
    }
}
