//! Rollouts.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{cell, field, moment};
use crate::client::{Client, part};
use crate::error::{Error, Result};
use crate::output::{self, Output, fields, table};

/// How often `watch` looks.
const LOOK: Duration = Duration::from_secs(2);
/// No signed order is larger, in bytes.
const ORDER_LIMIT: u64 = 1 << 20;

/// What to do with rollouts.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a rollout
    Create(Box<Create>),
    /// Start a rollout
    Start {
        /// Its number
        id: i64,
    },
    /// Pause a rollout: no device gets the order any more; those that have it go on
    Pause {
        /// Its number
        id: i64,
    },
    /// Let a rollout go on, after a pause or a halt
    Resume {
        /// Its number
        id: i64,
    },
    /// End a rollout for good, and take the order back where it isn't too late
    Abort {
        /// Its number
        id: i64,
    },
    /// List rollouts
    List {
        /// Only of this status: draft, running, paused, halted, finished or aborted
        #[arg(long)]
        status: Option<String>,
        /// The last so many
        #[arg(long, default_value_t = 100, value_name = "N", value_parser = super::count())]
        last: usize,
    },
    /// Show a rollout and its devices
    Show {
        /// Its number
        id: i64,
        /// Only devices in this state, as failed
        #[arg(long)]
        state: Option<String>,
        /// Devices at most
        #[arg(long, default_value_t = 1000, value_name = "N", value_parser = super::count())]
        devices: usize,
    },
    /// Watch a rollout until it ends or halts; fails unless it finished with a good device
    Watch {
        /// Its number
        id: i64,
    },
}

/// Options of `rollout create`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("select").required(true).args(["all", "group", "tags", "devices"])))]
pub struct Create {
    /// The release's version
    #[arg(long, value_name = "VERSION")]
    release: String,
    /// What people call it
    #[arg(long)]
    name: Option<String>,
    /// The release's channel, if it is in several
    #[arg(long)]
    channel: Option<String>,
    /// For all devices
    #[arg(long)]
    all: bool,
    /// For the devices of this group
    #[arg(long)]
    group: Option<String>,
    /// For the devices with this tag (repeatable: with all of them)
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// For this device (repeatable)
    #[arg(long = "device", value_name = "ID")]
    devices: Vec<String>,
    /// Devices in a first small wave
    #[arg(long, value_name = "N")]
    canary: Option<u64>,
    /// All devices so far at the end of each wave: shares as 10%,50%,100%, or numbers of devices as 10,50
    #[arg(long, value_delimiter = ',', value_name = "SHARES")]
    waves: Vec<String>,
    /// How long a wave is watched before the next one, as 1h [server's default: not at all]
    #[arg(long, value_name = "DURATION")]
    soak: Option<String>,
    /// Halt when so many devices have failed; without this and --max-failure-rate the first failure halts
    #[arg(long, value_name = "N")]
    max_failures: Option<u64>,
    /// Halt when so much of the outcomes are failures, as 5%
    #[arg(long, value_name = "RATE")]
    max_failure_rate: Option<String>,
    /// Judge the rate from so many outcomes on [server's default: 10]
    #[arg(long, value_name = "N", requires = "max_failure_rate")]
    min_outcomes: Option<u64>,
    /// Give the order in these hours (UTC) only, as 02:00-05:00 (repeatable)
    #[arg(long = "window", value_name = "HOURS")]
    windows: Vec<String>,
    /// How long a wave waits for devices that don't show up [server's default: 7d]
    #[arg(long, value_name = "DURATION")]
    fill: Option<String>,
    /// How long a device may stay in each state, one for all [server's defaults: docs/rollouts.md]
    #[arg(long, value_name = "DURATION")]
    deadline: Option<String>,
    /// How often a device gets the order again after a failure that may pass [server's default: 2]
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// When devices restart: at once, or in their own maintenance window
    #[arg(long, value_parser = ["now", "window"], default_value = "window")]
    when: String,
    /// Let devices forget that the release failed on them before
    #[arg(long)]
    forgive: bool,
    /// A signed order that allows a lower sequence, as `imgtool order` writes it
    #[arg(long, value_name = "FILE")]
    downgrade_order: Option<PathBuf>,
    /// Start it at once
    #[arg(long)]
    start: bool,
}

impl Create {
    fn body(&self) -> Result<Value> {
        let select = if let Some(group) = &self.group {
            json!({ "group": group })
        } else if !self.tags.is_empty() {
            json!({ "tags": self.tags })
        } else if !self.devices.is_empty() {
            json!({ "devices": self.devices })
        } else {
            json!("all")
        };
        let mut body = Map::new();
        let mut put = |name: &str, value: Value| {
            // What isn't said is for the server to say.
            if !value.is_null() && value.as_array().is_none_or(|items| !items.is_empty()) {
                body.insert(name.into(), value);
            }
        };
        put("release", json!(self.release));
        put("name", json!(self.name));
        put("channel", json!(self.channel));
        put("select", select);
        put("canary", json!(self.canary));
        put(
            "waves",
            self.waves
                .iter()
                .map(|wave| {
                    wave.parse::<u64>()
                        .map_or_else(|_| json!(wave), |n| json!(n))
                })
                .collect(),
        );
        put("soak", json!(self.soak));
        put("max_failures", json!(self.max_failures));
        put("max_failure_rate", json!(self.max_failure_rate));
        put("min_outcomes", json!(self.min_outcomes));
        put("fill", json!(self.fill));
        put("window", json!(self.windows));
        put("deadline", json!(self.deadline));
        put("retries", json!(self.retries));
        put("when", json!(self.when));
        put("forgive", json!(self.forgive));
        if let Some(path) = &self.downgrade_order {
            put("downgrade", order(path)?);
        }
        put("start", json!(self.start));
        Ok(Value::Object(body))
    }
}

fn order(path: &std::path::Path) -> Result<Value> {
    let cannot = || Error::new(format!("cannot read the order {}", path.display()));
    let bytes = cairn_control_plane::releases::files::read(path, ORDER_LIMIT)
        .map_err(|error| cannot().because(error))?;
    serde_json::from_slice(&bytes).map_err(|error| {
        cannot()
            .because(error)
            .hint("expected a file that `imgtool order` wrote")
    })
}

/// Runs `rollout`.
///
/// # Errors
/// If the server can't be reached or says no.
pub async fn run(command: Command, output: &Output) -> Result<()> {
    let client = Client::open()?;
    match command {
        Command::Create(create) => {
            let made = client.post("/v1/rollouts", &create.body()?).await?;
            for hint in field(&made, "hints").as_array().into_iter().flatten() {
                output.note(&format!("hint: {}", output::cell(hint)));
            }
            output.result(&made, || {
                format!("rollout {} is {}", cell(&made, "id"), cell(&made, "status"))
            })
        }
        Command::Start { id } => steer(&client, id, "start", output).await,
        Command::Pause { id } => steer(&client, id, "pause", output).await,
        Command::Resume { id } => steer(&client, id, "resume", output).await,
        Command::Abort { id } => steer(&client, id, "abort", output).await,
        Command::List { status, last } => {
            let query: Vec<_> = status
                .map(|status| ("status", status))
                .into_iter()
                .collect();
            let items = client.list("/v1/rollouts", &query, last).await?;
            output.result(&Value::from(items.clone()), || list(&items))
        }
        Command::Show { id, state, devices } => {
            let mut rollout = client.get(&format!("/v1/rollouts/{id}")).await?;
            let query: Vec<_> = state.map(|state| ("state", state)).into_iter().collect();
            let found = client
                .list(&format!("/v1/rollouts/{id}/devices"), &query, devices)
                .await?;
            rollout["devices"] = found.clone().into();
            output.result(&rollout, || show(&rollout) + &device_table(&found))
        }
        Command::Watch { id } => watch(&client, id, output).await,
    }
}

async fn steer(client: &Client, id: i64, what: &str, output: &Output) -> Result<()> {
    let now = client
        .with(
            Method::POST,
            &format!("/v1/rollouts/{}/{what}", part(&id.to_string())),
            &json!({}),
        )
        .await?;
    output.result(&now, || format!("rollout {id} is {}", cell(&now, "status")))
}

/// One line whenever something has changed, until nothing more will.
async fn watch(client: &Client, id: i64, output: &Output) -> Result<()> {
    let (mut before, mut lost) = (Value::Null, 0);
    loop {
        let rollout = match client.get(&format!("/v1/rollouts/{id}")).await {
            // A server that restarts is no reason to stop watching.
            Err(error) if error.is("unreachable") && lost < 30 => {
                lost += 1;
                tokio::time::sleep(LOOK).await;
                continue;
            }
            rollout => rollout?,
        };
        lost = 0;
        if rollout != before {
            let now = jiff::Timestamp::now();
            // Lines: a program reads one document each.
            let line = if output.is_json() {
                rollout.to_string()
            } else {
                format!("{now:.0}  {}", progress(&rollout))
            };
            output.bytes(format!("{line}\n").as_bytes())?;
        }
        match field(&rollout, "status").as_str() {
            Some("finished") if number(&rollout, "good") == 0 => {
                return Err(
                    Error::new(format!("rollout {id} finished without one good device"))
                        .code("none-good")
                        .hint(format!(
                            "`cairnctl rollout show {id}` says what became of each"
                        )),
                );
            }
            Some("finished") => return Ok(()),
            Some("halted") => {
                return Err(Error::new(format!(
                    "rollout {id} halted: {}",
                    cell(&rollout, "reason")
                ))
                .code("halted")
                .hint(format!(
                    "`cairnctl rollout show {id} --state failed` says which devices failed and why"
                )));
            }
            Some("aborted") => {
                return Err(Error::new(format!("rollout {id} was aborted")).code("aborted"));
            }
            _ => {}
        }
        before = rollout;
        tokio::time::sleep(LOOK).await;
    }
}

fn number(rollout: &Value, name: &str) -> u64 {
    field(rollout, name).as_u64().unwrap_or(0)
}

fn progress(rollout: &Value) -> String {
    let waves = field(rollout, "targets").as_array().map_or(0, Vec::len);
    format!(
        "{}: wave {} of {waves}, {} of {} admitted, {} under way, {} good, {} failed{}",
        cell(rollout, "status"),
        number(rollout, "wave"),
        number(rollout, "admitted"),
        number(rollout, "matched"),
        number(rollout, "open"),
        number(rollout, "good"),
        number(rollout, "failed"),
        field(rollout, "reason")
            .as_str()
            .map(|reason| format!(" ({})", output::clean(reason)))
            .unwrap_or_default(),
    )
}

fn list(items: &[Value]) -> String {
    let rows: Vec<_> = items
        .iter()
        .map(|r| {
            vec![
                cell(r, "id"),
                cell(r, "status"),
                cell(field(r, "release"), "version"),
                format!("{}/{}", number(r, "good"), number(r, "matched")),
                cell(r, "failed"),
                moment(r, "started"),
                cell(r, "name"),
            ]
        })
        .collect();
    table(
        "no rollouts",
        &[
            "ID", "STATUS", "RELEASE", "GOOD", "FAILED", "STARTED", "NAME",
        ],
        &rows,
    )
}

fn show(rollout: &Value) -> String {
    let release = field(rollout, "release");
    let mut text = fields(&[
        ("rollout", cell(rollout, "id")),
        ("name", cell(rollout, "name")),
        (
            "release",
            format!(
                "{} in {}",
                cell(release, "version"),
                cell(release, "channel")
            ),
        ),
        ("select", output::brief(field(rollout, "select"))),
        ("state", progress(rollout)),
        (
            "created",
            format!(
                "{} by {}",
                moment(rollout, "created"),
                cell(rollout, "created_by")
            ),
        ),
        ("started", moment(rollout, "started")),
        ("ended", moment(rollout, "ended")),
    ]);
    text.push('\n');
    text
}

fn device_table(devices: &[Value]) -> String {
    let rows: Vec<_> = devices
        .iter()
        .map(|d| {
            let reason = field(d, "reason");
            let why = match reason {
                Value::Null => cell(d, "note"),
                reason => format!("{}: {}", cell(reason, "code"), cell(reason, "text")),
            };
            vec![
                cell(d, "device"),
                cell(d, "state"),
                moment(d, "since"),
                cell(d, "running"),
                cell(d, "attempt"),
                why,
            ]
        })
        .collect();
    table(
        "no devices",
        &["DEVICE", "STATE", "SINCE", "RUNS", "ORDER", "WHY"],
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
        create: Create,
    }

    #[test]
    fn what_is_not_said_is_left_to_the_server() {
        let line = Line::try_parse_from([
            "create",
            "--release",
            "2",
            "--group",
            "g",
            "--waves",
            "5,50%",
            "--max-failures",
            "1",
            "--when",
            "now",
            "--start",
        ]);
        let body = line.unwrap().create.body().unwrap();
        assert_eq!(
            body,
            json!({
                "release": "2", "select": { "group": "g" }, "waves": [5, "50%"], "max_failures": 1, "when": "now",
                "forgive": false, "start": true,
            })
        );
    }

    #[test]
    fn devices_are_chosen_in_one_way() {
        assert!(Line::try_parse_from(["create", "--release", "2"]).is_err());
        assert!(
            Line::try_parse_from(["create", "--release", "2", "--all", "--group", "g"]).is_err()
        );
        assert!(
            Line::try_parse_from(["create", "--release", "2", "--tag", "a", "--tag", "b"]).is_ok()
        );
    }
}
