//! `cairn-control`, built for release, with an account.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cairn_system::Command;
use cairn_tests::programs;
use cairn_tests::server::Server as Process;
use serde_json::Value;

const PASSWORD: &str = "a bench needs a password too";

/// A running server; it ends with this.
pub struct Server {
    program: PathBuf,
    /// Its folder.
    pub data: PathBuf,
    process: Option<Process>,
    /// `https://…`.
    pub url: String,
    /// Its MQTT listener.
    pub mqtt: SocketAddr,
    https: SocketAddr,
    /// The CA in PEM.
    pub ca: String,
}

impl Server {
    /// Builds and starts one.
    pub fn start(dir: &Path) -> Result<Self> {
        Self::start_with(dir, &[])
    }

    /// The same with further arguments.
    pub fn start_with(dir: &Path, arguments: &[&str]) -> Result<Self> {
        let program = programs::of_this_machine(true)?.join("cairn-control");
        let data = dir.join("data");
        Command::new(&program)
            .args([
                "account",
                "add",
                "bench",
                "--role",
                "admin",
                "--password-stdin",
                "--data",
            ])
            .arg(&data)
            .stdin(PASSWORD)
            .run()?;
        let any: SocketAddr = "127.0.0.1:0".parse()?;
        let process = spawn(&program, &data, any, any, arguments)?;
        let (https, mqtt) = (process.ready.https, process.ready.mqtt);
        let ca = fs::read_to_string(data.join("ca/ca.pem"))?;
        let server = Self {
            program,
            data,
            process: Some(process),
            url: format!("https://localhost:{}", https.port()),
            mqtt,
            https,
            ca,
        };
        server
            .ctl()
            .args([
                "login",
                &server.url,
                "--user",
                "bench",
                "--password-stdin",
                "--ca",
            ])
            .arg(server.data.join("ca/ca.pem"))
            .stdin(PASSWORD)
            .run()?;
        Ok(server)
    }

    /// Kills it with -9 and starts it again on the same ports; returns when it is ready.
    pub fn kill_and_restart(&mut self) -> Result<()> {
        // The old one has to be gone before its ports can be taken.
        self.stop();
        self.start_again(&[])
    }

    /// Kills it with -9.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts it on the same ports after a [`stop`](Self::stop), with further options; returns when it is ready.
    pub fn start_again(&mut self, more: &[&str]) -> Result<()> {
        self.process = Some(spawn(
            &self.program,
            &self.data,
            self.https,
            self.mqtt,
            more,
        )?);
        Ok(())
    }

    /// The bearer token of the account.
    pub fn bearer(&self) -> Result<String> {
        quoted(&self.data.join("cairnctl.toml"), "token = ")
    }

    /// A token for so many devices.
    pub fn token(&self, uses: usize) -> Result<String> {
        let file = self.data.join("enrol.toml");
        self.ctl()
            .args(["token", "create", "--uses", &uses.to_string(), "--out"])
            .arg(&file)
            .run()?;
        quoted(&file, "token = ")
    }

    /// Its resident memory in bytes.
    pub fn resident(&self) -> Result<u64> {
        resident(self.process.as_ref().context("the server doesn't run")?.id)
    }

    /// How many devices are online.
    pub fn online(&self) -> Result<usize> {
        let list = self
            .ctl()
            .args(["device", "list", "--online", "--json"])
            .run()?;
        let list: Value = serde_json::from_slice(&list.stdout)?;
        let devices = list
            .as_array()
            .or_else(|| list["devices"].as_array())
            .or_else(|| list["items"].as_array());
        Ok(devices
            .with_context(|| format!("no devices in {list}"))?
            .len())
    }

    /// Sets an alarm template or channel.
    pub fn set_alarm(&self, kind: &str, name: &str, body: &Value) -> Result<()> {
        self.ctl()
            .args(["alarm", kind, "set", name, "-"])
            .stdin(body.to_string())
            .run()?;
        Ok(())
    }

    /// Stored samples of the benchmark's key.
    pub fn samples(&self) -> Result<u64> {
        self.number("SELECT count(*) FROM sample WHERE key = 'bench'")
    }

    /// A number out of the database, as another program reads it.
    pub fn number(&self, sql: &str) -> Result<u64> {
        let count = Command::new("python3")
            .args(["-c", "import sqlite3,sys; print(sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchone()[0])"])
            .arg(self.data.join("cairn.db"))
            .arg(sql)
            .run()?;
        Ok(count.text().trim().parse()?)
    }

    /// Runs `cairnctl` and gives what it printed, as JSON.
    pub fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let answer = self.ctl().arg("--json").args(arguments).run()?;
        Ok(serde_json::from_slice(&answer.stdout)?)
    }

    /// `cairnctl`, logged in.
    pub fn ctl(&self) -> Command {
        Command::new(self.program.with_file_name("cairnctl"))
            .env("CAIRNCTL_CONFIG", self.data.join("cairnctl.toml"))
    }
}

/// What stands behind a word in a line of a file.
fn quoted(file: &Path, word: &str) -> Result<String> {
    let text = fs::read_to_string(file)?;
    let found = text.lines().find_map(|line| line.strip_prefix(word));
    let found = found.with_context(|| format!("no {word}in {}", file.display()))?;
    Ok(found.trim_matches('"').to_owned())
}

/// A process's resident memory in bytes.
pub fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line
        .context("no VmRSS")?
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()?;
    Ok(kib * 1024)
}

fn spawn(
    program: &Path,
    data: &Path,
    https: SocketAddr,
    mqtt: SocketAddr,
    arguments: &[&str],
) -> Result<Process> {
    let mut command = Process::command(program, data, &data.with_extension("log"))?;
    command
        .args(["--https", &https.to_string(), "--mqtt", &mqtt.to_string()])
        .args(arguments)
        .env("RUST_LOG", "warn");
    Process::start(command).context("cairn-control")
}
