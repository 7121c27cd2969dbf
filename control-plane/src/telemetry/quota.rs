//! How much a device may have stored in a day, as telemetry and as attributes. Who has used it up isn't refused but slowed down to what comes back: over MQTT
//! its connection isn't read for a while, over HTTP it is told when to come again. So nothing is lost that its sender keeps.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cairn_wire::Record;

use crate::coins::{Coins, Purse};
use crate::registry::DeviceId;

/// The smallest quota, in bytes a day. With less the agent, which has four messages of 32 KiB on their way, would take the server for
/// dead before it answers the last of them.
pub const SMALLEST: u64 = 512 << 20;
/// What a value costs beside its message: its row holds the device, the key and the time.
const VALUE: usize = 64;
const DAY: Duration = Duration::from_secs(86_400);

/// What all devices have left; a device's coins are bytes.
pub struct Quota {
    purse: Purse,
    devices: Mutex<HashMap<DeviceId, Coins>>,
}

impl Quota {
    /// So many bytes a day for each device, of which it may use all at once.
    pub fn new(bytes: u64) -> Self {
        let most = bytes.max(1) as f64;
        Self {
            purse: Purse {
                most,
                each: DAY.div_f64(most),
            },
            devices: Mutex::default(),
        }
    }

    /// Charges a device for what it sent, and gives how long it must wait before it sends more.
    pub fn charge(&self, device: &DeviceId, bytes: usize, now: Instant) -> Duration {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let mut coins = self.purse.now(devices.get(device).copied(), now);
        coins.spend(bytes as f64);
        if bytes > 0 {
            devices.insert(device.clone(), coins);
        }
        self.purse.wait(coins, 0.0)
    }

    /// Forgets who has used nothing for a day.
    pub fn sweep(&self, now: Instant) {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices.retain(|_, coins| !self.purse.is_full(*coins, now));
    }
}

/// What a message of so many bytes with these records costs, in bytes.
pub fn cost(message: usize, records: &[Record]) -> usize {
    let values = records.iter().map(|record| record.values.len().max(1));
    of_values(message, values.sum())
}

/// What a message of so many bytes with so many values costs, in bytes.
pub fn of_values(message: usize, values: usize) -> usize {
    message + VALUE * values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_used_it_up_gets_what_comes_back() {
        let (quota, start) = (Quota::new(86_400_000), Instant::now());
        let (ada, bob): (DeviceId, DeviceId) = ("ada".parse().unwrap(), "bob".parse().unwrap());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(quota.charge(&ada, 86_400_000, start), Duration::ZERO);
        let wait = quota.charge(&ada, 10_000, start).as_secs_f64();
        assert!((9.9..10.1).contains(&wait), "{wait}");
        assert_eq!(
            quota.charge(&bob, 1_000_000, start),
            Duration::ZERO,
            "another one's"
        );
        assert!(quota.charge(&ada, 0, after(9)) > Duration::ZERO);
        assert_eq!(quota.charge(&ada, 0, after(11)), Duration::ZERO);
        quota.sweep(after(2_000));
        assert_eq!(quota.devices.lock().unwrap().len(), 1, "bob's is full");
        quota.sweep(after(2 * 86_400));
        assert_eq!(quota.devices.lock().unwrap().len(), 0);
    }

    #[test]
    fn small_values_cost_what_their_rows_do() {
        let records = Record::parse_all(br#"[{"a":1},{"a":2,"b":3}]"#).unwrap();
        assert_eq!(cost(23, &records), 23 + 3 * VALUE);
    }
}
