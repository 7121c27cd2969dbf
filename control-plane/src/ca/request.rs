//! A signing request (PKCS #10). Only its key is believed: subject and extensions are the server's to give.

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

/// Longest request in PEM that is looked at, in bytes.
const MAX: usize = 16 * 1024;

/// The request can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It isn't one.
    #[error("the signing request can't be read: {0}")]
    Unreadable(String),
    /// Who sent it doesn't have the key.
    #[error("the signing request isn't signed by the key that it names")]
    Signature,
    /// The key is too weak or of an unknown kind.
    #[error(
        "the signing request's key is {0}; expected ECDSA P-256 or P-384, Ed25519, or RSA with 2048 to 8192 bits"
    )]
    Key(String),
}

/// A request whose signature is right: its sender has the key.
#[derive(Debug, Clone)]
pub struct SigningRequest {
    public_key: Vec<u8>,
}

impl SigningRequest {
    /// Reads one in PEM and checks its signature.
    ///
    /// # Errors
    /// If it isn't one, the signature is wrong, or the key is weak.
    pub fn from_pem(text: &str) -> Result<Self, RequestError> {
        let unreadable =
            |reason: &dyn std::fmt::Display| RequestError::Unreadable(reason.to_string());
        if text.len() > MAX {
            return Err(unreadable(&format!(
                "it has {} bytes, the limit is {MAX}",
                text.len()
            )));
        }
        let block = pem::parse(text).map_err(|error| unreadable(&error))?;
        if !matches!(
            block.tag(),
            "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST"
        ) {
            return Err(unreadable(&format!(
                "it is a {:?}, expected a CERTIFICATE REQUEST",
                block.tag()
            )));
        }
        let (rest, request) = X509CertificationRequest::from_der(block.contents())
            .map_err(|error| unreadable(&error))?;
        if !rest.is_empty() {
            return Err(unreadable(&"there are bytes after its end"));
        }
        let info = &request.certification_request_info.subject_pki;
        judge(info)?;
        request
            .verify_signature()
            .map_err(|_| RequestError::Signature)?;
        Ok(Self {
            public_key: info.raw.to_vec(),
        })
    }

    /// The key: SubjectPublicKeyInfo in DER.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }
}

fn judge(info: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> Result<(), RequestError> {
    // Named curves: RFC 5480. Ed25519: RFC 8410.
    const P256: &str = "1.2.840.10045.3.1.7";
    const P384: &str = "1.3.132.0.34";
    const ED25519: &str = "1.3.101.112";
    let refused = |what: String| Err(RequestError::Key(what));
    match info.parsed() {
        Ok(PublicKey::RSA(key)) => match key.key_size() {
            2048..=8192 => Ok(()),
            bits => refused(format!("RSA with {bits} bits")),
        },
        Ok(PublicKey::EC(_)) => {
            let curve = info
                .algorithm
                .parameters
                .as_ref()
                .and_then(|any| any.as_oid().ok())
                .map(|oid| oid.to_id_string());
            match curve.as_deref() {
                Some(P256 | P384) => Ok(()),
                other => refused(format!("on the curve {}", other.unwrap_or("(none)"))),
            }
        }
        _ if info.algorithm.algorithm.to_id_string() == ED25519 => Ok(()),
        _ => refused(format!(
            "of the kind {}",
            info.algorithm.algorithm.to_id_string()
        )),
    }
}
