//! The certificate authority: one root, made at the first start, that signs devices and this server.
//!
//! | Module | Owns |
//! |---|---|
//! | [`request`] | what is believed of a signing request: its key |
//! | [`file`] | files with secrets, written whole or not at all |
//! | [`server`] | the server's own certificate |

pub mod file;
pub mod request;
pub mod server;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls::pki_types::CertificateDer;

pub use request::SigningRequest;

/// Life of the root in days: longer than that of any node.
const ROOT_DAYS: u32 = 30 * 365;
/// Certificates are valid from one day ago, so that a node whose clock is a little slow takes them.
pub(crate) const BACKDATE: i64 = 86_400;

/// The authority can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file.
    #[error("cannot use {path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// Which.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// There is a certificate without its key: another one would shut every device out.
    #[error("{0} is missing; put it back from your backup")]
    Missing(String),
    /// A certificate can't be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// A certificate that was just issued.
#[derive(Debug, Clone)]
pub struct Issued {
    /// PEM.
    pub pem: String,
    /// Serial number in hex.
    pub serial: String,
    /// Seconds since 1970.
    pub expires: i64,
}

/// The authority; clones share it.
#[derive(Clone)]
pub struct Ca(Arc<Inner>);

struct Inner {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    device_days: u32,
}

impl Ca {
    /// Opens the authority in a folder (`ca.pem`, `ca.key`); makes it if there is none.
    ///
    /// # Errors
    /// If a file can't be used, is damaged, or the key is gone.
    pub fn open(folder: &Path, device_days: u32) -> Result<Self, CaError> {
        file::make_folder(folder)?;
        let (key_path, pem_path) = (folder.join("ca.key"), folder.join("ca.pem"));
        let damaged = |path: &Path, reason: String| CaError::Damaged {
            path: path.display().to_string(),
            reason,
        };
        let key = match (file::read(&key_path)?, pem_path.exists()) {
            (Some(pem), _) => {
                KeyPair::from_pem(&pem).map_err(|error| damaged(&key_path, error.to_string()))?
            }
            (None, true) => return Err(CaError::Missing(key_path.display().to_string())),
            (None, false) => {
                let key = KeyPair::generate()?;
                file::write(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
                key
            }
        };
        let pem = match file::read(&pem_path)? {
            Some(pem) => pem,
            None => {
                let pem = root(now()).self_signed(&key)?.pem();
                file::write(&pem_path, pem.as_bytes(), 0o644)?;
                pem
            }
        };
        let der = pem::parse(&pem).map_err(|error| damaged(&pem_path, error.to_string()))?;
        let der = CertificateDer::from(der.into_contents());
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .map_err(|error| damaged(&pem_path, error.to_string()))?;
        if parsed.public_key().subject_public_key.data.as_ref()
            != rcgen::PublicKeyData::der_bytes(&key)
        {
            return Err(damaged(
                &pem_path,
                format!(
                    "it isn't the certificate of the key in {}",
                    key_path.display()
                ),
            ));
        }
        let issuer = Issuer::from_ca_cert_der(&der, key)
            .map_err(|error| damaged(&pem_path, error.to_string()))?;
        Ok(Self(Arc::new(Inner {
            pem,
            der,
            issuer,
            device_days,
        })))
    }

    /// The root in PEM.
    pub fn ca_pem(&self) -> &str {
        &self.0.pem
    }

    /// The root in DER.
    pub fn ca_der(&self) -> &CertificateDer<'static> {
        &self.0.der
    }

    /// Signs a device's key: the common name is the device's id, and only a TLS client may use it.
    ///
    /// # Errors
    /// If the key is of a kind that can't be certified.
    pub fn issue_device(&self, device: &str, request: &SigningRequest) -> Result<Issued, CaError> {
        let now = now();
        let expires = now.saturating_add(i64::from(self.0.device_days) * 86_400);
        let mut params = leaf(device, now - BACKDATE, expires);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = rcgen::SubjectPublicKeyInfo::from_der(request.public_key())?;
        let serial = params
            .serial_number
            .as_ref()
            .map(|serial| hex::encode(serial.to_bytes()))
            .unwrap_or_default();
        let certificate = params.signed_by(&key, &self.0.issuer)?;
        Ok(Issued {
            pem: certificate.pem(),
            serial,
            expires,
        })
    }

    fn sign(
        &self,
        params: &CertificateParams,
        key: &KeyPair,
    ) -> Result<rcgen::Certificate, CaError> {
        Ok(params.signed_by(key, &self.0.issuer)?)
    }
}

/// Seconds since 1970.
pub fn now() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        })
}

/// Seconds since 1970, both.
fn live(params: &mut CertificateParams, from: i64, until: i64) {
    let after = |seconds: i64| {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    };
    (params.not_before, params.not_after) = (after(from), after(until));
}

fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    // A positive number of full length.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn root(now: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    // Two authorities in one place must not have one name.
    let tail: [u8; 4] = rand::random();
    params.distinguished_name = named(&format!("Cairn CA {}", hex::encode(tail)));
    live(
        &mut params,
        now - BACKDATE,
        now.saturating_add(i64::from(ROOT_DAYS) * 86_400),
    );
    params.serial_number = Some(serial());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
}

fn leaf(name: &str, from: i64, until: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    live(&mut params, from, until);
    params.serial_number = Some(serial());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

#[cfg(test)]
mod tests;
