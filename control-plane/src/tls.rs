//! TLS: the server's certificate, which can change while it runs, and what is asked of a client's.
//!
//! A certificate is optional. One of our authority must be valid, or the handshake fails; any other is let through, since
//! ThingsBoard's devices may bring their own, and is worth nothing unless a device is registered with it
//! ([`crate::registry::credentials::by_certificate`]).

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};

use crate::ca::Ca;
use crate::ca::server::ServerIdentity;

/// TLS can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// rustls says no.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// The root isn't one.
    #[error("TLS: the authority's certificate can't be used: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The root can't be read.
    #[error("TLS: the authority's certificate can't be read")]
    Root,
}

/// The server's certificate, as it is now.
#[derive(Debug)]
pub struct Current(RwLock<Arc<CertifiedKey>>);

impl Current {
    /// Starts with this one.
    ///
    /// # Errors
    /// If the key can't be used.
    pub fn new(identity: ServerIdentity) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self(RwLock::new(Arc::new(certified(identity)?)))))
    }

    /// New connections get this one.
    ///
    /// # Errors
    /// If the key can't be used.
    pub fn replace(&self, identity: ServerIdentity) -> Result<(), TlsError> {
        let new = Arc::new(certified(identity)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }
}

fn certified(identity: ServerIdentity) -> Result<CertifiedKey, TlsError> {
    let key = rustls::crypto::ring::sign::any_supported_type(&identity.key)?;
    Ok(CertifiedKey::new(vec![identity.certificate], key))
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(
            &self.0.read().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

/// A listener's TLS: 1.2 and 1.3, sessions resumed by tickets, the client's certificate optional.
///
/// # Errors
/// If the authority's certificate can't be used.
pub fn server_config(
    ca: &Ca,
    current: Arc<Current>,
    protocols: &[&str],
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new(ca, &provider)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(current);
    // Tickets keep nothing here, whatever the number of devices.
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    Ok(Arc::new(config))
}

struct Verifier {
    ours: Arc<dyn ClientCertVerifier>,
    /// The subject of our root.
    root: Vec<u8>,
}

impl Verifier {
    fn new(ca: &Ca, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        roots.add(ca.ca_der().clone())?;
        let ours =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
                .allow_unauthenticated()
                .build()?;
        let (_, root) =
            x509_parser::parse_x509_certificate(ca.ca_der()).map_err(|_| TlsError::Root)?;
        Ok(Self {
            ours,
            root: root.subject().as_raw().to_vec(),
        })
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl ClientCertVerifier for Verifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hint: clients with certificates of their own would not show them.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let (_, certificate) = x509_parser::parse_x509_certificate(end_entity).map_err(|_| {
            rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding)
        })?;
        if certificate.issuer().as_raw() == self.root {
            return self.ours.verify_client_cert(end_entity, intermediates, now);
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.ours
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.ours
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.ours.supported_verify_schemes()
    }
}
