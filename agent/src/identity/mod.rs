//! Who the node is: a key that was made here and never leaves, and the certificate that the control plane gave for it.
//!
//! ```text
//! identity/key.pem          ECDSA P-256, made before the first word to the server
//! identity/certificate.pem  the node's certificate and those above it
//! identity/ca.pem           what the server's certificate is checked against
//! identity/identity.json    the rest; written last, so that it is there only with all the others
//! ```

pub mod keeper;
pub mod key;
pub mod request;
mod validity;

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

use crate::files;

pub use validity::validity;

/// No file of an identity is longer, in bytes.
const LIMIT: u64 = 256 * 1024;

/// The identity can't be read, made or kept.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file can't be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file, or what the server sent, isn't what it should be.
    #[error("{what}: expected {expected}")]
    Malformed {
        /// Which one.
        what: String,
        /// What would have been right.
        expected: &'static str,
    },
    /// The key can't be made or used.
    #[error("the node's key: {0}")]
    Key(#[from] rcgen::Error),
    /// The server didn't do it.
    #[error(transparent)]
    Link(#[from] crate::link::LinkError),
}

impl IdentityError {
    /// Whether the server knows the request and will never grant it, so that an operator has to do something.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Link(crate::link::LinkError::Status { status, .. }) => {
                (400..500).contains(status) && *status != 408 && *status != 429
            }
            Self::Link(_) => false,
            _ => true,
        }
    }
}

/// A node's identity, as it is in force.
#[derive(Clone)]
pub struct Identity {
    /// The device's id.
    pub device: String,
    /// The control plane: `https://host:port`.
    pub server: String,
    /// `host:port` of MQTT with TLS.
    pub mqtt: String,
    /// Seconds since 1970 from when the certificate is valid.
    pub not_before: i64,
    /// Seconds since 1970 until when the certificate is valid.
    pub not_after: i64,
    certificate: String,
    ca: String,
    key: String,
    ca_not_after: i64,
}

impl std::fmt::Debug for Identity {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("device", &self.device)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// What lies in `identity.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    device: String,
    server: String,
    mqtt: String,
}

impl Identity {
    /// Takes what a server sent for `key` (PEM).
    ///
    /// # Errors
    /// If a certificate in it can't be read, or is for another key.
    pub fn new(
        answer: cairn_wire::enrol::Identity,
        server: &str,
        key: &str,
    ) -> Result<Self, IdentityError> {
        let id_fits = !answer.device.is_empty()
            && answer.device.len() <= 64
            && answer
                .device
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !id_fits {
            return Err(malformed("the device's id", "1 to 64 of a-z0-9-"));
        }
        let chain = certificates(&answer.certificate, "the node's certificate")?;
        let own = chain
            .first()
            .ok_or_else(|| malformed("the node's certificate", "at least one"))?;
        let (not_before, not_after) = validity(own)
            .ok_or_else(|| malformed("the node's certificate", "an X.509 certificate"))?;
        if !key::matches(key, own)? {
            return Err(malformed(
                "the node's certificate",
                "one for the node's own key",
            ));
        }
        let ca_not_after = certificates(&answer.ca, "the CA's certificate")?
            .iter()
            .filter_map(|ca| Some(validity(ca)?.1))
            .max()
            .ok_or_else(|| malformed("the CA's certificate", "at least one"))?;
        Ok(Self {
            device: answer.device,
            server: server.trim_end_matches('/').to_owned(),
            mqtt: answer.mqtt,
            not_before,
            not_after,
            certificate: answer.certificate,
            ca: answer.ca,
            key: key.to_owned(),
            ca_not_after,
        })
    }

    /// Reads the identity in `folder`; `None` if there is none yet.
    ///
    /// # Errors
    /// If it is there and can't be used.
    pub fn load(folder: &Path) -> Result<Option<Self>, IdentityError> {
        let Some(kept) = read(folder, "identity.json")? else {
            return Ok(None);
        };
        let kept: Kept = serde_json::from_str(&kept)
            .map_err(|_| malformed("identity.json", "device, server and mqtt as JSON"))?;
        let need = |name| {
            read(folder, name)?.ok_or_else(|| malformed(name, "a file beside identity.json"))
        };
        let answer = cairn_wire::enrol::Identity {
            device: kept.device,
            certificate: need("certificate.pem")?,
            ca: need("ca.pem")?,
            mqtt: kept.mqtt,
            time: 0,
        };
        Self::new(answer, &kept.server, &need("key.pem")?).map(Some)
    }

    /// Keeps it in `folder`. The key must be there already.
    ///
    /// # Errors
    /// If a file can't be written.
    pub fn store(&self, folder: &Path) -> Result<(), IdentityError> {
        let kept = Kept {
            device: self.device.clone(),
            server: self.server.clone(),
            mqtt: self.mqtt.clone(),
        };
        write(folder, "ca.pem", self.ca.as_bytes())?;
        write(folder, "certificate.pem", self.certificate.as_bytes())?;
        let kept =
            serde_json::to_vec_pretty(&kept).map_err(|_| malformed("identity.json", "text"))?;
        write(folder, "identity.json", &kept)
    }

    /// The CA's certificates in PEM.
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// Seconds since 1970 until when the CA is valid.
    pub fn ca_not_after(&self) -> i64 {
        self.ca_not_after
    }

    /// What TLS needs: the certificates and the key.
    ///
    /// # Errors
    /// If they can't be read any more.
    pub fn for_tls(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), IdentityError> {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|_| malformed("key.pem", "a private key in PEM"))?;
        Ok((certificates(&self.certificate, "certificate.pem")?, key))
    }

    /// The key in PEM, for a signing request.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Signs with the node's key: ECDSA P-256 with SHA-256, in ASN.1.
    ///
    /// # Errors
    /// If the key can't be used.
    pub fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, IdentityError> {
        key::sign(&self.key, bytes)
    }

    /// From when it should be renewed, in seconds since 1970: two thirds of its life.
    pub fn renew_at(&self) -> i64 {
        self.not_before + (self.not_after - self.not_before) / 3 * 2
    }
}

pub(crate) fn malformed(what: impl Into<String>, expected: &'static str) -> IdentityError {
    IdentityError::Malformed {
        what: what.into(),
        expected,
    }
}

/// The certificates in a PEM text.
///
/// # Errors
/// If a part of it isn't one.
pub fn certificates(
    pem: &str,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| malformed(what, "certificates in PEM"))
}

fn read(folder: &Path, name: &str) -> Result<Option<String>, IdentityError> {
    let path = folder.join(name);
    let bytes = files::read(&path, LIMIT).map_err(|source| IdentityError::File { path, source })?;
    bytes
        .map(|bytes| String::from_utf8(bytes).map_err(|_| malformed(name, "text")))
        .transpose()
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), IdentityError> {
    let path = folder.join(name);
    files::replace(&path, bytes).map_err(|source| IdentityError::File { path, source })
}

#[cfg(test)]
mod tests;
