//! The trust root: who may sign releases, how many of them must, which RSA key
//! the bootloader holds, and which keys are dead.
//!
//! Trust roots are numbered from 1. Root *n+1* replaces root *n* only if a
//! threshold of *n*'s root keys **and** a threshold of its own root keys signed
//! it: the rule of the TUF specification, section 5.3. A node starts from the
//! root in its initramfs and walks upwards, one number at a time. Expiry is a
//! warning for people; it never stops a node, since a node may have no clock.

use crate::envelope::{Envelope, EnvelopeError};
use crate::manifest::{self, Manifest, ManifestError};
use crate::{KeyId, PublicKey, Timestamp};
use serde::{Deserialize, Serialize};

/// The payload type of a trust root's envelope.
pub const PAYLOAD_TYPE: &str = "application/vnd.cairn.trust+json";
/// The format that this code writes and reads.
pub const FORMAT: u32 = 1;

/// One numbered trust root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRoot {
    /// [`FORMAT`].
    pub format: u32,
    /// 1 for the first, then one more each time.
    pub version: u64,
    /// When people should have looked after it.
    pub expires: Option<Timestamp>,
    /// Who may change this file.
    pub root: Role,
    /// Who may sign releases.
    pub release: Role,
    /// OpenPGP fingerprint of the RSA key that the bootloader checks with, in
    /// upper-case hexadecimal.
    pub boot_key: Option<String>,
    /// Keys that count for nothing any more, in either role.
    pub revoked: Vec<KeyId>,
}

/// Keys, and how many of them must sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// How many different keys must sign; at least 1.
    pub threshold: usize,
    /// The keys.
    pub keys: Vec<PublicKey>,
}

/// A trust root or a release isn't trusted, or can't be read.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The envelope can't be read.
    #[error("cannot read the envelope")]
    Envelope(#[from] EnvelopeError),
    /// The payload can't be read.
    #[error("the payload is not a trust root")]
    Json(#[source] serde_json::Error),
    /// Written by a newer imgtool.
    #[error("expected trust root format {FORMAT}, got {0}; this needs a newer program")]
    Format(u64),
    /// A role that can never be met.
    #[error(
        "the {role} role wants {threshold} signatures, but has {usable} keys that aren't revoked"
    )]
    Unreachable {
        /// `root` or `release`.
        role: &'static str,
        /// How many must sign.
        threshold: usize,
        /// How many could.
        usable: usize,
    },
    /// Too few signatures.
    #[error("{valid} of {threshold} needed signatures by {whose} are valid{}", strangers(.unknown, .revoked))]
    Signatures {
        /// Whose signatures were counted.
        whose: String,
        /// How many were needed.
        threshold: usize,
        /// How many there were.
        valid: usize,
        /// Signers that the trust root doesn't name.
        unknown: Vec<KeyId>,
        /// Signers that it has revoked.
        revoked: Vec<KeyId>,
    },
    /// A step was left out, or goes back.
    #[error("expected trust root {expected}, got {got}")]
    Step {
        /// The number that must come next.
        expected: u64,
        /// The number that came.
        got: u64,
    },
    /// The manifest is signed, but can't be used.
    #[error("signed, but not usable")]
    Manifest(#[from] ManifestError),
}

fn strangers(unknown: &[KeyId], revoked: &[KeyId]) -> String {
    let list = |what: &str, keys: &[KeyId]| match keys {
        [] => String::new(),
        keys => {
            let ids: Vec<_> = keys.iter().map(KeyId::short).collect();
            format!("; signed by {what} key {}", ids.join(", "))
        }
    };
    list("revoked", revoked) + &list("unknown", unknown)
}

impl TrustRoot {
    /// Reads a trust root and checks that its own root keys signed it. That makes
    /// it whole; it is trusted only if it came by a way that is, such as the
    /// initramfs, or by [`TrustRoot::accept`].
    ///
    /// # Errors
    /// If it can't be read, can never be met, or isn't signed by its own keys.
    pub fn from_envelope(envelope: &Envelope) -> Result<Self, TrustError> {
        let trust = Self::unsigned(envelope)?;
        let version = trust.version;
        trust.count(&trust.root, envelope, || {
            format!("the root keys of trust root {version}")
        })?;
        Ok(trust)
    }

    /// Reads an envelope's bytes, then as [`TrustRoot::from_envelope`].
    ///
    /// # Errors
    /// As there.
    pub fn parse(bytes: &[u8]) -> Result<Self, TrustError> {
        Self::from_envelope(&Envelope::parse(bytes, PAYLOAD_TYPE)?)
    }

    /// Reads a trust root that may still lack signatures: for tools that gather them.
    ///
    /// # Errors
    /// If it can't be read or can never be met.
    pub fn unsigned(envelope: &Envelope) -> Result<Self, TrustError> {
        #[derive(Deserialize)]
        struct Probe {
            format: u64,
        }
        let probe: Probe = serde_json::from_slice(&envelope.payload).map_err(TrustError::Json)?;
        if probe.format != u64::from(FORMAT) {
            return Err(TrustError::Format(probe.format));
        }
        let trust: Self = serde_json::from_slice(&envelope.payload).map_err(TrustError::Json)?;
        trust.check()?;
        Ok(trust)
    }

    /// Checks that both roles can be met.
    ///
    /// # Errors
    /// If a threshold is 0 or greater than the number of keys left.
    pub fn check(&self) -> Result<(), TrustError> {
        for (name, role) in [("root", &self.root), ("release", &self.release)] {
            let usable = self.usable(role).len();
            if role.threshold == 0 || role.threshold > usable {
                return Err(TrustError::Unreachable {
                    role: name,
                    threshold: role.threshold,
                    usable,
                });
            }
        }
        Ok(())
    }

    /// The trust root that follows this one.
    ///
    /// # Errors
    /// If `next` isn't the next number, or too few of either's root keys signed it.
    pub fn accept(&self, next: &Envelope) -> Result<Self, TrustError> {
        let trust = Self::from_envelope(next)?;
        if Some(trust.version) != self.version.checked_add(1) {
            return Err(TrustError::Step {
                expected: self.version.saturating_add(1),
                got: trust.version,
            });
        }
        let version = self.version;
        self.count(&self.root, next, || {
            format!("the root keys of trust root {version}")
        })?;
        Ok(trust)
    }

    /// Reads a release's manifest, trusting it only if enough release keys signed it.
    ///
    /// # Errors
    /// If too few did, or the payload isn't a manifest.
    pub fn manifest(&self, envelope: &Envelope) -> Result<Manifest, TrustError> {
        self.verify(envelope)?;
        Ok(Manifest::from_payload(&envelope.payload)?)
    }

    /// Reads the bytes of a release's envelope, then as [`TrustRoot::manifest`].
    ///
    /// # Errors
    /// As there.
    pub fn parse_manifest(&self, bytes: &[u8]) -> Result<Manifest, TrustError> {
        self.manifest(&Envelope::parse(bytes, manifest::PAYLOAD_TYPE)?)
    }

    /// Checks that enough release keys signed `envelope`, whatever is in it, and
    /// says which.
    ///
    /// # Errors
    /// If too few did.
    pub fn verify(&self, envelope: &Envelope) -> Result<Vec<KeyId>, TrustError> {
        let version = self.version;
        self.count(&self.release, envelope, || {
            format!("the release keys of trust root {version}")
        })
    }

    /// The envelope for this trust root, without signatures.
    pub fn to_envelope(&self) -> Envelope {
        // Strings, numbers and lists always have a JSON form.
        let mut json = serde_json::to_vec_pretty(self).unwrap_or_default();
        json.push(b'\n');
        Envelope::new(PAYLOAD_TYPE, json)
    }

    fn usable<'t>(&'t self, role: &'t Role) -> Vec<&'t PublicKey> {
        let mut keys: Vec<&PublicKey> = Vec::new();
        for key in &role.keys {
            if !self.revoked.contains(&key.id()) && !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }

    fn count(
        &self,
        role: &Role,
        envelope: &Envelope,
        whose: impl FnOnce() -> String,
    ) -> Result<Vec<KeyId>, TrustError> {
        let valid = envelope.signed_by(self.usable(role));
        if valid.len() >= role.threshold {
            return Ok(valid);
        }
        let claimed = || envelope.signatures.iter().map(|s| s.keyid);
        Err(TrustError::Signatures {
            whose: whose(),
            threshold: role.threshold,
            valid: valid.len(),
            unknown: claimed()
                .filter(|id| !role.keys.iter().any(|key| key.id() == *id))
                .filter(|id| !self.revoked.contains(id))
                .collect(),
            revoked: claimed().filter(|id| self.revoked.contains(id)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretKey;
    use crate::manifest::example;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed(&[seed; 32])
    }

    fn role(threshold: usize, seeds: &[u8]) -> Role {
        Role {
            threshold,
            keys: seeds.iter().map(|s| key(*s).public()).collect(),
        }
    }

    fn trust(version: u64, root: Role) -> TrustRoot {
        TrustRoot {
            format: FORMAT,
            version,
            expires: None,
            root,
            release: role(1, &[20, 21]),
            boot_key: None,
            revoked: vec![],
        }
    }

    fn signed(trust: &TrustRoot, seeds: &[u8]) -> Envelope {
        let mut envelope = trust.to_envelope();
        seeds.iter().for_each(|s| envelope.sign(&key(*s)));
        envelope
    }

    #[test]
    fn a_new_root_needs_a_threshold_of_the_old_and_of_its_own_keys() {
        let one = trust(1, role(2, &[1, 2, 3]));
        let two = trust(2, role(2, &[3, 4, 5]));
        let cases: [(&[u8], bool); 6] = [
            (&[1, 2, 4, 5], true),
            (&[1, 3, 4], true),
            (&[1, 2], false),
            (&[4, 5], false),
            (&[3, 4], false),
            (&[], false),
        ];
        for (signers, accepted) in cases {
            assert_eq!(
                one.accept(&signed(&two, signers)).is_ok(),
                accepted,
                "{signers:?}"
            );
        }
    }

    #[test]
    fn roots_are_taken_one_number_at_a_time() {
        let one = trust(1, role(1, &[1]));
        for version in [0, 1, 3] {
            let error = one
                .accept(&signed(&trust(version, role(1, &[1])), &[1]))
                .unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("expected trust root 2, got {version}")
            );
        }
    }

    #[test]
    fn a_release_by_a_revoked_or_unknown_key_is_refused_by_name() {
        let mut trust = trust(1, role(1, &[1]));
        let manifest = example::manifest(&"1.0.0".parse().unwrap(), 1);
        let mut envelope = manifest.to_envelope();
        envelope.sign(&key(20));
        assert_eq!(trust.manifest(&envelope).unwrap(), manifest);

        trust.revoked.push(key(20).public().id());
        let short = key(20).public().id().short();
        assert_eq!(
            trust.manifest(&envelope).unwrap_err().to_string(),
            format!(
                "0 of 1 needed signatures by the release keys of trust root 1 are valid; signed by revoked key {short}"
            )
        );

        let mut envelope = manifest.to_envelope();
        envelope.sign(&key(99));
        let short = key(99).public().id().short();
        assert_eq!(
            trust.manifest(&envelope).unwrap_err().to_string(),
            format!(
                "0 of 1 needed signatures by the release keys of trust root 1 are valid; signed by unknown key {short}"
            )
        );
    }

    #[test]
    fn a_threshold_that_no_one_can_meet_is_refused() {
        let mut bad = trust(1, role(2, &[1, 1]));
        assert!(matches!(
            bad.check(),
            Err(TrustError::Unreachable { usable: 1, .. })
        ));
        bad.root = role(0, &[1]);
        assert!(bad.check().is_err());
        bad.root = role(1, &[1]);
        bad.revoked = vec![key(20).public().id(), key(21).public().id()];
        assert!(matches!(
            bad.check(),
            Err(TrustError::Unreachable {
                role: "release",
                ..
            })
        ));
    }

    #[test]
    fn an_old_date_does_not_lock_out() {
        let mut old = trust(1, role(1, &[1]));
        old.expires = Some(Timestamp::from_unix(0).unwrap());
        assert!(TrustRoot::parse(&signed(&old, &[1]).to_json()).is_ok());
    }
}
