//! Passwords: argon2id, and never in memory longer than needed.

use std::sync::LazyLock;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// Shortest password in characters.
pub const MIN: usize = 12;
/// Longest in bytes.
pub const MAX: usize = 256;
/// How many are computed at once; each takes 19 MiB.
const AT_ONCE: usize = 4;

static TURNS: Semaphore = Semaphore::const_new(AT_ONCE);
/// What the password of an account that isn't there is compared with, so that it takes as long.
static NOBODY: LazyLock<String> = LazyLock::new(|| {
    let nobody: [u8; 16] = rand::random();
    hash(&hex::encode(nobody)).unwrap_or_default()
});

/// The password can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Too short or too long.
    #[error("expected a password of at least {MIN} characters and at most {MAX} bytes")]
    Length,
    /// argon2 failed.
    #[error("cannot hash the password: {0}")]
    Hash(argon2::password_hash::Error),
}

fn argon2() -> Argon2<'static> {
    // OWASP's first choice for argon2id: 19 MiB, 2 passes, 1 lane.
    Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::default())
}

/// The PHC string to keep.
///
/// # Errors
/// If the password is too short or too long.
pub fn hash(password: &str) -> Result<String, PasswordError> {
    if password.chars().count() < MIN || password.len() > MAX {
        return Err(PasswordError::Length);
    }
    Ok(argon2()
        .hash_password(password.as_bytes())
        .map_err(PasswordError::Hash)?
        .to_string())
}

/// Whether the password is the one that was hashed. Without a hash it takes as long, and is wrong.
pub fn verify(password: &str, phc: Option<&str>) -> bool {
    let known = phc.is_some();
    if password.len() > MAX {
        return false;
    }
    let Ok(parsed) = PasswordHash::new(phc.unwrap_or(&NOBODY)) else {
        return false;
    };
    argon2()
        .verify_password(password.as_bytes(), &parsed)
        .is_ok()
        && known
}

/// Reads a password out of a message, so that its memory is wiped in the end.
///
/// # Errors
/// If it is no string.
pub fn secret<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Zeroizing<String>, D::Error> {
    <String as serde::Deserialize>::deserialize(deserializer).map(Zeroizing::new)
}

/// [`hash`] on a thread that may block.
///
/// # Errors
/// As there.
pub async fn hash_in_turn(password: Zeroizing<String>) -> Result<String, PasswordError> {
    let _turn = TURNS.acquire().await;
    tokio::task::spawn_blocking(move || hash(&password))
        .await
        .unwrap_or(Err(PasswordError::Hash(
            argon2::password_hash::Error::Crypto,
        )))
}

/// [`verify`] on a thread that may block.
pub async fn verify_in_turn(password: Zeroizing<String>, phc: Option<String>) -> bool {
    let _turn = TURNS.acquire().await;
    tokio::task::spawn_blocking(move || verify(&password, phc.as_deref()))
        .await
        .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_password_is_right() {
        let phc = hash("correct horse battery").unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{phc}");
        assert!(verify("correct horse battery", Some(&phc)));
        assert!(!verify("correct horse batterz", Some(&phc)));
        assert!(!verify("correct horse battery", None));
        assert!(!verify("x", Some("not a hash")));
        assert_ne!(phc, hash("correct horse battery").unwrap());
        assert!(hash("short").is_err());
        assert!(hash(&"x".repeat(257)).is_err());
    }
}
