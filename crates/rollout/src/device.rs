//! One device in a rollout, and what its reports mean.
//!
//! ```text
//!            ╭─────────────── Held ◀── the rollout halted before the device armed
//!            ▼  comes back
//!  slot ─▶ Offered ─▶ Checking … Placed ─▶ Armed ─▶ OnTrial ─▶ Good
//!            ▲            │                  │         │
//!            │            ├── may pass ──────┴─────────┤
//!            ╰─ Retrying ◀╯                            ├─▶ Failed     its own report
//!                                                      ├─▶ Expired    silent over a deadline
//!                                                      ╰─▶ Withdrawn  aborted before it armed
//! ```
//!
//! Reports come late, twice, and in any order, as an outbox sends what is new before what is old. So within one order a device only moves
//! forward; what is settled is changed only by the device's own last word; and no report of an earlier order of the same rollout
//! counts but `good`, as that is about the release and not about the order.

use cairn_release::Version;
use cairn_wire::UpdateReport;
use cairn_wire::report::{Failure, FailureKind};
use serde::{Deserialize, Serialize};

use crate::heard::{Heard, Target};
use crate::plan::Plan;
use crate::state::{DeviceState, Status};

/// Longest reason or note that is kept, in characters.
const MAX_TEXT: usize = 2_000;
/// How long a retry is put off while the rollout is paused, in seconds.
const PAUSED: i64 = 60;

/// Why a device is where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// For programs: the device's own word as `fell-back`, or `deadline`.
    pub code: String,
    /// For people.
    pub text: String,
    /// Name of the evidence that the device uploaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
}

impl Reason {
    /// The code of a deadline that passed.
    pub const DEADLINE: &'static str = "deadline";

    fn of(failure: &Failure) -> Self {
        let code = serde_json::to_value(failure.kind)
            .ok()
            .and_then(|kind| kind.as_str().map(str::to_owned));
        Self {
            code: code.unwrap_or_default(),
            text: short(&failure.reason),
            evidence: failure.evidence.as_deref().map(short),
        }
    }
}

fn short(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// What is known of one device in one rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Where it is.
    pub state: DeviceState,
    /// Number of the order that it has, from 1; 0 if it never got one.
    pub attempt: u32,
    /// How many of these were retries.
    pub retries: u32,
    /// Since when it is there, in seconds since 1970.
    pub since: i64,
    /// When [`DeviceEvent::Due`] is due.
    pub due: Option<i64>,
    /// Whether the boot state named the release under this order.
    pub armed: bool,
    /// What it last said it runs.
    pub running: Option<Version>,
    /// Its last word for people.
    pub note: Option<String>,
    /// Why it is there.
    pub reason: Option<Reason>,
}

/// Something that happens to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceEvent {
    /// It reported.
    Report {
        /// Number of the order that the report names.
        attempt: u32,
        /// What it says.
        heard: Heard,
        /// Whether the device still belongs to this rollout: no newer one gave it an order.
        owned: bool,
        /// What it says it runs.
        running: Option<Version>,
        /// Its word for people.
        note: Option<String>,
    },
    /// The moment in [`Assignment::due`] has come.
    Due,
    /// A device whose order was taken back by a halt is there again.
    Return,
    /// A newer rollout gave an order to a device whose order was taken back by a halt.
    TakenOver,
}

impl DeviceEvent {
    /// A report, held against the target.
    pub fn report(target: &Target, report: &UpdateReport, attempt: u32, owned: bool) -> Self {
        Self::Report {
            attempt,
            heard: Heard::of(target, report),
            owned,
            running: report.running.clone(),
            note: report.note.as_deref().map(short),
        }
    }
}

/// What shall be done about the device's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As it is.
    Keep,
    /// A new one, with [`Assignment::attempt`] as its number.
    Give,
    /// None any more.
    TakeBack,
}

/// What an event does to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The device after it.
    pub assignment: Assignment,
    /// What becomes of its order.
    pub order: Order,
    /// Something for the timeline that changes no state.
    pub remark: Option<String>,
}

impl Assignment {
    /// A device that gets its slot and its first order.
    pub fn offered(plan: &Plan, now: i64) -> Self {
        let mut new = Self::superseded(now);
        new.offer(plan, now);
        new
    }

    /// A device that a newer rollout has.
    pub fn superseded(now: i64) -> Self {
        Self {
            state: DeviceState::Superseded,
            attempt: 0,
            retries: 0,
            since: now,
            due: None,
            armed: false,
            running: None,
            note: None,
            reason: None,
        }
    }

    fn enter(&mut self, state: DeviceState, plan: &Plan, now: i64) {
        self.state = state;
        self.since = now;
        self.due = plan.deadlines.of(state).map(|deadline| deadline.after(now));
        self.armed |= matches!(state, DeviceState::Armed | DeviceState::OnTrial);
    }

    fn offer(&mut self, plan: &Plan, now: i64) {
        self.attempt = self.attempt.saturating_add(1);
        self.armed = false;
        self.note = None;
        self.enter(DeviceState::Offered, plan, now);
    }

    /// What an event does, while the rollout stands at `status`. Pure: nothing is remembered but what is returned.
    pub(crate) fn step(
        &self,
        event: &DeviceEvent,
        plan: &Plan,
        status: &Status,
        now: i64,
    ) -> Change {
        let mut change = Change {
            assignment: self.clone(),
            order: Order::Keep,
            remark: None,
        };
        match event {
            DeviceEvent::Due => change.due(plan, status, now),
            DeviceEvent::Return => {
                if self.state == DeviceState::Held && *status == Status::Running {
                    change.assignment.offer(plan, now);
                    change.order = Order::Give;
                }
            }
            DeviceEvent::TakenOver => {
                if self.state == DeviceState::Held {
                    change.assignment.enter(DeviceState::Superseded, plan, now);
                }
            }
            DeviceEvent::Report {
                attempt,
                heard,
                owned,
                running,
                note,
            } => {
                // A number that was never given out.
                if *attempt == 0 || *attempt > self.attempt {
                    return change;
                }
                let current = *attempt == self.attempt;
                if current && let Some(running) = running {
                    change.assignment.running = Some(running.clone());
                }
                match heard {
                    Heard::Unproven(why) => change.remark = Some(why.clone()),
                    Heard::Good => change.good(plan, now),
                    Heard::Failed(failure) if current => change.failed(failure, plan, status, now),
                    Heard::Failed(failure) => {
                        change.remark = Some(format!(
                            "order {attempt} failed: {}",
                            short(&failure.reason)
                        ));
                    }
                    Heard::Progress(state) if current => {
                        change.progress(*state, *owned, plan, status, now);
                        if change.assignment.state == *state && note.is_some() {
                            change.assignment.note.clone_from(note);
                        }
                    }
                    Heard::Progress(_) => {}
                }
            }
        }
        change
    }
}

impl Change {
    fn good(&mut self, plan: &Plan, now: i64) {
        if self.assignment.state != DeviceState::Good {
            self.assignment.reason = None;
            self.assignment.enter(DeviceState::Good, plan, now);
        }
    }

    fn progress(
        &mut self,
        state: DeviceState,
        owned: bool,
        plan: &Plan,
        status: &Status,
        now: i64,
    ) {
        let before = self.assignment.state;
        let armed = !state.is_unarmed();
        let moves = match before {
            // It armed before it heard that it shouldn't.
            DeviceState::Held => armed,
            DeviceState::Expired => owned && matches!(status, Status::Running | Status::Paused),
            DeviceState::Retrying
            | DeviceState::Good
            | DeviceState::Failed
            | DeviceState::Superseded => return,
            DeviceState::Withdrawn => false,
            _ => state > before,
        };
        if moves {
            self.assignment.reason = None;
            self.assignment.enter(state, plan, now);
        } else if armed && matches!(before, DeviceState::Expired | DeviceState::Withdrawn) {
            self.remark = Some(format!("the device is {} all the same", state.as_str()));
        }
    }

    fn failed(&mut self, failure: &Failure, plan: &Plan, status: &Status, now: i64) {
        let called_off = failure.kind == FailureKind::Withdrawn;
        let halted = matches!(status, Status::Halted { .. });
        let to = match self.assignment.state {
            DeviceState::Good => {
                self.remark = Some(format!(
                    "said failed after good: {}",
                    short(&failure.reason)
                ));
                return;
            }
            DeviceState::Failed | DeviceState::Superseded | DeviceState::Retrying => return,
            DeviceState::Held | DeviceState::Expired | DeviceState::Withdrawn if called_off => {
                return;
            }
            DeviceState::Held if failure.retry => return,
            DeviceState::Held | DeviceState::Expired | DeviceState::Withdrawn => {
                DeviceState::Failed
            }
            _ if called_off && halted => DeviceState::Held,
            _ if called_off => DeviceState::Withdrawn,
            _ if failure.retry && halted => DeviceState::Held,
            _ if failure.retry
                && self.assignment.retries < plan.retries
                && matches!(status, Status::Running | Status::Paused) =>
            {
                DeviceState::Retrying
            }
            _ => DeviceState::Failed,
        };
        self.assignment.reason = Some(Reason::of(failure));
        self.assignment.enter(to, plan, now);
        match to {
            DeviceState::Retrying => {
                self.assignment.retries += 1;
                self.assignment.due = Some(plan.retry_delay.after(now));
            }
            // Who has failed isn't asked again, whatever becomes of its own memory.
            DeviceState::Held | DeviceState::Withdrawn | DeviceState::Failed => {
                self.order = Order::TakeBack
            }
            _ => {}
        }
    }

    fn due(&mut self, plan: &Plan, status: &Status, now: i64) {
        if self.assignment.due.is_none_or(|due| now < due) || !self.assignment.state.is_open() {
            return;
        }
        let before = self.assignment.state;
        match (before, status) {
            (DeviceState::Retrying, Status::Running) => {
                self.assignment.offer(plan, now);
                self.order = Order::Give;
            }
            (DeviceState::Retrying, Status::Paused) => {
                self.assignment.due = Some(now.saturating_add(PAUSED))
            }
            // Its failure is the last word.
            (DeviceState::Retrying, _) => {
                self.assignment.enter(DeviceState::Failed, plan, now);
                self.order = Order::TakeBack;
            }
            (DeviceState::Held, _) => {
                self.expire("the device did not come back after the halt", plan, now)
            }
            _ => {
                let text = match plan.deadlines.of(before) {
                    Some(deadline) if before == DeviceState::Offered => {
                        format!("no word from the device for {deadline}")
                    }
                    Some(deadline) => {
                        format!("{} for {deadline} without going on", before.as_str())
                    }
                    None => "silent for too long".to_owned(),
                };
                self.expire(&text, plan, now);
            }
        }
    }

    fn expire(&mut self, text: &str, plan: &Plan, now: i64) {
        self.assignment.reason = Some(Reason {
            code: Reason::DEADLINE.into(),
            text: text.into(),
            evidence: None,
        });
        self.assignment.enter(DeviceState::Expired, plan, now);
    }
}
