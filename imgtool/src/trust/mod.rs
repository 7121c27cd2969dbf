//! Trust roots on disk: numbered files, each signed by enough of the keys of the
//! one before and of its own.

mod change;
mod command;

pub use command::{Args, run};
pub(crate) use command::{json, text};

use crate::error::{Error, Result};
use crate::{files, keys};
use cairn_release::trust::{self, Role};
use cairn_release::{Envelope, KeyId, TrustRoot};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// No trust root is larger.
const LIMIT: u64 = 1024 * 1024;
/// What a numbered trust root's file name ends with.
const SUFFIX: &str = ".dsse.json";

/// A trust root, its envelope and where it came from.
#[derive(Debug, Clone)]
pub struct TrustFile {
    /// The file.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The envelope.
    pub envelope: Envelope,
    /// What it says.
    pub trust: TrustRoot,
}

impl TrustFile {
    /// Reads a trust root that may still lack signatures.
    ///
    /// # Errors
    /// If it can't be read, or can never be met.
    pub fn open(path: &Path) -> Result<Self> {
        let cannot = || Error::input(format!("cannot read {}", path.display()));
        let bytes = files::read(path, LIMIT)?;
        let envelope =
            Envelope::parse(&bytes, trust::PAYLOAD_TYPE).map_err(|e| cannot().because(e))?;
        let trust = TrustRoot::unsigned(&envelope).map_err(|e| cannot().because(e))?;
        Ok(Self {
            path: path.to_owned(),
            bytes,
            envelope,
            trust,
        })
    }

    fn untrusted(&self) -> Error {
        Error::refused(format!("{} is not to be trusted", self.path.display()))
    }
}

/// Reads trust roots, oldest first. A folder stands for the numbered files in it
/// (`1.dsse.json`, `2.dsse.json`). The first is taken as trusted; each other must be
/// accepted by the one before it.
///
/// # Errors
/// If one can't be read, or isn't accepted.
pub fn chain(paths: &[PathBuf]) -> Result<Vec<TrustFile>> {
    let mut chain: Vec<TrustFile> = Vec::new();
    for path in paths {
        for path in numbered(path)? {
            let next = TrustFile::open(&path)?;
            let accepted = match chain.last() {
                None => TrustRoot::from_envelope(&next.envelope),
                Some(last) => last.trust.accept(&next.envelope),
            };
            accepted.map_err(|e| next.untrusted().because(e))?;
            chain.push(next);
        }
    }
    Ok(chain)
}

/// The trust root that counts: the last of a [`chain`].
///
/// # Errors
/// As [`chain`].
pub fn newest(paths: &[PathBuf]) -> Result<TrustRoot> {
    chain(paths)?
        .pop()
        .map(|file| file.trust)
        .ok_or_else(|| Error::input("expected a trust root, got none"))
}

/// The path itself, or the numbered trust roots in a folder in their order.
fn numbered(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let cannot = |e| files::cannot("read", path, e);
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    for entry in path.read_dir().map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            found.push((number, entry.path()));
        }
    }
    if found.is_empty() {
        let shown = path.display();
        return Err(Error::input(format!(
            "{shown}: expected trust roots such as 1{SUFFIX}, got none"
        )));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Checks that a trust root names this boot key: with another, no node would boot
/// what it signs. `shown` is the file that the error names.
///
/// # Errors
/// If it names another, or none.
pub fn names_boot_key(root: &TrustRoot, fingerprint: &str, shown: &Path) -> Result<()> {
    let expected = root.boot_key.as_deref().unwrap_or("none");
    if expected == fingerprint {
        return Ok(());
    }
    let shown = shown.display();
    Err(Error::refused(format!(
        "{shown}: expected the boot key {expected}, got {fingerprint}"
    )))
}

/// Whether a trust root's date has passed: worth a warning, never more.
pub fn expired(trust: &TrustRoot) -> Option<String> {
    let expires = trust.expires?;
    let now = keys::moment().ok()?;
    let version = trust.version;
    (expires < now).then(|| format!("trust root {version} expired at {expires}"))
}

/// How far one role of one trust root has got in signing an envelope.
#[derive(Debug, Serialize)]
pub struct Progress {
    /// Whose signatures are counted.
    pub whose: String,
    /// How many must sign.
    pub threshold: usize,
    /// Who has.
    pub signed: Vec<KeyId>,
    /// Who could, and has not.
    pub missing: Vec<KeyId>,
}

impl Progress {
    /// Counts the signatures of a role.
    pub fn of(envelope: &Envelope, trust: &TrustRoot, role: &Role, name: &str) -> Self {
        let usable = || {
            role.keys
                .iter()
                .filter(|key| !trust.revoked.contains(&key.id()))
        };
        let signed = envelope.signed_by(usable());
        let mut missing: Vec<KeyId> = usable().map(|key| key.id()).collect();
        missing.retain(|id| !signed.contains(id));
        missing.sort();
        missing.dedup();
        let whose = format!("{name} keys of trust root {}", trust.version);
        Self {
            whose,
            threshold: role.threshold,
            signed,
            missing,
        }
    }

    /// How many signatures are still wanted.
    pub fn wanted(&self) -> usize {
        self.threshold.saturating_sub(self.signed.len())
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let Self {
            whose,
            threshold,
            signed,
            ..
        } = self;
        let mut line = format!("{} of {threshold} signatures by the {whose}", signed.len());
        if self.wanted() > 0 {
            let ids: Vec<String> = self.missing.iter().map(KeyId::short).collect();
            line += &format!("; {} more of {} must sign", self.wanted(), ids.join(", "));
        }
        line
    }
}

/// What a trust root still lacks: signatures of its own root keys and, if it
/// follows one, of that one's.
pub fn progress(
    envelope: &Envelope,
    trust: &TrustRoot,
    before: Option<&TrustRoot>,
) -> Vec<Progress> {
    let old = before.map(|old| Progress::of(envelope, old, &old.root, "root"));
    let own = Progress::of(envelope, trust, &trust.root, "root");
    old.into_iter().chain([own]).collect()
}
