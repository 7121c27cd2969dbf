//! TLS for a node that may not know what time it is: to the server, and between the devices of a site.
//!
//! The server's certificate must chain to the CA and bear the server's name, as ever. What differs is its dates. A clock that is only
//! a lower bound can't say that something is *not yet* valid; and it can say that something has expired only once the bound itself is past the end.

mod device;

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::LinkError;
use crate::clock::Clock;
use crate::identity::{self, Identity};

use device::Device;
pub use device::server_config;

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A server, whose certificate bears its name.
    Server,
    /// Another device of the same CA.
    Device,
}

/// A configuration that trusts `ca` (PEM; else the identity's CA) and shows the identity's certificate.
///
/// # Errors
/// If a certificate or the key can't be used.
pub fn client_config(
    peer: Peer,
    ca: Option<&str>,
    identity: Option<&Identity>,
    clock: Clock,
) -> Result<ClientConfig, LinkError> {
    let ca = ca.or_else(|| identity.map(Identity::ca));
    let roots = ca.map_or_else(|| Ok(RootCertStore::empty()), roots)?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(wrong)?;
    let builder = if roots.is_empty() {
        // Only a server without TLS can be talked to, then.
        builder.with_root_certificates(roots)
    } else {
        let verifier: Arc<dyn ServerCertVerifier> = match peer {
            Peer::Server => Arc::new(Lenient::new(roots, clock)?),
            Peer::Device => Arc::new(Device::new(roots, clock)?),
        };
        builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
    };
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = identity.for_tls().map_err(wrong)?;
            builder.with_client_auth_cert(chain, key).map_err(wrong)?
        }
    };
    // Two servers, a few connections: what is kept of sessions needn't be more.
    config.resumption = rustls::client::Resumption::in_memory_sessions(4);
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn wrong(error: impl std::fmt::Display) -> LinkError {
    LinkError::Tls(error.to_string())
}

fn roots(ca: &str) -> Result<RootCertStore, LinkError> {
    let mut roots = RootCertStore::empty();
    for certificate in identity::certificates(ca, "the CA's certificate").map_err(wrong)? {
        roots.add(certificate).map_err(wrong)?;
    }
    Ok(roots)
}

/// WebPKI's rules, but for the time.
#[derive(Debug)]
struct Lenient {
    inner: Arc<WebPkiServerVerifier>,
    clock: Clock,
}

impl Lenient {
    fn new(roots: RootCertStore, clock: Clock) -> Result<Self, LinkError> {
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
        let inner = inner.build().map_err(wrong)?;
        Ok(Self { inner, clock })
    }
}

/// The moment to judge the certificates by.
fn moment(
    clock: &Clock,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> UnixTime {
    let wall = clock.now().wall_ms.map(|ms| ms / 1000);
    let mut window = identity::validity(end_entity).unwrap_or((0, i64::MAX));
    for (from, until) in intermediates.iter().filter_map(identity::validity) {
        let narrowed = (window.0.max(from), window.1.min(until));
        // One that the chain doesn't need may be of another time.
        if narrowed.0 <= narrowed.1 {
            window = narrowed;
        }
    }
    let moment = u64::try_from(judge_at(wall, clock.certain(), window)).unwrap_or(0);
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(moment))
}

/// The wall clock's time if it lies in the window. Otherwise the clock is in doubt: the certain time, moved into the window's beginning.
fn judge_at(wall: Option<i64>, certain: i64, (from, until): (i64, i64)) -> i64 {
    match wall {
        Some(wall) if wall >= from && wall <= until && certain <= until => wall,
        _ => certain.max(from),
    }
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let moment = moment(&self.clock, end_entity, intermediates);
        self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            moment,
        )
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::*;

    proptest! {
        #[test]
        fn never_not_yet_valid_and_expired_only_if_certain(wall in prop::option::of(0i64..1000), certain in 0i64..1000, from in 0i64..500, length in 1i64..500) {
            let until = from + length;
            let moment = judge_at(wall, certain, (from, until));
            prop_assert!(moment >= from);
            prop_assert_eq!(moment > until, certain > until);
        }
    }

    /// A verifier and a server's certificate, valid from 2025 to 2030.
    fn server(clock: Clock, name: &str) -> (Lenient, CertificateDer<'static>) {
        let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
        ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2025, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let certificate = params
            .signed_by(&KeyPair::generate().unwrap(), &ca)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let verifier = Lenient::new(roots, clock).unwrap();
        (verifier, certificate.der().clone())
    }

    fn verify(
        wall: i64,
        floor: i64,
        certificate_for: &str,
        asked: &str,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let (verifier, certificate) = server(Clock::manual("b", wall, floor), certificate_for);
        let name = ServerName::try_from(asked.to_owned()).unwrap();
        verifier.verify_server_cert(&certificate, &[], &name, &[], UnixTime::now())
    }

    const IN_2024: i64 = 1_704_067_200;
    const IN_2027: i64 = 1_798_761_600;
    const IN_2031: i64 = 1_924_992_000;

    #[test]
    fn a_clock_at_1970_still_reaches_the_server() {
        verify(0, IN_2024, "cp", "cp").unwrap();
        verify(0, IN_2027, "cp", "cp").unwrap();
    }

    #[test]
    fn a_clock_far_ahead_still_reaches_the_server() {
        verify(IN_2031 * 2, IN_2027, "cp", "cp").unwrap();
    }

    #[test]
    fn past_its_end_for_certain_it_has_expired() {
        let error = verify(IN_2031, IN_2031, "cp", "cp").unwrap_err();
        assert!(format!("{error:?}").contains("Expired"), "{error:?}");
    }

    #[test]
    fn another_name_is_refused_whatever_the_time() {
        let error = verify(IN_2027, IN_2027, "cp", "other").unwrap_err();
        assert!(
            format!("{error:?}").contains("NotValidForName"),
            "{error:?}"
        );
    }
}
