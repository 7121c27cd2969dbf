//! Does what the state machine says: its effects as changes of the database, in the caller's transaction.

use cairn_rollout::{Assignment, DeviceEvent, DeviceState, Effect, Event, Illegal, step};
use rusqlite::{Transaction, params};

use super::order;
use super::sql::{self, NewEvent, Stored};
use crate::store::StoreError;

impl Stored {
    /// Something happened to the rollout, or ([`Event::Admit`], [`Event::Supersede`]) to a device that has no slot yet. The rollout's own
    /// state changes in memory only; see [`Self::save`].
    pub(super) fn take(
        &mut self,
        tx: &Transaction<'_>,
        device: Option<&str>,
        event: Event<'_>,
        now: i64,
    ) -> Result<Result<(), Illegal>, StoreError> {
        let before = match &event {
            Event::Device(before, _) => Some((*before).clone()),
            _ => None,
        };
        let (next, effects) = match step(&self.rollout, event, now) {
            Ok(done) => done,
            Err(illegal) => return Ok(Err(illegal)),
        };
        self.rollout = next;
        let mut attempt = before.as_ref().map(|before| before.attempt);
        for effect in effects {
            if let Effect::Store(after) = &effect {
                attempt = Some(after.attempt);
            }
            self.effect(tx, device, before.as_ref(), attempt, effect, now)?;
        }
        Ok(Ok(()))
    }

    /// Something happened to a device that has a slot.
    pub(super) fn device(
        &mut self,
        tx: &Transaction<'_>,
        device: &str,
        before: &Assignment,
        event: DeviceEvent,
        now: i64,
    ) -> Result<(), StoreError> {
        // Events of devices are always possible.
        let _ = self.take(tx, Some(device), Event::Device(before, event), now)?;
        Ok(())
    }

    /// Writes the rollout's own state.
    pub(super) fn save(&self, tx: &Transaction<'_>) -> Result<(), StoreError> {
        sql::save(tx, self.id, &self.rollout)
    }

    fn effect(
        &self,
        tx: &Transaction<'_>,
        device: Option<&str>,
        before: Option<&Assignment>,
        attempt: Option<u32>,
        effect: Effect,
        now: i64,
    ) -> Result<(), StoreError> {
        match (effect, device) {
            (Effect::Store(after), Some(device)) => {
                sql::put_assignment(tx, self.id, device, &after)?;
                if before.is_none_or(|before| {
                    (before.state, before.attempt) != (after.state, after.attempt)
                }) {
                    let event = NewEvent {
                        device: Some(device),
                        attempt: Some(after.attempt),
                        state: Some(after.state.as_str()),
                        text: after.note.as_deref().unwrap_or(""),
                        reason: after.reason.as_ref().filter(|_| !goes_on(after.state)),
                    };
                    sql::put_event(tx, self.id, now, &event)?;
                }
            }
            (Effect::Give { attempt }, Some(device)) => {
                order::give(tx, device, self.id, attempt, now)?
            }
            (Effect::TakeBack, Some(device)) => order::take_back(tx, device, self.id, now)?,
            (Effect::Remark(text), Some(device)) => {
                let event = NewEvent {
                    device: Some(device),
                    attempt,
                    text: &text,
                    ..NewEvent::default()
                };
                sql::put_event(tx, self.id, now, &event)?;
            }
            // Effects on a device come from events of a device only.
            (
                Effect::Store(_) | Effect::Give { .. } | Effect::TakeBack | Effect::Remark(_),
                None,
            ) => {}
            (Effect::TakeBackUnarmed { state, .. }, _) => self.take_back_unarmed(tx, state, now)?,
            (Effect::HeldUntil(due), _) => {
                tx.execute(
                    "UPDATE assignment SET due = ?2 WHERE rollout = ?1 AND state = 'held'",
                    params![self.id, due],
                )?;
            }
            (Effect::Log(text), _) => {
                sql::put_event(
                    tx,
                    self.id,
                    now,
                    &NewEvent {
                        text: &text,
                        ..NewEvent::default()
                    },
                )?;
                tracing::info!(rollout = self.id, what = %text, "rollout");
            }
        }
        Ok(())
    }

    fn take_back_unarmed(
        &self,
        tx: &Transaction<'_>,
        state: DeviceState,
        now: i64,
    ) -> Result<(), StoreError> {
        let names: Vec<_> = DeviceState::ALL
            .into_iter()
            .filter(|other| other.is_unarmed() && *other != state)
            .map(|state| format!("'{}'", state.as_str()))
            .collect();
        let names = names.join(", ");
        let why = match state {
            DeviceState::Held => "the rollout halted; the order was taken back",
            _ => "the rollout was aborted; the order was taken back",
        };
        tx.execute(
            &format!(
                "INSERT INTO rollout_event (rollout, device, time, attempt, state, text)
                 SELECT rollout, device, ?2, attempt, ?3, ?4 FROM assignment WHERE rollout = ?1 AND state IN ({names})"
            ),
            params![self.id, now, state.as_str(), why],
        )?;
        tx.execute(
            &format!("UPDATE assignment SET state = ?3, since = ?2, due = NULL WHERE rollout = ?1 AND state IN ({names})"),
            params![self.id, now, state.as_str()],
        )?;
        order::take_back_unarmed(tx, self.id, now)
    }
}

/// Whether a reason in this state is of the attempt before.
fn goes_on(state: DeviceState) -> bool {
    state.is_open() && !matches!(state, DeviceState::Retrying | DeviceState::Held)
}
