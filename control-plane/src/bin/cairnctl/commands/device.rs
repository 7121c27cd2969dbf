//! Devices.

use std::path::PathBuf;

use reqwest::Method;
use serde_json::{Value, json};

use super::{cell, field, moment, put_document};
use crate::client::{Client, encode, part};
use crate::error::{Error, Result};
use crate::output::{self, Output, fields, table};

/// What to do with devices.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List devices
    List {
        /// Only of this group
        #[arg(long)]
        group: Option<String>,
        /// Only with this tag
        #[arg(long)]
        tag: Option<String>,
        /// Only those that are connected
        #[arg(long)]
        online: bool,
        /// At most so many
        #[arg(long, default_value_t = 1000, value_name = "N", value_parser = super::count())]
        limit: usize,
    },
    /// Show a device
    Show {
        /// The device's id
        id: String,
    },
    /// Change a device's name, group, supplier or tags
    Set {
        /// The device's id
        id: String,
        /// What people call it
        #[arg(long)]
        name: Option<String>,
        /// Its group
        #[arg(long)]
        group: Option<String>,
        /// Whose it is; empty: the operator's own
        #[arg(long, value_name = "NAME")]
        supplier: Option<String>,
        /// A tag to add (repeatable)
        #[arg(long = "add-tag", value_name = "TAG")]
        add_tags: Vec<String>,
        /// A tag to take away (repeatable)
        #[arg(long = "remove-tag", value_name = "TAG")]
        remove_tags: Vec<String>,
    },
    /// Show how a device's disks are, or declare how they shall be laid out
    Disks {
        /// The device's id
        id: String,
        /// A file with the list of all its disks as JSON, as in docs/disks.md; - is stdin
        #[arg(long, value_name = "FILE")]
        set: Option<PathBuf>,
    },
    /// Have a device run no workloads; those that may run elsewhere move
    Drain {
        /// The device's id
        id: String,
    },
    /// End that
    Undrain {
        /// The device's id
        id: String,
    },
    /// Show a device's attributes, or set shared ones
    Attributes {
        /// The device's id
        id: String,
        /// Shared attributes to set, as KEY=JSON; what is no JSON is a text; KEY= deletes one (repeatable)
        #[arg(long = "set", value_name = "KEY=JSON", value_parser = pair)]
        set: Vec<(String, Value)>,
    },
    /// Show a device's telemetry: the newest value of each key, or the values of one
    Telemetry {
        /// The device's id
        id: String,
        /// The key
        key: Option<String>,
        /// The last so many values of the key, or steps of time
        #[arg(long, default_value_t = 100, value_name = "N", requires = "key", value_parser = super::count())]
        last: usize,
        /// What the key's numbers come to in each such time, as 5m or 1h, and not the values themselves
        #[arg(long, value_name = "DURATION", requires = "key", value_parser = super::seconds)]
        step: Option<i64>,
    },
    /// What became of a device, in order
    Timeline {
        /// The device's id
        id: String,
        /// The last so many events
        #[arg(long, default_value_t = 200, value_name = "N", value_parser = super::count())]
        last: usize,
    },
    /// List what a device has uploaded as evidence, or fetch one file
    Evidence {
        /// The device's id
        id: String,
        /// The file; written to stdout if --out isn't given
        name: Option<String>,
        /// Write the file there
        #[arg(long, value_name = "FILE", requires = "name")]
        out: Option<PathBuf>,
    },
    /// Shut a device out for good; what it sent stays
    Revoke {
        /// The device's id
        id: String,
    },
    /// Forget a device and everything that it sent
    Remove {
        /// The device's id
        id: String,
    },
}

fn pair(text: &str) -> std::result::Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=JSON")?;
    let value = match (value, serde_json::from_str(value)) {
        ("", _) => Value::Null,
        (_, Ok(value)) => value,
        (_, Err(error)) if value.starts_with(['{', '[', '"']) => {
            return Err(format!("expected JSON for {key}: {error}"));
        }
        // What is no JSON is meant as a string.
        (value, Err(_)) => value.into(),
    };
    Ok((key.to_owned(), value))
}

/// Runs `device`.
///
/// # Errors
/// If the server can't be reached or says no.
pub async fn run(command: Command, output: &Output) -> Result<()> {
    let client = Client::open()?;
    let device = |id: &str, rest: &str| format!("/v1/devices/{}{rest}", part(id));
    match command {
        Command::List {
            group,
            tag,
            online,
            limit,
        } => {
            let mut query = Vec::new();
            query.extend(group.map(|group| ("group", group)));
            query.extend(tag.map(|tag| ("tag", tag)));
            if online {
                query.push(("online", "true".into()));
            }
            let items = client.list("/v1/devices", &query, limit).await?;
            output.result(&Value::from(items.clone()), || list(&items))
        }
        Command::Show { id } => {
            let found = client.get(&device(&id, "")).await?;
            output.result(&found, || show(&found))
        }
        Command::Set {
            id,
            name,
            group,
            supplier,
            add_tags,
            remove_tags,
        } => {
            if name.is_none()
                && group.is_none()
                && supplier.is_none()
                && add_tags.is_empty()
                && remove_tags.is_empty()
            {
                return Err(Error::new("nothing to change")
                    .hint("give --name, --group, --supplier, --add-tag or --remove-tag"));
            }
            let body = json!({ "name": name, "group": group, "supplier": supplier, "add_tags": add_tags, "remove_tags": remove_tags });
            let changed = client.with(Method::PATCH, &device(&id, ""), &body).await?;
            output.result(&changed, || show(&changed))
        }
        Command::Disks { id, set } => {
            let path = device(&id, "/disks");
            let found = match set {
                None => client.get(&path).await?,
                Some(file) => put_document(&client, &path, &file, "docs/disks.md").await?,
            };
            output.result(&found, || disks(&found))
        }
        Command::Drain { id } => drain(&client, &id, true, output).await,
        Command::Undrain { id } => drain(&client, &id, false, output).await,
        Command::Attributes { id, set } => {
            if !set.is_empty() {
                let shared: serde_json::Map<_, _> = set.into_iter().collect();
                client
                    .with(
                        Method::PATCH,
                        &device(&id, "/attributes"),
                        &json!({ "shared": shared }),
                    )
                    .await?;
            }
            let found = client.get(&device(&id, "/attributes")).await?;
            output.result(&found, || attributes(&found))
        }
        Command::Telemetry {
            id,
            key: Some(key),
            last,
            step: Some(step),
        } => {
            let span = step.saturating_mul(1000).saturating_mul(last as i64);
            let from = jiff::Timestamp::now().as_millisecond().saturating_sub(span);
            let query = [
                ("key", key),
                ("step", step.to_string()),
                ("from", from.to_string()),
            ];
            let path = device(&id, &format!("/telemetry/windows?{}", encode(&query)));
            let items = field(&client.get(&path).await?, "items").clone();
            output.result(&items, || windows(&items))
        }
        Command::Telemetry { id, key, last, .. } => {
            let mut query = vec![("limit", last.to_string())];
            query.extend(key.map(|key| ("key", key)));
            let page = client
                .get(&device(&id, &format!("/telemetry?{}", encode(&query))))
                .await?;
            let items = field(&page, "items").clone();
            output.result(&items, || {
                let rows: Vec<_> = rows(&items)
                    .map(|s| vec![millis(field(s, "ts")), cell(s, "key"), cell(s, "value")])
                    .collect();
                table("no telemetry", &["TIME", "KEY", "VALUE"], &rows)
            })
        }
        Command::Timeline { id, last } => {
            let page = client
                .get(&device(&id, &format!("/timeline?last={last}")))
                .await?;
            let items = field(&page, "items").clone();
            output.result(&items, || {
                let rows: Vec<_> = rows(&items)
                    .map(|e| vec![millis(field(e, "time")), cell(e, "kind"), cell(e, "text")])
                    .collect();
                table("no events", &["TIME", "KIND", "WHAT"], &rows)
            })
        }
        Command::Evidence { id, name: None, .. } => {
            let page = client.get(&device(&id, "/evidence")).await?;
            let items = field(&page, "items").clone();
            output.result(&items, || {
                let size = |e: &Value| output::bytes(field(e, "size").as_u64().unwrap_or(0));
                let rows: Vec<_> = rows(&items)
                    .map(|e| vec![moment(e, "time"), size(e), cell(e, "name")])
                    .collect();
                table("no evidence", &["TIME", "SIZE", "NAME"], &rows)
            })
        }
        Command::Evidence {
            id,
            name: Some(name),
            out,
        } => {
            let path = device(&id, &format!("/evidence/{}", part(&name)));
            let bytes = client.bytes(client.request(Method::GET, &path)).await?;
            match out {
                None => output.bytes(&bytes),
                Some(path) => {
                    std::fs::write(&path, &bytes).map_err(|error| {
                        Error::new(format!("cannot write {}", path.display())).because(error)
                    })?;
                    let value = json!({ "out": path, "size": bytes.len() });
                    output.result(&value, || {
                        format!("{} bytes in {}", bytes.len(), path.display())
                    })
                }
            }
        }
        Command::Revoke { id } => {
            client.post(&device(&id, "/revoke"), &json!({})).await?;
            output.result(&json!({ "revoked": id }), || format!("revoked {id}"))
        }
        Command::Remove { id } => {
            client.delete(&device(&id, "")).await?;
            output.result(&json!({ "removed": id }), || format!("removed {id}"))
        }
    }
}

fn rows(items: &Value) -> impl Iterator<Item = &Value> {
    items.as_array().into_iter().flatten()
}

fn windows(items: &Value) -> String {
    let rows: Vec<_> = rows(items)
        .map(|window| {
            let mut row = vec![millis(field(window, "start"))];
            row.extend(["count", "min", "avg", "max", "last"].map(|name| cell(window, name)));
            row
        })
        .collect();
    table(
        "no numbers",
        &["FROM", "COUNT", "MIN", "AVG", "MAX", "LAST"],
        &rows,
    )
}

/// A moment in milliseconds since 1970.
fn millis(value: &Value) -> String {
    value
        .as_i64()
        .and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok())
        .map_or_else(|| "-".into(), |moment| format!("{moment:.3}"))
}

fn status(device: &Value) -> &'static str {
    match (
        field(device, "revoked").is_null(),
        field(device, "online").as_bool(),
    ) {
        (false, _) => "revoked",
        (true, Some(true)) => "online",
        _ => "offline",
    }
}

fn list(items: &[Value]) -> String {
    let rows: Vec<_> = items
        .iter()
        .map(|d| {
            vec![
                cell(d, "id"),
                status(d).into(),
                cell(d, "group"),
                cell(d, "tags"),
                moment(d, "last_seen"),
                cell(d, "name"),
            ]
        })
        .collect();
    table(
        "no device matches",
        &["ID", "STATE", "GROUP", "TAGS", "LAST SEEN", "NAME"],
        &rows,
    )
}

fn disks(found: &Value) -> String {
    let states = field(found, "states").as_array().into_iter().flatten();
    let mut text = String::new();
    for disk in states {
        let part = |name: &str, before: &str| match field(disk, name).as_str() {
            None | Some("") => String::new(),
            Some(_) => format!("{before}{}", cell(disk, name)),
        };
        let state = match field(disk, "state") {
            Value::Null => "the device hasn't said anything".to_owned(),
            _ => cell(disk, "state"),
        };
        text += &format!(
            "{}{}: {state}{}\n",
            cell(disk, "name"),
            part("device", " on "),
            part("reason", ": ")
        );
        let steps = field(disk, "plan").as_array().into_iter().flatten();
        for step in steps.filter_map(Value::as_str) {
            text += &format!("    {}\n", output::clean(step));
        }
    }
    match text.is_empty() {
        true => "no disks are declared\n".to_owned(),
        false => text,
    }
}

async fn drain(client: &Client, id: &str, drained: bool, output: &Output) -> Result<()> {
    let body = json!({ "drained": drained });
    let changed = client
        .with(Method::PATCH, &format!("/v1/devices/{}", part(id)), &body)
        .await?;
    output.result(&changed, || show(&changed))
}

fn show(device: &Value) -> String {
    let mut text = fields(&[
        ("id", cell(device, "id")),
        ("name", cell(device, "name")),
        ("state", status(device).into()),
        ("group", cell(device, "group")),
        ("tags", cell(device, "tags")),
        ("supplier", cell(device, "supplier")),
        ("enrolled", moment(device, "created")),
        ("last seen", moment(device, "last_seen")),
    ]);
    if !field(device, "drained").is_null() {
        text.push_str(&fields(&[("drained", moment(device, "drained"))]));
    }
    if !field(device, "revoked").is_null() {
        text.push_str(&fields(&[("revoked", moment(device, "revoked"))]));
    }
    text.push_str(&section("facts", field(device, "facts")));
    text
}

fn attributes(found: &Value) -> String {
    ["client", "shared", "server"]
        .iter()
        .map(|scope| section(scope, field(found, scope)))
        .collect()
}

fn section(name: &str, object: &Value) -> String {
    let Some(object) = object.as_object().filter(|object| !object.is_empty()) else {
        return String::new();
    };
    let mut text = format!("{name}:\n");
    for (key, value) in object {
        text.push_str(&format!(
            "  {} = {}\n",
            output::clean(key),
            output::clean(&value.to_string())
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser as _;

    #[test]
    fn the_last_values_are_some_of_a_key() {
        let of = |arguments: &[&str]| {
            let line = ["cairnctl", "device", "telemetry", "edge"];
            Cli::try_parse_from(line.iter().chain(arguments))
        };
        of(&[]).unwrap();
        of(&["load"]).unwrap();
        of(&["load", "--last", "3"]).unwrap();
        assert!(
            of(&["--last", "3"])
                .unwrap_err()
                .to_string()
                .contains("KEY")
        );
        let error = of(&["load", "--last", "0"]).unwrap_err();
        assert!(error.to_string().contains("0 is not in 1.."), "{error}");
    }

    #[test]
    fn an_attribute_is_json_or_a_plain_text() {
        let of = |text| pair(text).map(|(_, value)| value);
        assert_eq!(of("k={\"x\":1}"), Ok(json!({ "x": 1 })));
        assert_eq!(of("k=5"), Ok(json!(5)));
        assert_eq!(of("k=a=b c"), Ok(json!("a=b c")));
        assert_eq!(of("k="), Ok(Value::Null));
        for broken in ["key={\"x\":1,}", "key=[1", "key=\"a"] {
            let error = pair(broken).unwrap_err();
            assert!(error.starts_with("expected JSON for key: "), "{error}");
        }
        assert!(pair("k").is_err());
    }
}
