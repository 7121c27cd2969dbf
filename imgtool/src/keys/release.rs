//! Ed25519 keys that sign manifests and trust roots: secret as PKCS#8, public as
//! SubjectPublicKeyInfo, both in PEM (RFC 8410).

use super::kind::{ED25519, KeyKind};
use super::{KeySource, LIMIT, PassphraseArgs, pkcs8};
use crate::error::{Error, Result};
use crate::files;
use ::pkcs8::PrivateKeyInfo;
use ::pkcs8::der::Decode as _;
use ::pkcs8::der::asn1::{BitStringRef, OctetStringRef};
use ::pkcs8::spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};
use cairn_release::{PublicKey, SecretKey};
use rand::RngCore as _;
use std::path::Path;
use zeroize::Zeroizing;

const ALGORITHM: AlgorithmIdentifierRef<'static> = AlgorithmIdentifierRef {
    oid: ED25519,
    parameters: None,
};

/// Loads a secret release or root key.
///
/// # Errors
/// If it can't be read or decrypted, or is something else.
pub fn load_release(source: &KeySource, passphrase: &PassphraseArgs) -> Result<SecretKey> {
    let document = pkcs8::load(source, passphrase, ED25519)?;
    let damaged = || Error::input(format!("{source}: the Ed25519 key in it is damaged"));
    let key = PrivateKeyInfo::from_der(document.as_bytes()).map_err(|_| damaged())?;
    let seed = OctetStringRef::from_der(key.private_key).map_err(|_| damaged())?;
    let seed: &[u8; 32] = seed.as_bytes().try_into().map_err(|_| damaged())?;
    Ok(SecretKey::from_seed(seed))
}

/// Loads a public release or root key.
///
/// # Errors
/// If it can't be read, or is something else.
pub fn load_public(path: &Path) -> Result<PublicKey> {
    match KeyKind::of(&files::read(path, LIMIT)?) {
        KeyKind::ReleasePublic(key) => Ok(key),
        other => Err(Error::input(format!(
            "{}: expected an Ed25519 public key, got {other}",
            path.display()
        ))),
    }
}

/// A new key and its PEM file.
///
/// # Errors
/// If it can't be encoded.
pub fn generate(passphrase: Option<&Zeroizing<String>>) -> Result<(SecretKey, Zeroizing<String>)> {
    let mut seed = Zeroizing::new([0; 32]);
    rand::rngs::OsRng.fill_bytes(&mut *seed);
    // An OCTET STRING in the OCTET STRING (RFC 8410, section 7).
    let mut inner = Zeroizing::new([0; 34]);
    inner[..2].copy_from_slice(&[0x04, 32]);
    inner[2..].copy_from_slice(&*seed);
    let pem = pkcs8::to_pem(&PrivateKeyInfo::new(ALGORITHM, &*inner), passphrase)?;
    Ok((SecretKey::from_seed(&seed), pem))
}

/// A public key's PEM file.
///
/// # Errors
/// If it can't be encoded.
pub fn public_pem(key: &PublicKey) -> Result<String> {
    let raw = key.to_bytes();
    let bits = BitStringRef::from_bytes(&raw)
        .map_err(|e| Error::failed("cannot encode the public key").because(e))?;
    let spki = SubjectPublicKeyInfoRef {
        algorithm: ALGORITHM,
        subject_public_key: bits,
    };
    pkcs8::public_pem("PUBLIC KEY", &pkcs8::der(&spki)?)
}
