//! Everything that is one small file: envelopes, keys, boot state.

use super::{Finding, release};
use crate::error::{Error, Result};
use crate::keys::{self, KeyKind};
use crate::loader::artefact::{self, Description};
use crate::{order, trust};
use cairn_boot_state::block::{BootState, HEADER, Tries};
use cairn_release::{DowngradeOrder, Envelope, Manifest, TrustRoot, Version, manifest};
use serde_json::json;
use std::path::{Path, PathBuf};

pub fn look(path: &Path, bytes: &[u8]) -> Result<Finding> {
    if bytes.starts_with(HEADER.as_bytes()) {
        return match arguments(bytes) {
            Some(arguments) => Ok(arguments),
            None => boot_state(path, bytes),
        };
    }
    if bytes.starts_with(b"{") {
        return envelope(path, bytes);
    }
    key(path, bytes)
}

fn envelope(path: &Path, bytes: &[u8]) -> Result<Finding> {
    let shown = path.display();
    let envelope: Envelope = serde_json::from_slice(bytes)
        .map_err(|e| Error::input(format!("{shown}: JSON, but not a DSSE envelope")).because(e))?;
    let cannot = || Error::input(format!("cannot read {shown}"));
    match envelope.payload_type.as_str() {
        manifest::PAYLOAD_TYPE => {
            let manifest =
                Manifest::from_payload(&envelope.payload).map_err(|e| cannot().because(e))?;
            Ok(release::manifest(&envelope, &manifest))
        }
        cairn_release::trust::PAYLOAD_TYPE => {
            let root = TrustRoot::unsigned(&envelope).map_err(|e| cannot().because(e))?;
            let state = trust::progress(&envelope, &root, None);
            let (value, text) = (trust::json(&root, &state), trust::text(&root, &state));
            Ok(Finding {
                kind: "trust root",
                value,
                text,
            })
        }
        cairn_release::order::PAYLOAD_TYPE => {
            let order = DowngradeOrder::unsigned(&envelope).map_err(|e| cannot().because(e))?;
            let signers: Vec<_> = envelope
                .signatures
                .iter()
                .map(|s| s.keyid.short())
                .collect();
            let text = format!(
                "{}signed by     {}\n",
                order::text(&order),
                signers.join(", ")
            );
            Ok(Finding {
                kind: "downgrade order",
                value: json!(order),
                text,
            })
        }
        artefact::PAYLOAD_TYPE => {
            let loader: Description =
                serde_json::from_slice(&envelope.payload).map_err(|e| cannot().because(e))?;
            let signers: Vec<_> = envelope
                .signatures
                .iter()
                .map(|s| s.keyid.short())
                .collect();
            let text = format!(
                "GRUB          {}\ncreated       {}\nSecure Boot   {}\nboot key      {}\nsigned by     {}\n",
                loader.grub,
                loader.created,
                if loader.secure_boot {
                    "signed"
                } else {
                    "not signed"
                },
                loader.boot_key,
                signers.join(", "),
            );
            Ok(Finding {
                kind: "loader",
                value: json!(loader),
                text,
            })
        }
        other => Err(Error::input(format!(
            "{shown}: an envelope with payload type {other:?}"
        ))),
    }
}

/// A release's own environment block has one variable: the kernel's arguments.
fn arguments(bytes: &[u8]) -> Option<Finding> {
    let text = std::str::from_utf8(bytes).ok()?;
    let arguments = text
        .lines()
        .find_map(|line| line.strip_prefix("cairn_cmdline="))?;
    Some(Finding {
        kind: "kernel arguments",
        value: json!({ "arguments": arguments }),
        text: format!("arguments     {arguments}\n"),
    })
}

fn boot_state(path: &Path, bytes: &[u8]) -> Result<Finding> {
    let state = BootState::parse(bytes)
        .map_err(|e| Error::input(format!("{}: damaged boot state", path.display())).because(e))?;
    let name =
        |version: &Option<Version>| version.as_ref().map_or("none".into(), Version::to_string);
    let tries = match state.good_tries {
        Tries::Unlimited => "unlimited".to_owned(),
        Tries::Left(left) => left.to_string(),
    };
    let failed: Vec<&str> = state.failed.iter().map(Version::as_str).collect();
    let text = format!(
        "generation    {}\ngood          {}, tries {tries}\ntrial         {}, tries {}\nfailed        {}\n",
        state.generation,
        name(&state.good),
        name(&state.trial),
        state.trial_tries,
        if failed.is_empty() {
            "none".to_owned()
        } else {
            failed.join(", ")
        },
    );
    let value = json!({
        "generation": state.generation,
        "good": state.good,
        "good_tries": tries,
        "trial": state.trial,
        "trial_tries": state.trial_tries,
        "failed": failed,
    });
    Ok(Finding {
        kind: "boot state",
        value,
        text,
    })
}

fn key(path: &Path, bytes: &[u8]) -> Result<Finding> {
    let kind = KeyKind::of(bytes);
    let mut text = format!("{kind}\n");
    let mut value = json!({ "holds": kind.to_string() });
    let mut say = |name: &str, what: String| {
        text += &format!("{name:14}{what}\n");
        value[name.replace(' ', "_")] = what.into();
    };
    let finding = match &kind {
        KeyKind::Empty | KeyKind::Unknown => {
            return Err(Error::input(format!(
                "{}: neither a release, an envelope, a key nor a boot state",
                path.display()
            )));
        }
        KeyKind::ReleasePublic(key) => {
            say("key id", key.id().to_string());
            "public key"
        }
        KeyKind::Public(_) => "public key",
        KeyKind::Secret(_) => {
            say("protection", "none".into());
            beside(path, &mut say);
            "secret key"
        }
        KeyKind::Encrypted => {
            say("protection", "a passphrase".into());
            beside(path, &mut say);
            "secret key"
        }
        KeyKind::OpenPgpSecret => {
            let (fingerprint, encrypted) = keys::boot::describe_secret(bytes)
                .map_err(|e| Error::input(format!("cannot read {}", path.display())).because(e))?;
            say(
                "protection",
                if encrypted { "a passphrase" } else { "none" }.into(),
            );
            say("fingerprint", fingerprint);
            "secret key"
        }
        KeyKind::OpenPgpPublic => {
            let key = keys::boot_public(bytes)
                .map_err(|e| Error::input(format!("cannot read {}", path.display())).because(e))?;
            say("fingerprint", key.fingerprint());
            "public key"
        }
        KeyKind::Certificate(certificate) => {
            let tbs = &certificate.tbs_certificate;
            say("subject", tbs.subject.to_string());
            say("issuer", tbs.issuer.to_string());
            say("from", tbs.validity.not_before.to_string());
            say("until", tbs.validity.not_after.to_string());
            "certificate"
        }
    };
    Ok(Finding {
        kind: finding,
        value,
        text,
    })
}

/// The id in the public key beside a secret one: the secret one itself says nothing
/// without its passphrase.
fn beside(path: &Path, say: &mut impl FnMut(&str, String)) {
    let mut public = path.as_os_str().to_owned();
    public.push(".pub");
    if let Ok(key) = keys::load_public(&PathBuf::from(public)) {
        say("key id", key.id().to_string());
    }
}
