//! Sessions and API tokens in the database. The secret is shown once, and kept as its SHA-256.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cairn_release::Digest;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use serde::Serialize;
use serde_json::json;

use super::{Role, Scopes, audit, now};
use crate::store::StoreError;

/// How long a login lasts, in seconds.
pub const SESSION_LIFE: i64 = 12 * 3600;
/// The longest life of an API token, in seconds.
pub const LONGEST_LIFE: i64 = 2 * 366 * 86_400;
/// How many an account may have of either kind; the oldest session gives way, a new API token is refused.
pub const MOST: i64 = 100;
/// How exactly the last use is known, in seconds.
const USE_STEP: i64 = 60;

/// How a token came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// By a login.
    Session,
    /// By hand, for a pipeline.
    Api,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Api => "api",
        }
    }
}

/// An API token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = ApiToken)]
pub struct Token {
    /// Its public name.
    pub id: String,
    /// Whose it is.
    pub account: String,
    /// What it is for.
    pub note: String,
    /// What it may do, as long as the account's role may.
    pub scopes: Vec<String>,
    /// Seconds since 1970.
    pub created: i64,
    /// Seconds since 1970.
    pub expires: i64,
    /// When it was last shown, to the minute.
    pub last_used: Option<i64>,
}

/// What a token proves.
#[derive(Debug, Clone)]
pub struct Proof {
    /// The token's public name.
    pub id: String,
    /// The account.
    pub account: String,
    /// How it came to be.
    pub kind: Kind,
    /// What it may do.
    pub scopes: Scopes,
    /// Whose people the account is of; none: the operator's.
    pub supplier: Option<String>,
    /// Whether [`used`] should be called.
    pub note_use: bool,
}

/// A new token.
pub struct New<'n> {
    /// How it came to be.
    pub kind: Kind,
    /// Whose it is.
    pub account: &'n str,
    /// What it is for.
    pub note: &'n str,
    /// What it may do.
    pub scopes: Scopes,
    /// Seconds since 1970.
    pub expires: i64,
}

/// A random secret, and what is kept of it.
fn secret(kind: Kind) -> (String, Digest) {
    let random: [u8; 32] = rand::random();
    let prefix = match kind {
        Kind::Session => "cairn_s_",
        Kind::Api => "cairn_p_",
    };
    let secret = format!("{prefix}{}", URL_SAFE_NO_PAD.encode(random));
    let digest = Digest::of(secret.as_bytes());
    (secret, digest)
}

/// Makes a token; the secret comes back beside it, and never again. `None`: the account has too many API tokens.
///
/// # Errors
/// The database's.
pub fn create(
    tx: &Transaction<'_>,
    who: &str,
    new: &New<'_>,
) -> Result<Option<(Token, String)>, StoreError> {
    tx.prepare_cached("DELETE FROM access_token WHERE expires < ?1")?
        .execute([now()])?;
    let count: i64 = tx
        .prepare_cached("SELECT count(*) FROM access_token WHERE account = ?1 AND kind = ?2")?
        .query_row(params![new.account, new.kind.as_str()], |row| row.get(0))?;
    if count >= MOST {
        match new.kind {
            Kind::Api => return Ok(None),
            Kind::Session => tx
                .prepare_cached(
                    "DELETE FROM access_token WHERE id IN
                     (SELECT id FROM access_token WHERE account = ?1 AND kind = 'session' ORDER BY created LIMIT ?2)",
                )?
                .execute(params![new.account, count - MOST + 1])?,
        };
    }
    let (secret, digest) = secret(new.kind);
    let token = Token {
        id: super::random_id(),
        account: new.account.into(),
        note: new.note.into(),
        scopes: new.scopes.iter().map(|scope| scope.to_string()).collect(),
        created: now(),
        expires: new.expires,
        last_used: None,
    };
    tx.prepare_cached(
        "INSERT INTO access_token (id, kind, digest, account, note, scopes, created, expires)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        token.id,
        new.kind.as_str(),
        digest.0,
        token.account,
        token.note,
        new.scopes.to_string(),
        token.created,
        token.expires
    ])?;
    let (action, subject) = match new.kind {
        Kind::Session => ("account.login", format!("account/{}", new.account)),
        Kind::Api => ("api-token.create", format!("api-token/{}", token.id)),
    };
    let detail = match new.kind {
        Kind::Session => json!({}),
        Kind::Api => {
            json!({ "account": token.account, "note": token.note, "scopes": token.scopes, "expires": token.expires })
        }
    };
    audit(tx, who, action, &subject, &detail)?;
    Ok(Some((token, secret)))
}

/// What the secret proves; nothing, if it is unknown or has expired.
///
/// # Errors
/// The database's.
pub fn prove(connection: &Connection, secret: &str) -> Result<Option<Proof>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT t.id, t.account, t.kind, t.scopes, t.last_used, a.role, a.supplier
         FROM access_token t JOIN account a ON a.name = t.account WHERE t.digest = ?1 AND t.expires > ?2",
    )?;
    let proof = query.query_row(params![Digest::of(secret.as_bytes()).0, now()], |row| {
        let (kind, scopes, role): (String, String, String) =
            (row.get(2)?, row.get(3)?, row.get(5)?);
        let last_used: Option<i64> = row.get(4)?;
        let role = role.parse().unwrap_or(Role::Viewer);
        let supplier: Option<String> = row.get(6)?;
        let theirs = match &supplier {
            Some(_) => role.scopes().and(Scopes::suppliers()),
            None => role.scopes(),
        };
        Ok(Proof {
            id: row.get(0)?,
            account: row.get(1)?,
            kind: if kind == "session" {
                Kind::Session
            } else {
                Kind::Api
            },
            scopes: Scopes::parse_known(&scopes).and(theirs),
            supplier,
            note_use: last_used.is_none_or(|last| last + USE_STEP <= now()),
        })
    });
    Ok(proof.optional()?)
}

/// Notes that the token was shown.
///
/// # Errors
/// The database's.
pub fn used(tx: &Transaction<'_>, id: &str) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE access_token SET last_used = ?2 WHERE id = ?1")?
        .execute(params![id, now()])?;
    Ok(())
}

fn read(row: &Row<'_>) -> rusqlite::Result<Token> {
    let scopes: String = row.get(3)?;
    Ok(Token {
        id: row.get(0)?,
        account: row.get(1)?,
        note: row.get(2)?,
        scopes: scopes
            .split(' ')
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect(),
        created: row.get(4)?,
        expires: row.get(5)?,
        last_used: row.get(6)?,
    })
}

/// API tokens by id from behind `after`, at most `limit`; of one account, or of all.
///
/// # Errors
/// The database's.
pub fn list(
    connection: &Connection,
    account: Option<&str>,
    after: &str,
    limit: usize,
) -> Result<Vec<Token>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT id, account, note, scopes, created, expires, last_used FROM access_token
         WHERE kind = 'api' AND id > ?2 AND expires > ?3 AND (?1 IS NULL OR account = ?1) ORDER BY id LIMIT ?4",
    )?;
    let rows = query.query_map(
        params![
            account,
            after,
            now(),
            i64::try_from(limit).unwrap_or(i64::MAX)
        ],
        read,
    )?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Revokes an API token; of one account, or of any. `false`: there is none.
///
/// # Errors
/// The database's.
pub fn revoke(
    tx: &Transaction<'_>,
    who: &str,
    id: &str,
    account: Option<&str>,
) -> Result<bool, StoreError> {
    let gone = tx
        .prepare_cached("DELETE FROM access_token WHERE id = ?1 AND kind = 'api' AND (?2 IS NULL OR account = ?2)")?
        .execute(params![id, account])?;
    if gone > 0 {
        audit(
            tx,
            who,
            "api-token.revoke",
            &format!("api-token/{id}"),
            &json!({}),
        )?;
    }
    Ok(gone > 0)
}

/// Ends a session.
///
/// # Errors
/// The database's.
pub fn end_session(tx: &Transaction<'_>, who: &str, id: &str) -> Result<(), StoreError> {
    tx.prepare_cached("DELETE FROM access_token WHERE id = ?1 AND kind = 'session'")?
        .execute([id])?;
    audit(
        tx,
        who,
        "account.logout",
        &format!("account/{who}"),
        &json!({}),
    )
}
