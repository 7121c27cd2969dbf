//! ThingsBoard's provisioning: a device shows the key and the secret of a profile and is made, with credentials.

use base64::Engine as _;
use cairn_wire::provision::{CredentialsType, Request};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde_json::{Value, json};

use super::credentials::{self, Credential};
use super::{digest, enrolment};
use crate::ca::now;
use crate::store::StoreError;

/// Longest secret, token, name that is taken, in bytes.
const MAX: usize = 4096;

/// Makes a profile, or gives an old one another secret and group.
///
/// # Errors
/// The database's.
pub fn put(
    transaction: &Transaction<'_>,
    key: &str,
    secret: &str,
    group: &str,
) -> Result<(), StoreError> {
    transaction
        .prepare_cached(
            "INSERT INTO provision_profile (key, secret, grp) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET secret = excluded.secret, grp = excluded.grp",
        )?
        .execute(params![key, digest(secret.as_bytes()), group])?;
    Ok(())
}

/// A request that is ready for the database: what is slow is done.
pub struct Prepared {
    request: Request,
    credential: Option<Credential>,
    answer: (CredentialsType, Value),
    wrong: Option<&'static str>,
}

/// Reads a request's credentials and hashes its password. Slow if there is one: run it where blocking is allowed.
pub fn prepare(request: Request) -> Prepared {
    let kind = request.credentials_type.unwrap_or_default();
    let mut wrong = None;
    let long = |text: &Option<String>| text.as_ref().is_some_and(|text| text.len() > MAX);
    if [
        &request.token,
        &request.client_id,
        &request.username,
        &request.password,
    ]
    .into_iter()
    .any(long)
    {
        wrong = Some("a field is too long");
    }
    let (credential, value) = match kind {
        _ if wrong.is_some() => (None, Value::Null),
        CredentialsType::AccessToken => {
            let token = request
                .token
                .clone()
                .filter(|token| !token.is_empty())
                .unwrap_or_else(random);
            (
                Some(Credential::AccessToken(token.clone())),
                Value::from(token),
            )
        }
        CredentialsType::MqttBasic => {
            let given = |text: &Option<String>| text.clone().unwrap_or_default();
            let (client_id, user) = (given(&request.client_id), given(&request.username));
            let secret = request
                .password
                .as_ref()
                .filter(|password| !password.is_empty());
            if client_id.is_empty() && user.is_empty() {
                wrong = Some("clientId or username is missing");
            }
            let hashed = secret.map(|password| credentials::hash(password.as_bytes()));
            match hashed.transpose() {
                Ok(secret) => (
                    Some(Credential::Basic {
                        client_id: client_id.clone(),
                        user: user.clone(),
                        secret,
                    }),
                    json!({ "clientId": client_id, "userName": user, "password": request.password }),
                ),
                Err(_) => {
                    wrong = Some("the password can't be used");
                    (None, Value::Null)
                }
            }
        }
        CredentialsType::X509Certificate => match request.hash.as_deref().and_then(certificate) {
            Some(der) => (
                Some(Credential::Certificate(der)),
                Value::from(request.hash.clone()),
            ),
            None => {
                wrong = Some("hash is no certificate");
                (None, Value::Null)
            }
        },
    };
    Prepared {
        request,
        credential,
        answer: (kind, value),
        wrong,
    }
}

/// The group of the profile whose key and secret a request shows; `None` if it shows none.
///
/// # Errors
/// The database's.
pub fn group(connection: &Connection, request: &Request) -> Result<Option<String>, StoreError> {
    let profile = connection
        .prepare_cached("SELECT grp, secret FROM provision_profile WHERE key = ?1")?
        .query_row([&request.provision_device_key], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        })
        .optional()?;
    // Digests of equal length, so that comparing tells nothing.
    let secret = digest(request.provision_device_secret.as_bytes());
    Ok(profile
        .filter(|(_, expected)| *expected == secret)
        .map(|(group, _)| group))
}

/// Provisions a device and gives the answer for it. What is refused is an answer too; an error undoes everything.
///
/// # Errors
/// The database's.
pub fn provision(transaction: &Transaction<'_>, prepared: &Prepared) -> Result<Value, StoreError> {
    let request = &prepared.request;
    let Some(group) = group(transaction, request)? else {
        return Ok(not_found());
    };
    if let Some(wrong) = prepared.wrong {
        return Ok(failure(wrong));
    }
    let Some(credential) = &prepared.credential else {
        return Ok(failure("no credentials"));
    };
    let name = request
        .device_name
        .as_deref()
        .map(enrolment::shown)
        .filter(|name| !name.is_empty());
    if let Some(name) = &name {
        let taken: bool = transaction
            .prepare_cached("SELECT count(*) FROM device WHERE name = ?1 OR id = ?1")?
            .query_row([name], |row| row.get(0))?;
        if taken {
            return Ok(failure("Failed to provision device!"));
        }
    }
    let id = enrolment::free_id(transaction, name.as_deref())?;
    transaction
        .prepare_cached("INSERT INTO device (id, name, grp, created) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![
            id.as_str(),
            name.as_deref().unwrap_or(&id),
            group,
            now()
        ])?;
    if !credentials::add(transaction, &id, credential)? {
        transaction
            .prepare_cached("DELETE FROM device WHERE id = ?1")?
            .execute([id.as_str()])?;
        return Ok(failure("these credentials belong to another device"));
    }
    let (kind, value) = &prepared.answer;
    Ok(json!({ "status": "SUCCESS", "credentialsType": kind, "credentialsValue": value }))
}

/// The answer to who doesn't know a profile's secret.
pub fn not_found() -> Value {
    json!({ "status": "NOT_FOUND", "errorMsg": "Provision data was not found!" })
}

fn failure(message: &str) -> Value {
    json!({ "status": "FAILURE", "errorMsg": message })
}

fn random() -> String {
    let bytes: [u8; 15] = rand::random();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// A certificate as PEM, or its base64 alone.
fn certificate(text: &str) -> Option<Vec<u8>> {
    let der = match pem::parse(text) {
        Ok(block) => block.into_contents(),
        Err(_) => {
            let bare: String = text.chars().filter(|c| !c.is_whitespace()).collect();
            base64::engine::general_purpose::STANDARD
                .decode(bare)
                .ok()?
        }
    };
    x509_parser::parse_x509_certificate(&der).ok()?;
    Some(der)
}
