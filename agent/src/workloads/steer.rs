//! What an operator asks of one workload, and when that is done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cairn_wire::workload::{Name, Status, WorkloadState};
use cairn_workload::Command;
use tokio::sync::{mpsc, oneshot};

/// How long an order may take; the server waits a little longer.
const LONGEST: Duration = Duration::from_secs(590);
/// Orders that wait to be taken.
const WAITING: usize = 16;

/// The answer, or why there is none.
type Reply<T> = oneshot::Sender<Result<T, String>>;

/// Something that is asked.
pub enum Ask {
    /// Do this, and say how the workload is then.
    Steer(Name, Command, Reply<Status>),
    /// The last so many lines that it wrote.
    Logs(Name, u32, Reply<Vec<String>>),
}

/// Where workloads are asked; clones ask the same.
#[derive(Debug, Clone)]
pub struct Handle(mpsc::Sender<Ask>);

/// A handle, and where what it is asked arrives.
pub fn pair() -> (Handle, mpsc::Receiver<Ask>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Handle(sender), receiver)
}

impl Handle {
    /// Does something with a workload, and waits until that is done.
    ///
    /// # Errors
    /// If there is no such workload, if it isn't as it should be then, or if it takes too long.
    pub async fn steer(&self, name: Name, command: Command) -> Result<Status, String> {
        let status = self
            .ask(|reply| Ask::Steer(name.clone(), command, reply))
            .await?;
        let well = match command {
            Command::Stop => status.state == WorkloadState::Stopped,
            _ => matches!(
                status.state,
                WorkloadState::Running | WorkloadState::Finished
            ),
        };
        if well {
            return Ok(status);
        }
        let state = serde_json::to_value(status.state).unwrap_or_default();
        let state = state.as_str().unwrap_or_default();
        Err(format!("workload {name} is {state}: {}", status.reason))
    }

    /// The last lines that a workload wrote, the oldest first.
    ///
    /// # Errors
    /// If there is no such workload, or Docker doesn't give them.
    pub async fn logs(&self, name: Name, lines: u32) -> Result<Vec<String>, String> {
        self.ask(|reply| Ask::Logs(name, lines, reply)).await
    }

    async fn ask<T>(&self, ask: impl FnOnce(Reply<T>) -> Ask) -> Result<T, String> {
        let (reply, answer) = oneshot::channel();
        let ended = || "workloads are not run just now".to_owned();
        self.0.send(ask(reply)).await.map_err(|_| ended())?;
        match tokio::time::timeout(LONGEST, answer).await {
            Ok(answer) => answer.map_err(|_| ended())?,
            Err(_) => Err(format!(
                "not done within {} s; it goes on",
                LONGEST.as_secs()
            )),
        }
    }
}

/// Those who wait until their order is carried out.
#[derive(Default)]
pub(super) struct Waiting(Vec<(Name, Reply<Status>)>);

impl Waiting {
    pub(super) fn add(&mut self, name: Name, reply: Reply<Status>) {
        self.0.push((name, reply));
    }

    /// Answers those whose workload has come to rest: it isn't one of those for which something is being done, or is to be done next.
    pub(super) fn settle(&mut self, status: &BTreeMap<Name, Status>, moving: &BTreeSet<&Name>) {
        let waiting = std::mem::take(&mut self.0);
        for (name, reply) in waiting {
            let moves = moving.contains(&name);
            match status.get(&name) {
                None => drop(reply.send(Err(format!("workload {name} is gone")))),
                Some(status) if !moves && is_at_rest(status.state) => {
                    drop(reply.send(Ok(status.clone())));
                }
                Some(_) if !reply.is_closed() => self.0.push((name, reply)),
                Some(_) => {}
            }
        }
    }
}

fn is_at_rest(state: WorkloadState) -> bool {
    use WorkloadState as State;
    match state {
        State::Pulling | State::Starting | State::OnTrial | State::Restarting | State::Removing => {
            false
        }
        State::Refused
        | State::Running
        | State::Unhealthy
        | State::Finished
        | State::Stopped
        | State::RolledBack
        | State::Failed
        | State::Removed => true,
    }
}
