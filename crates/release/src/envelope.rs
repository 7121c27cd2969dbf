//! DSSE envelopes (Dead Simple Signing Envelope, version 1.0.2 of the
//! specification by secure-systems-lab): JSON around a payload whose exact bytes
//! are signed, so that nobody has to agree on a canonical JSON.
//!
//! ```text
//! {"payloadType": "application/vnd.cairn.release+json",
//!  "payload":     base64(payload bytes),
//!  "signatures":  [{"keyid": hex(sha256(public key)), "sig": base64(64 bytes)}]}
//!
//! signed bytes = "DSSEv1" SP len(type) SP type SP len(payload) SP payload
//! ```

use crate::{KeyId, PublicKey, SecretKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An envelope; its signatures aren't checked until [`Envelope::signed_by`] is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Envelope {
    /// What the payload is, as a media type.
    pub payload_type: String,
    /// The bytes that are signed.
    #[serde(with = "base64_bytes")]
    pub payload: Vec<u8>,
    /// One entry a key.
    pub signatures: Vec<Signature>,
}

/// One key's signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// Which key; a hint only, the signature decides.
    pub keyid: KeyId,
    /// The Ed25519 signature, 64 bytes.
    #[serde(with = "base64_bytes")]
    pub sig: Vec<u8>,
}

/// The bytes are no envelope of the wanted type.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// No JSON, or not of an envelope's shape.
    #[error("not a DSSE envelope")]
    Json(#[source] serde_json::Error),
    /// An envelope, with something else inside.
    #[error("expected payload type {expected:?}, got {got:?}")]
    Type {
        /// The type that was asked for.
        expected: &'static str,
        /// The type that the envelope states.
        got: String,
    },
    /// No signature at all.
    #[error("the envelope is not signed")]
    Unsigned,
}

impl Envelope {
    /// An envelope without signatures.
    pub fn new(payload_type: &str, payload: Vec<u8>) -> Self {
        Self {
            payload_type: payload_type.to_owned(),
            payload,
            signatures: Vec::new(),
        }
    }

    /// Reads an envelope of the given payload type.
    ///
    /// # Errors
    /// If the bytes aren't an envelope, or hold another type.
    pub fn parse(bytes: &[u8], expected: &'static str) -> Result<Self, EnvelopeError> {
        let envelope: Self = serde_json::from_slice(bytes).map_err(EnvelopeError::Json)?;
        if envelope.payload_type != expected {
            return Err(EnvelopeError::Type {
                expected,
                got: envelope.payload_type.chars().take(80).collect(),
            });
        }
        Ok(envelope)
    }

    /// The envelope as JSON with a line end.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings, byte lists and digests always have a JSON form.
        let mut json = serde_json::to_vec_pretty(self).unwrap_or_default();
        json.push(b'\n');
        json
    }

    /// The bytes that a signature covers: DSSE's pre-authentication encoding.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = format!(
            "DSSEv1 {} {} {} ",
            self.payload_type.len(),
            self.payload_type,
            self.payload.len()
        )
        .into_bytes();
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// Adds `key`'s signature, in place of an older one of the same key.
    /// Signatures are kept in the order of their key ids, so that the order of
    /// signing leaves no trace.
    pub fn sign(&mut self, key: &SecretKey) {
        let keyid = key.public().id();
        let sig = key.sign(&self.signed_bytes()).to_vec();
        self.signatures.retain(|s| s.keyid != keyid);
        self.signatures.push(Signature { keyid, sig });
        self.signatures.sort_by_key(|s| s.keyid);
    }

    /// Those of `keys` that have validly signed, each once.
    pub fn signed_by<'k>(&self, keys: impl IntoIterator<Item = &'k PublicKey>) -> Vec<KeyId> {
        let message = self.signed_bytes();
        let mut signers: Vec<KeyId> = keys
            .into_iter()
            .filter(|key| {
                let id = key.id();
                self.signatures
                    .iter()
                    .any(|s| s.keyid == id && key.verifies(&message, &s.sig))
            })
            .map(PublicKey::id)
            .collect();
        signers.sort();
        signers.dedup();
        signers
    }
}

mod base64_bytes {
    use super::*;

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD
            .decode(String::deserialize(deserializer)?)
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_the_encoding_that_the_specification_gives() {
        let envelope = Envelope::new("http://example.com/HelloWorld", b"hello world".to_vec());
        assert_eq!(
            envelope.signed_bytes(),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn counts_a_key_once_and_only_over_the_same_type_and_payload() {
        let (a, b) = (
            SecretKey::from_seed(&[1; 32]),
            SecretKey::from_seed(&[2; 32]),
        );
        let keys = [a.public(), b.public()];
        let mut envelope = Envelope::new("t", b"payload".to_vec());
        envelope.sign(&a);
        envelope.sign(&a);
        assert_eq!(envelope.signed_by(&keys), [a.public().id()]);
        envelope.sign(&b);
        assert_eq!(envelope.signed_by(&keys).len(), 2);
        // The same signature twice is still one key.
        envelope.signatures.push(envelope.signatures[0].clone());
        assert_eq!(envelope.signed_by(keys.iter().chain(&keys)).len(), 2);

        let read = Envelope::parse(&envelope.to_json(), "t").unwrap();
        assert_eq!(read, envelope);
        let mut other = read.clone();
        other.payload[0] ^= 1;
        assert!(other.signed_by(&keys).is_empty());
        let mut other = read;
        other.payload_type = "u".into();
        assert!(other.signed_by(&keys).is_empty());
    }

    #[test]
    fn refuses_another_type_and_unknown_fields() {
        let json = Envelope::new("t", vec![]).to_json();
        let message = Envelope::parse(&json, "u").unwrap_err().to_string();
        assert_eq!(message, r#"expected payload type "u", got "t""#);
        for bad in [
            &b""[..],
            b"{}",
            b"null",
            b"{\"payloadType\":\"t\",\"payload\":\"!\",\"signatures\":[]}",
        ] {
            assert!(matches!(
                Envelope::parse(bad, "t"),
                Err(EnvelopeError::Json(_))
            ));
        }
    }
}
