//! Who a connection is. A device of ours shows the certificate of the key that it enrolled with; a ThingsBoard device shows an access
//! token, a client id with user name and password, or a certificate that its provisioning named.

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::X509Certificate;

use super::{DeviceId, digest};
use crate::ca::{Ca, now};
use crate::store::StoreError;

/// Who shows a certificate isn't let in.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It can't be read.
    #[error("the certificate can't be read")]
    Unreadable,
    /// It is of our authority, and too old or too new.
    #[error("the certificate isn't valid now")]
    Expired,
    /// It names our authority and isn't signed by it.
    #[error("the certificate isn't signed by this authority")]
    Forged,
    /// No device has it.
    #[error("no device has this certificate")]
    Unknown,
    /// The device enrolled with another key.
    #[error("the certificate is of another key than the registered one")]
    WrongKey,
    /// The device, or this certificate, is revoked.
    #[error("the device is revoked")]
    Revoked,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Refused {
    /// A word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable | Self::Forged | Self::Unknown => "certificate-unknown",
            Self::Expired => "certificate-expired",
            Self::WrongKey => "wrong-key",
            Self::Revoked => "revoked",
            Self::Store(_) => "internal",
        }
    }
}

impl From<rusqlite::Error> for Refused {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Whose certificate this is. The TLS layer has seen that the peer has its key; everything else is checked here, on every
/// connection, since a resumed session shows the certificate of its first one. Beside the device it gives when the certificate ends, in
/// seconds since 1970, if it is of our authority: others count for as long as they are registered.
///
/// # Errors
/// If it is nobody's, or its device may not come in.
pub fn by_certificate(
    connection: &Connection,
    ca: &Ca,
    der: &CertificateDer<'_>,
) -> Result<(DeviceId, Option<i64>), Refused> {
    let (_, certificate) =
        x509_parser::parse_x509_certificate(der).map_err(|_| Refused::Unreadable)?;
    let (_, root) =
        x509_parser::parse_x509_certificate(ca.ca_der()).map_err(|_| Refused::Unreadable)?;
    if certificate.issuer().as_raw() == root.subject().as_raw() {
        let device = ours(connection, &certificate, &root)?;
        return Ok((device, Some(certificate.validity().not_after.timestamp())));
    }
    let row = connection
        .prepare_cached(
            "SELECT d.id, d.revoked IS NOT NULL FROM credential c JOIN device d ON d.id = c.device
             WHERE c.kind = 'certificate' AND c.lookup = ?1",
        )?
        .query_row([digest(der)], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?))
        })
        .optional()?;
    match row {
        Some((_, true)) => Err(Refused::Revoked),
        Some((id, false)) => Ok((id.parse().map_err(|_| Refused::Unknown)?, None)),
        None => Err(Refused::Unknown),
    }
}

fn ours(
    connection: &Connection,
    certificate: &X509Certificate<'_>,
    root: &X509Certificate<'_>,
) -> Result<DeviceId, Refused> {
    certificate
        .verify_signature(Some(root.public_key()))
        .map_err(|_| Refused::Forged)?;
    let validity = certificate.validity();
    if !(validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now()) {
        return Err(Refused::Expired);
    }
    let name = certificate
        .subject()
        .iter_common_name()
        .next()
        .and_then(|name| name.as_str().ok());
    let device: DeviceId = name
        .and_then(|name| name.parse().ok())
        .ok_or(Refused::Unknown)?;
    let row = connection
        .prepare_cached(
            "SELECT d.public_key, d.revoked IS NOT NULL
                 OR EXISTS (SELECT 1 FROM certificate c WHERE c.serial = ?2 AND c.revoked IS NOT NULL)
             FROM device d WHERE d.id = ?1",
        )?
        .query_row(params![device.as_str(), hex::encode(certificate.raw_serial())], |row| {
            Ok((row.get::<_, Option<Vec<u8>>>(0)?, row.get::<_, bool>(1)?))
        })
        .optional()?;
    let (key, revoked) = row.ok_or(Refused::Unknown)?;
    if key.as_deref() != Some(certificate.public_key().raw) {
        return Err(Refused::WrongKey);
    }
    if revoked {
        Err(Refused::Revoked)
    } else {
        Ok(device)
    }
}

/// Whose access token this is.
///
/// # Errors
/// The database's.
pub fn by_access_token(
    connection: &Connection,
    token: &str,
) -> Result<Option<DeviceId>, StoreError> {
    Ok(lookup(connection, "access-token", &digest(token.as_bytes()))?.map(|(device, _)| device))
}

/// What MQTT's CONNECT can say beside an access token.
#[derive(Clone, Default)]
pub struct Basic {
    /// The client id.
    pub client_id: String,
    /// The user name.
    pub user: String,
}

impl Basic {
    fn lookup(client_id: &str, user: &str) -> String {
        digest(format!("{client_id}\0{user}").as_bytes())
    }
}

/// The device that a client id and a user name may belong to, and the hash that the password must fit, if it has one: see [`fits`].
///
/// # Errors
/// The database's.
pub fn by_basic(connection: &Connection, basic: &Basic) -> Result<Found, StoreError> {
    // Both, the user alone, the client id alone: what its provisioning named.
    for (client_id, user) in [
        (basic.client_id.as_str(), basic.user.as_str()),
        ("", &basic.user),
        (&basic.client_id, ""),
    ] {
        if client_id.is_empty() && user.is_empty() {
            continue;
        }
        let found = lookup(connection, "basic", &Basic::lookup(client_id, user))?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Whether a password fits a hash. Slow by purpose: run it where blocking is allowed.
pub fn fits(password: &[u8], phc: &str) -> bool {
    PasswordHash::new(phc)
        .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
}

/// A device, and the hash of its password if it has one.
pub type Found = Option<(DeviceId, Option<String>)>;

fn lookup(connection: &Connection, kind: &str, key: &str) -> Result<Found, StoreError> {
    let row = connection
        .prepare_cached(
            "SELECT d.id, c.secret FROM credential c JOIN device d ON d.id = c.device
             WHERE c.kind = ?1 AND c.lookup = ?2 AND d.revoked IS NULL",
        )?
        .query_row([kind, key], |row| {
            Ok((row.get::<_, String>(0)?, row.get(1)?))
        })
        .optional()?;
    Ok(row.and_then(|(id, secret)| Some((id.parse().ok()?, secret))))
}

/// A credential to give to a device.
pub enum Credential {
    /// A user name that is enough.
    AccessToken(String),
    /// Client id, user name, password; the last hashed already by [`hash`].
    Basic {
        /// The client id, or empty.
        client_id: String,
        /// The user name, or empty.
        user: String,
        /// The password's hash; none: the names are enough.
        secret: Option<String>,
    },
    /// A certificate in DER.
    Certificate(Vec<u8>),
}

/// Hashes a password; slow by purpose.
///
/// # Errors
/// If it can't be hashed, as when it is too long.
pub fn hash(password: &[u8]) -> Result<String, argon2::password_hash::Error> {
    Ok(Argon2::default().hash_password(password)?.to_string())
}

/// Gives a credential to a device. `false` if another device has it.
///
/// # Errors
/// The database's.
pub fn add(
    transaction: &Transaction<'_>,
    device: &str,
    credential: &Credential,
) -> Result<bool, StoreError> {
    let (kind, lookup, secret) = match credential {
        Credential::AccessToken(token) => ("access-token", digest(token.as_bytes()), None),
        Credential::Basic {
            client_id,
            user,
            secret,
        } => ("basic", Basic::lookup(client_id, user), secret.as_deref()),
        Credential::Certificate(der) => ("certificate", digest(der), None),
    };
    let added = transaction
        .prepare_cached("INSERT OR IGNORE INTO credential (kind, lookup, secret, device) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![kind, lookup, secret, device])?;
    Ok(added > 0)
}
