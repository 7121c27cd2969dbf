//! Asking the control plane for a certificate: the first one with a token, later ones with the key.

use std::sync::Arc;

use cairn_wire::enrol::{EnrolFile, EnrolRequest, RenewRequest};

use super::{Identity, IdentityError, key, malformed};
use crate::clock::Clock;
use crate::link::http::Target;
use crate::link::{Http, LinkError};

/// The longest answer that is read, in bytes.
const ANSWER: usize = 128 * 1024;

/// Trades the token for a certificate. `key` is the node's own, in PEM.
///
/// # Errors
/// If the server can't be reached, refuses, or answers with something that can't be used.
pub async fn enrol(
    file: &EnrolFile,
    key: &str,
    facts: cairn_wire::Object,
    clock: &Clock,
) -> Result<Identity, IdentityError> {
    let name = facts
        .get("hostname")
        .and_then(|name| name.as_str())
        .map(str::to_owned);
    let request = EnrolRequest {
        token: file.token.clone(),
        csr: key::signing_request(key, name.as_deref().unwrap_or("new node"))?,
        name,
        facts,
    };
    let target = Target {
        base: Some(file.server.clone()),
        ca: Some(file.ca.clone()),
        ..Target::default()
    };
    ask(target, "/v1/enrol", &request, &file.server, key, clock).await
}

/// A new certificate for the same key. It is asked for without showing the old one, which may be refused.
///
/// # Errors
/// If the server can't be reached, refuses, or answers with something that can't be used.
pub async fn renew(identity: &Identity, clock: &Clock) -> Result<Identity, IdentityError> {
    let request = RenewRequest {
        device: identity.device.clone(),
        csr: key::signing_request(identity.key(), &identity.device)?,
    };
    let target = Target {
        base: Some(identity.server.clone()),
        ca: Some(identity.ca().to_owned()),
        ..Target::default()
    };
    let new = ask(
        target,
        "/v1/renew",
        &request,
        &identity.server,
        identity.key(),
        clock,
    )
    .await?;
    if new.device != identity.device {
        return Err(malformed("the renewed certificate", "the same device's id"));
    }
    Ok(new)
}

async fn ask<R: serde::Serialize>(
    target: Target,
    path: &str,
    request: &R,
    server: &str,
    key: &str,
    clock: &Clock,
) -> Result<Identity, IdentityError> {
    if !server.starts_with("https://") {
        return Err(LinkError::Url(server.to_owned()).into());
    }
    let body = serde_json::to_vec(request).map_err(|_| malformed("the request", "text"))?;
    let http = Http::fixed(clock.clone(), target);
    let answer = http.post_json(path, body).await?.bytes(ANSWER).await?;
    let answer: cairn_wire::enrol::Identity = serde_json::from_slice(&answer)
        .map_err(|_| malformed("the server's answer", "an identity as JSON"))?;
    let time = answer.time;
    let identity = Identity::new(answer, server, key)?;
    if time < identity.ca_not_after() {
        clock.learned(time);
    }
    Ok(identity)
}

/// Facts about the machine by which an operator knows it again.
pub fn facts() -> cairn_wire::Object {
    let line = |path: &str| {
        let text = std::fs::read_to_string(path).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.chars().take(128).collect::<String>())
    };
    let mut facts = cairn_wire::Object::new();
    for (name, path) in [
        ("hostname", "/proc/sys/kernel/hostname"),
        ("machine_id", "/etc/machine-id"),
        ("hardware", "/sys/class/dmi/id/product_name"),
        ("vendor", "/sys/class/dmi/id/sys_vendor"),
        ("serial", "/sys/class/dmi/id/product_serial"),
    ] {
        if let Some(text) = line(path) {
            facts.insert(name.to_owned(), text.into());
        }
    }
    let mut macs: Vec<String> = std::fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("device").exists())
        .filter_map(|entry| line(entry.path().join("address").to_str()?))
        .collect();
    macs.sort();
    macs.truncate(16);
    if !macs.is_empty() {
        facts.insert("macs".to_owned(), macs.into());
    }
    facts
}

/// Shared, as links take it.
pub type Current = Option<Arc<Identity>>;
