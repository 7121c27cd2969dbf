//! Key material: where it is read from, how it lies on disk, what it can do.
//!
//! | Module | Owns |
//! |---|---|
//! | [`source`] | `FILE`, `env:VAR`, `fd:N`: where a secret comes from |
//! | [`passphrase`] | passphrases: options, prompt, and the rule that nobody is asked without a terminal |
//! | [`kind`] | telling from its bytes what a key file holds |
//! | [`pkcs8`] | PKCS#8 PEM with and without encryption |
//! | [`release`] | Ed25519 keys that sign manifests and trust roots |
//! | [`boot`] | the RSA OpenPGP key that GRUB checks with |
//! | [`secure_boot`] | the owner's PK, KEK and db of UEFI Secure Boot |
//! | [`authenticode`] | the signature inside an EFI program |
//! | [`pkcs7`] | the SignedData that firmware reads |
//! | [`enrolment`] | signature lists and signed variables for firmware |
//!
//! A secret is held in memory that is wiped, and it is never an argument, part of
//! a message, or in a file that others may read.

pub mod authenticode;
pub mod boot;
pub mod enrolment;
pub mod kind;
pub mod passphrase;
pub mod pkcs7;
pub mod pkcs8;
pub mod release;
pub mod secure_boot;
pub mod source;

pub use boot::{BootKey, BootPublic, boot_public};
pub use kind::KeyKind;
pub use passphrase::PassphraseArgs;
pub use release::{load_public, load_release};
pub use secure_boot::SecureBootKey;
pub use source::KeySource;

use crate::error::{Error, Result};
use cairn_release::Timestamp;
use std::time::{SystemTime, UNIX_EPOCH};

/// No key file is larger.
const LIMIT: u64 = 64 * 1024;

/// The moment that is written into what is made: `SOURCE_DATE_EPOCH`, or now.
///
/// # Errors
/// If the variable is no number of seconds.
pub fn moment() -> Result<Timestamp> {
    let name = "SOURCE_DATE_EPOCH";
    let seconds = match std::env::var(name) {
        Ok(text) => text.parse().map_err(|e| {
            Error::input(format!("{name}: expected seconds, got {text:?}")).because(e)
        })?,
        Err(_) => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs() as i64),
    };
    Timestamp::from_unix(seconds).map_err(|e| Error::input(name).because(e))
}
