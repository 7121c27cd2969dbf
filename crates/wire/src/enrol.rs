//! Enrolment: a node trades a one-time token and a signing request for a certificate. The key never leaves the node.
//!
//! Renewal needs no token and no valid certificate: a signing request is signed by the key that it names, so who can make
//! one for the key on record is that node, even if its certificate has expired long ago. What comes back is of no use without the key.

use serde::{Deserialize, Serialize};

/// `POST /v1/enrol`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    /// The token.
    pub token: String,
    /// A PKCS #10 request in PEM. Its subject counts for nothing.
    pub csr: String,
    /// What the node would like to be called; the server decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the node is: `machine_id`, `hardware`, `serial`, `macs` and so on.
    #[serde(default)]
    pub facts: crate::Object,
}

impl std::fmt::Debug for EnrolRequest {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrolRequest")
            .field("name", &self.name)
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

/// `POST /v1/renew`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// The device's id.
    pub device: String,
    /// A PKCS #10 request in PEM, of the key that the device enrolled with.
    pub csr: String,
}

/// The answer to both.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Identity {
    /// The device's id: what its certificate says as common name. 1 to 64 of `a-z0-9-`.
    pub device: String,
    /// The certificate and those above it, but for the root, in PEM.
    pub certificate: String,
    /// The CA's certificates that the server's own is checked against, in PEM.
    pub ca: String,
    /// `host:port` of the MQTT front end, TLS.
    pub mqtt: String,
    /// The server's time in seconds since 1970.
    pub time: i64,
}

/// An error as every HTTP answer of ours tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// A word for programs, as `token-used` or `revoked`; see the API's reference.
    pub code: String,
    /// A sentence for people.
    pub message: String,
}

/// What lies on a node before it enrols: `enrol.toml`, as `cairnctl token create --out` writes it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolFile {
    /// The control plane: `https://host:port`.
    pub server: String,
    /// The CA that its certificate is checked against, in PEM.
    pub ca: String,
    /// The token.
    pub token: String,
}

impl std::fmt::Debug for EnrolFile {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrolFile")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}
