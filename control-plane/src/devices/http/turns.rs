//! One thing at a time for each device, so that none takes all places.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::registry::DeviceId;

/// The devices that are at it right now.
pub struct Turns(Mutex<Option<HashSet<DeviceId>>>);

/// A device's turn; over when dropped.
pub struct Turn {
    of: &'static Turns,
    device: DeviceId,
}

impl Turns {
    /// Nobody is.
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// The device's turn, unless it is at it already.
    pub fn take(&'static self, device: &DeviceId) -> Option<Turn> {
        let mut at_it = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = at_it.get_or_insert_default().insert(device.clone());
        new.then(|| Turn {
            of: self,
            device: device.clone(),
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut at_it = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        at_it.get_or_insert_default().remove(&self.device);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_does_one_thing_at_a_time() {
        static TURNS: Turns = Turns::new();
        let (ada, bob): (DeviceId, DeviceId) = ("ada".parse().unwrap(), "bob".parse().unwrap());
        let turn = TURNS.take(&ada);
        assert!(turn.is_some() && TURNS.take(&ada).is_none());
        assert!(TURNS.take(&bob).is_some());
        drop(turn);
        assert!(TURNS.take(&ada).is_some());
    }
}
