//! The server's own certificate, signed by the authority, in `DATA/tls/`. It is made anew when the names change, when it nears its
//! end, or when the authority is another.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use rcgen::{ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::extensions::GeneralName;

use super::{BACKDATE, Ca, CaError, file, leaf, now};

/// Life in days; made anew when a third is left.
const DAYS: i64 = 825;

/// Certificate and key.
pub struct ServerIdentity {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

impl Ca {
    /// The server's certificate for `localhost`, the loopback addresses and these names; from the disk if it still fits.
    ///
    /// # Errors
    /// If a file can't be used, or a name isn't one.
    pub fn server_identity(
        &self,
        folder: &Path,
        names: &[String],
    ) -> Result<ServerIdentity, CaError> {
        file::make_folder(folder)?;
        let (pem_path, key_path) = (folder.join("server.pem"), folder.join("server.key"));
        let wanted: BTreeSet<String> = ["localhost", "127.0.0.1", "::1"]
            .into_iter()
            .map(str::to_owned)
            .chain(names.iter().map(|name| name.to_ascii_lowercase()))
            .collect();
        if let (Some(pem), Some(key)) = (file::read(&pem_path)?, file::read(&key_path)?)
            && let Some(identity) = self.still_fits(&pem, &key, &wanted)
        {
            return Ok(identity);
        }
        let key = KeyPair::generate()?;
        let now = now();
        let mut params = leaf("cairn-control", now - BACKDATE, now + DAYS * 86_400);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages.push(KeyUsagePurpose::KeyAgreement);
        for name in &wanted {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into()?),
            });
        }
        let certificate = self.sign(&params, &key)?;
        // The key first: a certificate without its key is found not to fit, and both are made again.
        file::write(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
        file::write(&pem_path, certificate.pem().as_bytes(), 0o644)?;
        Ok(ServerIdentity {
            certificate: certificate.der().clone(),
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        })
    }

    fn still_fits(
        &self,
        pem: &str,
        key: &str,
        wanted: &BTreeSet<String>,
    ) -> Option<ServerIdentity> {
        let key = KeyPair::from_pem(key).ok()?;
        let der = pem::parse(pem).ok()?.into_contents();
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
        let (_, root) = x509_parser::parse_x509_certificate(self.ca_der()).ok()?;
        certificate.verify_signature(Some(root.public_key())).ok()?;
        let left = certificate.validity().not_after.timestamp() - now();
        let mine = certificate.public_key().subject_public_key.data.as_ref()
            == rcgen::PublicKeyData::der_bytes(&key);
        if left < DAYS * 86_400 / 3 || !mine {
            return None;
        }
        let names: BTreeSet<String> = certificate
            .subject_alternative_name()
            .ok()??
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                GeneralName::IPAddress(bytes) => match bytes.len() {
                    4 => <[u8; 4]>::try_from(*bytes)
                        .ok()
                        .map(|b| IpAddr::from(b).to_string()),
                    _ => <[u8; 16]>::try_from(*bytes)
                        .ok()
                        .map(|b| IpAddr::from(b).to_string()),
                },
                _ => None,
            })
            .collect();
        (names == *wanted).then(|| ServerIdentity {
            certificate: CertificateDer::from(der.clone()),
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        })
    }
}
