//! Enrolment: a token buys a device its first certificate; renewal needs the key alone.
//!
//! Tokens lie in the database as SHA-256. Counting a use and making the device are one transaction, and there is one writer: of two
//! who come with the last use at once, one is refused. Who comes again with the same token **and** the same key gets the same device:
//! its first answer was lost.

use cairn_wire::Object;
use cairn_wire::enrol::{EnrolRequest, RenewRequest};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::Serialize;

use super::{DeviceId, digest};
use crate::ca::request::RequestError;
use crate::ca::{Ca, CaError, Issued, SigningRequest, now};
use crate::store::StoreError;

/// Facts that are kept of an enrolment, in bytes of JSON.
const MAX_FACTS: usize = 16 * 1024;

/// A token as people see it: never the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Token {
    /// Its public name.
    pub id: String,
    /// The group that its devices come into.
    pub group: String,
    /// The tags that they get.
    pub tags: Vec<String>,
    /// Whose they are; `None`: the operator's own.
    pub supplier: Option<String>,
    /// Uses that are left.
    pub uses: u32,
    /// Seconds since 1970.
    pub created: i64,
    /// Seconds since 1970.
    pub expires: i64,
    /// A word of its maker.
    pub note: String,
}

/// What a new token is for.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// The group that its devices come into.
    pub group: String,
    /// The tags that they get.
    pub tags: Vec<String>,
    /// Whose they are; `None`: the operator's own.
    pub supplier: Option<String>,
    /// How many devices.
    pub uses: u32,
    /// From now on, in seconds.
    pub lifetime: i64,
    /// A word of its maker.
    pub note: String,
}

/// Why a device doesn't get a certificate.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// Nobody made this token, or it was revoked.
    #[error("the enrolment token is unknown")]
    TokenUnknown,
    /// It was used as often as it may be.
    #[error("the enrolment token is used up")]
    TokenUsed,
    /// Too late.
    #[error("the enrolment token has expired")]
    TokenExpired,
    /// The signing request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The key belongs to a device that is shut out.
    #[error("the device {0} is revoked")]
    Revoked(String),
    /// No such device.
    #[error("there is no device {0:?}")]
    UnknownDevice(String),
    /// The request is signed by another key.
    #[error("the signing request is of another key than the one that {0} enrolled with")]
    WrongKey(String),
    /// Too much said.
    #[error("the facts have {0} bytes, the limit is {MAX_FACTS}")]
    Facts(usize),
    /// The authority.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl EnrolError {
    /// The word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TokenUnknown => "token-unknown",
            Self::TokenUsed => "token-used",
            Self::TokenExpired => "token-expired",
            Self::Request(_) => "bad-csr",
            Self::Revoked(_) => "revoked",
            Self::UnknownDevice(_) => "unknown-device",
            Self::WrongKey(_) => "wrong-key",
            Self::Facts(_) => "bad-request",
            Self::Ca(_) | Self::Store(_) => "internal",
        }
    }
}

impl From<rusqlite::Error> for EnrolError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Makes a token. The secret is given this once.
///
/// # Errors
/// The database's.
pub fn create_token(
    transaction: &Transaction<'_>,
    new: &NewToken,
) -> Result<(Token, String), StoreError> {
    let secret_bytes: [u8; 32] = rand::random();
    let id_bytes: [u8; 6] = rand::random();
    let secret = format!("cet-{}", hex::encode(secret_bytes));
    let now = now();
    let token = Token {
        id: format!("et-{}", hex::encode(id_bytes)),
        group: new.group.clone(),
        tags: new.tags.clone(),
        supplier: new.supplier.clone(),
        uses: new.uses,
        created: now,
        expires: now.saturating_add(new.lifetime),
        note: new.note.clone(),
    };
    transaction
        .prepare_cached(
            "INSERT INTO enrolment_token (id, digest, grp, tags, uses, created, expires, note, supplier)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            token.id,
            digest(secret.as_bytes()),
            token.group,
            serde_json::Value::from(token.tags.clone()).to_string(),
            token.uses,
            token.created,
            token.expires,
            token.note,
            token.supplier
        ])?;
    Ok((token, secret))
}

/// All tokens, the newest first; at most 1000.
///
/// # Errors
/// The database's.
pub fn list(connection: &Connection) -> Result<Vec<Token>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT id, grp, tags, uses, created, expires, note, supplier FROM enrolment_token ORDER BY created DESC, id LIMIT 1000",
    )?;
    let rows = statement.query_map([], |row| {
        let tags: String = row.get(2)?;
        Ok(Token {
            id: row.get(0)?,
            group: row.get(1)?,
            tags: serde_json::from_str(&tags).unwrap_or_default(),
            uses: row.get(3)?,
            created: row.get(4)?,
            expires: row.get(5)?,
            note: row.get(6)?,
            supplier: row.get(7)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Takes a token back, by its public name. `false` if there is none.
///
/// # Errors
/// The database's.
pub fn revoke(transaction: &Transaction<'_>, id: &str) -> Result<bool, StoreError> {
    Ok(transaction
        .prepare_cached("DELETE FROM enrolment_token WHERE id = ?1")?
        .execute([id])?
        > 0)
}

/// Makes a device for a token, or finds the one that this key made with it, and signs its key. `csr` is the request's, read before.
///
/// # Errors
/// If the token or the key can't be used.
pub fn enrol(
    transaction: &Transaction<'_>,
    ca: &Ca,
    request: &EnrolRequest,
    csr: &SigningRequest,
) -> Result<(DeviceId, Issued), EnrolError> {
    let facts = facts(&request.facts)?;
    let token = digest(request.token.as_bytes());
    if let Some((device, by, revoked)) = by_key(transaction, csr.public_key())? {
        if revoked {
            return Err(EnrolError::Revoked(device.to_string()));
        }
        if by.as_deref() == Some(token.as_str()) {
            return issue(transaction, ca, device, csr);
        }
        // The node was set up anew around its old key: a new token brings it back as who it was.
        take_use(transaction, &token)?;
        transaction
            .prepare_cached("UPDATE device SET enrolled_by = ?2, facts = ?3 WHERE id = ?1")?
            .execute(params![device.as_str(), token, facts])?;
        return issue(transaction, ca, device, csr);
    }
    let meant = take_use(transaction, &token)?;
    let device = free_id(transaction, request.name.as_deref())?;
    transaction
        .prepare_cached(
            "INSERT INTO device (id, name, grp, created, facts, public_key, enrolled_by, supplier)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            device.as_str(),
            request
                .name
                .as_deref()
                .map_or_else(|| device.to_string(), shown),
            meant.group,
            now(),
            facts,
            csr.public_key(),
            token,
            meant.supplier
        ])?;
    super::tag(transaction, &device, &meant.tags)?;
    issue(transaction, ca, device, csr)
}

/// Signs a registered device's key again, however long ago its certificate expired.
///
/// # Errors
/// If there is no such device, it is revoked, or the key is another.
pub fn renew(
    transaction: &Transaction<'_>,
    ca: &Ca,
    request: &RenewRequest,
    csr: &SigningRequest,
) -> Result<(DeviceId, Issued), EnrolError> {
    let unknown = || EnrolError::UnknownDevice(request.device.chars().take(80).collect());
    let device: DeviceId = request.device.parse().map_err(|_| unknown())?;
    let row = transaction
        .prepare_cached("SELECT public_key, revoked IS NOT NULL FROM device WHERE id = ?1")?
        .query_row([device.as_str()], |row| {
            Ok((row.get::<_, Option<Vec<u8>>>(0)?, row.get::<_, bool>(1)?))
        })
        .optional()?;
    let (key, revoked) = row.ok_or_else(unknown)?;
    // Only who has the key learns that it is revoked.
    if key.as_deref() != Some(csr.public_key()) {
        return Err(EnrolError::WrongKey(device.to_string()));
    }
    if revoked {
        return Err(EnrolError::Revoked(device.to_string()));
    }
    issue(transaction, ca, device, csr)
}

fn issue(
    transaction: &Transaction<'_>,
    ca: &Ca,
    device: DeviceId,
    csr: &SigningRequest,
) -> Result<(DeviceId, Issued), EnrolError> {
    let issued = ca.issue_device(&device, csr)?;
    let now = now();
    transaction
        .prepare_cached(
            "INSERT INTO certificate (serial, device, issued, expires) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![issued.serial, device.as_str(), now, issued.expires])?;
    // What has expired needs no memory.
    transaction
        .prepare_cached("DELETE FROM certificate WHERE device = ?1 AND expires < ?2")?
        .execute(params![device.as_str(), now])?;
    Ok((device, issued))
}

type Known = (DeviceId, Option<String>, bool);

fn by_key(transaction: &Transaction<'_>, key: &[u8]) -> Result<Option<Known>, EnrolError> {
    let row = transaction
        .prepare_cached(
            "SELECT id, enrolled_by, revoked IS NOT NULL FROM device WHERE public_key = ?1",
        )?
        .query_row([key], |row| {
            Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    Ok(row.and_then(|(id, by, revoked)| Some((id.parse().ok()?, by, revoked))))
}

/// Counts one use of a token.
pub(super) fn take_use(transaction: &Transaction<'_>, token: &str) -> Result<Meant, EnrolError> {
    let row = transaction
        .prepare_cached(
            "SELECT grp, tags, supplier, uses, expires FROM enrolment_token WHERE digest = ?1",
        )?
        .query_row([token], |row| {
            let tags: String = row.get(1)?;
            let meant = Meant {
                group: row.get(0)?,
                tags: serde_json::from_str(&tags).unwrap_or_default(),
                supplier: row.get(2)?,
            };
            Ok((meant, row.get::<_, i64>(3)?, row.get::<_, i64>(4)?))
        })
        .optional()?;
    let (meant, uses, expires) = row.ok_or(EnrolError::TokenUnknown)?;
    if uses < 1 {
        return Err(EnrolError::TokenUsed);
    }
    if expires < now() {
        return Err(EnrolError::TokenExpired);
    }
    transaction
        .prepare_cached("UPDATE enrolment_token SET uses = uses - 1 WHERE digest = ?1")?
        .execute([token])?;
    Ok(meant)
}

/// What the devices of a token become.
pub(super) struct Meant {
    pub(super) group: String,
    pub(super) tags: Vec<String>,
    pub(super) supplier: Option<String>,
}

/// An id that no device has, and none had of which something is left: the wish itself if it is free.
pub(super) fn free_id(connection: &Connection, wish: Option<&str>) -> Result<DeviceId, StoreError> {
    let taken = |id: &DeviceId| -> Result<bool, StoreError> {
        Ok(connection
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM device WHERE id = ?1 UNION ALL SELECT 1 FROM removed WHERE device = ?1)",
            )?
            .query_row([id.as_str()], |row| row.get(0))?)
    };
    let base = wish.and_then(DeviceId::from_wish);
    if let Some(base) = &base
        && base.as_str() != "me"
        && !taken(base)?
    {
        return Ok(base.clone());
    }
    loop {
        let id = base
            .as_ref()
            .map_or_else(DeviceId::random, DeviceId::with_tail);
        if !taken(&id)? {
            return Ok(id);
        }
    }
}

fn facts(facts: &Object) -> Result<String, EnrolError> {
    let json = serde_json::Value::Object(facts.clone()).to_string();
    if json.len() > MAX_FACTS {
        Err(EnrolError::Facts(json.len()))
    } else {
        Ok(json)
    }
}

/// A name as people will see it: no control characters, at most 128 characters.
pub(super) fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(128).collect()
}
