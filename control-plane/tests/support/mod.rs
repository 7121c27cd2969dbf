//! A real `cairn-control`, devices that are enrolled with it, and clients that nobody here wrote.

#![allow(dead_code, missing_docs)]

mod mosquitto;

pub use mosquitto::{Subscriber, mosquitto};

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_control_plane::registry::enrolment::{self, NewToken};
use cairn_control_plane::registry::{attributes, credentials};
use cairn_wire::Object;
use cairn_wire::enrol::{ErrorBody, Identity};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

/// How long anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Server {
    child: Child,
    pub data: PathBuf,
    pub https: String,
    pub mqtt: String,
    pub admin: String,
    pub arguments: Vec<String>,
}

impl Server {
    pub fn start(data: &Path, arguments: &[&str]) -> Self {
        Self::start_at(
            data,
            ["127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"],
            arguments,
        )
    }

    pub fn start_at(data: &Path, at: [&str; 3], arguments: &[&str]) -> Self {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(data.with_extension("log"))
            .unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_cairn-control"))
            .args([
                "serve", "--https", at[0], "--mqtt", at[1], "--admin", at[2], "--data",
            ])
            .arg(data)
            .args(arguments)
            .env("RUST_LOG", "info,cairn_control_plane=debug")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|_| {
            let log = std::fs::read_to_string(data.with_extension("log")).unwrap_or_default();
            panic!("cairn-control said {line:?} instead of being ready:\n{log}")
        });
        let text = |key: &str| ready[key].as_str().unwrap().to_owned();
        Self {
            child,
            data: data.to_owned(),
            https: text("https"),
            mqtt: text("mqtt"),
            admin: text("admin"),
            arguments: arguments
                .iter()
                .map(|argument| (*argument).to_owned())
                .collect(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn ca(&self) -> PathBuf {
        self.data.join("ca/ca.pem")
    }

    pub fn mqtt_port(&self) -> &str {
        self.mqtt.rsplit_once(':').unwrap().1
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.https)
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and how long it took.
    pub fn stop(&mut self) -> (std::process::ExitStatus, Duration) {
        let begun = Instant::now();
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = until("the server to end", || self.child.try_wait().unwrap());
        (status, begun.elapsed())
    }

    /// Another process over the same data and ports.
    pub fn start_again(&mut self) {
        let (https, mqtt, admin) = (self.https.clone(), self.mqtt.clone(), self.admin.clone());
        let arguments = self.arguments.clone();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let data = self.data.clone();
        let new = Self::start_at(&data, [&https, &mqtt, &admin], &arguments);
        *self = new;
    }

    /// The database, as another process sees it.
    pub fn database(&self) -> rusqlite::Connection {
        let connection = rusqlite::Connection::open(self.data.join("cairn.db")).unwrap();
        connection
            .execute_batch("PRAGMA busy_timeout = 20000; PRAGMA foreign_keys = ON;")
            .unwrap();
        connection
    }

    pub fn token(&self, uses: u32, lifetime: i64) -> String {
        let mut connection = self.database();
        let tx = connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .unwrap();
        let new = NewToken {
            group: "edge".into(),
            tags: vec!["lab".into()],
            supplier: None,
            uses,
            lifetime,
            note: String::new(),
        };
        let (_, secret) = enrolment::create_token(&tx, &new).unwrap();
        tx.commit().unwrap();
        secret
    }

    pub fn access_token(&self, device: &str, token: &str) {
        let mut connection = self.database();
        let tx = connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .unwrap();
        let made = credentials::add(
            &tx,
            device,
            &credentials::Credential::AccessToken(token.into()),
        )
        .unwrap();
        assert!(made);
        tx.commit().unwrap();
    }

    pub fn count(&self, sql: &str, device: &str) -> i64 {
        self.database()
            .query_row(sql, [device], |row| row.get(0))
            .unwrap()
    }

    pub fn value(&self, device: &str, key: &str) -> Option<Value> {
        let text: Option<String> = self
            .database()
            .query_row(
                "SELECT value FROM sample WHERE device = ?1 AND key = ?2 ORDER BY ts DESC LIMIT 1",
                [device, key],
                |row| row.get(0),
            )
            .ok();
        text.map(|text| serde_json::from_str(&text).unwrap())
    }

    pub fn attribute(&self, device: &str, scope: attributes::Scope, key: &str) -> Option<Value> {
        attributes::get(&self.database(), device, scope, Some(&[key]))
            .unwrap()
            .remove(key)
    }

    pub fn http(&self, node: Option<&Node>) -> reqwest::Client {
        client(&self.ca(), node)
    }

    pub async fn enrol(&self, token: &str, name: &str) -> Node {
        let key = rcgen::KeyPair::generate().unwrap();
        let answer = self.try_enrol(token, name, &key).await;
        Node::new(&self.data.with_extension("nodes"), key, answer.unwrap())
    }

    pub async fn try_enrol(
        &self,
        token: &str,
        name: &str,
        key: &rcgen::KeyPair,
    ) -> Result<Identity, (u16, ErrorBody)> {
        let body = json!({ "token": token, "csr": csr(key), "name": name, "facts": { "hardware": "test" } });
        identity(
            self.http(None)
                .post(self.url("/v1/enrol"))
                .json(&body)
                .send()
                .await
                .unwrap(),
        )
        .await
    }

    pub async fn renew(
        &self,
        device: &str,
        key: &rcgen::KeyPair,
    ) -> Result<Identity, (u16, ErrorBody)> {
        let body = json!({ "device": device, "csr": csr(key) });
        identity(
            self.http(None)
                .post(self.url("/v1/renew"))
                .json(&body)
                .send()
                .await
                .unwrap(),
        )
        .await
    }

    /// Makes an administrator and gives a client that logged in as one, with the token.
    pub async fn operator(&self) -> Operator {
        let mut add = Command::new(env!("CARGO_BIN_EXE_cairn-control"))
            .args([
                "account",
                "add",
                "root",
                "--role",
                "admin",
                "--password-stdin",
                "--data",
            ])
            .arg(&self.data)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        add.stdin
            .take()
            .unwrap()
            .write_all(b"a long enough password\n")
            .unwrap();
        assert!(add.wait().unwrap().success());
        let http = self.http(None);
        let body = json!({ "account": "root", "password": "a long enough password" });
        let answer = http
            .post(self.url("/v1/login"))
            .json(&body)
            .send()
            .await
            .unwrap();
        assert!(
            answer.status().is_success(),
            "{}",
            answer.text().await.unwrap()
        );
        let answer: Value = answer.json().await.unwrap();
        Operator {
            http,
            token: answer["token"].as_str().unwrap().to_owned(),
            base: self.url(""),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Operator {
    http: reqwest::Client,
    token: String,
    base: String,
}

impl Operator {
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Without connections to a server that is gone.
    pub fn reconnect(&mut self, server: &Server) {
        self.http = server.http(None);
    }

    pub async fn send(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.base))
            .bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or(Value::Null))
    }
}

async fn identity(answer: reqwest::Response) -> Result<Identity, (u16, ErrorBody)> {
    let status = answer.status().as_u16();
    if status == 200 {
        Ok(answer.json().await.unwrap())
    } else {
        Err((status, answer.json().await.unwrap()))
    }
}

pub fn csr(key: &rcgen::KeyPair) -> String {
    let mut params = rcgen::CertificateParams::default();
    // The server must not believe this.
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "somebody-else");
    params.serialize_request(key).unwrap().pem().unwrap()
}

/// An enrolled device.
pub struct Node {
    pub id: String,
    pub identity: Identity,
    pub key: rcgen::KeyPair,
    pub certificate: PathBuf,
    pub key_file: PathBuf,
}

impl Node {
    pub fn new(folder: &Path, key: rcgen::KeyPair, identity: Identity) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let tail: [u8; 4] = rand::random();
        let certificate = folder.join(format!("{}-{}.pem", identity.device, hex::encode(tail)));
        let key_file = certificate.with_extension("key");
        std::fs::write(&certificate, &identity.certificate).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        Self {
            id: identity.device.clone(),
            identity,
            key,
            certificate,
            key_file,
        }
    }

    /// A mosquitto client with this device's certificate.
    pub fn mosquitto(&self, program: &str, server: &Server) -> Command {
        let mut command = mosquitto(program, server);
        command
            .arg("--cert")
            .arg(&self.certificate)
            .arg("--key")
            .arg(&self.key_file);
        command
    }

    pub fn publish(&self, server: &Server, topic: &str, message: &str) -> bool {
        let output = self
            .mosquitto("mosquitto_pub", server)
            .args(["-q", "1", "-t", topic, "-m", message])
            .output()
            .unwrap();
        output.status.success()
    }

    pub fn subscribe(&self, server: &Server, topics: &[&str]) -> Subscriber {
        let mut command = self.mosquitto("mosquitto_sub", server);
        for topic in topics {
            command.args(["-t", topic]);
        }
        Subscriber::start(command)
    }
}

/// Asks until there is an answer.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn client(ca: &Path, node: Option<&Node>) -> reqwest::Client {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls(ca, node))
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .unwrap()
}

pub fn tls(ca: &Path, node: Option<&Node>) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(der(&std::fs::read_to_string(ca).unwrap()))
        .unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(roots);
    match node {
        None => builder.with_no_client_auth(),
        Some(node) => builder
            .with_client_auth_cert(
                vec![der(&node.identity.certificate)],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(node.key.serialize_der())),
            )
            .unwrap(),
    }
}

pub fn der(text: &str) -> CertificateDer<'static> {
    CertificateDer::from(pem::parse(text).unwrap().into_contents())
}

pub fn object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        other => panic!("{other} is no object"),
    }
}
