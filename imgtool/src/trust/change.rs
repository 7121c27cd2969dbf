//! The changes that turn one trust root into the next.

use crate::error::{Error, Result};
use cairn_release::trust::{FORMAT, Role};
use cairn_release::{KeyId, PublicKey, Timestamp, TrustRoot};

/// A role's keys, each once, in the order of their ids, so that the order of
/// options leaves no trace.
fn ordered(mut keys: Vec<PublicKey>) -> Vec<PublicKey> {
    keys.sort_by_key(PublicKey::id);
    keys.dedup();
    keys
}

/// Checks that both roles can be met.
pub fn checked(trust: TrustRoot) -> Result<TrustRoot> {
    trust.check().map_err(|e| {
        Error::input("this trust root could never be met")
            .because(e)
            .hint("name more keys, or lower the threshold; a revoked key counts for nothing")
    })?;
    Ok(trust)
}

/// The first trust root.
pub fn first(root: Role, release: Role, boot_key: Option<String>) -> TrustRoot {
    TrustRoot {
        format: FORMAT,
        version: 1,
        expires: None,
        root: Role {
            threshold: root.threshold,
            keys: ordered(root.keys),
        },
        release: Role {
            threshold: release.threshold,
            keys: ordered(release.keys),
        },
        boot_key,
        revoked: Vec::new(),
    }
}

/// The same with the next number.
pub fn next(old: &TrustRoot, expires: Option<Timestamp>) -> Result<TrustRoot> {
    let mut trust = old.clone();
    trust.version = old
        .version
        .checked_add(1)
        .ok_or_else(|| Error::input("there is no number after the old trust root's"))?;
    trust.expires = expires.or(old.expires);
    Ok(trust)
}

/// Adds keys to a role.
pub fn add(
    role: &mut Role,
    revoked: &[KeyId],
    keys: Vec<PublicKey>,
    threshold: Option<usize>,
) -> Result<()> {
    for key in keys {
        let short = key.id().short();
        if revoked.contains(&key.id()) {
            return Err(Error::input(format!(
                "key {short} was revoked; it can't be added again"
            )));
        }
        if role.keys.contains(&key) {
            return Err(Error::input(format!("key {short} is in this role already")));
        }
        role.keys.push(key);
    }
    role.keys = ordered(std::mem::take(&mut role.keys));
    role.threshold = threshold.unwrap_or(role.threshold);
    Ok(())
}

/// Replaces the root keys.
pub fn rotate(trust: &mut TrustRoot, keys: Vec<PublicKey>, threshold: Option<usize>) -> Result<()> {
    if let Some(key) = keys.iter().find(|key| trust.revoked.contains(&key.id())) {
        let short = key.id().short();
        return Err(Error::input(format!(
            "key {short} was revoked; it can't be added again"
        )));
    }
    trust.root = Role {
        threshold: threshold.unwrap_or(trust.root.threshold),
        keys: ordered(keys),
    };
    Ok(())
}

/// Revokes the one key whose id begins with `prefix`.
pub fn revoke(trust: &mut TrustRoot, prefix: &str) -> Result<KeyId> {
    let mut found: Vec<KeyId> = [&trust.root, &trust.release]
        .iter()
        .flat_map(|role| role.keys.iter().map(PublicKey::id))
        .filter(|id| !prefix.is_empty() && id.to_string().starts_with(prefix))
        .collect();
    found.sort();
    found.dedup();
    let version = trust.version - 1;
    match found[..] {
        [id] if trust.revoked.contains(&id) => Err(Error::input(format!(
            "key {} is revoked already",
            id.short()
        ))),
        [id] => {
            trust.revoked.push(id);
            trust.revoked.sort();
            Ok(id)
        }
        [] => Err(Error::input(format!(
            "trust root {version} has no key {prefix:?}"
        ))),
        _ => {
            let ids: Vec<String> = found.iter().map(KeyId::short).collect();
            Err(Error::input(format!(
                "{prefix:?} could be any of {} in trust root {version}",
                ids.join(", ")
            )))
        }
    }
}
