//! A name and a password for a session, and the limit on guesses.
//!
//! Each guess takes a coin from three purses: of this account from this address, of this address, and of this account. A
//! purse fills up again with time. The first is small; the last is large, so that nobody locks an account's owner out by guessing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use zeroize::Zeroizing;

use super::audit::{SYSTEM, audit};
use super::tokens::{self, Kind, New, SESSION_LIFE};
use super::{Role, accounts, now, password};
use crate::coins::{Coins, Purse};
use crate::store::{Store, StoreError};
use crate::web::ApiError;

/// Purses kept; the full ones make room.
const PURSES: usize = 10_000;
/// Characters of a name that count; no account has a longer one.
const NAME: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Whose {
    Both(String, Option<IpAddr>),
    Address(IpAddr),
    Account(String),
}

impl Whose {
    fn purse(&self) -> Purse {
        let (most, seconds) = match self {
            Self::Both(..) => (10.0, 6),
            Self::Address(_) => (50.0, 2),
            Self::Account(_) => (100.0, 2),
        };
        Purse {
            most,
            each: Duration::from_secs(seconds),
        }
    }
}

/// Counts wrong guesses.
#[derive(Debug, Default)]
pub struct Limiter {
    purses: Mutex<HashMap<Whose, Coins>>,
    lines: Mutex<Lines>,
}

/// Lines of the audit log that wrong guesses may still fill: a stranger can make as many as he likes from all over the world.
#[derive(Debug, Default)]
struct Lines {
    coins: Option<Coins>,
    /// Wrong guesses since the last line that got none.
    untold: u64,
}

const LINES: Purse = Purse {
    most: 100.0,
    each: Duration::from_secs(60),
};

impl Limiter {
    fn whose(account: &str, address: Option<IpAddr>) -> Vec<Whose> {
        let account: String = account.chars().take(NAME).collect();
        let mut purses = vec![
            Whose::Both(account.clone(), address),
            Whose::Account(account),
        ];
        purses.extend(address.map(Whose::Address));
        purses
    }

    /// Takes a coin from each purse, or says how long to wait.
    fn take(&self, account: &str, address: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        let mut purses = self.purses.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted: Vec<_> = Self::whose(account, address)
            .into_iter()
            .map(|whose| {
                let coins = whose.purse().now(purses.get(&whose).copied(), now);
                (whose, coins)
            })
            .collect();
        if let Some(wait) = wanted
            .iter()
            .filter(|(_, coins)| !coins.is_one())
            .map(|(whose, coins)| whose.purse().wait(*coins, 1.0))
            .max()
        {
            return Err(wait);
        }
        if purses.len() + wanted.len() > PURSES {
            purses.retain(|whose, coins| !whose.purse().is_full(*coins, now));
            // Full of purses in use: then whoever guesses now waits.
            if purses.len() + wanted.len() > PURSES {
                return Err(Duration::from_secs(10));
            }
        }
        for (whose, mut coins) in wanted {
            coins.spend(1.0);
            purses.insert(whose, coins);
        }
        Ok(())
    }

    /// Whether a wrong guess gets a line, and how many before it got none.
    fn line(&self, now: Instant) -> Option<u64> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut coins = LINES.now(lines.coins, now);
        if !coins.is_one() {
            lines.untold += 1;
            return None;
        }
        coins.spend(1.0);
        lines.coins = Some(coins);
        Some(std::mem::take(&mut lines.untold))
    }

    /// The guess was right: the coins of this account from this address come back.
    fn right(&self, account: &str, address: Option<IpAddr>) {
        let mut purses = self.purses.lock().unwrap_or_else(PoisonError::into_inner);
        for whose in Self::whose(account, address) {
            match whose {
                Whose::Both(..) => {
                    purses.remove(&whose);
                }
                Whose::Address(_) | Whose::Account(_) => {
                    if let Some(coins) = purses.get_mut(&whose) {
                        coins.give_back();
                    }
                }
            }
        }
    }
}

/// A session.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub struct Session {
    /// The bearer token.
    pub token: String,
    /// The account.
    pub account: String,
    /// Its role.
    pub role: Role,
    /// When it ends, in seconds since 1970.
    pub expires: i64,
}

fn slow_down(wait: Duration) -> ApiError {
    let seconds = wait.as_secs() + 1;
    ApiError {
        retry_after: Some(seconds),
        ..ApiError::new(
            axum::http::StatusCode::TOO_MANY_REQUESTS,
            "too-many-guesses",
            format!("too many wrong guesses; try again in {seconds} s"),
        )
    }
}

fn wrong() -> ApiError {
    ApiError::new(
        axum::http::StatusCode::UNAUTHORIZED,
        "wrong-password",
        "the account or the password is wrong",
    )
}

/// Checks a password, within the limit.
///
/// # Errors
/// 401 if it is wrong, 429 if there were too many wrong ones.
pub async fn check(
    store: &Store,
    limiter: &Limiter,
    account: &str,
    password: Zeroizing<String>,
    address: Option<IpAddr>,
) -> Result<(), ApiError> {
    limiter
        .take(account, address, Instant::now())
        .map_err(slow_down)?;
    let name = account.to_owned();
    let phc = store
        .read::<_, StoreError, _>(move |connection| accounts::password_hash(connection, &name))
        .await?;
    if !password::verify_in_turn(password, phc).await {
        note(store, limiter, account, address).await;
        return Err(wrong());
    }
    limiter.right(account, address);
    Ok(())
}

/// Notes a wrong guess. If the audit log can't be written it is refused all the same.
async fn note(store: &Store, limiter: &Limiter, account: &str, address: Option<IpAddr>) {
    let account: String = account.chars().take(NAME).collect();
    tracing::warn!(account, ?address, "wrong password");
    let Some(untold) = limiter.line(Instant::now()) else {
        return;
    };
    let detail = json!({ "address": address, "untold": untold });
    let subject = format!("account/{account}");
    let noted = store
        .write::<_, StoreError, _>(move |tx| {
            audit(tx, SYSTEM, "account.wrong-password", &subject, &detail)
        })
        .await;
    if let Err(error) = noted {
        tracing::error!(%error, "a wrong password isn't in the audit log");
    }
}

/// Opens a session.
///
/// # Errors
/// As [`check`].
pub async fn login(
    store: &Store,
    limiter: &Limiter,
    account: String,
    password: Zeroizing<String>,
    address: Option<IpAddr>,
) -> Result<Session, ApiError> {
    check(store, limiter, &account, password, address).await?;
    store
        .write(move |tx| {
            // It may have been removed since.
            let role = accounts::get(tx, &account)?.ok_or_else(wrong)?.role;
            let expires = now() + SESSION_LIFE;
            let new = New {
                kind: Kind::Session,
                account: &account,
                note: "",
                scopes: role.scopes(),
                expires,
            };
            let Some((_, token)) = tokens::create(tx, &account, &new)? else {
                return Err(ApiError::internal("no room for a session"));
            };
            Ok(Session {
                token,
                account,
                role,
                expires,
            })
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)));
    const B: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)));

    #[test]
    fn guesses_run_out_and_come_back() {
        let (limiter, start) = (Limiter::default(), Instant::now());
        for _ in 0..10 {
            assert_eq!(limiter.take("ada", A, start), Ok(()));
        }
        assert_eq!(limiter.take("ada", A, start), Err(Duration::from_secs(6)));
        assert_eq!(
            limiter.take("ada", B, start),
            Ok(()),
            "the owner elsewhere isn't locked out"
        );
        assert_eq!(
            limiter.take("ada", A, start + Duration::from_secs(7)),
            Ok(())
        );
        assert!(
            limiter
                .take("ada", A, start + Duration::from_secs(7))
                .is_err()
        );
    }

    #[test]
    fn one_address_cannot_try_many_accounts() {
        let (limiter, start) = (Limiter::default(), Instant::now());
        let right = (0..100)
            .filter(|n| limiter.take(&format!("a{n}"), A, start).is_ok())
            .count();
        assert_eq!(right, 50);
    }

    #[test]
    fn a_right_password_costs_nothing() {
        let (limiter, start) = (Limiter::default(), Instant::now());
        for _ in 0..1000 {
            assert_eq!(limiter.take("ada", A, start), Ok(()));
            limiter.right("ada", A);
        }
    }

    #[test]
    fn a_stranger_cannot_fill_the_audit_log() {
        let (limiter, start) = (Limiter::default(), Instant::now());
        let lines = (0..1000).filter(|_| limiter.line(start).is_some()).count();
        assert_eq!(lines, 100);
        let later = start + Duration::from_secs(61);
        assert_eq!(limiter.line(later), Some(900), "what got none is counted");
        assert_eq!(limiter.line(later), None);
    }

    #[test]
    fn memory_is_bounded() {
        let (limiter, start) = (Limiter::default(), Instant::now());
        for n in 0..u32::try_from(2 * PURSES).unwrap() {
            let _ = limiter.take(&format!("a{n}"), Some(IpAddr::V4(n.into())), start);
        }
        assert!(limiter.purses.lock().unwrap().len() <= PURSES);
    }
}
