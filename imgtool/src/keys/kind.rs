//! What a key file holds, told from its bytes and without any passphrase.

use cairn_release::PublicKey;
use pkcs8::der::{Decode as _, pem};
use pkcs8::spki::{ObjectIdentifier, SubjectPublicKeyInfoRef};
use pkcs8::{EncryptedPrivateKeyInfo, PrivateKeyInfo};
use std::fmt;
use x509_cert::Certificate;
use zeroize::Zeroizing;

/// Ed25519 (RFC 8410).
pub const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
/// RSA (RFC 8017).
pub const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// What a file holds.
#[derive(Debug)]
pub enum KeyKind {
    /// An encrypted PKCS#8 key; of which kind, only its passphrase tells.
    Encrypted,
    /// An open PKCS#8 key of this algorithm.
    Secret(ObjectIdentifier),
    /// An Ed25519 public key.
    ReleasePublic(PublicKey),
    /// Another public key.
    Public(ObjectIdentifier),
    /// An X.509 certificate.
    Certificate(Box<Certificate>),
    /// An OpenPGP secret key.
    OpenPgpSecret,
    /// An OpenPGP public key.
    OpenPgpPublic,
    /// Nothing at all.
    Empty,
    /// Something else.
    Unknown,
}

impl KeyKind {
    /// Looks at a file's bytes.
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::Empty;
        }
        if let Ok((label, der)) = pem::decode_vec(bytes) {
            return Self::of_der(label, &Zeroizing::new(der));
        }
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]);
        if text.contains("-----BEGIN PGP PRIVATE KEY BLOCK-----") {
            return Self::OpenPgpSecret;
        }
        if text.contains("-----BEGIN PGP PUBLIC KEY BLOCK-----") {
            return Self::OpenPgpPublic;
        }
        // The tag of a packet in the new format, then in the old (RFC 9580, 4.2).
        match bytes[0] {
            0xc6 | 0x98..=0x9b => Self::OpenPgpPublic,
            0xc5 | 0x94..=0x97 => Self::OpenPgpSecret,
            0x30 => Certificate::from_der(bytes)
                .map_or(Self::Unknown, |cert| Self::Certificate(Box::new(cert))),
            _ => Self::Unknown,
        }
    }

    fn of_der(label: &str, der: &[u8]) -> Self {
        match label {
            "ENCRYPTED PRIVATE KEY" if EncryptedPrivateKeyInfo::from_der(der).is_ok() => {
                Self::Encrypted
            }
            "PRIVATE KEY" => PrivateKeyInfo::from_der(der)
                .map_or(Self::Unknown, |key| Self::Secret(key.algorithm.oid)),
            "PUBLIC KEY" => {
                SubjectPublicKeyInfoRef::from_der(der).map_or(Self::Unknown, |key| public(&key))
            }
            "CERTIFICATE" => Certificate::from_der(der)
                .map_or(Self::Unknown, |cert| Self::Certificate(Box::new(cert))),
            _ => Self::Unknown,
        }
    }
}

fn public(key: &SubjectPublicKeyInfoRef<'_>) -> KeyKind {
    let raw = key
        .subject_public_key
        .as_bytes()
        .and_then(|raw| <&[u8; 32]>::try_from(raw).ok());
    match raw.map(PublicKey::from_bytes) {
        Some(Ok(raw)) if key.algorithm.oid == ED25519 => KeyKind::ReleasePublic(raw),
        _ => KeyKind::Public(key.algorithm.oid),
    }
}

/// An algorithm's name with its article.
pub fn algorithm(oid: ObjectIdentifier) -> String {
    match oid {
        ED25519 => "an Ed25519".into(),
        RSA => "an RSA".into(),
        other => format!("a ({other})"),
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encrypted => f.write_str("an encrypted PKCS#8 secret key"),
            Self::Secret(oid) => write!(f, "{} secret key", algorithm(*oid)),
            Self::ReleasePublic(_) => f.write_str("an Ed25519 public key"),
            Self::Public(oid) => write!(f, "{} public key", algorithm(*oid)),
            Self::Certificate(_) => f.write_str("an X.509 certificate"),
            Self::OpenPgpSecret => f.write_str("an OpenPGP secret key"),
            Self::OpenPgpPublic => f.write_str("an OpenPGP public key"),
            Self::Empty => f.write_str("0 bytes"),
            Self::Unknown => f.write_str("something that is no key"),
        }
    }
}
