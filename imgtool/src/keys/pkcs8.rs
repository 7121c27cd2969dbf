//! PKCS#8 in PEM (RFC 5958, RFC 7468), encrypted by PBES2 with scrypt and
//! AES-256-CBC (RFC 8018), so that `openssl pkey` reads it.

use super::kind::{KeyKind, algorithm};
use super::{KeySource, PassphraseArgs};
use crate::error::{Error, Result};
use pkcs8::der::{Decode as _, Encode, pem, pem::LineEnding};
use pkcs8::pkcs5::{pbes2, scrypt};
use pkcs8::spki::ObjectIdentifier;
use pkcs8::{EncryptedPrivateKeyInfo, PrivateKeyInfo, SecretDocument};
use rand::RngCore as _;
use zeroize::Zeroizing;

/// Writes a key as PEM, encrypted if there is a passphrase.
///
/// # Errors
/// If the key can't be encoded.
pub fn to_pem(
    key: &PrivateKeyInfo<'_>,
    passphrase: Option<&Zeroizing<String>>,
) -> Result<Zeroizing<String>> {
    let Some(passphrase) = passphrase else {
        let der = SecretDocument::encode_msg(key).map_err(unencodable)?;
        return der
            .to_pem("PRIVATE KEY", LineEnding::LF)
            .map_err(unencodable);
    };
    let (mut salt, mut iv) = ([0; 16], [0; 16]);
    rand::rngs::OsRng.fill_bytes(&mut salt);
    rand::rngs::OsRng.fill_bytes(&mut iv);
    // What `openssl pkcs8 -scrypt` uses: 16 MiB. With more, openssl would refuse to
    // read the key for want of memory.
    let cost = scrypt::Params::new(14, 8, 1, 32)
        .map_err(|e| Error::failed("cannot encrypt the key").because(e.to_string()))?;
    let parameters =
        pbes2::Parameters::scrypt_aes256cbc(cost, &salt, &iv).map_err(unencryptable)?;
    key.encrypt_with_params(parameters, passphrase.as_bytes())
        .map_err(|e| Error::failed("cannot encrypt the key").because(e))?
        .to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF)
        .map_err(unencodable)
}

/// Writes a public key or certificate as PEM.
///
/// # Errors
/// If it can't be encoded.
pub fn public_pem(label: &str, der: &[u8]) -> Result<String> {
    pem::encode_string(label, LineEnding::LF, der)
        .map_err(|e| Error::failed("cannot write PEM").because(e.to_string()))
}

/// Reads a secret key of `wanted`, asking for its passphrase if it is encrypted.
///
/// # Errors
/// If the file holds anything else, or the passphrase is wrong.
pub fn load(
    source: &KeySource,
    passphrase: &PassphraseArgs,
    wanted: ObjectIdentifier,
) -> Result<SecretDocument> {
    let bytes = source.read()?;
    let expected = format!("{source}: expected {} secret key", algorithm(wanted));
    let document = match KeyKind::of(&bytes) {
        KeyKind::Secret(_) => document(&bytes)?,
        KeyKind::Encrypted => {
            let der = document(&bytes)?;
            let encrypted = EncryptedPrivateKeyInfo::from_der(der.as_bytes())
                .map_err(|e| Error::input(format!("cannot read {source}")).because(e))?;
            let passphrase = passphrase.existing(source)?;
            encrypted
                .decrypt(passphrase.as_bytes())
                .map_err(|_| Error::input(format!("cannot decrypt {source}: wrong passphrase")))?
        }
        other => return Err(Error::input(format!("{expected}, got {other}"))),
    };
    let key = PrivateKeyInfo::from_der(document.as_bytes())
        .map_err(|e| Error::input(format!("cannot read {source}")).because(e))?;
    if key.algorithm.oid != wanted {
        let got = algorithm(key.algorithm.oid);
        return Err(Error::input(format!("{expected}, got {got} secret key")));
    }
    Ok(document)
}

fn document(bytes: &[u8]) -> Result<SecretDocument> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    SecretDocument::from_pem(text)
        .map(|(_, der)| der)
        .map_err(unencodable)
}

fn unencodable(error: pkcs8::der::Error) -> Error {
    Error::failed("cannot encode the key").because(error)
}

fn unencryptable(error: pkcs8::pkcs5::Error) -> Error {
    Error::failed("cannot encrypt the key").because(error.to_string())
}

/// DER of anything that has it.
///
/// # Errors
/// If it can't be encoded.
pub fn der(value: &impl Encode) -> Result<Vec<u8>> {
    value.to_der().map_err(unencodable)
}
