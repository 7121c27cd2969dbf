//! What a node shall be. The shared attribute [`ATTRIBUTE`] holds the revision; the document is fetched over HTTP
//! (`GET /v1/me/desired`, the revision is its ETag). A stock ThingsBoard has no such document: there the order is read off `fw_*`.

use cairn_release::{Digest, Envelope, Sequence, Version};
use serde::{Deserialize, Serialize};

use crate::workload::Login;
use crate::{Disks, Object, Workloads};

/// The shared attribute: `{"cairn_desired": revision}`.
pub const ATTRIBUTE: &str = "cairn_desired";

/// The document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Grows with each change.
    pub revision: u64,
    /// The release to run; none: stay as you are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseOrder>,
    /// The workloads to run, all of them; none: not a word of them, and what runs goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<Workloads>,
    /// Users of the registries that the workloads' images come from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logins: Vec<Login>,
    /// The disks to lay out, all of them; none: not a word of them, and what is there stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disks: Option<Disks>,
}

/// When a node may restart into its trial.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// At once.
    Now,
    /// In the node's own maintenance window.
    #[default]
    Window,
}

/// Run this release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseOrder {
    /// The order's own name; it comes back in each report. 1 to 64 of `A-Za-z0-9._-`.
    pub id: String,
    /// The release.
    pub version: Version,
    /// Its sequence, so that a node can refuse before it fetches; the manifest's own counts.
    pub sequence: Sequence,
    /// Digest of the manifest's *payload*: what a release is remembered by.
    pub digest: Digest,
    /// The release's folder: absolute, or a path on the control plane. Ends with `/`.
    pub url: String,
    /// When to restart.
    #[serde(default)]
    pub when: When,
    /// Forget that this release failed before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forgive: bool,
    /// A signed order (`cairn_release::order`) that allows a lower sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downgrade: Option<Envelope>,
}

impl ReleaseOrder {
    /// The order that ThingsBoard's firmware attributes give: `fw_title` (anything), `fw_version`, `fw_url` of the release's folder,
    /// `fw_checksum` of the manifest's payload with `fw_checksum_algorithm` SHA256, and `fw_tag` for the sequence, if it is a number.
    /// `None` if they are of another kind of firmware.
    pub fn from_firmware(shared: &Object) -> Option<Self> {
        let text = |name: &str| shared.get(name).and_then(|value| value.as_str());
        let digest: Digest = text("fw_checksum")?.to_ascii_lowercase().parse().ok()?;
        if text("fw_checksum_algorithm")? != "SHA256" {
            return None;
        }
        let version: Version = text("fw_version")?.parse().ok()?;
        let mut url = text("fw_url")?.to_owned();
        if !url.ends_with('/') {
            url.push('/');
        }
        Some(Self {
            id: format!("fw-{}", &digest.to_string()[..16]),
            version,
            sequence: Sequence(
                text("fw_tag")
                    .and_then(|tag| tag.parse().ok())
                    .unwrap_or(u64::MAX),
            ),
            digest,
            url,
            when: When::Window,
            forgive: false,
            downgrade: None,
        })
    }
}
