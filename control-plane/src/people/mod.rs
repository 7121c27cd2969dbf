//! People and pipelines: accounts, login sessions, API tokens, and the audit log.
//!
//! A request shows a bearer token; [`Caller`] says whose it is and what it may do: the token's scopes that the account's role
//! still has. Tokens are random and kept as SHA-256 only; passwords as argon2id.
//!
//! | Module | Owns |
//! |---|---|
//! | [`scope`] | scopes and roles |
//! | [`password`] | hashing of passwords |
//! | [`accounts`] | accounts in the database |
//! | [`tokens`] | sessions and API tokens in the database |
//! | [`login`] | a name and a password for a session; the limit on guesses |
//! | [`caller`] | who asks, taken from a request |
//! | [`audit`] | the log of changes |

pub mod accounts;
pub mod audit;
pub mod caller;
mod cli;
pub mod login;
pub mod password;
pub mod scope;
pub mod tokens;

pub use audit::audit;
pub use caller::{Caller, Need, scope_type};
pub use cli::{CliError, cli_add_account};
pub(crate) use cli::{WHO as CLI, open as open_database};
pub use scope::{Role, Scope, Scopes};

/// Seconds since 1970.
pub fn now() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        })
}

/// A random public name of 12 letters and digits, for a row that people point at.
pub(crate) fn random_id() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let random: [u8; 12] = rand::random();
    random
        .iter()
        .map(|byte| char::from(LETTERS[usize::from(byte % 32)]))
        .collect()
}
