//! Enrolling many devices.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rcgen::{CertificateParams, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};

use super::Device;

/// A device's key (PKCS #8, DER) and its signing request in PEM.
///
/// # Errors
/// If the key can't be made.
pub fn key_and_request() -> Result<(Vec<u8>, String)> {
    let key = KeyPair::generate()?;
    let request = CertificateParams::default().serialize_request(&key)?;
    Ok((key.serialize_der(), request.pem()?))
}

/// Speaks to a server whose certificate is checked against `ca` (PEM).
///
/// # Errors
/// If the CA can't be used.
pub fn client(ca: &str) -> Result<reqwest::Client> {
    let tls = ClientConfig::builder()
        .with_root_certificates(roots(ca)?)
        .with_no_client_auth();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .timeout(Duration::from_secs(60))
        .build()?;
    Ok(client)
}

fn roots(ca: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate?)?;
    }
    Ok(roots)
}

/// Enrols devices with one token over one connection that stays open.
pub struct Enroller {
    client: reqwest::Client,
    url: String,
    token: String,
    verifier: Arc<WebPkiServerVerifier>,
}

impl Enroller {
    /// For the server at `url`, whose certificate is checked against `ca` (PEM).
    ///
    /// # Errors
    /// If the CA can't be used.
    pub fn new(url: &str, ca: &str, token: &str) -> Result<Self> {
        let verifier = WebPkiServerVerifier::builder(Arc::new(roots(ca)?)).build()?;
        Ok(Self {
            client: client(ca)?,
            url: url.to_owned(),
            token: token.to_owned(),
            verifier,
        })
    }

    /// Enrols one, whose key and request were made before.
    ///
    /// # Errors
    /// If the server refuses; with what it said.
    pub async fn enrol(&self, key: Vec<u8>, request: &str) -> Result<Device> {
        let answer = self
            .client
            .post(format!("{}/v1/enrol", self.url))
            .json(&json!({"token": self.token, "csr": request}))
            .send()
            .await?;
        let status = answer.status();
        let identity: Value = answer.json().await.context("the answer is not JSON")?;
        ensure!(status.is_success(), "{status}: {identity}");
        let text = |name: &str| {
            identity[name]
                .as_str()
                .with_context(|| format!("no {name} in {identity}"))
        };
        let chain = CertificateDer::pem_slice_iter(text("certificate")?.as_bytes())
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::Pkcs8(key.into());
        Device::new(
            text("device")?.to_owned(),
            chain,
            key,
            Arc::clone(&self.verifier),
        )
    }
}
