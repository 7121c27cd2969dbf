//! A name and a password for a session, and the limit on guesses.
//!
//! Each guess takes a coin from three purses: of this account from this address, of this address, and of this account. A
//! purse fills up again with time. The first is small; the last is large, so that nobody locks an account's owner out by guessing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::tokens::{self, Kind, New, SESSION_LIFE};
use super::{Role, accounts, now, password};
use crate::api::ApiError;
use crate::store::{Store, StoreError};

/// Purses kept; the fullest make room.
const PURSES: usize = 10_000;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Purse {
    Both(String, Option<IpAddr>),
    Address(IpAddr),
    Account(String),
}

impl Purse {
    /// How many coins it holds, and how long one takes to come back.
    fn size(&self) -> (f64, Duration) {
        match self {
            Self::Both(..) => (10.0, Duration::from_secs(6)),
            Self::Address(_) => (50.0, Duration::from_secs(2)),
            Self::Account(_) => (100.0, Duration::from_secs(2)),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Coins {
    left: f64,
    at: Instant,
}

/// Counts wrong guesses.
#[derive(Debug, Default)]
pub struct Limiter {
    purses: Mutex<HashMap<Purse, Coins>>,
}

impl Limiter {
    fn purses(account: &str, address: Option<IpAddr>) -> Vec<Purse> {
        let account: String = account.chars().take(64).collect();
        let mut purses = vec![
            Purse::Both(account.clone(), address),
            Purse::Account(account),
        ];
        purses.extend(address.map(Purse::Address));
        purses
    }

    /// Takes a coin from each purse, or says how long to wait.
    fn take(&self, account: &str, address: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        let mut purses = self.purses.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted: Vec<_> = Self::purses(account, address)
            .into_iter()
            .map(|purse| {
                let (most, step) = purse.size();
                let coins = purses.get(&purse).map_or(most, |coins| {
                    let back =
                        now.saturating_duration_since(coins.at).as_secs_f64() / step.as_secs_f64();
                    (coins.left + back).min(most)
                });
                (purse, coins, step)
            })
            .collect();
        if let Some(wait) = wanted
            .iter()
            .filter(|(_, left, _)| *left < 1.0)
            .map(|(_, left, step)| step.mul_f64(1.0 - left))
            .max()
        {
            return Err(wait);
        }
        if purses.len() + wanted.len() > PURSES {
            purses.retain(|purse, coins| {
                let (most, step) = purse.size();
                coins.left
                    + now.saturating_duration_since(coins.at).as_secs_f64() / step.as_secs_f64()
                    < most
            });
            // Full of purses in use: then whoever guesses now waits.
            if purses.len() + wanted.len() > PURSES {
                return Err(Duration::from_secs(10));
            }
        }
        for (purse, left, _) in wanted {
            purses.insert(
                purse,
                Coins {
                    left: left - 1.0,
                    at: now,
                },
            );
        }
        Ok(())
    }

    /// The guess was right: the coins of this account from this address come back.
    fn right(&self, account: &str, address: Option<IpAddr>) {
        let mut purses = self.purses.lock().unwrap_or_else(PoisonError::into_inner);
        for purse in Self::purses(account, address) {
            match purse {
                Purse::Both(..) => {
                    purses.remove(&purse);
                }
                Purse::Address(_) | Purse::Account(_) => {
                    if let Some(coins) = purses.get_mut(&purse) {
                        coins.left += 1.0;
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
        tracing::warn!(account = %account.chars().take(64).collect::<String>(), ?address, "wrong password");
        return Err(wrong());
    }
    limiter.right(account, address);
    Ok(())
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
    fn memory_is_bounded() {
        let (limiter, start) = (Limiter::default(), Instant::now());
        for n in 0..u32::try_from(2 * PURSES).unwrap() {
            let _ = limiter.take(&format!("a{n}"), Some(IpAddr::V4(n.into())), start);
        }
        assert!(limiter.purses.lock().unwrap().len() <= PURSES);
    }
}
