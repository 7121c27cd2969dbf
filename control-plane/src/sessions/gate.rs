//! A device's open connections, so that all of them can be ended at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::registry::DeviceId;

#[derive(Clone, Default)]
pub(super) struct Gates(Arc<Mutex<HashMap<DeviceId, Gate>>>);

struct Gate {
    closed: CancellationToken,
    connections: usize,
}

/// A connection's place; dropped with it.
pub struct Admission {
    gates: Gates,
    device: DeviceId,
    closed: CancellationToken,
}

impl Gates {
    fn lock(&self) -> MutexGuard<'_, HashMap<DeviceId, Gate>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn admit(&self, device: &DeviceId) -> Admission {
        let mut gates = self.lock();
        let gate = gates.entry(device.clone()).or_insert_with(|| Gate {
            closed: CancellationToken::new(),
            connections: 0,
        });
        gate.connections += 1;
        Admission {
            gates: self.clone(),
            device: device.clone(),
            closed: gate.closed.clone(),
        }
    }

    pub(super) fn close(&self, device: &str) {
        if let Some(gate) = self.lock().remove(device) {
            gate.closed.cancel();
        }
    }
}

impl Admission {
    /// Returns when the device is shut out.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Whether the device is shut out.
    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.closed.is_cancelled() {
            // The gate is gone, or one of a newer life stands in its place.
            return;
        }
        let mut gates = self.gates.lock();
        if let Some(gate) = gates.get_mut(&self.device) {
            gate.connections -= 1;
            if gate.connections == 0 {
                gates.remove(&self.device);
            }
        }
    }
}
