//! ThingsBoard's provisioning: a device that nobody registered makes itself known by a key and a secret of its profile.

use serde::{Deserialize, Serialize};

use crate::WireError;

/// How a device will prove who it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CredentialsType {
    /// A token as the user name.
    #[default]
    AccessToken,
    /// Client id, user name and password.
    MqttBasic,
    /// A certificate, named by its fingerprint.
    X509Certificate,
}

/// The request.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The name that the device wants; the server makes one up if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
    /// The profile's key.
    pub provision_device_key: String,
    /// The profile's secret.
    pub provision_device_secret: String,
    /// What the device will connect with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_type: Option<CredentialsType>,
    /// The token, if the device brings its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Client id for [`CredentialsType::MqttBasic`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// User name for [`CredentialsType::MqttBasic`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Password for [`CredentialsType::MqttBasic`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// The certificate (PEM) for [`CredentialsType::X509Certificate`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

impl std::fmt::Debug for Request {
    /// Without the secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("device_name", &self.device_name)
            .field("provision_device_key", &self.provision_device_key)
            .field("credentials_type", &self.credentials_type)
            .finish_non_exhaustive()
    }
}

impl Request {
    /// Reads one.
    ///
    /// # Errors
    /// If it isn't one.
    pub fn parse(payload: &[u8]) -> Result<Self, WireError> {
        crate::parse("a provisioning request", payload)
    }
}
