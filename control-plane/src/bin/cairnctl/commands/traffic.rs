//! Traffic: what was counted, and what it comes to.

use reqwest::Method;
use serde_json::{Value, json};

use super::{cell, field, moment};
use crate::client::{Client, encode, part};
use crate::error::{Error, Result};
use crate::output::{Output, bytes, fields, table};

/// What traffic is summed up for.
const DIMENSIONS: [&str; 8] = [
    "all", "device", "meter", "customer", "business", "supplier", "group", "tag",
];

/// What to do with traffic.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Five-minute sums, the last hour if nothing else is said
    Series {
        #[command(flatten)]
        subject: Subject,
        /// Not before this, in seconds since 1970
        #[arg(long, value_name = "SECONDS")]
        from: Option<i64>,
        /// Before this, in seconds since 1970; else now
        #[arg(long, value_name = "SECONDS")]
        to: Option<i64>,
        /// The last so many slots of five minutes
        #[arg(long, value_name = "N", conflicts_with = "from", value_parser = clap::value_parser!(i64).range(1..))]
        last: Option<i64>,
        /// Write CSV
        #[arg(long)]
        csv: bool,
    },
    /// A month's figures by every usual definition
    Bill {
        #[command(flatten)]
        subject: Subject,
        /// The month, as 2026-11
        month: String,
        /// The contract's time zone, as Asia/Shanghai
        #[arg(long, default_value = "UTC", value_name = "ZONE")]
        time_zone: String,
        /// Which bytes count: rx, tx, larger (of both, slot by slot) or sum
        #[arg(long, default_value = "larger", value_parser = ["rx", "tx", "larger", "sum"])]
        direction: String,
        /// The percentile: 95 leaves out the highest 5 %
        #[arg(long, default_value_t = 95, value_name = "1-100", value_parser = clap::value_parser!(u8).range(1..=100))]
        percent: u8,
        /// How many samples are left out if their share isn't a whole number: rounded down or up
        #[arg(long, default_value = "down", value_parser = ["down", "up"])]
        rounding: String,
        /// What a slot counts for which nothing came: zero, or it is left-out
        #[arg(long, default_value = "zero", value_parser = ["zero", "left-out"])]
        gaps: String,
        /// Which of the days' peaks counts, from the highest
        #[arg(long, default_value_t = 4, value_name = "1-31", value_parser = clap::value_parser!(u8).range(1..=31))]
        rank: u8,
        /// Write the days as CSV
        #[arg(long)]
        csv: bool,
    },
    /// Whose traffic was counted
    Subjects {
        /// What it was counted for
        #[arg(value_parser = DIMENSIONS)]
        dimension: String,
    },
    /// What came of a device's records: gaps, and what can't be right
    Records {
        /// The device's id
        device: String,
    },
}

/// Whose traffic.
#[derive(Debug, clap::Args)]
pub struct Subject {
    /// Of what it is
    #[arg(value_parser = DIMENSIONS)]
    dimension: String,
    /// Its name: a device's id, device/meter, a customer, customer/business, …; of all: ""
    name: String,
    /// What was counted; else container for customers and businesses, interface for all others
    #[arg(long, value_parser = ["interface", "container"])]
    kind: Option<String>,
}

impl Subject {
    fn query(self) -> Vec<(&'static str, String)> {
        let usual = match self.dimension.as_str() {
            "customer" | "business" => "container",
            _ => "interface",
        };
        let kind = self.kind.unwrap_or_else(|| usual.to_owned());
        vec![
            ("dimension", self.dimension),
            ("name", self.name),
            ("kind", kind),
        ]
    }
}

/// Runs a command.
///
/// # Errors
/// If the server can't be reached or says no.
pub async fn run(command: Command, output: &Output) -> Result<()> {
    let csv = matches!(
        command,
        Command::Series { csv: true, .. } | Command::Bill { csv: true, .. }
    );
    // `--json` may stand before the command, where clap sees no conflict.
    if csv && output.is_json() {
        return Err(Error::new("expected --csv or --json, got both"));
    }
    let client = Client::open()?;
    match command {
        Command::Series {
            subject,
            from,
            to,
            last,
            csv,
        } => {
            let mut query = subject.query();
            let spans = [("from", from), ("to", to), ("last", last)];
            query.extend(
                spans
                    .into_iter()
                    .filter_map(|(name, value)| Some((name, value?.to_string()))),
            );
            if csv {
                return csv_of(&client, "/v1/traffic/series", query, output).await;
            }
            let series = client.get(&url("/v1/traffic/series", &query)).await?;
            output.result(&series, || slots(&series))
        }
        Command::Bill {
            subject,
            month,
            time_zone,
            direction,
            percent,
            rounding,
            gaps,
            rank,
            csv,
        } => {
            let mut query = subject.query();
            query.extend([
                ("month", month),
                ("time_zone", time_zone),
                ("direction", direction),
                ("percent", percent.to_string()),
                ("rounding", rounding),
                ("gaps", gaps),
                ("rank", rank.to_string()),
            ]);
            if csv {
                return csv_of(&client, "/v1/traffic/bill", query, output).await;
            }
            let bill = client.get(&url("/v1/traffic/bill", &query)).await?;
            output.result(&bill, || figures(&bill))
        }
        Command::Subjects { dimension } => {
            let query = [("dimension", dimension)];
            let items = client
                .list("/v1/traffic/subjects", &query, usize::MAX)
                .await?;
            output.result(&Value::from(items.clone()), || {
                let rows: Vec<_> = items
                    .iter()
                    .map(|it| vec![cell(it, "name"), cell(it, "kind")])
                    .collect();
                table("nothing was counted", &["NAME", "KIND"], &rows)
            })
        }
        Command::Records { device } => {
            let path = format!("/v1/devices/{}/traffic", part(&device));
            let sent = client.get(&path).await?;
            output.result(&sent, || records(&sent))
        }
    }
}

fn url(path: &str, query: &[(&str, String)]) -> String {
    format!("{path}?{}", encode(query))
}

async fn csv_of(
    client: &Client,
    path: &str,
    mut query: Vec<(&'static str, String)>,
    output: &Output,
) -> Result<()> {
    query.push(("format", "csv".into()));
    let text = client
        .bytes(client.request(Method::GET, &url(path, &query)))
        .await?;
    output.bytes(&text)
}

/// A number of bytes; none is a gap.
fn size(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".into(), bytes)
}

/// Bits per second.
fn rate(value: &Value) -> String {
    let Some(bps) = value.as_u64() else {
        return "-".into();
    };
    let units = [(1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")];
    let fits = units.into_iter().find(|(unit, _)| bps as f64 >= *unit);
    match fits {
        Some((unit, name)) => format!("{:.3} {name}", bps as f64 / unit),
        None => format!("{bps} bit/s"),
    }
}

fn items<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    field(value, name).as_array().map_or(&[], Vec::as_slice)
}

fn slots(series: &Value) -> String {
    let rows: Vec<_> = items(series, "slots")
        .iter()
        .map(|slot| {
            vec![
                moment(slot, "time"),
                size(field(slot, "rx_bytes")),
                size(field(slot, "tx_bytes")),
                cell(slot, "meters"),
                cell(slot, "estimated"),
            ]
        })
        .collect();
    table(
        "no slots",
        &["FROM", "RECEIVED", "SENT", "METERS", "ESTIMATED"],
        &rows,
    )
}

fn figures(bill: &Value) -> String {
    let figure = |name: &str| {
        let found = field(bill, name);
        rate(found.get("bps").unwrap_or(found))
    };
    let percentile = field(bill, "percentile");
    let left_out = format!(
        "{} of {} samples left out",
        cell(percentile, "left_out"),
        cell(percentile, "samples")
    );
    let state = if field(bill, "complete") == &json!(true) {
        "complete"
    } else {
        "so far"
    };
    let head = fields(&[
        (
            "month",
            format!(
                "{} in {}, {state}",
                cell(bill, "month"),
                cell(bill, "time_zone")
            ),
        ),
        (
            "percentile",
            format!("{} ({left_out})", figure("percentile")),
        ),
        (
            "mean of the days' percentiles",
            figure("average_daily_percentile_bps"),
        ),
        ("mean of the days' peaks", figure("average_daily_peak_bps")),
        ("ranked peak", figure("ranked_peak_bps")),
        ("received", size(field(bill, "rx_bytes"))),
        ("sent", size(field(bill, "tx_bytes"))),
        (
            "slots without a report",
            format!("{} of {}", cell(bill, "missing"), cell(bill, "slots")),
        ),
        ("rule", cell(bill, "rule")),
    ]);
    let rows: Vec<_> = items(bill, "days")
        .iter()
        .map(|day| {
            let percentile = field(field(day, "percentile"), "bps");
            vec![
                cell(day, "date"),
                rate(percentile),
                rate(field(day, "peak_bps")),
                cell(day, "missing"),
            ]
        })
        .collect();
    format!(
        "{head}\n{}",
        table("no days", &["DAY", "PERCENTILE", "PEAK", "MISSING"], &rows)
    )
}

/// A time in milliseconds, as a moment.
fn seconds(fault: &Value) -> String {
    let ms = field(fault, "time").as_i64();
    crate::output::moment(&json!(ms.map(|ms| ms / 1000)))
}

fn records(sent: &Value) -> String {
    let chains: Vec<_> = items(sent, "chains")
        .iter()
        .map(|chain| {
            let names = ["chain", "records", "missing"];
            let mut row: Vec<_> = names.iter().map(|name| cell(chain, name)).collect();
            row.extend([moment(chain, "first"), moment(chain, "last")]);
            row
        })
        .collect();
    let faults: Vec<_> = items(sent, "faults")
        .iter()
        .map(|fault| {
            vec![
                seconds(fault),
                cell(fault, "kind"),
                cell(fault, "counted"),
                cell(fault, "reason"),
            ]
        })
        .collect();
    format!(
        "{}\n{}",
        table(
            "it sent none",
            &["CHAIN", "RECORDS", "MISSING", "FIRST", "LAST"],
            &chains
        ),
        table(
            "nothing is wrong with them",
            &["TIME", "FAULT", "COUNTED", "REASON"],
            &faults
        )
    )
}

#[cfg(test)]
mod tests {
    use crate::cli::Cli;
    use clap::Parser as _;

    #[test]
    fn what_the_server_would_not_know_is_refused_here() {
        let bill = ["cairnctl", "traffic", "bill", "customer", "acme", "2026-11"];
        assert!(Cli::try_parse_from(bill).is_ok());
        for (option, value) in [
            ("--gaps", "none"),
            ("--direction", "both"),
            ("--rounding", "off"),
            ("--percent", "0"),
            ("--rank", "32"),
            ("--kind", "disk"),
        ] {
            let error = Cli::try_parse_from(bill.into_iter().chain([option, value]));
            assert!(error.unwrap_err().to_string().contains(option), "{option}");
        }
        let error =
            Cli::try_parse_from(["cairnctl", "traffic", "subjects", "customers"]).unwrap_err();
        assert!(error.to_string().contains("customer, business"), "{error}");
    }
}
