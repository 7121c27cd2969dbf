//! `imgtool sign`: adds signatures to a manifest, a trust root or an order, in place.

use crate::console::Console;
use crate::error::{Error, Result};
use crate::files;
use crate::keys::{self, KeySource, PassphraseArgs};
use crate::trust::{self, Progress};
use cairn_release::{DowngradeOrder, Envelope, KeyId, Manifest, TrustRoot, manifest, name, order};
use std::path::PathBuf;

/// Options of `imgtool sign`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A manifest, a trust root, a downgrade order, or a release folder
    file: PathBuf,
    /// Secret key to sign with: FILE, env:VAR or fd:N (repeatable)
    #[arg(long, value_name = "KEY", required = true)]
    key: Vec<KeySource>,
    /// Trust roots, oldest first, or their folder: warn if they don't name a key
    #[arg(long, value_name = "TRUST")]
    trust: Vec<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

const LIMIT: u64 = 4 * 1024 * 1024;

/// What an envelope holds.
enum Payload {
    /// Of a release or an order: release keys count.
    Release,
    Trust(Box<TrustRoot>),
}

/// Runs `imgtool sign`.
///
/// # Errors
/// If the file isn't a readable envelope, or a key can't be read.
pub fn run(args: Args, console: &Console) -> Result<()> {
    let file = if args.file.is_dir() {
        args.file.join(name::MANIFEST)
    } else {
        args.file
    };
    let bytes = files::read(&file, LIMIT)?;
    let cannot = || Error::input(format!("cannot sign {}", file.display()));
    let mut envelope: Envelope = serde_json::from_slice(&bytes)
        .map_err(|e| cannot().because(Error::input("not a DSSE envelope").because(e)))?;
    let payload = payload(&envelope).map_err(|e| cannot().because(e))?;
    let before = match &args.trust[..] {
        [] => None,
        paths => Some(trust::newest(paths)?),
    };

    let mut signers: Vec<KeyId> = Vec::new();
    for source in &args.key {
        let key = keys::load_release(source, &args.passphrase)?;
        envelope.sign(&key);
        signers.push(key.public().id());
    }
    let state = state(&envelope, &payload, before.as_ref());
    if !state.is_empty() {
        for id in &signers {
            if !state.iter().any(|part| part.signed.contains(id)) {
                console.warn(&format!(
                    "key {} counts for nothing here: it is revoked, or no trust root names it",
                    id.short()
                ));
            }
        }
    }
    files::write_whole(&file, &envelope.to_json(), 0o644)?;
    let value = serde_json::json!({
        "file": file,
        "added": signers,
        "signatures": state,
        "signers": envelope.signatures.iter().map(|s| s.keyid).collect::<Vec<_>>(),
    });
    console.result(&value, || {
        let mut out = String::new();
        for id in &signers {
            out += &format!("signed {} with key {id}\n", file.display());
        }
        state
            .iter()
            .for_each(|part| out += &format!("{}\n", part.line()));
        out
    })
}

fn payload(envelope: &Envelope) -> Result<Payload> {
    match envelope.payload_type.as_str() {
        manifest::PAYLOAD_TYPE => Manifest::from_payload(&envelope.payload)
            .map(|_| Payload::Release)
            .map_err(|e| Error::input("not a manifest that anybody could use").because(e)),
        cairn_release::trust::PAYLOAD_TYPE => TrustRoot::unsigned(envelope)
            .map(|trust| Payload::Trust(Box::new(trust)))
            .map_err(|e| Error::input("not a trust root that anybody could use").because(e)),
        order::PAYLOAD_TYPE => DowngradeOrder::unsigned(envelope)
            .map(|_| Payload::Release)
            .map_err(|e| Error::input("not an order that anybody could use").because(e)),
        other => Err(Error::input(format!(
            "nothing of Cairn's: its payload type is {other:?}"
        ))),
    }
}

fn state(envelope: &Envelope, payload: &Payload, before: Option<&TrustRoot>) -> Vec<Progress> {
    match (payload, before) {
        (Payload::Release, None) => Vec::new(),
        (Payload::Release, Some(trust)) => {
            vec![Progress::of(envelope, trust, &trust.release, "release")]
        }
        (Payload::Trust(trust), before) => {
            let before = before.filter(|old| old.version < trust.version);
            trust::progress(envelope, trust, before)
        }
    }
}
