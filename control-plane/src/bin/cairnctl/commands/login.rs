//! Logging in and out.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{cell, field};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::output::Output;
use crate::prompt;
use crate::settings::{self, Settings};

/// Options of `login`.
#[derive(Debug, clap::Args)]
pub struct Login {
    /// The server, as https://host:port
    #[arg(env = "CAIRN_SERVER")]
    url: String,
    /// The CA that the server's certificate is checked against (DATA/ca/ca.pem of the server); the system's CAs if not given
    #[arg(long, env = "CAIRN_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The account
    #[arg(long, value_name = "NAME")]
    user: String,
    /// Read the password from stdin, one line
    #[arg(long)]
    password_stdin: bool,
}

impl Login {
    /// Runs `login`.
    ///
    /// # Errors
    /// If the server can't be reached, or the password is wrong.
    pub async fn run(self, output: &Output) -> Result<()> {
        let ca = self.ca.as_deref().map(settings::read_ca).transpose()?;
        let client = Client::new(&self.url, ca.as_deref(), None)?;
        let password =
            prompt::password(&format!("Password of {}", self.user), self.password_stdin)?;
        let session = client
            .post(
                "/v1/login",
                &json!({ "account": self.user, "password": *password }),
            )
            .await?;
        let token = field(&session, "token")
            .as_str()
            .ok_or_else(|| Error::new("the server gave no token"))?;
        let kept = Settings {
            server: client.server().to_owned(),
            account: self.user.clone(),
            token: token.to_owned(),
            ca,
        };
        let path = settings::save(&kept)?;
        let value = json!({
            "server": kept.server, "account": kept.account, "role": field(&session, "role"),
            "expires": field(&session, "expires"), "config": path,
        });
        output.result(&value, || {
            let (role, until) = (cell(&session, "role"), super::moment(&session, "expires"));
            format!(
                "logged in to {} as {} ({role}) until {until}",
                kept.server, kept.account
            )
        })
    }
}

/// Ends the session that `login` kept, whatever the environment says, and forgets it.
///
/// # Errors
/// If the file can't be removed.
pub async fn logout(output: &Output) -> Result<()> {
    let ended = match settings::kept() {
        Ok(None) => return output.result(&json!({ "ended": false }), || "not logged in".into()),
        Ok(Some(kept)) => end(kept).await.is_ok(),
        Err(_) => false,
    };
    settings::forget()?;
    output.result(&json!({ "ended": ended }), || {
        if ended {
            "logged out".into()
        } else {
            "forgotten here; the server didn't end the session".into()
        }
    })
}

async fn end(kept: Settings) -> Result<Value> {
    let client = Client::new(&kept.server, kept.ca.as_deref(), Some(kept.token))?;
    client.post("/v1/logout", &json!({})).await
}

/// Runs `whoami`.
///
/// # Errors
/// If the server can't be reached, or the session has ended.
pub async fn whoami(output: &Output) -> Result<()> {
    let client = Client::open()?;
    let mut me = client.get("/v1/account").await?;
    me["server"] = client.server().into();
    output.result(&me, || {
        let scopes: Vec<_> = field(&me, "scopes")
            .as_array()
            .into_iter()
            .flatten()
            .map(crate::output::cell)
            .collect();
        crate::output::fields(&[
            ("server", client.server().to_owned()),
            ("account", cell(&me, "account")),
            ("role", cell(&me, "role")),
            ("supplier", cell(&me, "supplier")),
            ("scopes", scopes.join(" ")),
        ])
    })
}
