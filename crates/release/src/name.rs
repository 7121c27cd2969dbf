//! What releases and their files are called.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// File name of the signed manifest within a release.
pub const MANIFEST: &str = "manifest.dsse.json";
/// File name of the kernel container within a release.
pub const KERNEL: &str = "kernel.squashfs";
/// File name of the root image within a release.
pub const ROOT: &str = "root.erofs";
/// File name of the kernel container's block index.
pub const KERNEL_INDEX: &str = "kernel.squashfs.index";
/// File name of the root image's block index.
pub const ROOT_INDEX: &str = "root.erofs.index";
/// File name of the bill of materials.
pub const SBOM: &str = "sbom.cdx.json";
/// File name of the list of every file in both images.
pub const CONTENTS: &str = "contents.jsonl.zst";

/// Name of the folder of patches within a release.
pub const PATCHES: &str = "patches";

/// File name of the patch that starts from the image with this digest.
pub fn patch(from: &crate::Digest) -> String {
    format!("{from}.patch")
}

/// The digest of the image that a patch starts from, by its file name.
pub fn patch_from(file: &str) -> Option<crate::Digest> {
    file.strip_suffix(".patch")?.parse().ok()
}

/// A release's version: a name for people and for a folder on disk.
///
/// 1 to 64 characters of `[0-9A-Za-z.+_-]`, of which the first is a letter or
/// a digit: what a FAT or ext4 folder, a URL, a GRUB variable and a kernel
/// command line all carry unchanged. Versions have no order; the
/// [`Sequence`] has.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(String);

impl Version {
    /// The version as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a version of 1 to 64 characters [0-9A-Za-z.+_-] that begins with a letter or digit, got {0:?}"
)]
pub struct NotAVersion(String);

impl FromStr for Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b".+_-".contains(&b);
        let first = text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric());
        if first && text.len() <= 64 && text.bytes().all(good) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotAVersion(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({})", self.0)
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// A release's place in the order of releases; it only ever grows, which is
/// what stops a downgrade.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Sequence(pub u64);

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Sequence {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_is_named_after_its_old_image_and_in_no_other_way() {
        let digest = crate::Digest::of(b"old");
        assert_eq!(patch_from(&patch(&digest)), Some(digest));
        let upper = patch(&digest).to_uppercase();
        for bad in ["", ".patch", "../x.patch", &upper, &digest.to_string()] {
            assert_eq!(patch_from(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_version_can_never_leave_its_folder() {
        for good in ["1", "1.2.0", "2026.11.22-rc1+g12ab", "A_b"] {
            assert_eq!(
                good.parse::<Version>().map(|v| v.to_string()),
                Ok(good.to_owned())
            );
        }
        let long = "1".repeat(65);
        for bad in ["", ".", "..", "-1", "a/b", "a b", "a\n", "é", "$x", &long] {
            assert!(bad.parse::<Version>().is_err(), "{bad:?}");
        }
    }
}
