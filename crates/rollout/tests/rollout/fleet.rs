//! A rollout with its assignments in memory: does the effects as the control plane does.

use std::collections::BTreeMap;

use cairn_release::Digest;
use cairn_rollout::{
    Assignment, Counts, DeviceEvent, DeviceState, Effect, Event, Illegal, Plan, Rollout, Target,
    step,
};
use cairn_wire::report::{Failure, FailureKind};
use cairn_wire::{UpdateReport, UpdateState};

/// When the tests begin.
pub const START: i64 = 1_760_000_000;

pub fn target() -> Target {
    Target {
        version: "3".parse().unwrap(),
        digest: Digest::of(b"3"),
    }
}

pub fn report(state: UpdateState, running: &str) -> UpdateReport {
    UpdateReport {
        order: String::new(),
        version: "3".parse().unwrap(),
        digest: Digest::of(b"3"),
        state,
        running: Some(running.parse().unwrap()),
        failure: None,
        note: None,
    }
}

pub fn failed(kind: FailureKind, retry: bool) -> UpdateReport {
    let failure = Failure {
        kind,
        reason: "it didn't work".into(),
        retry,
        evidence: None,
    };
    UpdateReport {
        failure: Some(failure),
        ..report(UpdateState::Failed, "2")
    }
}

#[derive(Debug, Clone)]
pub struct Fleet {
    pub rollout: Rollout,
    pub devices: BTreeMap<usize, Assignment>,
    /// The order that each has: the attempt's number.
    pub orders: BTreeMap<usize, u32>,
    pub remarks: Vec<(usize, String)>,
    /// Orders that were ever given.
    pub given: u64,
    pub now: i64,
}

impl Fleet {
    pub fn new(plan: Plan) -> Self {
        plan.check().unwrap();
        Self {
            rollout: Rollout::new(plan),
            devices: BTreeMap::new(),
            orders: BTreeMap::new(),
            remarks: Vec::new(),
            given: 0,
            now: START,
        }
    }

    pub fn started(plan: Plan, matched: u64) -> Self {
        let mut fleet = Self::new(plan);
        fleet.take(None, Event::Start { matched }).unwrap();
        fleet
    }

    pub fn take(&mut self, device: Option<usize>, event: Event<'_>) -> Result<(), Illegal> {
        let (next, effects) = step(&self.rollout, event, self.now)?;
        self.rollout = next;
        for effect in effects {
            match effect {
                Effect::Store(assignment) => {
                    self.devices.insert(device.unwrap(), assignment);
                }
                Effect::Give { attempt } => {
                    self.orders.insert(device.unwrap(), attempt);
                    self.given += 1;
                }
                Effect::TakeBack => {
                    self.orders.remove(&device.unwrap());
                }
                Effect::Remark(text) => self.remarks.push((device.unwrap(), text)),
                Effect::TakeBackUnarmed { state, count } => {
                    let mut changed = 0;
                    for (device, assignment) in &mut self.devices {
                        if assignment.state.is_unarmed() && assignment.state != state {
                            (assignment.state, assignment.since, assignment.due) =
                                (state, self.now, None);
                            changed += 1;
                        }
                        let lapsed = assignment.state == DeviceState::Expired && !assignment.armed;
                        if lapsed
                            || matches!(
                                assignment.state,
                                DeviceState::Held | DeviceState::Withdrawn
                            )
                        {
                            self.orders.remove(device);
                        }
                    }
                    assert_eq!(changed, count);
                }
                Effect::HeldUntil(due) => {
                    for assignment in self
                        .devices
                        .values_mut()
                        .filter(|a| a.state == DeviceState::Held)
                    {
                        assignment.due = Some(due);
                    }
                }
                Effect::Log(_) => {}
            }
        }
        Ok(())
    }

    pub fn event(&mut self, device: usize, event: DeviceEvent) {
        if let Some(before) = self.devices.get(&device).cloned() {
            self.take(Some(device), Event::Device(&before, event))
                .unwrap();
        }
    }

    /// The device reports on its present order, or on an older one.
    pub fn report(&mut self, device: usize, back: u32, report: &UpdateReport) {
        if let Some(before) = self.devices.get(&device) {
            let attempt = before.attempt.saturating_sub(back);
            self.event(
                device,
                DeviceEvent::report(&target(), report, attempt, true),
            );
        }
    }

    pub fn good(&mut self, device: usize) {
        self.report(device, 0, &report(UpdateState::Good, "3"));
    }

    /// Devices without a slot come by.
    pub fn arrive(&mut self, devices: std::ops::Range<usize>) {
        for device in devices {
            match self.state(device) {
                None => self.take(Some(device), Event::Admit).unwrap(),
                Some(DeviceState::Held) => self.event(device, DeviceEvent::Return),
                Some(_) => {}
            }
        }
    }

    /// Time passes: what is due happens, and the rollout looks around.
    pub fn wait(&mut self, seconds: i64) {
        self.now += seconds;
        let due: Vec<usize> = self
            .devices
            .iter()
            .filter(|(_, a)| a.due.is_some_and(|due| due <= self.now))
            .map(|(device, _)| *device)
            .collect();
        for device in due {
            self.event(device, DeviceEvent::Due);
        }
        self.take(None, Event::Tick).unwrap();
    }

    pub fn state(&self, device: usize) -> Option<DeviceState> {
        self.devices.get(&device).map(|assignment| assignment.state)
    }

    pub fn counted(&self) -> Counts {
        let mut counts = BTreeMap::new();
        for assignment in self.devices.values() {
            *counts.entry(assignment.state).or_insert(0_u64) += 1;
        }
        serde_json::from_value(serde_json::to_value(counts).unwrap()).unwrap()
    }
}
