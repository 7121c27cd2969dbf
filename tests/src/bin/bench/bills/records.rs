//! Records of traffic as nodes send them (docs/traffic.md), by a hand of their own.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, SigningKey as _};
use rustls::pki_types::PrivatePkcs8KeyDer;
use sha2::{Digest as _, Sha256};

/// Slots of a day.
pub const DAY: i64 = 288;
/// Businesses of a customer; a device has one workload of two customers each.
pub const BUSINESSES: [&str; 2] = ["live", "vod"];
/// Customers of the devices that are really there.
pub const CUSTOMERS: usize = 5;

/// A meter of a device.
pub struct Meter {
    /// Its JSON, as a record has it.
    json: String,
    /// The interface, or the first or the second workload.
    pub which: u64,
}

/// The meters of the `n`th device: its interface, and two workloads.
pub fn meters(n: usize) -> Vec<Meter> {
    let workload = |which: usize| {
        let (customer, business) = owner(n, which);
        format!(
            r#"{{"kind":"container","name":"w{which}","customer":"{customer}","business":"{business}"}}"#
        )
    };
    let interface = r#"{"kind":"interface","name":"eth0"}"#.to_owned();
    [interface, workload(1), workload(2)]
        .into_iter()
        .zip(0..)
        .map(|(json, which)| Meter { json, which })
        .collect()
}

/// Who pays for the first or the second workload of the `n`th device.
pub fn owner(n: usize, which: usize) -> (String, &'static str) {
    let customer = (n + which) % CUSTOMERS;
    (
        format!("customer-{customer}"),
        BUSINESSES[n % BUSINESSES.len()],
    )
}

/// Bytes received and sent by a meter in a slot; none: the device was off. A day has its busy evening, each device its own size, and nothing repeats.
pub fn bytes(device: usize, which: u64, slot: i64) -> Option<(u64, u64)> {
    let draw = |salt: u64| {
        // SplitMix64.
        let seed = (device as u64) << 40 | which << 36 | salt << 32;
        let mut z = (seed ^ slot.unsigned_abs()).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    // About one hour in three hundred.
    let hour = slot.div_euclid(12).unsigned_abs();
    if (hour * 31 + device as u64 * 17).is_multiple_of(307) {
        return None;
    }
    let place = slot.rem_euclid(DAY) as f64 / DAY as f64;
    let busy = 1.0 - 0.8 * (std::f64::consts::TAU * (place - 0.35)).sin();
    // Up to 1 Gbit/s for five minutes.
    let size = 4e9 * (1 + device % 9) as f64;
    let noise = |salt| 0.5 + draw(salt) as f64 / u64::MAX as f64;
    let sent = size * busy * noise(1) / (which + 1) as f64;
    Some(((sent * 0.03 * noise(2)) as u64, sent as u64))
}

/// The chain of a device's records.
pub struct Chain {
    key: KeyPair,
    device: usize,
    meters: Vec<Meter>,
    number: u64,
    previous: Option<String>,
}

impl Chain {
    /// Begins one, signed by a key in PKCS #8.
    pub fn new(device: usize, key: &[u8]) -> Result<Self> {
        let key = PrivatePkcs8KeyDer::from(key);
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)
            .context("a device's key")?;
        Ok(Self {
            key,
            device,
            meters: meters(device),
            number: 0,
            previous: None,
        })
    }

    /// The message for a slot; none if the device was off.
    pub fn message(&mut self, slot: i64) -> Result<Option<Vec<u8>>> {
        let mut usage = String::new();
        for meter in &self.meters {
            let Some((rx, tx)) = bytes(self.device, meter.which, slot) else {
                return Ok(None);
            };
            let comma = if usage.is_empty() { "" } else { "," };
            write!(
                usage,
                r#"{comma}{{"meter":{},"rx":{rx},"tx":{tx}}}"#,
                meter.json
            )?;
        }
        let previous = match &self.previous {
            Some(digest) => format!("\"{digest}\""),
            None => "null".to_owned(),
        };
        let record = format!(
            r#"{{"chain":"bench","number":{},"previous":{previous},"slot":{},"usage":[{usage}]}}"#,
            self.number,
            slot * 300
        );
        let digest = Sha256::digest(record.as_bytes());
        let signed = self
            .key
            .sign(&[b"cairn-traffic-v1\n".as_slice(), &digest].concat())?;
        self.number += 1;
        self.previous = Some(hex::encode(digest));
        let signature = hex::encode(signed);
        Ok(Some(
            format!(r#"{{"cairn_traffic":{{"record":{record},"signature":"{signature}"}}}}"#)
                .into_bytes(),
        ))
    }
}
