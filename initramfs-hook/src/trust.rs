//! Which trust root counts: the one built into the initramfs, or a later one from
//! DATA that follows from it without a gap.

use std::error::Error;

use cairn_release::trust::{PAYLOAD_TYPE, TrustError};
use cairn_release::{Envelope, TrustRoot};

use crate::error::IoError;

/// A trust root on DATA isn't used.
#[derive(Debug, thiserror::Error)]
pub enum Ignored {
    /// It can't be read.
    #[error(transparent)]
    Io(#[from] IoError),
    /// It doesn't follow from the one before.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// Walks upwards from `builtin`. `read` gives the bytes of root *n*, if there is one;
/// `report` hears of the first that isn't used, behind which nothing can follow.
///
/// DATA isn't signed: whoever can write there can take newer roots away, and so
/// bring back a key that only they revoke. A release built after a revocation has
/// the newer root built in, which ends that.
pub fn walk(
    builtin: TrustRoot,
    mut read: impl FnMut(u64) -> Result<Option<Vec<u8>>, IoError>,
    report: impl FnOnce(u64, &dyn Error),
) -> TrustRoot {
    let mut trust = builtin;
    while let Some(number) = trust.version.checked_add(1) {
        match step(&trust, read(number)) {
            Ok(Some(next)) => trust = next,
            Ok(None) => break,
            Err(error) => {
                report(number, &error);
                break;
            }
        }
    }
    trust
}

fn step(
    trust: &TrustRoot,
    next: Result<Option<Vec<u8>>, IoError>,
) -> Result<Option<TrustRoot>, Ignored> {
    let Some(bytes) = next? else { return Ok(None) };
    let envelope = Envelope::parse(&bytes, PAYLOAD_TYPE).map_err(TrustError::from)?;
    Ok(Some(trust.accept(&envelope)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::chain;
    use cairn_release::SecretKey;
    use cairn_release::trust::{FORMAT, Role};

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed(&[seed; 32])
    }

    fn root(version: u64) -> TrustRoot {
        let role = |seed| Role {
            threshold: 1,
            keys: vec![key(seed).public()],
        };
        TrustRoot {
            format: FORMAT,
            version,
            expires: None,
            root: role(1),
            release: role(2),
            boot_key: None,
            revoked: vec![],
        }
    }

    fn signed(version: u64, seed: u8) -> Vec<u8> {
        let mut envelope = root(version).to_envelope();
        envelope.sign(&key(seed));
        envelope.to_json()
    }

    /// Walks from root 1 over the given files; gives the version reached and the report.
    fn walked(files: &[(u64, Vec<u8>)]) -> (u64, Option<String>) {
        let mut report = None;
        let read = |n| Ok(files.iter().find(|f| f.0 == n).map(|f| f.1.clone()));
        let trust = walk(root(1), read, |n, error| {
            report = Some(format!("{n}: {}", chain(error)));
        });
        (trust.version, report)
    }

    #[test]
    fn walks_as_far_as_the_chain_holds() {
        assert_eq!(walked(&[]), (1, None));
        assert_eq!(walked(&[(2, signed(2, 1)), (3, signed(3, 1))]), (3, None));
        // A gap ends it: what lies behind can't be judged.
        assert_eq!(walked(&[(3, signed(3, 1))]), (1, None));
    }

    #[test]
    fn a_bad_root_is_told_and_never_used() {
        let (reached, report) = walked(&[(2, signed(2, 9)), (3, signed(3, 1))]);
        assert_eq!(reached, 1);
        assert!(report.unwrap().starts_with("2: 0 of 1 needed signatures"));

        let (reached, report) = walked(&[(2, signed(2, 1)), (3, b"\0\0".to_vec())]);
        assert_eq!(reached, 2);
        assert!(report.unwrap().starts_with("3: cannot read the envelope"));

        let (reached, report) = walked(&[(2, signed(3, 1))]);
        assert_eq!(reached, 1);
        assert_eq!(report.unwrap(), "2: expected trust root 2, got 3");
    }
}
