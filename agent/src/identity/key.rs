//! The node's key: ECDSA P-256, made on the node.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rcgen::{CertificateParams, DnType, KeyPair, PublicKeyData, SigningKey};
use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;

use super::IdentityError;

/// The key in `folder`, in PEM; made if there is none, or none that can be used.
///
/// # Errors
/// If it can't be read or kept.
pub fn load_or_make(folder: &Path) -> Result<String, IdentityError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| IdentityError::File {
            path: folder.to_owned(),
            source,
        })?;
    if let Some(pem) = super::read(folder, "key.pem")? {
        if KeyPair::from_pem(&pem).is_ok() {
            return Ok(pem);
        }
        tracing::warn!("key.pem cannot be read; the node gets a new key");
    }
    let pem = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?.serialize_pem();
    super::write(folder, "key.pem", pem.as_bytes())?;
    Ok(pem)
}

/// A signing request in PEM. Its subject counts for nothing; a name in it helps who reads it.
///
/// # Errors
/// If the key can't be used.
pub fn signing_request(key: &str, name: &str) -> Result<String, IdentityError> {
    let key = KeyPair::from_pem(key)?;
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params.serialize_request(&key)?.pem()?)
}

/// A signature over some bytes.
///
/// # Errors
/// If the key can't be used.
pub fn sign(key: &str, bytes: &[u8]) -> Result<Vec<u8>, IdentityError> {
    Ok(KeyPair::from_pem(key)?.sign(bytes)?)
}

/// Whether a certificate is for this key.
///
/// # Errors
/// If the key can't be used.
pub fn matches(key: &str, certificate: &CertificateDer<'_>) -> Result<bool, IdentityError> {
    let key = KeyPair::from_pem(key)?;
    let Ok(parsed) = ParsedCertificate::try_from(certificate) else {
        return Ok(false);
    };
    Ok(parsed.subject_public_key_info().as_ref() == key.subject_public_key_info())
}
