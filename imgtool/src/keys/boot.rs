//! The boot key: the RSA-4096 OpenPGP key that GRUB checks `vmlinuz`, the
//! initramfs and `boot.env` with. GRUB 2.06 knows no Ed25519, and looks for the
//! issuer's key id among the subpackets that aren't hashed, so it goes there.

use super::kind::KeyKind;
use super::{KeySource, PassphraseArgs};
use crate::error::{Error, Result};
use cairn_release::Timestamp;
use pgp::composed::{
    ArmorOptions, Deserializable as _, DetachedSignature, KeyType, SignedKeyDetails,
    SignedPublicKey, SignedSecretKey,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::crypto::public_key::PublicKeyAlgorithm;
use pgp::crypto::sym::SymmetricKeyAlgorithm;
use pgp::packet::{
    KeyFlags, PubKeyInner, PublicKey, SecretKey, SignatureConfig, SignatureType, Subpacket,
    SubpacketData, UserId,
};
use pgp::ser::Serialize;
use pgp::types::{
    KeyDetails as _, KeyVersion, PacketHeaderVersion, Password, PublicParams, S2kParams,
    SignedUser, StringToKey, Tag,
};
use rand::RngCore as _;
use rsa::traits::PublicKeyParts as _;
use zeroize::Zeroizing;

const BITS: u32 = 4096;

/// The secret half, decrypted.
pub struct BootKey(SignedSecretKey);

/// The public half.
pub struct BootPublic(SignedPublicKey);

impl std::fmt::Debug for BootKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BootKey({})", self.fingerprint())
    }
}

impl BootKey {
    /// Makes a new key pair.
    ///
    /// # Errors
    /// If `created` can't be written in OpenPGP's 32 bits.
    pub fn generate(name: &str, created: Timestamp) -> Result<Self> {
        generate(name, seconds(created)?)
            .map(Self)
            .map_err(|e| Error::failed("cannot make an OpenPGP key").because(e))
    }

    /// Loads and decrypts a boot key.
    ///
    /// # Errors
    /// If it can't be read or decrypted, or isn't an RSA-4096 OpenPGP secret key.
    pub fn load(source: &KeySource, passphrase: &PassphraseArgs) -> Result<Self> {
        let bytes = source.read()?;
        let expected = format!("{source}: expected an RSA-{BITS} OpenPGP secret key");
        match KeyKind::of(&bytes) {
            KeyKind::OpenPgpSecret => {}
            other => return Err(Error::input(format!("{expected}, got {other}"))),
        }
        let (mut key, _) = SignedSecretKey::from_reader_single(&bytes[..])
            .map_err(|e| Error::input(format!("{expected}, got one that is damaged")).because(e))?;
        check_kind(key.primary_key.public_key())
            .map_err(|got| Error::input(format!("{expected}, got {got}")))?;
        if key.primary_key.secret_params().is_encrypted() {
            let passphrase = passphrase.existing(source)?;
            key.primary_key
                .remove_password(&Password::from(passphrase.as_str()))
                .map_err(|_| Error::input(format!("cannot decrypt {source}: wrong passphrase")))?;
        }
        Ok(Self(key))
    }

    /// The secret key as an armoured file, encrypted if there is a passphrase.
    ///
    /// # Errors
    /// If it can't be encoded.
    pub fn to_armour(&self, passphrase: Option<&Zeroizing<String>>) -> Result<Zeroizing<Vec<u8>>> {
        let encode = || -> pgp::errors::Result<_> {
            let mut key = self.0.clone();
            if let Some(passphrase) = passphrase {
                let mut iv = vec![0; SymmetricKeyAlgorithm::AES256.block_size()];
                rand::rngs::OsRng.fill_bytes(&mut iv);
                let lock = S2kParams::Cfb {
                    sym_alg: SymmetricKeyAlgorithm::AES256,
                    // The highest count that the format can say: 62 MiB are hashed.
                    s2k: StringToKey::new_iterated(rand::rngs::OsRng, HashAlgorithm::Sha512, 255),
                    iv: iv.into(),
                };
                let password = Password::from(passphrase.as_str());
                key.primary_key.set_password_with_s2k(&password, lock)?;
            }
            key.to_armored_bytes(ArmorOptions::default())
                .map(Zeroizing::new)
        };
        encode().map_err(|e| Error::failed("cannot write the OpenPGP key").because(e))
    }

    /// The public half.
    pub fn public(&self) -> BootPublic {
        BootPublic(self.0.to_public_key())
    }

    /// The fingerprint in upper-case hexadecimal, as the trust root names it.
    pub fn fingerprint(&self) -> String {
        hex::encode_upper(self.0.primary_key.fingerprint().as_bytes())
    }

    /// A detached signature (version 4, SHA-512) dated `at`, or the key's own date if
    /// that is later: the same bytes for the same key, message and moment.
    ///
    /// # Errors
    /// If `at` can't be written in OpenPGP's 32 bits, or the key fails.
    pub fn sign_detached(&self, message: &[u8], at: Timestamp) -> Result<Vec<u8>> {
        let key = &self.0.primary_key;
        // gpgv refuses a signature that is older than its key, and a reproducible
        // build is often dated before the key was made.
        let at = seconds(at)?.max(key.created_at());
        let sign = || {
            let config = config(SignatureType::Binary, key.public_key(), at)?;
            packet(
                Tag::Signature,
                &config.sign(key, &Password::empty(), message)?,
            )
        };
        sign().map_err(|e: pgp::errors::Error| {
            Error::failed("cannot sign with the boot key").because(e)
        })
    }
}

/// Fingerprint of a secret key, and whether it is encrypted; no passphrase is needed.
///
/// # Errors
/// If the bytes are no OpenPGP secret key.
pub fn describe_secret(bytes: &[u8]) -> Result<(String, bool)> {
    let (key, _) = SignedSecretKey::from_reader_single(bytes)
        .map_err(|e| Error::input("expected an OpenPGP secret key").because(e))?;
    let encrypted = key.primary_key.secret_params().is_encrypted();
    Ok((BootKey(key).fingerprint(), encrypted))
}

/// Reads a public boot key, binary or armoured.
///
/// # Errors
/// If the bytes are anything else.
pub fn boot_public(bytes: &[u8]) -> Result<BootPublic> {
    let expected = format!("expected an RSA-{BITS} OpenPGP public key");
    match KeyKind::of(bytes) {
        KeyKind::OpenPgpPublic => {}
        other => return Err(Error::input(format!("{expected}, got {other}"))),
    }
    let (key, _) = SignedPublicKey::from_reader_single(bytes)
        .map_err(|e| Error::input(format!("{expected}, got one that is damaged")).because(e))?;
    check_kind(&key.primary_key).map_err(|got| Error::input(format!("{expected}, got {got}")))?;
    Ok(BootPublic(key))
}

impl BootPublic {
    /// The fingerprint in upper-case hexadecimal.
    pub fn fingerprint(&self) -> String {
        hex::encode_upper(self.0.primary_key.fingerprint().as_bytes())
    }

    /// The key in binary, as `grub-mkimage --pubkey` and gpgv take it.
    ///
    /// # Errors
    /// If it can't be encoded.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let encode = || -> pgp::errors::Result<Vec<u8>> {
            let mut bytes = packet(Tag::PublicKey, &self.0.primary_key)?;
            for user in &self.0.details.users {
                bytes.extend(packet(Tag::UserId, &user.id)?);
                for signature in &user.signatures {
                    bytes.extend(packet(Tag::Signature, signature)?);
                }
            }
            Ok(bytes)
        };
        encode().map_err(|e| Error::failed("cannot write the OpenPGP key").because(e))
    }

    /// Whether `signature` is this key's over `message`.
    pub fn verify_detached(&self, message: &[u8], signature: &[u8]) -> bool {
        DetachedSignature::from_reader_single(signature)
            .is_ok_and(|(signature, _)| signature.verify(&self.0.primary_key, message).is_ok())
    }
}

/// A packet with a header in the old format and a length in two bytes. In the new
/// format GRUB 2.06 misreads every length above 191 (it forgets to add 192).
fn packet(tag: Tag, body: &impl Serialize) -> pgp::errors::Result<Vec<u8>> {
    let body = body.to_bytes()?;
    let mut bytes = vec![0x80 | u8::from(tag) << 2 | 1];
    bytes.extend_from_slice(&u16::try_from(body.len())?.to_be_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// OpenPGP counts seconds in 32 bits.
fn seconds(moment: Timestamp) -> Result<pgp::types::Timestamp> {
    u32::try_from(moment.unix())
        .map(pgp::types::Timestamp::from_secs)
        .map_err(|_| Error::input(format!("expected a moment from 1970 to 2106, got {moment}")))
}

fn check_kind(key: &PublicKey) -> Result<(), String> {
    match key.public_params() {
        PublicParams::RSA(rsa) if key.version() == KeyVersion::V4 => {
            let bits = rsa.key.size() * 8;
            if bits == BITS as usize {
                Ok(())
            } else {
                Err(format!("RSA-{bits}"))
            }
        }
        _ => Err(format!(
            "{:?}, version {:?}",
            key.algorithm(),
            key.version()
        )),
    }
}

fn config(
    kind: SignatureType,
    key: &PublicKey,
    at: pgp::types::Timestamp,
) -> pgp::errors::Result<SignatureConfig> {
    let mut config = SignatureConfig::v4(kind, PublicKeyAlgorithm::RSA, HashAlgorithm::Sha512);
    config.hashed_subpackets = vec![
        Subpacket::regular(SubpacketData::SignatureCreationTime(at))?,
        Subpacket::regular(SubpacketData::IssuerFingerprint(key.fingerprint()))?,
    ];
    config.unhashed_subpackets = vec![Subpacket::regular(SubpacketData::IssuerKeyId(
        key.legacy_key_id(),
    ))?];
    Ok(config)
}

fn generate(name: &str, at: pgp::types::Timestamp) -> pgp::errors::Result<SignedSecretKey> {
    let (public, secret) = KeyType::Rsa(BITS).generate(rand::rngs::OsRng)?;
    let inner = PubKeyInner::new(KeyVersion::V4, PublicKeyAlgorithm::RSA, at, None, public)?;
    let public = PublicKey::from_inner(inner)?;
    let secret = SecretKey::new(public.clone(), secret)?;

    let user = UserId::from_str(PacketHeaderVersion::New, name)?;
    let mut flags = KeyFlags::default();
    flags.set_certify(true);
    flags.set_sign(true);
    let mut config = config(SignatureType::CertPositive, &public, at)?;
    config
        .hashed_subpackets
        .push(Subpacket::regular(SubpacketData::KeyFlags(flags))?);
    let signature =
        config.sign_certification(&secret, &public, &Password::empty(), Tag::UserId, &user)?;
    let users = vec![SignedUser::new(user, vec![signature])];
    let details = SignedKeyDetails::new(vec![], vec![], users, vec![]);
    Ok(SignedSecretKey::new(secret, details, vec![], vec![]))
}
