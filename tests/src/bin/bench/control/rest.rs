//! A user's program: REST over one connection that stays open.

use anyhow::{Result, ensure};
use cairn_tests::swarm;
use reqwest::Method;
use serde_json::Value;

use super::server::Server;

/// A user's program.
pub struct Rest {
    client: reqwest::Client,
    url: String,
    token: String,
}

impl Rest {
    /// With the token of the benchmark's account.
    pub fn new(server: &Server) -> Result<Self> {
        Ok(Self {
            client: swarm::client(&server.ca)?,
            url: server.url.clone(),
            token: server.bearer()?,
        })
    }

    /// What lies there.
    pub async fn get(&self, path: &str) -> Result<Vec<u8>> {
        self.ask(Method::GET, path, None).await
    }

    /// Puts something there.
    pub async fn put(&self, path: &str, body: &Value) -> Result<()> {
        self.ask(Method::PUT, path, Some(body)).await.map(drop)
    }

    /// Removes it.
    pub async fn delete(&self, path: &str) -> Result<()> {
        self.ask(Method::DELETE, path, None).await.map(drop)
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Vec<u8>> {
        let url = format!("{}{path}", self.url);
        let mut request = self.client.request(method, url).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let body = answer.bytes().await?;
        ensure!(
            status.is_success(),
            "{path}: {status} {}",
            String::from_utf8_lossy(&body)
        );
        Ok(body.into())
    }
}
