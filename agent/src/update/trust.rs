//! Which keys count: the trust root of the running system, and those that follow from it, on DATA or in the release store.

use cairn_release::trust::PAYLOAD_TYPE;
use cairn_release::{Envelope, TrustRoot};

use super::effects::{Effects, GetError};
use super::fetch;

/// No trust root is larger.
const LIMIT: usize = 1 << 20;
/// The most that are taken in one go.
const MOST: usize = 64;

/// No trust root can be used.
#[derive(Debug, thiserror::Error)]
pub enum NoTrust {
    /// They can't be read.
    #[error("cannot read the trust roots: {0}")]
    Io(#[from] std::io::Error),
    /// The first, from which all others follow, isn't there.
    #[error("there is no trust root")]
    None,
    /// The first can't be used.
    #[error("the trust root is not usable: {0}")]
    First(cairn_release::trust::TrustError),
}

/// The trust root that counts.
///
/// # Errors
/// If the first can't be used. One that doesn't follow is told in the log, and ends the chain.
pub fn current<E: Effects>(effects: &E) -> Result<TrustRoot, NoTrust> {
    let mut roots = effects.trust_roots()?.into_iter();
    let first = roots.next().ok_or(NoTrust::None)?;
    let mut trust = TrustRoot::parse(&first).map_err(NoTrust::First)?;
    for bytes in roots {
        match next(&trust, &bytes) {
            Ok(newer) => trust = newer,
            Err(error) => {
                tracing::warn!(
                    after = trust.version,
                    error,
                    "a trust root on DATA is ignored"
                );
                break;
            }
        }
    }
    Ok(trust)
}

/// Takes over newer trust roots from the release store; `folder` is where they are numbered. What can't be had is told in the log:
/// the roots that are there still count.
pub async fn update<E: Effects>(effects: &E, mut trust: TrustRoot, folder: &str) -> TrustRoot {
    for _ in 0..MOST {
        let Some(number) = trust.version.checked_add(1) else {
            break;
        };
        let url = format!("{folder}{number}.dsse.json");
        let bytes = match fetch::once(effects, &url, LIMIT).await {
            Ok(bytes) => bytes,
            // The usual case: there is no newer one.
            Err(GetError::Refused(_)) => break,
            Err(error) => {
                tracing::warn!(url, %error, "cannot ask for a newer trust root");
                break;
            }
        };
        match next(&trust, &bytes) {
            Ok(newer) => {
                if let Err(error) = effects.keep_trust_root(number, &bytes) {
                    tracing::warn!(number, %error, "cannot keep a newer trust root");
                }
                tracing::info!(number, "a newer trust root counts");
                trust = newer;
            }
            Err(error) => {
                tracing::error!(
                    url,
                    error,
                    "the release store has a trust root that doesn't follow from ours"
                );
                break;
            }
        }
    }
    trust
}

fn next(trust: &TrustRoot, bytes: &[u8]) -> Result<TrustRoot, String> {
    let envelope = Envelope::parse(bytes, PAYLOAD_TYPE).map_err(|error| error.to_string())?;
    trust.accept(&envelope).map_err(|error| error.to_string())
}

/// Where the store keeps trust roots, from a release's folder: `…/<channel>/<version>/` and `…/<channel>/trust/`.
pub fn folder(release: &str) -> Option<String> {
    let (channel, _) = release.strip_suffix('/')?.rsplit_once('/')?;
    Some(format!("{channel}/trust/"))
}
