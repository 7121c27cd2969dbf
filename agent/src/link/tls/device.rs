//! TLS between the devices of a site: each shows the certificate that the control plane's CA gave to it.
//!
//! A device's certificate is good for clients only, and bears the device's id instead of a host's name. So each end,
//! the one that was called as well, is judged as a client.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};

use super::{moment, provider, roots, wrong};
use crate::clock::Clock;
use crate::identity::Identity;
use crate::link::LinkError;

/// A configuration to answer other devices with.
///
/// # Errors
/// If a certificate or the key can't be used.
pub fn server_config(identity: &Identity, clock: Clock) -> Result<ServerConfig, LinkError> {
    let verifier = Device::new(roots(identity.ca())?, clock)?;
    let (chain, key) = identity.for_tls().map_err(wrong)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(wrong)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(chain, key)
        .map_err(wrong)?;
    // Who comes again is judged again.
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Judges a device by its certificate, on either end.
#[derive(Debug)]
pub(super) struct Device {
    inner: Arc<dyn ClientCertVerifier>,
    clock: Clock,
}

impl Device {
    pub(super) fn new(roots: RootCertStore, clock: Clock) -> Result<Self, LinkError> {
        let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let inner = inner.build().map_err(wrong)?;
        Ok(Self { inner, clock })
    }
}

impl ClientCertVerifier for Device {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let moment = moment(&self.clock, end_entity, intermediates);
        self.inner
            .verify_client_cert(end_entity, intermediates, moment)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

impl ServerCertVerifier for Device {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify_client_cert(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
