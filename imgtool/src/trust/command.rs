//! `imgtool trust`: who may sign, from the first trust root to the latest.

use super::{Progress, TrustFile, change, progress};
use crate::console::Console;
use crate::error::{Error, Result};
use crate::files;
use crate::keys::{self, KeyKind, KeySource, PassphraseArgs};
use cairn_release::trust::Role;
use cairn_release::{Envelope, PublicKey, SecretKey, Timestamp, TrustRoot};
use clap::Subcommand;
use std::path::{Path, PathBuf};

/// Options of `imgtool trust`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    change: Change,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Make the first trust root
    Init(Init),
    /// Add keys to a role
    Add(Add),
    /// Revoke keys for good, in whatever role
    Revoke(Revoke),
    /// Replace all root keys, the boot key, or the date
    Rotate(Rotate),
    /// Show a trust root and who has signed it
    Show(Show),
}

#[derive(Debug, clap::Args)]
struct Init {
    /// Root key: a secret one signs, a public one is only named (repeatable)
    #[arg(long, value_name = "KEY", required = true)]
    root_key: Vec<KeySource>,
    /// How many root keys must sign a change
    #[arg(long, value_name = "N", default_value_t = 1)]
    root_threshold: usize,
    /// Public key that may sign releases (repeatable)
    #[arg(long, value_name = "PUB", required = true)]
    release_key: Vec<PathBuf>,
    /// How many release keys must sign a release
    #[arg(long, value_name = "N", default_value_t = 1)]
    release_threshold: usize,
    /// Public OpenPGP key that GRUB checks the kernel with
    #[arg(long, value_name = "PUB")]
    boot_key: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// New file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Warn people from this moment on, such as 2030-01-01T00:00:00Z
    #[arg(long, value_name = "MOMENT")]
    expires: Option<Timestamp>,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

#[derive(Debug, clap::Args)]
struct Signers {
    /// Secret root key to sign with: FILE, env:VAR or fd:N (repeatable)
    #[arg(long, value_name = "KEY")]
    key: Vec<KeySource>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum RoleName {
    Root,
    Release,
}

#[derive(Debug, clap::Args)]
struct Add {
    /// The trust root to change
    trust: PathBuf,
    /// Public keys to add
    #[arg(required = true, value_name = "PUB")]
    keys: Vec<PathBuf>,
    /// Which role they get
    #[arg(long)]
    role: RoleName,
    /// How many keys of the role must sign from now on
    #[arg(long, value_name = "N")]
    threshold: Option<usize>,
    #[command(flatten)]
    signers: Signers,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Revoke {
    /// The trust root to change
    trust: PathBuf,
    /// Key ids; the first digits do if they are unique
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    signers: Signers,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Rotate {
    /// The trust root to change
    trust: PathBuf,
    /// New root key: a secret one signs, a public one is only named (repeatable)
    #[arg(long, value_name = "KEY")]
    root_key: Vec<KeySource>,
    /// How many of the new root keys must sign
    #[arg(long, value_name = "N")]
    root_threshold: Option<usize>,
    /// New public OpenPGP key that GRUB checks the kernel with
    #[arg(long, value_name = "PUB")]
    boot_key: Option<PathBuf>,
    #[command(flatten)]
    signers: Signers,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// The trust root
    trust: PathBuf,
}

/// Runs `imgtool trust`.
///
/// # Errors
/// If a key or trust root can't be read, or the new one could never be met.
pub fn run(args: Args, console: &Console) -> Result<()> {
    match args.change {
        Change::Init(args) => init(&args, console),
        Change::Add(args) => {
            let old = TrustFile::open(&args.trust)?;
            let keys: Vec<PublicKey> = args
                .keys
                .iter()
                .map(|path| keys::load_public(path))
                .collect::<Result<_>>()?;
            let mut trust = change::next(&old.trust, args.common.expires)?;
            let revoked = trust.revoked.clone();
            let role = match args.role {
                RoleName::Root => &mut trust.root,
                RoleName::Release => &mut trust.release,
            };
            change::add(role, &revoked, keys, args.threshold)?;
            finish(
                trust,
                Some(&old),
                &args.signers.key,
                vec![],
                &args.common,
                console,
            )
        }
        Change::Revoke(args) => {
            let old = TrustFile::open(&args.trust)?;
            let mut trust = change::next(&old.trust, args.common.expires)?;
            for id in &args.ids {
                change::revoke(&mut trust, id)?;
            }
            finish(
                trust,
                Some(&old),
                &args.signers.key,
                vec![],
                &args.common,
                console,
            )
        }
        Change::Rotate(args) => rotate(&args, console),
        Change::Show(args) => {
            let file = TrustFile::open(&args.trust)?;
            let state = progress(&file.envelope, &file.trust, None);
            show(&file.trust, &state, console)
        }
    }
}

fn init(args: &Init, console: &Console) -> Result<()> {
    let (root, secrets) = root_keys(&args.root_key, &args.common.passphrase)?;
    let release = args
        .release_key
        .iter()
        .map(|path| keys::load_public(path))
        .collect::<Result<_>>()?;
    let mut trust = change::first(
        Role {
            threshold: args.root_threshold,
            keys: root,
        },
        Role {
            threshold: args.release_threshold,
            keys: release,
        },
        args.boot_key.as_deref().map(boot_fingerprint).transpose()?,
    );
    trust.expires = args.common.expires;
    finish(trust, None, &[], secrets, &args.common, console)
}

fn rotate(args: &Rotate, console: &Console) -> Result<()> {
    let old = TrustFile::open(&args.trust)?;
    let mut trust = change::next(&old.trust, args.common.expires)?;
    let mut secrets = Vec::new();
    if !args.root_key.is_empty() {
        let (root, new) = root_keys(&args.root_key, &args.common.passphrase)?;
        secrets = new;
        change::rotate(&mut trust, root, args.root_threshold)?;
    } else if let Some(threshold) = args.root_threshold {
        trust.root.threshold = threshold;
    }
    if let Some(path) = &args.boot_key {
        trust.boot_key = Some(boot_fingerprint(path)?);
    }
    finish(
        trust,
        Some(&old),
        &args.signers.key,
        secrets,
        &args.common,
        console,
    )
}

/// Public keys of all, and the secret ones among them.
fn root_keys(
    sources: &[KeySource],
    passphrase: &PassphraseArgs,
) -> Result<(Vec<PublicKey>, Vec<SecretKey>)> {
    let (mut public, mut secret) = (Vec::new(), Vec::new());
    for source in sources {
        // A descriptor can be read once; it is for secrets only.
        if let KeySource::File(_) = source
            && let KeyKind::ReleasePublic(key) = KeyKind::of(&source.read()?)
        {
            public.push(key);
            continue;
        }
        let key = keys::load_release(source, passphrase)?;
        public.push(key.public());
        secret.push(key);
    }
    Ok((public, secret))
}

fn boot_fingerprint(path: &Path) -> Result<String> {
    let bytes = KeySource::File(path.to_owned()).read()?;
    keys::boot_public(&bytes)
        .map(|key| key.fingerprint())
        .map_err(|e| {
            Error::input(format!("cannot take {} as the boot key", path.display())).because(e)
        })
}

/// Signs, writes, and says what is missing.
fn finish(
    trust: TrustRoot,
    old: Option<&TrustFile>,
    signers: &[KeySource],
    mut secrets: Vec<SecretKey>,
    common: &Common,
    console: &Console,
) -> Result<()> {
    let trust = change::checked(trust)?;
    for source in signers {
        let key = keys::load_release(source, &common.passphrase)?;
        let id = key.public().id();
        let named = |role: &Role| role.keys.iter().any(|key| key.id() == id);
        if !named(&trust.root) && !old.is_some_and(|old| named(&old.trust.root)) {
            return Err(Error::input(format!(
                "{source}: key {} is no root key, neither of the old nor of the new trust root",
                id.short()
            )));
        }
        secrets.push(key);
    }
    let mut envelope: Envelope = trust.to_envelope();
    secrets.iter().for_each(|key| envelope.sign(key));
    files::write_new(&common.out, &envelope.to_json(), 0o644)?;
    let state = progress(&envelope, &trust, old.map(|old| &old.trust));
    if state.iter().any(|part| part.wanted() > 0) {
        console.note(&format!(
            "{} is not complete yet: others add their signatures with `imgtool sign`",
            common.out.display()
        ));
    }
    show(&trust, &state, console)
}

fn show(trust: &TrustRoot, state: &[Progress], console: &Console) -> Result<()> {
    if let Some(warning) = super::expired(trust) {
        console.warn(&warning);
    }
    console.result(&json(trust, state), || text(trust, state))
}

/// A trust root for programs.
pub(crate) fn json(trust: &TrustRoot, state: &[Progress]) -> serde_json::Value {
    let ids = |role: &Role| role.keys.iter().map(PublicKey::id).collect::<Vec<_>>();
    serde_json::json!({
        "version": trust.version,
        "expires": trust.expires,
        "root": { "threshold": trust.root.threshold, "keys": ids(&trust.root) },
        "release": { "threshold": trust.release.threshold, "keys": ids(&trust.release) },
        "boot_key": trust.boot_key,
        "revoked": trust.revoked,
        "signatures": state,
        "complete": state.iter().all(|part| part.wanted() == 0),
    })
}

/// A trust root for people.
pub(crate) fn text(trust: &TrustRoot, state: &[Progress]) -> String {
    let expires = trust
        .expires
        .map_or("never".to_owned(), |at| at.to_string());
    let mut out = format!("trust root    {}\nexpires       {expires}\n", trust.version);
    for (name, role) in [("root", &trust.root), ("release", &trust.release)] {
        out += &format!("{name:14}{} of {} keys\n", role.threshold, role.keys.len());
        for key in &role.keys {
            let id = key.id();
            let revoked = if trust.revoked.contains(&id) {
                "  revoked"
            } else {
                ""
            };
            out += &format!("  {id}{revoked}\n");
        }
    }
    out += &format!(
        "boot key      {}\n",
        trust.boot_key.as_deref().unwrap_or("none")
    );
    for part in state {
        out += &format!("signed        {}\n", part.line());
    }
    out
}
