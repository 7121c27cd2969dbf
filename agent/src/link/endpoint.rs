//! Where the server is and how the node proves who it is: made of the settings and the identity, anew at each connection.

use std::sync::Arc;

use super::LinkError;
use super::http::Target;
use super::settings::{Broker, Settings};
use crate::files;
use crate::identity::Identity;

/// The longest token, in bytes.
const TOKEN: u64 = 4096;
/// The longest file of CA certificates, in bytes.
const CA: u64 = 1024 * 1024;

/// What HTTP is asked with.
///
/// # Errors
/// If the token or the CA can't be read.
pub fn target(settings: &Settings, identity: Option<&Arc<Identity>>) -> Result<Target, LinkError> {
    let token = match &settings.token_file {
        None => None,
        Some(path) => {
            let text = read(path, TOKEN)?;
            let text = text.trim();
            if text.is_empty()
                || !text
                    .chars()
                    .all(|c| c.is_ascii_graphic() && !matches!(c, '/' | '?' | '#' | '%'))
            {
                return Err(LinkError::Tls(format!(
                    "{}: expected one access token",
                    path.display()
                )));
            }
            Some(text.to_owned())
        }
    };
    let ca = settings
        .ca
        .as_deref()
        .map(|path| read(path, CA))
        .transpose()?;
    Ok(Target {
        base: settings
            .url
            .clone()
            .or_else(|| identity.map(|identity| identity.server.clone())),
        ca,
        // Who has a token is known by that.
        identity: if token.is_some() {
            None
        } else {
            identity.cloned()
        },
        token,
    })
}

fn read(path: &std::path::Path, limit: u64) -> Result<String, LinkError> {
    let wrong = |reason: String| LinkError::Tls(format!("{}: {reason}", path.display()));
    let bytes = files::read(path, limit).map_err(|error| wrong(error.to_string()))?;
    let bytes = bytes.ok_or_else(|| wrong("there is no such file".to_owned()))?;
    String::from_utf8(bytes).map_err(|_| wrong("expected text".to_owned()))
}

/// Where MQTT is; `None` if nobody said.
///
/// # Errors
/// If the server gave an address that isn't one.
pub fn broker(
    settings: &Settings,
    identity: Option<&Arc<Identity>>,
) -> Result<Option<Broker>, LinkError> {
    if let Some(broker) = &settings.broker {
        return Ok(Some(broker.clone()));
    }
    identity
        .map(|identity| {
            Broker::parse("the server's MQTT address", &identity.mqtt)
                .map_err(|error| LinkError::Url(error.to_string()))
        })
        .transpose()
}

/// The MQTT client id.
pub fn client_id(settings: &Settings, identity: Option<&Arc<Identity>>) -> String {
    if let Some(id) = &settings.client_id {
        return id.clone();
    }
    if let Some(identity) = identity {
        return identity.device.clone();
    }
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let machine: String = machine
        .trim()
        .chars()
        .filter(char::is_ascii_hexdigit)
        .take(16)
        .collect();
    if machine.is_empty() {
        "cairn-node".to_owned()
    } else {
        format!("cairn-{machine}")
    }
}
