//! Start, pause, resume, abort: each one transaction with its line in the audit log.

use cairn_rollout::{Event, Illegal};
use rusqlite::{Connection, Transaction};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::sql::{self, NewEvent};
use super::{Rollouts, admission};
use crate::people::{audit, now};
use crate::store::StoreError;
use crate::web::ApiError;

/// Most rollouts that are started and not at their end.
pub const MAX_ACTIVE: u64 = 64;

/// What an operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// Begin with the first wave.
    Start,
    /// Nobody new begins; who has begun goes on.
    Pause,
    /// Go on.
    Resume,
    /// End it for good, and take the order back from all that haven't armed.
    Abort,
}

impl Command {
    fn action(self) -> (&'static str, &'static str) {
        match self {
            Self::Start => ("rollout.start", "started"),
            Self::Pause => ("rollout.pause", "paused"),
            Self::Resume => ("rollout.resume", "resumed"),
            Self::Abort => ("rollout.abort", "aborted"),
        }
    }
}

impl Rollouts {
    /// Does what an operator asks for.
    ///
    /// # Errors
    /// 404 if there is no such rollout, 409 if it isn't possible.
    pub async fn steer(&self, id: i64, command: Command, who: String) -> Result<(), ApiError> {
        self.0
            .store
            .write(move |tx| steer(tx, id, command, &who, now()))
            .await?;
        self.wake();
        Ok(())
    }
}

/// As [`Rollouts::steer`], in a transaction.
pub(super) fn steer(
    tx: &Transaction<'_>,
    id: i64,
    command: Command,
    who: &str,
    now: i64,
) -> Result<(), ApiError> {
    let Some(mut stored) = sql::load(tx, id)? else {
        return Err(ApiError::not_found(format!("rollout {id}")));
    };
    let event = match command {
        Command::Start => {
            if active(tx)? >= MAX_ACTIVE {
                let text =
                    format!("{MAX_ACTIVE} rollouts are active, more can't be; end some of them");
                return Err(ApiError::conflict("too-many-active", text));
            }
            let selector = sql::selector(tx, id)?;
            Event::Start {
                matched: admission::count(tx, &selector, id)?,
            }
        }
        Command::Pause => Event::Pause,
        Command::Resume => Event::Resume,
        Command::Abort => Event::Abort,
    };
    let (action, text) = command.action();
    sql::put_event(
        tx,
        id,
        now,
        &NewEvent {
            text: &format!("{text} by {who}"),
            ..NewEvent::default()
        },
    )?;
    match stored.take(tx, None, event, now)? {
        Ok(()) => {}
        Err(illegal @ Illegal::NoDevice) => {
            return Err(ApiError::conflict("no-device", illegal.to_string()));
        }
        Err(illegal) => return Err(ApiError::conflict("bad-state", illegal.to_string())),
    }
    stored.save(tx)?;
    let detail = json!({ "release": stored.target.version, "matched": stored.rollout.matched });
    audit(tx, who, action, &format!("rollout/{id}"), &detail)?;
    Ok(())
}

fn active(connection: &Connection) -> Result<u64, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT count(*) FROM rollout WHERE status IN ('running', 'paused', 'halted')",
    )?;
    Ok(query.query_row([], |row| sql::unsigned(row, 0))?)
}
