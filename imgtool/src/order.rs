//! `imgtool order`: a signed order that lets nodes go back to an older release.

use crate::console::Console;
use crate::error::{Error, Result};
use crate::files;
use crate::keys::{self, KeySource, PassphraseArgs};
use crate::trust::{self, Progress};
use cairn_release::order::FORMAT;
use cairn_release::{Digest, DowngradeOrder, Envelope, KeyId, Manifest, Timestamp, manifest, name};
use std::path::PathBuf;

/// Options of `imgtool order`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The older release: its folder or its manifest
    release: PathBuf,
    /// Device that it is for (repeatable); without, all devices
    #[arg(long = "device", value_name = "ID")]
    devices: Vec<String>,
    /// When it ends, such as 2026-12-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    not_after: Timestamp,
    /// Release key to sign with: FILE, env:VAR or fd:N (repeatable)
    #[arg(long, value_name = "KEY", required = true)]
    key: Vec<KeySource>,
    /// Trust roots, oldest first, or their folder: say who still has to sign
    #[arg(long, value_name = "TRUST")]
    trust: Vec<PathBuf>,
    /// New file to write
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

const LIMIT: u64 = 4 * 1024 * 1024;

/// Runs `imgtool order`.
///
/// # Errors
/// If the manifest or a key can't be read, the order would have ended already, or the
/// file is there.
pub fn run(args: Args, console: &Console) -> Result<()> {
    let path = if args.release.is_dir() {
        args.release.join(name::MANIFEST)
    } else {
        args.release
    };
    let cannot = || Error::input(format!("cannot read {}", path.display()));
    let bytes = files::read(&path, LIMIT)?;
    let release =
        Envelope::parse(&bytes, manifest::PAYLOAD_TYPE).map_err(|e| cannot().because(e))?;
    let manifest = Manifest::from_payload(&release.payload).map_err(|e| cannot().because(e))?;
    if args.not_after <= keys::moment()? {
        return Err(Error::input(format!(
            "--not-after: {} is over already",
            args.not_after
        )));
    }
    if let Some(id) = args.devices.iter().find(|id| !is_device(id)) {
        return Err(Error::input(format!(
            "--device: expected 1 to 64 of a-z, 0-9 and -, got {id:?}"
        )));
    }
    let before = match &args.trust[..] {
        [] => None,
        paths => Some(trust::newest(paths)?),
    };

    let order = DowngradeOrder {
        format: FORMAT,
        release: Digest::of(&release.payload),
        devices: args.devices,
        not_after: args.not_after,
    };
    let mut envelope = order.to_envelope();
    let mut signers: Vec<KeyId> = Vec::new();
    for source in &args.key {
        let key = keys::load_release(source, &args.passphrase)?;
        envelope.sign(&key);
        signers.push(key.public().id());
    }
    let state: Vec<Progress> = before
        .iter()
        .map(|trust| Progress::of(&envelope, trust, &trust.release, "release"))
        .collect();
    files::write_new(&args.out, &envelope.to_json(), 0o644)?;
    let value = serde_json::json!({
        "file": args.out,
        "version": manifest.version,
        "sequence": manifest.sequence,
        "release": order.release,
        "devices": order.devices,
        "not_after": order.not_after,
        "signers": signers,
        "signatures": state,
    });
    console.result(&value, || {
        let mut out = text(&order);
        out = format!("version       {}\n{out}", manifest.version);
        for part in &state {
            out += &format!("{}\n", part.line());
        }
        out
    })
}

/// An order for people.
pub(crate) fn text(order: &DowngradeOrder) -> String {
    let devices = if order.devices.is_empty() {
        "all".to_owned()
    } else {
        order.devices.join(", ")
    };
    format!(
        "release       {}\ndevices       {devices}\nnot after     {}\n",
        order.release, order.not_after
    )
}

fn is_device(id: &str) -> bool {
    let plain = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=64).contains(&id.len()) && id.bytes().all(plain)
}
