//! The trust roots that uploads are checked against: `DATA/trust/<n>.dsse.json`, each vouched for by the one before.

use std::io;
use std::path::{Path, PathBuf};

use cairn_release::trust::TrustError;
use cairn_release::{TrustRoot, Version};
use rusqlite::TransactionBehavior;
use serde_json::json;

use super::files;
use crate::people::{CliError, audit};
use crate::store::StoreError;

/// No trust root is larger, in bytes.
pub const LIMIT: u64 = 1 << 20;
/// Trust roots kept at most.
const MOST: usize = 1000;

/// A trust root can't be read or isn't to be trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustSetError {
    /// None was ever set.
    #[error("no trust root is set; run `cairn-control trust set FILE` on the server first")]
    Unset,
    /// A file can't be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It isn't signed as it must be.
    #[error("{path} is not to be trusted: {source}")]
    Untrusted {
        /// The file.
        path: String,
        /// Why.
        source: TrustError,
    },
    /// Another one of that number is set.
    #[error("{path}: another trust root {version} is set")]
    Another {
        /// The file.
        path: String,
        /// The number.
        version: u64,
    },
    /// A folder without trust roots.
    #[error("{0}: expected a trust root, or a folder of <n>.dsse.json")]
    Nothing(String),
    /// The database's.
    #[error(transparent)]
    Database(#[from] CliError),
}

impl From<StoreError> for TrustSetError {
    fn from(error: StoreError) -> Self {
        Self::Database(error.into())
    }
}

/// A trust root and the bytes that it came in.
#[derive(Debug, Clone)]
pub struct Root {
    /// What it says.
    pub trust: TrustRoot,
    /// The file's bytes.
    pub bytes: Vec<u8>,
}

fn at(path: &Path) -> impl Fn(io::Error) -> TrustSetError {
    let path = path.display().to_string();
    move |source| TrustSetError::File {
        path: path.clone(),
        source,
    }
}

/// The numbers of the trust roots in a folder, in order.
fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        if let Some(number) = name.to_str().and_then(number) {
            found.push(number);
        }
    }
    found.sort_unstable();
    found.truncate(MOST);
    Ok(found)
}

/// The number in a trust root's file name.
pub fn number(name: &str) -> Option<u64> {
    let number: u64 = name.strip_suffix(".dsse.json")?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}

/// A trust root's file name.
pub fn file_name(number: u64) -> String {
    format!("{number}.dsse.json")
}

/// Reads a folder's trust roots, the oldest first. The first is taken as it is: who set it vouches for it.
///
/// # Errors
/// If one can't be read, or isn't vouched for by the one before.
pub fn chain(folder: &Path) -> Result<Vec<Root>, TrustSetError> {
    let mut chain: Vec<Root> = Vec::new();
    for number in numbers(folder).map_err(at(folder))? {
        let path = folder.join(file_name(number));
        let root = follow(chain.last(), &path)?;
        chain.push(root);
    }
    Ok(chain)
}

/// Reads the trust root that follows another one.
fn follow(before: Option<&Root>, path: &Path) -> Result<Root, TrustSetError> {
    let untrusted = |source| TrustSetError::Untrusted {
        path: path.display().to_string(),
        source,
    };
    let bytes = files::read(path, LIMIT).map_err(at(path))?;
    let trust = match before {
        None => TrustRoot::parse(&bytes).map_err(untrusted)?,
        Some(before) => {
            let envelope =
                cairn_release::Envelope::parse(&bytes, cairn_release::trust::PAYLOAD_TYPE)
                    .map_err(|error| untrusted(error.into()))?;
            before.trust.accept(&envelope).map_err(untrusted)?
        }
    };
    Ok(Root { trust, bytes })
}

/// The newest trust root.
///
/// # Errors
/// If there is none, or the chain is broken.
pub fn newest(folder: &Path) -> Result<Root, TrustSetError> {
    chain(folder)?.pop().ok_or(TrustSetError::Unset)
}

/// Puts the trust roots that a channel lacks into its `trust` folder.
///
/// # Errors
/// If one can't be written.
pub fn publish(channel: &Path, chain: &[Root]) -> io::Result<()> {
    let folder = channel.join("trust");
    std::fs::create_dir_all(&folder)?;
    for root in chain {
        let path = folder.join(file_name(root.trust.version));
        if !path.symlink_metadata().is_ok_and(|there| there.is_file()) {
            files::write_whole(&path, &root.bytes)?;
        }
    }
    files::flush_folder(channel)
}

/// `cairn-control trust set`: takes a trust root, or a folder of them, into `DATA/trust`, and publishes it in every channel. The first is
/// taken as it is; each later one must be signed by a threshold of the one before. Gives back the newest one's number.
///
/// # Errors
/// If one can't be read, isn't to be trusted, or can't be written.
pub fn set_trust(data_dir: &Path, file: &Path) -> Result<u64, TrustSetError> {
    let folder = data_dir.join("trust");
    let given: Vec<PathBuf> = if file.is_dir() {
        numbers(file)
            .map_err(at(file))?
            .into_iter()
            .map(|number| file.join(file_name(number)))
            .collect()
    } else {
        vec![file.to_owned()]
    };
    let mut connection = crate::people::open_database(data_dir)?;
    let mut chain = chain(&folder)?;
    let mut new = Vec::new();
    for path in &given {
        let shown = || path.display().to_string();
        let bytes = files::read(path, LIMIT).map_err(at(path))?;
        let alone = TrustRoot::parse(&bytes).map_err(|source| TrustSetError::Untrusted {
            path: shown(),
            source,
        })?;
        if let Some(there) = chain
            .iter()
            .find(|root| root.trust.version == alone.version)
        {
            if there.trust != alone {
                return Err(TrustSetError::Another {
                    path: shown(),
                    version: alone.version,
                });
            }
            continue;
        }
        let root = follow(chain.last(), path)?;
        chain.push(root.clone());
        new.push(root);
    }
    let newest = chain
        .last()
        .ok_or_else(|| TrustSetError::Nothing(file.display().to_string()))?
        .trust
        .version;

    std::fs::create_dir_all(&folder).map_err(at(&folder))?;
    for root in &new {
        // The log says it before it is so, and never after.
        let tx = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(StoreError::from)?;
        let version = root.trust.version;
        let release_keys: Vec<String> = root
            .trust
            .release
            .keys
            .iter()
            .map(|key| key.id().short())
            .collect();
        audit(
            &tx,
            crate::people::CLI,
            "trust.set",
            &format!("trust/{version}"),
            &json!({ "release_keys": release_keys }),
        )?;
        tx.commit().map_err(StoreError::from)?;
        let path = folder.join(file_name(version));
        files::write_whole(&path, &root.bytes).map_err(at(&path))?;
    }
    let releases = data_dir.join("releases");
    for channel in channels(&releases).map_err(at(&releases))? {
        let path = releases.join(channel.as_str());
        publish(&path, &chain).map_err(at(&path))?;
    }
    Ok(newest)
}

/// The channels in the folder of releases, by name.
///
/// # Errors
/// If it can't be read.
pub fn channels(releases: &Path) -> io::Result<Vec<Version>> {
    let entries = match std::fs::read_dir(releases) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir()
            && let Some(Ok(channel)) = entry.file_name().to_str().map(str::parse)
        {
            found.push(channel);
        }
    }
    found.sort();
    Ok(found)
}
