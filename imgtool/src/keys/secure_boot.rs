//! The owner's keys for UEFI Secure Boot: RSA-2048 with a self-signed certificate.

use super::kind::{KeyKind, RSA};
use super::{KeySource, LIMIT, PassphraseArgs, pkcs8};
use crate::error::{Error, Result};
use crate::files;
use ::pkcs8::DecodePrivateKey as _;
use ::pkcs8::EncodePrivateKey as _;
use ::pkcs8::der::{Decode as _, Encode as _};
use cairn_release::Timestamp;
use rand::RngCore as _;
use rsa::pkcs1v15::SigningKey;
use rsa::sha2::Sha256;
use rsa::signature::{SignatureEncoding as _, Signer as _};
use rsa::{RsaPrivateKey, pkcs8 as rsa_pkcs8};
use std::error::Error as StdError;
use std::path::Path;
use std::str::FromStr as _;
use std::time::Duration;
use x509_cert::Certificate;
use x509_cert::builder::{Builder as _, CertificateBuilder, Profile};
use x509_cert::der::asn1::UtcTime;
use x509_cert::der::referenced::OwnedToRef as _;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages, SubjectKeyIdentifier};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::SubjectPublicKeyInfoOwned;
use x509_cert::time::{Time, Validity};
use zeroize::Zeroizing;

/// Firmware everywhere takes RSA-2048; longer keys not everywhere.
const BITS: usize = 2048;
const YEARS: u64 = 10;

type Fault = Box<dyn StdError + Send + Sync>;

/// A key and its certificate.
pub struct SecureBootKey {
    certificate: Certificate,
    der: Vec<u8>,
    key: SigningKey<Sha256>,
}

impl std::fmt::Debug for SecureBootKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "SecureBootKey({})",
            self.certificate.tbs_certificate.subject
        )
    }
}

impl SecureBootKey {
    /// Makes a key and a certificate, valid from `from` for ten years.
    ///
    /// # Errors
    /// If the name or the moment can't be written in a certificate.
    pub fn generate(common_name: &str, from: Timestamp) -> Result<Self> {
        Self::make(common_name, from).map_err(|e| {
            Error::failed(format!("cannot make a certificate for {common_name}")).because(e)
        })
    }

    fn make(common_name: &str, from: Timestamp) -> Result<Self, Fault> {
        let key = SigningKey::<Sha256>::new(RsaPrivateKey::new(&mut rand::rngs::OsRng, BITS)?);
        let from = Duration::from_secs(u64::try_from(from.unix())?);
        let until = from + Duration::from_secs(YEARS * 365 * 86_400 + 2 * 86_400);
        // Positive and never zero, as RFC 5280 wants a serial number.
        let mut serial = [0; 16];
        rand::rngs::OsRng.fill_bytes(&mut serial);
        serial[0] = serial[0] & 0x7f | 0x40;
        let validity = Validity {
            not_before: Time::UtcTime(UtcTime::from_unix_duration(from)?),
            not_after: Time::UtcTime(UtcTime::from_unix_duration(until)?),
        };
        let public = rsa::signature::Keypair::verifying_key(&key);
        let public = SubjectPublicKeyInfoOwned::from_key(public)?;
        let mut builder = CertificateBuilder::new(
            Profile::Manual { issuer: None },
            SerialNumber::new(&serial)?,
            validity,
            Name::from_str(&format!("CN={common_name}"))?,
            public.clone(),
            &key,
        )?;
        // It signs programs and variables, not certificates. A purpose such as code
        // signing would make OpenSSL, and with it sbverify and EDK II, look twice.
        builder.add_extension(&SubjectKeyIdentifier::try_from(public.owned_to_ref())?)?;
        builder.add_extension(&BasicConstraints {
            ca: false,
            path_len_constraint: None,
        })?;
        builder.add_extension(&KeyUsage(KeyUsages::DigitalSignature.into()))?;
        let certificate = builder.build::<rsa::pkcs1v15::Signature>()?;
        Ok(Self {
            der: certificate.to_der()?,
            certificate,
            key,
        })
    }

    /// Loads a key and the certificate that belongs to it.
    ///
    /// # Errors
    /// If either can't be read or is something else, or they don't belong together.
    pub fn load(
        source: &KeySource,
        certificate: &Path,
        passphrase: &PassphraseArgs,
    ) -> Result<Self> {
        let path = certificate.display();
        let certificate = match KeyKind::of(&files::read(certificate, LIMIT)?) {
            KeyKind::Certificate(certificate) => *certificate,
            other => {
                return Err(Error::input(format!(
                    "{path}: expected an X.509 certificate, got {other}"
                )));
            }
        };
        let document = pkcs8::load(source, passphrase, RSA)?;
        let key = RsaPrivateKey::from_pkcs8_der(document.as_bytes())
            .map_err(|e| Error::input(format!("{source}: the RSA key is damaged")).because(e))?;
        let key = SigningKey::<Sha256>::new(key);
        let public =
            SubjectPublicKeyInfoOwned::from_key(rsa::signature::Keypair::verifying_key(&key))
                .map_err(|e| Error::failed(format!("cannot read {source}")).because(e))?;
        if public != certificate.tbs_certificate.subject_public_key_info {
            return Err(Error::input(format!(
                "{source} is not the key of certificate {path}"
            )));
        }
        let der = certificate
            .to_der()
            .map_err(|e| Error::input(format!("cannot read {path}")).because(e))?;
        Ok(Self {
            certificate,
            der,
            key,
        })
    }

    /// The secret key as PEM, encrypted if there is a passphrase.
    ///
    /// # Errors
    /// If it can't be encoded.
    pub fn to_pem(&self, passphrase: Option<&Zeroizing<String>>) -> Result<Zeroizing<String>> {
        let key: &RsaPrivateKey = self.key.as_ref();
        let document = key
            .to_pkcs8_der()
            .map_err(|e: rsa_pkcs8::Error| Error::failed("cannot encode the key").because(e))?;
        let info = ::pkcs8::PrivateKeyInfo::from_der(document.as_bytes())
            .map_err(|e| Error::failed("cannot encode the key").because(e))?;
        pkcs8::to_pem(&info, passphrase)
    }

    /// The certificate in DER.
    pub fn certificate_der(&self) -> &[u8] {
        &self.der
    }

    /// RSA PKCS #1 v1.5 over SHA-256.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        self.key
            .try_sign(message)
            .map(|signature| signature.to_vec())
            .map_err(|e| Error::failed("cannot sign with the Secure Boot key").because(e))
    }

    /// What names the certificate in a PKCS#7 signature, in DER.
    pub(super) fn issuer_and_serial(&self) -> Result<(Vec<u8>, Vec<u8>)> {
        let tbs = &self.certificate.tbs_certificate;
        Ok((pkcs8::der(&tbs.issuer)?, pkcs8::der(&tbs.serial_number)?))
    }
}
