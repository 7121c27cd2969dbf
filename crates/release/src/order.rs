//! The downgrade order: an operator's word, signed by release keys, that nodes may go to a release although its sequence isn't
//! above theirs.
//!
//! A DSSE envelope like a manifest's. Who holds the release keys could as well sign a new release with the old content; the
//! order says the same without a new version. It names the release by digest and ends by itself.

use serde::{Deserialize, Serialize};

use crate::envelope::{Envelope, EnvelopeError};
use crate::trust::{TrustError, TrustRoot};
use crate::{Digest, Timestamp};

/// The payload type of an order's envelope.
pub const PAYLOAD_TYPE: &str = "application/vnd.cairn.order+json";
/// The format that this code writes and reads.
pub const FORMAT: u32 = 1;

/// An order that allows a lower sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DowngradeOrder {
    /// [`FORMAT`].
    pub format: u32,
    /// Digest of the payload of the release's manifest.
    pub release: Digest,
    /// Ids of the devices that it is for; none: all.
    pub devices: Vec<String>,
    /// After this moment it allows nothing.
    pub not_after: Timestamp,
}

/// The order can't be used, or doesn't allow what is asked.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// It isn't an envelope with an order.
    #[error("cannot read the envelope")]
    Envelope(#[from] EnvelopeError),
    /// Too few release keys signed it.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The payload can't be read.
    #[error("the payload is not a downgrade order")]
    Json(#[source] serde_json::Error),
    /// Written by a newer imgtool.
    #[error("expected order format {FORMAT}, got {0}; this needs a newer program")]
    Format(u64),
    /// It is for another release.
    #[error("the order is for release {expected}, not {got}")]
    Release {
        /// The release that it names.
        expected: Digest,
        /// The release that was asked for.
        got: Digest,
    },
    /// It is for other devices.
    #[error("the order isn't for device {0}")]
    Device(String),
    /// It is over.
    #[error("the order ended at {0}")]
    Ended(Timestamp),
}

impl DowngradeOrder {
    /// Reads an order, trusting it only if enough release keys signed it.
    ///
    /// # Errors
    /// If too few did, or it isn't an order.
    pub fn from_envelope(envelope: &Envelope, trust: &TrustRoot) -> Result<Self, OrderError> {
        let order = Self::unsigned(envelope)?;
        trust.verify(envelope)?;
        Ok(order)
    }

    /// Reads an order whose signatures nobody checked: for tools.
    ///
    /// # Errors
    /// If it isn't an order.
    pub fn unsigned(envelope: &Envelope) -> Result<Self, OrderError> {
        #[derive(Deserialize)]
        struct Probe {
            format: u64,
        }
        if envelope.payload_type != PAYLOAD_TYPE {
            return Err(EnvelopeError::Type {
                expected: PAYLOAD_TYPE,
                got: envelope.payload_type.chars().take(80).collect(),
            }
            .into());
        }
        let probe: Probe = serde_json::from_slice(&envelope.payload).map_err(OrderError::Json)?;
        if probe.format != u64::from(FORMAT) {
            return Err(OrderError::Format(probe.format));
        }
        serde_json::from_slice(&envelope.payload).map_err(OrderError::Json)
    }

    /// Whether it allows `device` to go to `release` at `now`, which is the time or, without a clock, the latest moment
    /// that is known to be past.
    ///
    /// # Errors
    /// Why not.
    pub fn allows(&self, release: &Digest, device: &str, now: Timestamp) -> Result<(), OrderError> {
        if self.release != *release {
            return Err(OrderError::Release {
                expected: self.release,
                got: *release,
            });
        }
        if !self.devices.is_empty() && !self.devices.iter().any(|id| id == device) {
            return Err(OrderError::Device(device.chars().take(80).collect()));
        }
        if now > self.not_after {
            return Err(OrderError::Ended(self.not_after));
        }
        Ok(())
    }

    /// The order in an envelope that nobody has signed yet.
    pub fn to_envelope(&self) -> Envelope {
        // Strings, numbers and lists always have a JSON form.
        let mut json = serde_json::to_vec_pretty(self).unwrap_or_default();
        json.push(b'\n');
        Envelope::new(PAYLOAD_TYPE, json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretKey;
    use crate::trust::Role;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed(&[seed; 32])
    }

    fn trust() -> TrustRoot {
        let role = |seed| Role {
            threshold: 1,
            keys: vec![key(seed).public()],
        };
        TrustRoot {
            format: crate::trust::FORMAT,
            version: 1,
            expires: None,
            root: role(1),
            release: role(2),
            boot_key: None,
            revoked: Vec::new(),
        }
    }

    fn order(devices: &[&str]) -> DowngradeOrder {
        DowngradeOrder {
            format: FORMAT,
            release: Digest::of(b"old"),
            devices: devices.iter().map(|id| (*id).to_owned()).collect(),
            not_after: Timestamp::from_unix(1_000).unwrap(),
        }
    }

    #[test]
    fn only_release_keys_count() {
        let mut envelope = order(&[]).to_envelope();
        assert!(DowngradeOrder::from_envelope(&envelope, &trust()).is_err());
        envelope.sign(&key(1));
        let error = DowngradeOrder::from_envelope(&envelope, &trust()).unwrap_err();
        assert!(matches!(error, OrderError::Trust(_)), "{error}");
        envelope.sign(&key(2));
        assert_eq!(
            DowngradeOrder::from_envelope(&envelope, &trust()).unwrap(),
            order(&[])
        );
        envelope.payload[30] ^= 1;
        assert!(DowngradeOrder::from_envelope(&envelope, &trust()).is_err());
    }

    #[test]
    fn a_manifest_is_no_order() {
        let mut envelope = Envelope::new(
            crate::manifest::PAYLOAD_TYPE,
            order(&[]).to_envelope().payload,
        );
        envelope.sign(&key(2));
        let error = DowngradeOrder::from_envelope(&envelope, &trust()).unwrap_err();
        assert!(matches!(error, OrderError::Envelope(_)), "{error}");
        for payload in ["", "{}", r#"{"format":1}"#, r#"{"format":2}"#] {
            let mut envelope = Envelope::new(PAYLOAD_TYPE, payload.into());
            envelope.sign(&key(2));
            assert!(
                DowngradeOrder::from_envelope(&envelope, &trust()).is_err(),
                "{payload}"
            );
        }
    }

    #[test]
    fn it_allows_one_release_on_its_devices_until_its_end() {
        let at = |seconds| Timestamp::from_unix(seconds).unwrap();
        let old = Digest::of(b"old");
        let some = order(&["node-1", "node-2"]);
        assert!(some.allows(&old, "node-2", at(1_000)).is_ok());
        assert!(matches!(
            some.allows(&old, "node-2", at(1_001)),
            Err(OrderError::Ended(_))
        ));
        assert!(matches!(
            some.allows(&old, "node-3", at(0)),
            Err(OrderError::Device(_))
        ));
        let other = Digest::of(b"other");
        assert!(matches!(
            some.allows(&other, "node-1", at(0)),
            Err(OrderError::Release { .. })
        ));
        assert!(order(&[]).allows(&old, "node-3", at(0)).is_ok());
    }
}
