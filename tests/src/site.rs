//! A control plane on the host: the real server in a folder of its own, an account, and
//! the operator's real program. Nodes reach it at the host's address in QEMU's user
//! network, through a [`Gate`] each for HTTPS and MQTT, so that it can be killed,
//! started again, or made to fail without a node's configuration changing.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::fleet::Fleet;
use crate::gate::{self, Gate, Protocol, Way};
use crate::server::{Ready, START, Server};
use crate::tools;

/// The host, as a machine of QEMU's user network sees it.
pub const HOST: &str = "10.0.2.2";
/// The group of all nodes that enrol at a site.
pub const GROUP: &str = "fleet";
const USER: &str = "operator";
const PASSWORD: &str = "only for tests, too";
const POLL: Duration = Duration::from_millis(300);

/// A control plane.
pub struct Site {
    /// What nodes call this machine.
    host: &'static str,
    dir: TempDir,
    fleet: Fleet,
    log: PathBuf,
    https: Gate,
    mqtt: Gate,
    server: Option<Server>,
    environment: Vec<(String, OsString)>,
    has_account: bool,
}

impl Site {
    /// A control plane that runs, with an account and the workshop's trust root; its log
    /// bears this name.
    ///
    /// # Errors
    /// If it doesn't start.
    pub fn start(fleet: &Fleet, name: &str) -> Result<Self> {
        Self::start_for(fleet, name, HOST, Vec::new())
    }

    /// The same for agents that run on this machine itself.
    ///
    /// # Errors
    /// If it doesn't start.
    pub fn local(fleet: &Fleet, name: &str) -> Result<Self> {
        Self::local_with(fleet, name, Vec::new())
    }

    /// The same, with this in the server's environment.
    ///
    /// # Errors
    /// If it doesn't start.
    pub fn local_with(
        fleet: &Fleet,
        name: &str,
        environment: Vec<(String, OsString)>,
    ) -> Result<Self> {
        Self::start_for(fleet, name, "127.0.0.1", environment)
    }

    fn start_for(
        fleet: &Fleet,
        name: &str,
        host: &'static str,
        environment: Vec<(String, OsString)>,
    ) -> Result<Self> {
        let log = tools::cache_dir()?.join(format!("logs/site-{name}.log"));
        fs::create_dir_all(log.parent().context("a log without a folder")?)?;
        fs::write(&log, "")?;
        let mut site = Self {
            host,
            dir: tempfile::Builder::new().prefix("cairn-site-").tempdir()?,
            fleet: fleet.clone(),
            log,
            https: Gate::new(Protocol::Http)?,
            mqtt: Gate::new(Protocol::Mqtt)?,
            server: None,
            environment,
            has_account: false,
        };
        site.serve()?;
        site.control(&[
            "account",
            "add",
            USER,
            "--role",
            "admin",
            "--password-stdin",
        ])
        .stdin(PASSWORD)
        .run()?;
        site.control(&["trust", "set"])
            .arg(fleet.workshop.trust(1))
            .run()?;
        site.log_in()?;
        site.has_account = true;
        Ok(site)
    }

    /// The server's data.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// How many bytes nodes got over HTTPS, as they went over the wire.
    pub fn sent(&self) -> u64 {
        self.https.sent()
    }

    /// Checks that nodes got less than `most` bytes since it was `before`.
    ///
    /// # Errors
    /// If they didn't.
    pub fn sent_less(&self, before: u64, most: u64) -> Result<()> {
        let sent = self.sent() - before;
        println!("{sent} bytes came over HTTPS");
        ensure!(sent < most, "expected less than {most} bytes, {sent} came");
        Ok(())
    }

    /// Its fleet.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Starts the server, unless it runs, and opens the gates to it.
    ///
    /// # Errors
    /// If it doesn't become ready.
    pub fn serve(&mut self) -> Result<()> {
        if self.server.is_none() {
            let server = Server::start(self.serve_command()?)
                .with_context(|| format!("cairn-control; its log is {}", self.log.display()))?;
            self.server = Some(server);
            // It listens somewhere else now, and a session's token is for one address.
            if self.has_account {
                self.log_in()?;
            }
        }
        self.open()
    }

    fn log_in(&self) -> Result<()> {
        let ca = self.ca()?.display().to_string();
        self.ctl_command(&["login", &self.url()?, "--ca", &ca, "--user", USER])?
            .arg("--password-stdin")
            .stdin(PASSWORD)
            .run()?;
        Ok(())
    }

    /// Leads the nodes to the server.
    ///
    /// # Errors
    /// If it doesn't run.
    pub fn open(&self) -> Result<()> {
        let ready = self.ready()?;
        self.https.lead(Way::Open(ready.https));
        self.mqtt.lead(Way::Open(ready.mqtt));
        Ok(())
    }

    /// Kills the server with -9, as a power cut would.
    pub fn kill(&mut self) {
        if let Some(server) = self.server.take() {
            drop(server);
        }
        self.https.lead(Way::Closed);
        self.mqtt.lead(Way::Closed);
    }

    /// Lets every request of the nodes' fail with 503, and MQTT with "server
    /// unavailable"; operators still reach the server.
    ///
    /// # Errors
    /// If the server's certificate can't be used.
    pub fn fail(&self) -> Result<()> {
        let read = |name: &str| {
            let file = self.data().join(name);
            fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
        };
        let way = gate::failing(&read(SERVER_CERTIFICATE)?, &read(SERVER_KEY)?)?;
        self.https.lead(way.clone());
        self.mqtt.lead(way);
        Ok(())
    }

    /// How many of the nodes' requests were answered with an error.
    pub fn failed(&self) -> usize {
        self.https.failed() + self.mqtt.failed()
    }

    /// Where nodes reach it.
    pub fn node_url(&self) -> String {
        format!("https://{}:{}", self.host, self.https.port())
    }

    /// Where operators reach it.
    ///
    /// # Errors
    /// If it doesn't run.
    pub fn url(&self) -> Result<String> {
        Ok(format!("https://{}", self.ready()?.https))
    }

    /// Where health and metrics are.
    ///
    /// # Errors
    /// If it doesn't run.
    pub fn admin(&self) -> Result<SocketAddr> {
        Ok(self.ready()?.admin)
    }

    /// The file of the CA's certificate.
    ///
    /// # Errors
    /// If the server doesn't run.
    pub fn ca(&self) -> Result<&Path> {
        Ok(&self.ready()?.ca)
    }

    fn ready(&self) -> Result<&Ready> {
        let server = self.server.as_ref();
        Ok(&server.context("the control plane is off")?.ready)
    }

    /// Runs `cairnctl`, and gives what it says as JSON.
    ///
    /// # Errors
    /// If it says no.
    pub fn ctl(&self, args: &[&str]) -> Result<Value> {
        let said = self.ctl_command(args)?.arg("--json").run()?.text();
        if said.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&said).with_context(|| format!("cairnctl {args:?} said {said}"))
    }

    /// Runs `cairnctl`, which must say no, and gives its reason.
    ///
    /// # Errors
    /// If it says yes.
    pub fn ctl_refuses(&self, args: &[&str]) -> Result<String> {
        match self.ctl_command(args)?.run() {
            Ok(output) => bail!("cairnctl {args:?} was to fail, but said {}", output.text()),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    /// Runs `cairnctl` with a document as the file that it reads.
    ///
    /// # Errors
    /// If it says no.
    pub fn declare(&self, args: &[&str], document: &Value) -> Result<()> {
        let command = self.ctl_command(args)?.arg("-").stdin(document.to_string());
        command
            .run()
            .map(drop)
            .with_context(|| format!("cairnctl {args:?}"))
    }

    /// `cairnctl` with these arguments, logged in.
    ///
    /// # Errors
    /// If the server doesn't run.
    pub fn ctl_command(&self, args: &[&str]) -> Result<cairn_system::Command> {
        Ok(cairn_system::Command::new(&self.fleet.programs.ctl)
            .args(args)
            .env("CAIRNCTL_CONFIG", self.dir.path().join("cairnctl.toml"))
            .env("CAIRN_SERVER", self.url()?)
            .env("CAIRN_CA", self.ca()?)
            .env("HOME", self.dir.path())
            .timeout(Duration::from_secs(120)))
    }

    /// Makes an enrolment token, whose nodes bear this tag and are of the group
    /// [`GROUP`], and gives its file.
    ///
    /// # Errors
    /// If `cairnctl` says no.
    pub fn enrol_file(&self, tag: &str) -> Result<PathBuf> {
        let out = self.dir.path().join(format!("enrol-{tag}.toml"));
        let path = out.display().to_string();
        let token = ["token", "create", "--group", GROUP, "--tag", tag];
        self.ctl(&[&token[..], &["--out", &path]].concat())?;
        Ok(out)
    }

    /// Uploads releases of the fleet's.
    ///
    /// # Errors
    /// If the control plane doesn't take one.
    pub fn upload(&self, versions: &[&str]) -> Result<()> {
        for version in versions {
            let dir = self.fleet.release(version).display().to_string();
            self.ctl(&["release", "upload", &dir])?;
        }
        Ok(())
    }

    /// Asks the control plane until `look` finds what it looks for. An answer that fails
    /// is asked for again: the server may be away on purpose.
    ///
    /// # Errors
    /// If nothing was found within that time, with what the last look saw.
    pub fn eventually<T>(
        &self,
        what: &str,
        within: Duration,
        mut look: impl FnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + within;
        loop {
            let seen = match look(self) {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => None,
                Err(error) => Some(error),
            };
            if Instant::now() >= deadline {
                let log = self.log.display();
                let message = format!(
                    "{what}: not within {} s; the server's log is {log}",
                    within.as_secs()
                );
                return Err(seen
                    .unwrap_or_else(|| anyhow::anyhow!("no"))
                    .context(message));
            }
            thread::sleep(POLL);
        }
    }

    fn control(&self, args: &[&str]) -> cairn_system::Command {
        cairn_system::Command::new(&self.fleet.programs.control)
            .args(args)
            .arg("--data")
            .arg(self.data())
            .timeout(START)
    }

    fn serve_command(&self) -> Result<Command> {
        let mut command = Server::command(&self.fleet.programs.control, &self.data(), &self.log)?;
        command
            .args(["--https", "127.0.0.1:0", "--mqtt", "127.0.0.1:0"])
            .args(["--name", self.host, "--public-url"])
            .arg(self.node_url())
            .arg("--public-mqtt")
            .arg(format!("{}:{}", self.host, self.mqtt.port()))
            .envs(self.environment.iter().cloned());
        Ok(command)
    }
}

/// Where the server keeps its own certificate, within its data.
const SERVER_CERTIFICATE: &str = "tls/server.pem";
/// And the key to it.
const SERVER_KEY: &str = "tls/server.key";
