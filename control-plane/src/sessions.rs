//! Which device is connected, and how to reach it.
//!
//! One connection per device: the newer wins. What is pushed waits in a short queue of the connection; a device that doesn't read is
//! disconnected, for it will ask for its attributes when it comes back. A call counts as delivered when the device itself answers.

mod gate;
mod outlet;
mod poll;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use cairn_wire::Object;
use cairn_wire::attributes::Change;
use cairn_wire::rpc::Call;
use serde_json::Value;
use tokio::sync::oneshot;

pub use gate::Admission;
pub use outlet::{End, Outlet, Push, Wants};
pub use poll::PolledCall;

use crate::registry::DeviceId;

/// Calls that wait for their answers, of all devices.
const MAX_CALLS: usize = 100_000;

/// Why a call brought no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// The device isn't connected.
    #[error("the device is offline")]
    Offline,
    /// It is connected, and hasn't subscribed for calls.
    #[error("the device doesn't listen for calls")]
    NotListening,
    /// It didn't answer in time. Whether it has done what it was asked is unknown.
    #[error("the device didn't answer in time")]
    Timeout,
    /// Too many calls wait for answers.
    #[error("too many calls are waiting for answers")]
    Busy,
}

/// Who is connected; clones share it.
#[derive(Clone, Default)]
pub struct Sessions(Arc<Inner>);

#[derive(Default)]
struct Inner {
    connected: RwLock<HashMap<DeviceId, Arc<Outlet>>>,
    gates: gate::Gates,
    polls: poll::Polls,
    calls: Mutex<HashMap<u32, Waiting>>,
    next_call: AtomicU32,
}

struct Waiting {
    device: DeviceId,
    answer: oneshot::Sender<Value>,
}

impl Sessions {
    /// Nobody is connected.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a device is connected by MQTT, or polled over HTTP within the last minute.
    pub fn online(&self, device: &str) -> bool {
        self.outlet(device).is_some() || self.0.polls.recent(device)
    }

    /// How many devices are connected by MQTT.
    pub fn count(&self) -> usize {
        self.0
            .connected
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Pushes the revision of what a device shall be, as the shared attribute [`cairn_wire::desired::ATTRIBUTE`].
    pub fn desired_changed(&self, device: &str, revision: u64) {
        let mut changed = Object::new();
        changed.insert(cairn_wire::desired::ATTRIBUTE.into(), revision.into());
        self.attributes_changed(device, &changed);
    }

    /// Pushes shared attributes that were set.
    pub fn attributes_changed(&self, device: &str, changed: &Object) {
        self.push_attributes(device, &Change::Set(changed.clone()));
    }

    /// Pushes the names of shared attributes that were deleted.
    pub fn attributes_deleted(&self, device: &str, names: &[String]) {
        self.push_attributes(device, &Change::Deleted(names.to_vec()));
    }

    fn push_attributes(&self, device: &str, change: &Change) {
        let payload = Bytes::from(change.to_json());
        if let Some(outlet) = self.outlet(device)
            && outlet.wants(Wants::ATTRIBUTES)
        {
            outlet.push(Push::Attributes(payload.clone()));
        }
        self.0.polls.attributes(device, &payload);
    }

    /// Calls a device and waits for its own answer.
    ///
    /// # Errors
    /// If it can't be reached or doesn't answer in time.
    pub async fn rpc(
        &self,
        device: &str,
        call: Call,
        timeout: Duration,
    ) -> Result<Value, RpcError> {
        let device: DeviceId = device.parse().map_err(|_| RpcError::Offline)?;
        let (sender, receiver) = oneshot::channel();
        let id = self.wait_for(&device, sender)?;
        // Taken off the list however this ends.
        let _forget = Forget { sessions: self, id };
        let payload = Bytes::from(serde_json::to_vec(&call).unwrap_or_default());
        match self.outlet(&device) {
            Some(outlet) if outlet.wants(Wants::CALLS) => outlet.push(Push::Call { id, payload }),
            outlet => {
                if !self.0.polls.call(&device, PolledCall { id, call }) {
                    return Err(if outlet.is_some() {
                        RpcError::NotListening
                    } else {
                        RpcError::Offline
                    });
                }
            }
        }
        match tokio::time::timeout(timeout, receiver).await {
            Ok(Ok(answer)) => Ok(answer),
            // Its connection has ended, or the device is shut out.
            Ok(Err(_)) => Err(RpcError::Offline),
            Err(_) => Err(RpcError::Timeout),
        }
    }

    fn wait_for(&self, device: &DeviceId, answer: oneshot::Sender<Value>) -> Result<u32, RpcError> {
        let mut calls = self.calls();
        if calls.len() >= MAX_CALLS {
            return Err(RpcError::Busy);
        }
        loop {
            // ThingsBoard's clients read a signed 32-bit number.
            let id = self.0.next_call.fetch_add(1, Ordering::Relaxed) & 0x7fff_ffff;
            if let std::collections::hash_map::Entry::Vacant(place) = calls.entry(id) {
                place.insert(Waiting {
                    device: device.clone(),
                    answer,
                });
                return Ok(id);
            }
        }
    }

    /// A device's answer to a call. `false` if it wasn't asked, or not this device.
    pub fn answered(&self, device: &DeviceId, id: u32, answer: Value) -> bool {
        let mut calls = self.calls();
        if calls
            .get(&id)
            .is_none_or(|waiting| waiting.device != *device)
        {
            return false;
        }
        calls
            .remove(&id)
            .is_some_and(|waiting| waiting.answer.send(answer).is_ok())
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<u32, Waiting>> {
        self.0.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outlet(&self, device: &str) -> Option<Arc<Outlet>> {
        self.0
            .connected
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(device)
            .cloned()
    }

    /// A device has connected by MQTT; an older connection of it ends.
    pub fn connect(&self, device: &DeviceId) -> Arc<Outlet> {
        let outlet = Arc::new(Outlet::default());
        let older = self
            .0
            .connected
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(device.clone(), Arc::clone(&outlet));
        if let Some(older) = older {
            older.end(End::Superseded);
        }
        outlet
    }

    /// A connection has ended. `false` if the device has a newer one.
    pub fn disconnect(&self, device: &DeviceId, outlet: &Arc<Outlet>) -> bool {
        {
            let mut connected = self
                .0
                .connected
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            if !connected
                .get(device)
                .is_some_and(|current| Arc::ptr_eq(current, outlet))
            {
                return false;
            }
            connected.remove(device);
        }
        // Who waits for an answer of it needn't wait any longer, unless it polls too.
        if !self.0.polls.recent(device) {
            self.calls().retain(|_, waiting| waiting.device != *device);
        }
        true
    }

    /// Ends all connections of a device, MQTT and HTTPS: it was revoked or removed.
    pub fn close(&self, device: &str) {
        if let Some(outlet) = self.outlet(device) {
            outlet.end(End::Revoked);
        }
        self.0.gates.close(device);
        self.0.polls.forget(device);
        self.calls()
            .retain(|_, waiting| waiting.device.as_str() != device);
    }

    /// A place among a device's connections; it says when the device is shut out.
    pub fn admit(&self, device: &DeviceId) -> Admission {
        self.0.gates.admit(device)
    }

    /// Waits for the next change of shared attributes, for a device that polls. `None` if it polls too often at once.
    pub fn poll_attributes(&self, device: &DeviceId) -> Option<oneshot::Receiver<Bytes>> {
        self.0.polls.wait_attributes(device)
    }

    /// Waits for the next call, for a device that polls. `None` if it polls too often at once.
    pub fn poll_call(&self, device: &DeviceId) -> Option<oneshot::Receiver<PolledCall>> {
        self.0.polls.wait_call(device)
    }

    /// Forgets devices that have stopped polling.
    pub fn sweep(&self) {
        self.0.polls.sweep();
    }
}

struct Forget<'a> {
    sessions: &'a Sessions,
    id: u32,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.sessions.calls().remove(&self.id);
    }
}

#[cfg(test)]
mod tests;
