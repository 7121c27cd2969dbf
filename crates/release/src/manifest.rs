//! The manifest: one release, named by digest, and signed.

use crate::envelope::{Envelope, EnvelopeError};
use crate::verity::Verity;
use crate::{BLOCK, Digest, Sequence, Timestamp, Version};
use serde::{Deserialize, Deserializer, Serialize};

/// The payload type of a release's envelope.
pub const PAYLOAD_TYPE: &str = "application/vnd.cairn.release+json";
/// The format that this code writes and reads.
pub const FORMAT: u32 = 1;

/// One release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The release's name.
    pub version: Version,
    /// Its place in the order of releases.
    pub sequence: Sequence,
    /// CPU architecture, as `uname -m` says it.
    pub architecture: String,
    /// Kinds of hardware that it is for.
    pub compatible: Vec<String>,
    /// When it was made (`SOURCE_DATE_EPOCH`); also a floor for a node's clock.
    pub created: Timestamp,
    /// What it was made from.
    pub profile: Profile,
    /// The kernel container.
    pub kernel: Kernel,
    /// The root image.
    pub root: Image,
    /// Digest of the bill of materials.
    pub sbom: Digest,
    /// Digest of the list of files.
    pub contents: Digest,
    /// The lowest sequence that may update to this release.
    pub minimum_sequence: Sequence,
    /// A word for people.
    pub notes: String,
}

/// What a release was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The profile's `iso_name`.
    pub name: String,
    /// Digest of the profile's and the site's files.
    pub digest: Digest,
}

/// The kernel container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kernel {
    /// What `uname -r` will say.
    pub kernel_version: String,
    /// The file.
    #[serde(flatten)]
    pub image: Image,
}

impl<'de> Deserialize<'de> for Kernel {
    /// Field by field. Serde keeps all that may belong to a flattened struct until it has
    /// seen everything, so that 1 MiB of nonsense would take 64 in memory.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            kernel_version: String,
            size: u64,
            sha256: Digest,
            index: Digest,
            verity: Verity,
        }
        let fields = Fields::deserialize(deserializer)?;
        Ok(Self {
            kernel_version: fields.kernel_version,
            image: Image {
                size: fields.size,
                sha256: fields.sha256,
                index: fields.index,
                verity: fields.verity,
            },
        })
    }
}

/// An image file with its verity tree at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Bytes, tree included.
    pub size: u64,
    /// Digest of the whole file, tree included.
    pub sha256: Digest,
    /// Digest of its block index.
    pub index: Digest,
    /// How to open it.
    pub verity: Verity,
}

/// The payload is no manifest that this code can use.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The envelope can't be read.
    #[error("cannot read the envelope")]
    Envelope(#[from] EnvelopeError),
    /// The payload can't be read.
    #[error("the payload is not a release manifest")]
    Json(#[source] serde_json::Error),
    /// Written by a newer imgtool.
    #[error("expected manifest format {FORMAT}, got {0}; this needs a newer program")]
    Format(u64),
    /// A size that contradicts the verity tree.
    #[error("{image}: {size} bytes don't fit {data_blocks} data blocks and their verity tree")]
    Size {
        /// Which image.
        image: &'static str,
        /// The stated size in bytes.
        size: u64,
        /// The stated number of data blocks.
        data_blocks: u64,
    },
}

impl Manifest {
    /// Reads a payload whose signatures were checked.
    ///
    /// # Errors
    /// If it isn't a manifest of [`FORMAT`], or contradicts itself.
    pub fn from_payload(payload: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Probe {
            format: u64,
        }
        // The format is looked at first: a newer one may have any other shape.
        let probe: Probe = serde_json::from_slice(payload).map_err(ManifestError::Json)?;
        if probe.format != u64::from(FORMAT) {
            return Err(ManifestError::Format(probe.format));
        }
        let manifest: Self = serde_json::from_slice(payload).map_err(ManifestError::Json)?;
        manifest.kernel.image.check("kernel")?;
        manifest.root.check("root")?;
        Ok(manifest)
    }

    /// The payload's bytes: pretty JSON, since people read it.
    pub fn to_payload(&self) -> Vec<u8> {
        // Strings, numbers and lists always have a JSON form.
        let mut json = serde_json::to_vec_pretty(self).unwrap_or_default();
        json.push(b'\n');
        json
    }

    /// The payload in an envelope that nobody has signed yet.
    pub fn to_envelope(&self) -> Envelope {
        Envelope::new(PAYLOAD_TYPE, self.to_payload())
    }
}

impl Image {
    fn check(&self, image: &'static str) -> Result<(), ManifestError> {
        let verity = &self.verity;
        let fits = verity.data_blocks > 0
            && verity.data_blocks.checked_mul(BLOCK as u64) == Some(verity.hash_offset)
            && verity.hash_offset.checked_add(verity.tree_size()) == Some(self.size);
        fits.then_some(()).ok_or(ManifestError::Size {
            image,
            size: self.size,
            data_blocks: verity.data_blocks,
        })
    }
}

/// Manifests for tests, here and in the crates above.
pub mod example {
    use super::*;
    use crate::verity::{Builder, Salt};

    /// A valid manifest of two one-page images, made up for `version`.
    pub fn manifest(version: &Version, sequence: u64) -> Manifest {
        let mut builder = Builder::new(Salt::default());
        builder.push(&[0; BLOCK]);
        builder.push(version.as_str().as_bytes());
        let (tree, verity) = builder.finish();
        let image = Image {
            size: verity.hash_offset + tree.len() as u64,
            sha256: Digest::of(version.as_str().as_bytes()),
            index: Digest::of(b"index"),
            verity,
        };
        Manifest {
            format: FORMAT,
            version: version.clone(),
            sequence: Sequence(sequence),
            architecture: "x86_64".into(),
            compatible: vec!["generic-x86_64".into()],
            created: Timestamp::default(),
            profile: Profile {
                name: "example".into(),
                digest: Digest::of(b"profile"),
            },
            kernel: Kernel {
                kernel_version: "6.1.0".into(),
                image: image.clone(),
            },
            root: image,
            sbom: Digest::of(b"sbom"),
            contents: Digest::of(b"contents"),
            minimum_sequence: Sequence(0),
            notes: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload() -> serde_json::Value {
        let manifest = example::manifest(&"1.0.0".parse().unwrap(), 1);
        serde_json::from_slice(&manifest.to_payload()).unwrap()
    }

    #[test]
    fn reads_back_what_it_writes() {
        let manifest = example::manifest(&"1.0.0".parse().unwrap(), 1);
        assert_eq!(
            Manifest::from_payload(&manifest.to_payload()).unwrap(),
            manifest
        );
    }

    #[test]
    fn says_what_is_wrong() {
        let cases: [(&str, serde_json::Value, &str); 4] = [
            (
                "/format",
                2.into(),
                "expected manifest format 1, got 2; this needs a newer program",
            ),
            (
                "/root/size",
                5.into(),
                "root: 5 bytes don't fit 2 data blocks and their verity tree",
            ),
            (
                "/kernel/verity/data_blocks",
                u64::MAX.into(),
                "kernel: 12288 bytes don't fit 18446744073709551615 data blocks and their verity tree",
            ),
            (
                "/version",
                "../x".into(),
                "the payload is not a release manifest",
            ),
        ];
        for (pointer, value, expected) in cases {
            let mut payload = payload();
            *payload.pointer_mut(pointer).unwrap() = value;
            let bytes = serde_json::to_vec(&payload).unwrap();
            assert_eq!(
                Manifest::from_payload(&bytes).unwrap_err().to_string(),
                expected
            );
        }
    }

    #[test]
    fn refuses_a_field_that_it_does_not_know() {
        for place in ["", "/profile", "/kernel", "/kernel/verity", "/root"] {
            let mut payload = payload();
            payload.pointer_mut(place).unwrap()["surprise"] = 1.into();
            let bytes = serde_json::to_vec(&payload).unwrap();
            assert!(Manifest::from_payload(&bytes).is_err(), "{place}");
        }
    }
}
