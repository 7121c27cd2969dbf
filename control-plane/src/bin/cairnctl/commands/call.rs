//! Remote calls.

use std::time::Duration;

use cairn_wire::rpc::{Reply, method};
use reqwest::Method;
use serde_json::{Value, json};

use super::{field, seconds};
use crate::client::{Client, part};
use crate::error::{Error, Result};
use crate::output::{Output, clean};

/// Options of `rpc`.
#[derive(Debug, clap::Args)]
pub struct Rpc {
    /// The device's id
    id: String,
    /// What to do: status, logs, reboot, restart-unit, run-action, collect-diagnostics, forgive-release or
    /// factory-reset; docs/agent.md says what each takes
    method: String,
    /// With what, as a JSON object such as {"unit": "web.service"}
    #[arg(value_name = "PARAMS_JSON", value_parser = json_value)]
    params: Option<Value>,
    /// How long to wait for the answer
    #[arg(long, default_value = "30s", value_parser = seconds, value_name = "DURATION")]
    timeout: i64,
}

/// Options of `logs`.
#[derive(Debug, clap::Args)]
pub struct Logs {
    /// The device's id
    id: String,
    /// Only of this systemd unit
    #[arg(long, short)]
    unit: Option<String>,
    /// The last so many lines
    #[arg(short = 'n', long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    lines: u32,
    /// How long to wait for the answer
    #[arg(long, default_value = "30s", value_parser = seconds, value_name = "DURATION")]
    timeout: i64,
}

fn json_value(text: &str) -> std::result::Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("expected JSON: {error}"))
}

/// Calls a device, and waits a little longer than the server does.
async fn call(id: &str, method: &str, params: Value, timeout: i64) -> Result<Value> {
    let client = Client::open()?;
    let wait = Duration::from_secs(u64::try_from(timeout).unwrap_or(0).saturating_add(15));
    let body = json!({ "method": method, "params": params, "timeout": timeout });
    let path = format!("/v1/devices/{}/rpc", part(id));
    let mut answer = client
        .send(
            client
                .request(Method::POST, &path)
                .timeout(wait)
                .json(&body),
        )
        .await?;
    Ok(answer.get_mut("answer").map_or(Value::Null, Value::take))
}

impl Rpc {
    /// Runs `rpc`. A device of ours that says no makes it fail.
    ///
    /// # Errors
    /// If the device can't be reached, or says no.
    pub async fn run(self, output: &Output) -> Result<()> {
        let answer = call(
            &self.id,
            &self.method,
            self.params.unwrap_or(Value::Null),
            self.timeout,
        )
        .await?;
        let refused = refused(&self.id, &answer);
        if refused.is_err() && !output.is_json() {
            return refused;
        }
        output.result(&answer, || {
            match serde_json::from_value::<Reply>(answer.clone()) {
                Ok(reply) if reply.ok && reply.result.is_null() => "done".into(),
                Ok(reply) if reply.ok => format!("{:#}", reply.result),
                _ => format!("{answer:#}"),
            }
        })?;
        refused
    }
}

/// An answer of our agent's shape that says no.
pub(super) fn refused(id: &str, answer: &Value) -> Result<()> {
    if field(answer, "ok").as_bool() == Some(false) {
        let why = field(answer, "error").as_str().unwrap_or("no reason given");
        return Err(Error::new(format!("{id} refused: {}", clean(why))).code("refused"));
    }
    Ok(())
}

impl Logs {
    /// Runs `logs`.
    ///
    /// # Errors
    /// If the device can't be reached, or says no.
    pub async fn run(self, output: &Output) -> Result<()> {
        let params = match self.unit {
            Some(unit) => json!({ "unit": unit, "lines": self.lines }),
            None => json!({ "lines": self.lines }),
        };
        let answer = call(&self.id, method::LOGS, params, self.timeout).await?;
        refused(&self.id, &answer)?;
        let result = field(&answer, "result");
        if field(result, "lines").as_array().is_some_and(Vec::is_empty) {
            output.note("the journal has no such lines of this boot");
        }
        output.result(result, || lines(result))
    }
}

/// The lines of a log.
pub(super) fn lines(result: &Value) -> String {
    let lines = field(result, "lines").as_array().into_iter().flatten();
    lines
        .filter_map(Value::as_str)
        .map(|line| format!("{}\n", clean(line)))
        .collect()
}
