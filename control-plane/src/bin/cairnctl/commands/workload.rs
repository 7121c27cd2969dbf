//! Workloads: what customers have the fleet run.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{call, cell, field, moment, put_document};
use crate::client::{Client, part};
use crate::error::Result;
use crate::output::{Output, fields, table};

/// How long a device may take to carry an order out; the server waits for less.
const PATIENCE: Duration = Duration::from_secs(615);

/// What to do with workloads.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List workloads; with --device those of a device, and how they are
    List {
        /// Only those on this device
        #[arg(long, value_name = "ID")]
        device: Option<String>,
    },
    /// Show a workload, where it is, and where it was lately
    Show {
        /// Its name
        name: String,
        /// The declaration alone, as `set` reads it
        #[arg(long)]
        declaration: bool,
    },
    /// Declare a workload, or change it
    Set {
        /// Its name
        name: String,
        /// A file with JSON, as in docs/workloads.md; - is stdin
        file: PathBuf,
    },
    /// Remove a workload from all devices
    Remove {
        /// Its name
        name: String,
    },
    /// Start what was stopped, and wait until it runs
    Start(On),
    /// Stop it on a device, until it is started or redeployed
    Stop(On),
    /// Stop it and start it again
    Restart(On),
    /// Make its Docker container anew, and forget what failed
    Redeploy(On),
    /// The last lines that it wrote
    Logs {
        #[command(flatten)]
        on: On,
        /// The last so many
        #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        lines: u64,
    },
}

/// A workload on a device.
#[derive(Debug, clap::Args)]
pub struct On {
    /// The device's id
    device: String,
    /// The workload's name
    name: String,
}

impl On {
    fn path(&self, rest: &str) -> String {
        let (device, name) = (part(&self.device), part(&self.name));
        format!("/v1/devices/{device}/workloads/{name}/{rest}")
    }
}

/// Runs `workload`.
///
/// # Errors
/// If the server can't be reached or says no, or the device does.
pub async fn run(command: Command, output: &Output) -> Result<()> {
    let client = Client::open()?;
    let path = |name: &str| format!("/v1/workloads/{}", part(name));
    match command {
        Command::List { device: None } => {
            let items = client.list("/v1/workloads", &[], usize::MAX).await?;
            output.result(&Value::from(items.clone()), || workloads(&items))
        }
        Command::List { device: Some(id) } => {
            let path = format!("/v1/devices/{}/workloads", part(&id));
            let found = client.get(&path).await?;
            output.result(&found, || {
                places(
                    "WORKLOAD",
                    "workload",
                    found.as_array().into_iter().flatten(),
                )
            })
        }
        Command::Show { name, declaration } if declaration => {
            let found = client.get(&format!("{}/declaration", path(&name))).await?;
            output.result(&found, || format!("{found:#}"))
        }
        Command::Show { name, .. } => {
            let mut found = client.get(&path(&name)).await?;
            let devices = format!("{}/devices", path(&name));
            let devices = client.list(&devices, &[], usize::MAX).await?;
            found["places"] = devices.into();
            output.result(&found, || show(&found))
        }
        Command::Set { name, file } => {
            let set = put_document(&client, &path(&name), &file, "docs/workloads.md").await?;
            output.result(&set, || format!("workload {name} is declared"))
        }
        Command::Remove { name } => {
            client.delete(&path(&name)).await?;
            output.result(&json!({ "removed": name }), || {
                format!("removed workload {name}")
            })
        }
        Command::Start(on) => steer(&client, &on, "start", output).await,
        Command::Stop(on) => steer(&client, &on, "stop", output).await,
        Command::Restart(on) => steer(&client, &on, "restart", output).await,
        Command::Redeploy(on) => steer(&client, &on, "redeploy", output).await,
        Command::Logs { on, lines } => {
            let answer = client.get(&on.path(&format!("logs?lines={lines}"))).await?;
            let answer = field(&answer, "answer");
            call::refused(&on.device, answer)?;
            let result = field(answer, "result");
            output.result(result, || call::lines(result))
        }
    }
}

async fn steer(client: &Client, on: &On, action: &str, output: &Output) -> Result<()> {
    let request = client.request(Method::POST, &on.path(action));
    let answer = client.send(request.timeout(PATIENCE)).await?;
    let answer = field(&answer, "answer");
    call::refused(&on.device, answer)?;
    let result = field(answer, "result");
    output.result(result, || {
        format!("{} on {} is {}", on.name, on.device, cell(result, "state"))
    })
}

fn workloads(items: &[Value]) -> String {
    let rows: Vec<_> = items
        .iter()
        .map(|item| {
            vec![
                cell(item, "name"),
                cell(item, "customer"),
                cell(item, "business"),
                cell(item, "devices"),
                cell(field(item, "missing"), "copies"),
                cell(item, "image"),
            ]
        })
        .collect();
    table(
        "no workloads",
        &[
            "NAME", "CUSTOMER", "BUSINESS", "DEVICES", "MISSING", "IMAGE",
        ],
        &rows,
    )
}

fn show(found: &Value) -> String {
    let missing = match field(found, "missing") {
        Value::Null => "nothing".to_owned(),
        missing => {
            let because = field(missing, "because").as_object();
            let because: Vec<_> = because
                .into_iter()
                .flatten()
                .map(|(reason, count)| format!("{count} {reason}"))
                .collect();
            let copies = cell(missing, "copies");
            match because.as_slice() {
                [] => format!("{copies}; no device is meant"),
                because => format!("{copies}; devices that can't: {}", because.join(", ")),
            }
        }
    };
    let head = fields(&[
        ("workload", cell(found, "name")),
        ("customer", cell(found, "customer")),
        ("business", cell(found, "business")),
        ("image", cell(found, "image")),
        ("place", field(found, "place").to_string()),
        ("devices", cell(found, "devices")),
        ("missing", missing),
        ("declared", moment(found, "changed")),
        ("by", cell(found, "changed_by")),
    ]);
    let there = field(found, "places").as_array().into_iter().flatten();
    format!("{head}\n{}", places("DEVICE", "device", there))
}

fn places<'v>(title: &str, key: &str, items: impl Iterator<Item = &'v Value>) -> String {
    let rows: Vec<_> = items
        .map(|place| {
            let ended = match field(place, "ended") {
                Value::Null => String::new(),
                _ => format!(
                    "{} ({})",
                    moment(place, "ended"),
                    cell(place, "ended_because")
                ),
            };
            vec![
                cell(place, key),
                cell(place, "online"),
                moment(place, "since"),
                ended,
                cell(place, "state"),
                cell(place, "reason"),
            ]
        })
        .collect();
    table(
        "on no device",
        &[title, "ONLINE", "SINCE", "ENDED", "STATE", "REASON"],
        &rows,
    )
}
