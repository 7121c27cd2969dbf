//! A server of its own for each test, with an administrator.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::support::Server;

pub const PASSWORD: &str = "correct horse battery";

pub struct Site {
    pub folder: tempfile::TempDir,
    server: Server,
    pub url: String,
    http: reqwest::Client,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
}

impl Answer {
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

impl Site {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(&folder.path().join("data"), &[]);
        let (url, http) = (server.url(""), server.http(None));
        let site = Self {
            folder,
            server,
            url,
            http,
        };
        site.add_account("root", "admin");
        site
    }

    pub fn data(&self) -> PathBuf {
        self.server.data.clone()
    }

    /// URLs of its other listeners: MQTT, and the one for admins.
    pub fn others(&self) -> (String, String) {
        let url = |at| format!("https://{at}");
        (url(&self.server.mqtt), url(&self.server.admin))
    }

    /// Memory of the server in KiB.
    pub fn memory(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.server.pid())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Ends the server as a power cut would, and starts it again.
    pub fn kill_and_start(&mut self) {
        self.server.kill();
        self.server.start_again();
        // Without connections to the one that is gone.
        self.http = self.server.http(None);
    }

    /// Runs `cairn-control` on the data, while the server runs.
    pub fn control(&self, arguments: &[&str], stdin: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cairn-control"))
            .args(arguments)
            .arg("--data")
            .arg(self.data())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // One that refuses its arguments doesn't read.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        child.wait_with_output().unwrap()
    }

    pub fn add_account(&self, name: &str, role: &str) {
        let done = self.control(
            &["account", "add", name, "--role", role, "--password-stdin"],
            PASSWORD,
        );
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }

    pub fn set_trust(&self, file: &Path) {
        let done = self.control(&["trust", "set", file.to_str().unwrap()], "");
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }

    pub fn request(&self, method: Method, path: &str, token: Option<&str>) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let status = response.status();
        let bytes = response.bytes().await.unwrap();
        Answer {
            status,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        }
    }

    pub async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Value,
    ) -> Answer {
        self.send(self.request(method, path, token).json(&body))
            .await
    }

    pub async fn get(&self, path: &str, token: &str) -> Answer {
        self.send(self.request(Method::GET, path, Some(token)))
            .await
    }

    pub async fn post(&self, path: &str, token: &str, body: Value) -> Answer {
        self.call(Method::POST, path, Some(token), body).await
    }

    pub async fn login(&self, account: &str) -> String {
        let body = json!({ "account": account, "password": PASSWORD });
        let answer = self.call(Method::POST, "/v1/login", None, body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["token"].as_str().unwrap().to_owned()
    }

    /// An API token with these scopes.
    pub async fn token(&self, session: &str, scopes: &[&str]) -> String {
        let answer = self
            .post("/v1/api-tokens", session, json!({ "scopes": scopes }))
            .await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.body["token"].as_str().unwrap().to_owned()
    }

    /// A device, as an enrolment would make it.
    pub async fn device(&self, session: &str, name: &str) -> String {
        self.enrol(session, name).await.0
    }

    /// A device, and a client that shows its certificate.
    pub async fn enrol(&self, session: &str, name: &str) -> (String, reqwest::Client) {
        self.enrol_by(session, json!({ "tags": ["t"] }), name).await
    }

    /// The same by a token of the caller's wishes.
    pub async fn enrol_by(
        &self,
        session: &str,
        token: Value,
        name: &str,
    ) -> (String, reqwest::Client) {
        let made = self.post("/v1/enrolment-tokens", session, token).await;
        let token = made.body["token"].as_str().unwrap();
        let node = self.server.enrol(token, name).await;
        let http = self.server.http(Some(&node));
        (node.id, http)
    }

    pub async fn audit(&self, session: &str) -> Vec<(String, String, String)> {
        let answer = self.get("/v1/audit?limit=1000", session).await;
        let text = |entry: &Value, name: &str| entry[name].as_str().unwrap().to_owned();
        let items = answer.body["items"].as_array().unwrap();
        items
            .iter()
            .map(|e| (text(e, "who"), text(e, "action"), text(e, "subject")))
            .collect()
    }
}
