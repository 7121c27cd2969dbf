//! What the server may ask for: only what is listed here, and of programs only what the image allows.

pub mod command;
pub mod reset;
pub mod settings;

use std::sync::Arc;
use std::time::Duration;

use cairn_release::Digest;
use cairn_wire::Object;
use cairn_wire::rpc::{Call, Reply, method};
use cairn_wire::workload::Name;
use cairn_workload::Command;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::link::Http;
use crate::link::calls::{AT_A_TIME, FromServer};
use crate::shutdown::{Shutdown, boxed};
use crate::workloads;
use reset::Reset;
use settings::Settings;

/// How long a program of systemd's may take.
const SYSTEMD: Duration = Duration::from_secs(60);
/// The shortest time between a call's answer and the restart: the answer has to get out.
const LAST_WORD: Duration = Duration::from_secs(2);
/// The most lines of the journal in one answer.
const LINES: u64 = 1000;
/// What may be called.
const KNOWN: [&str; 10] = [
    method::STATUS,
    method::LOGS,
    method::REBOOT,
    method::RESTART_UNIT,
    method::RUN_ACTION,
    method::DIAGNOSTICS,
    method::FORGIVE,
    method::FACTORY_RESET,
    method::WORKLOAD,
    method::WORKLOAD_LOGS,
];
/// The most bytes of the journal in one answer.
const LINES_BYTES: usize = 48 * 1024;

/// Something that another part of the agent does, and may refuse.
pub type Service<I, O> = Arc<dyn Fn(I) -> BoxFuture<'static, Result<O, String>> + Send + Sync>;

/// Does what is asked.
pub struct Rpc {
    /// What is allowed.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// The device's id, once it has one.
    pub device: Arc<dyn Fn() -> Option<String> + Send + Sync>,
    /// All there is to say.
    pub status: Arc<dyn Fn() -> Value + Send + Sync>,
    /// Forgets that a release failed.
    pub forgive: Service<Digest, ()>,
    /// Gathers what helps to find a fault.
    pub diagnose: Service<(), Vec<u8>>,
    /// The workloads, while there are any to run.
    pub workloads: watch::Receiver<Option<workloads::Handle>>,
    /// Puts what waits to be sent on the disk.
    pub flush: Service<(), ()>,
    /// Where diagnostics go.
    pub http: Http,
    /// Where a factory reset happens.
    pub reset: Reset,
    /// One restart at a time.
    pub restarting: Arc<Semaphore>,
}

impl Rpc {
    /// Works until told to stop. What is under way then is given up.
    pub async fn run(self, mut calls: mpsc::Receiver<FromServer>, mut shutdown: Shutdown) {
        let rpc = Arc::new(self);
        let mut at_work = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                Some(_) = at_work.join_next() => {}
                call = calls.recv(), if at_work.len() < AT_A_TIME => {
                    let Some(FromServer { call, reply }) = call else { return };
                    let rpc = rpc.clone();
                    at_work.spawn(boxed(async move {
                        let answer = rpc.answer(&call).await;
                        if let Some(error) = &answer.error {
                            tracing::warn!(method = %call.method.chars().take(64).collect::<String>(), error, "the call failed");
                        }
                        let _ = reply.send(answer);
                    }));
                }
            }
        }
    }

    /// Does one call.
    pub async fn answer(&self, call: &Call) -> Reply {
        match self.perform(call).await {
            Ok(result) => Reply::done(result),
            Err(error) => Reply::refused(error),
        }
    }

    async fn perform(&self, call: &Call) -> Result<Value, String> {
        let params = match &call.params {
            Value::Object(params) => params.clone(),
            Value::Null => Object::new(),
            _ => return Err("expected an object as params".to_owned()),
        };
        match call.method.as_str() {
            method::STATUS => Ok((self.status)()),
            method::REBOOT => self.reboot(&params),
            method::RESTART_UNIT => self.restart_unit(&params).await,
            method::RUN_ACTION => self.run_action(&params).await,
            method::LOGS => logs(&params).await,
            method::DIAGNOSTICS => self.diagnostics().await,
            method::FACTORY_RESET => self.factory_reset(&params).await,
            method::WORKLOAD => {
                let (workloads, name) = self.workload(&params)?;
                let status = workloads.steer(name, command_of(&params)?).await?;
                serde_json::to_value(status).map_err(|error| error.to_string())
            }
            method::WORKLOAD_LOGS => {
                let (workloads, name) = self.workload(&params)?;
                let lines = u32::try_from(lines(&params)?).map_err(|error| error.to_string())?;
                Ok(json!({ "lines": workloads.logs(name, lines).await? }))
            }
            method::FORGIVE => {
                let digest = text(&params, "release")?
                    .parse::<Digest>()
                    .map_err(|error| format!("release: {error}"))?;
                (self.forgive)(digest).await.map(|()| Value::Null)
            }
            other => Err(format!(
                "unknown method {:?}, expected one of {}",
                other.chars().take(64).collect::<String>(),
                KNOWN.join(", ")
            )),
        }
    }

    fn workload(&self, params: &Object) -> Result<(workloads::Handle, Name), String> {
        let name = text(params, "name")?.parse();
        let name = name.map_err(|error| format!("name: {error}"))?;
        let workloads = self.workloads.borrow().clone();
        let workloads = workloads.ok_or("this node runs no workloads: there is no Docker")?;
        Ok((workloads, name))
    }

    fn reboot(&self, params: &Object) -> Result<Value, String> {
        let delay = match params.get("delay_seconds") {
            None => 0,
            Some(delay) => delay
                .as_u64()
                .filter(|delay| *delay <= 86_400)
                .ok_or("delay_seconds: expected 0 to 86400")?,
        };
        self.restart(Duration::from_secs(delay).max(LAST_WORD))?;
        Ok(json!({ "in_seconds": delay.max(LAST_WORD.as_secs()) }))
    }

    fn restart(&self, delay: Duration) -> Result<(), String> {
        let permit = self
            .restarting
            .clone()
            .try_acquire_owned()
            .map_err(|_| "the node is about to restart already")?;
        let flush = self.flush.clone();
        tokio::spawn(boxed(async move {
            tokio::time::sleep(delay).await;
            if let Err(error) = flush(()).await {
                tracing::warn!(error, "cannot keep what waits to be sent");
            }
            tracing::info!("restarting the node");
            if let Err(error) =
                command::succeed(&["systemctl", "--no-block", "reboot"], SYSTEMD).await
            {
                tracing::error!(error, "cannot restart the node");
                drop(permit);
                return;
            }
            // It isn't given back: the node goes down.
            permit.forget();
        }));
        Ok(())
    }

    async fn restart_unit(&self, params: &Object) -> Result<Value, String> {
        let unit = text(params, "unit")?;
        let allowed = self
            .settings
            .borrow()
            .restart_units
            .iter()
            .any(|allowed| allowed == unit);
        if !allowed {
            return Err(format!("unit {unit:?} isn't on the list rpc.restart-units"));
        }
        command::succeed(&["systemctl", "restart", "--", unit], SYSTEMD)
            .await
            .map(|_| Value::Null)
    }

    async fn run_action(&self, params: &Object) -> Result<Value, String> {
        let name = text(params, "name")?;
        let action = self
            .settings
            .borrow()
            .actions
            .get(name)
            .cloned()
            .ok_or_else(|| format!("there is no action {name:?}"))?;
        let given = match params.get("arguments") {
            None => Object::new(),
            Some(Value::Object(given)) => given.clone(),
            Some(_) => return Err("arguments: expected an object".to_owned()),
        };
        let output = command::run(&action.filled_in(&given)?, action.timeout).await?;
        let result = json!({ "status": output.status.code(), "stdout": output.stdout, "stderr": output.stderr });
        if output.status.success() {
            Ok(result)
        } else {
            Err(format!(
                "the action failed with {}: {}",
                output.status,
                output.stderr.trim_end()
            ))
        }
    }

    async fn diagnostics(&self) -> Result<Value, String> {
        let bytes = (self.diagnose)(()).await?;
        let name = format!(
            "diagnostics-{}",
            Digest::of(&bytes)
                .to_string()
                .chars()
                .take(12)
                .collect::<String>()
        );
        let url = format!("/v1/me/evidence/{name}");
        let size = bytes.len();
        self.http
            .put(&url, bytes)
            .await
            .map_err(|error| error.to_string())?;
        Ok(json!({ "url": url, "name": name, "bytes": size }))
    }

    async fn factory_reset(&self, params: &Object) -> Result<Value, String> {
        if !self.settings.borrow().factory_reset {
            return Err("this image allows no factory reset (rpc.factory-reset)".to_owned());
        }
        let device = (self.device)();
        if device.as_deref() != Some(text(params, "confirm")?) {
            return Err("confirm: expected the device's own id".to_owned());
        }
        let identity = match params.get("identity") {
            None => false,
            Some(Value::Bool(identity)) => *identity,
            Some(_) => return Err("identity: expected true or false".to_owned()),
        };
        let reset = self.reset.clone();
        let ordered = tokio::task::spawn_blocking(move || reset.order(identity))
            .await
            .map_err(|error| error.to_string())?;
        ordered.map_err(|error| format!("the disk doesn't take it: {error}"))?;
        self.restart(LAST_WORD)?;
        Ok(Value::Null)
    }
}

fn text<'p>(params: &'p Object, name: &str) -> Result<&'p str, String> {
    params
        .get(name)
        .and_then(Value::as_str)
        .ok_or_else(|| format!("{name}: expected a text"))
}

fn command_of(params: &Object) -> Result<Command, String> {
    match text(params, "action")? {
        "start" => Ok(Command::Start),
        "stop" => Ok(Command::Stop),
        "restart" => Ok(Command::Restart),
        "redeploy" => Ok(Command::Redeploy),
        _ => Err("action: expected start, stop, restart or redeploy".to_owned()),
    }
}

/// How many lines of a log.
fn lines(params: &Object) -> Result<u64, String> {
    match params.get("lines") {
        None => Ok(100),
        Some(lines) => lines
            .as_u64()
            .filter(|lines| (1..=LINES).contains(lines))
            .ok_or_else(|| format!("lines: expected 1 to {LINES}")),
    }
}

async fn logs(params: &Object) -> Result<Value, String> {
    let lines = lines(params)?.to_string();
    let mut argv = vec![
        "journalctl",
        "--no-pager",
        "--quiet",
        "--output=short-iso",
        "--boot",
        "--lines",
        &lines,
    ];
    if let Some(unit) = params.get("unit").filter(|unit| !unit.is_null()) {
        let unit = unit
            .as_str()
            .filter(|unit| settings::is_unit(unit))
            .ok_or("unit: expected a name as docker.service")?;
        argv.extend(["--unit", unit]);
    }
    let text = command::succeed(&argv, SYSTEMD).await?;
    let mut kept: Vec<&str> = Vec::new();
    let mut size = 0;
    for line in text.lines().rev() {
        size += line.len() + 3;
        if size > LINES_BYTES {
            break;
        }
        kept.push(line);
    }
    kept.reverse();
    Ok(json!({ "lines": kept }))
}

#[cfg(test)]
mod tests;
