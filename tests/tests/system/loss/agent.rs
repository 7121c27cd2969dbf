//! The agent as a process of this machine.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cairn_tests::site::Site;
use cairn_tests::tools;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

const START: Duration = Duration::from_secs(60);

/// An agent that can be killed and started again over the same folder.
pub struct Agent {
    dir: TempDir,
    program: PathBuf,
    log: PathBuf,
    environment: Vec<(String, OsString)>,
    child: Option<Child>,
    stream: Option<BufReader<UnixStream>>,
    killer: Option<JoinHandle<()>>,
}

impl Agent {
    /// One that will enrol at the site, with these settings beside its own. Its log bears this name.
    pub fn new(site: &Site, name: &str, settings: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("cairn-agent-").tempdir()?;
        let own = dir.path().join("data/agent");
        fs::create_dir_all(&own)?;
        fs::create_dir(dir.path().join("config"))?;
        fs::copy(site.enrol_file("loss")?, own.join("enrol.toml"))?;
        let quick = "[link]\nreconnect-min = \"100ms\"\nreconnect-max = \"1s\"\n[telemetry]\ninterval = \"5s\"\n";
        fs::write(dir.path().join("config/50-quick.toml"), quick)?;
        fs::write(dir.path().join("config/60-test.toml"), settings)?;
        let log = tools::cache_dir()?.join(format!("logs/agent-{name}.log"));
        fs::write(&log, "")?;
        Ok(Self {
            program: site.fleet().programs.agent.clone(),
            log,
            environment: Vec::new(),
            dir,
            child: None,
            stream: None,
            killer: None,
        })
    }

    /// The same, with this in its environment.
    pub fn with(mut self, environment: Vec<(String, OsString)>) -> Self {
        self.environment = environment;
        self
    }

    /// Starts it and waits until it answers. It can't set this machine's clock, whatever it is told.
    pub fn start(&mut self) -> Result<()> {
        self.reap();
        let dir = self.dir.path().to_owned();
        let at = |name: &str| dir.join(name);
        let child = Command::new(tools::require("setpriv")?)
            .args(["--pdeathsig", "KILL", "--bounding-set=-sys_time", "--"])
            .arg(&self.program)
            .arg("--data")
            .arg(at("data"))
            .arg("--run-dir")
            .arg(at("run"))
            .arg("--config-dir")
            .arg(at("config"))
            .arg("run")
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(
                fs::File::options()
                    .create(true)
                    .append(true)
                    .open(&self.log)?,
            )
            .spawn()
            .context("cannot start the agent")?;
        self.child = Some(child);
        let deadline = Instant::now() + START;
        loop {
            if let Ok(stream) = UnixStream::connect(at("run").join("agent.sock")) {
                self.stream = Some(BufReader::new(stream));
                if self.ask(&json!({"cmd": "status"})).is_ok() {
                    return Ok(());
                }
            }
            ensure!(self.runs(), "the agent ended; see {}", self.log.display());
            ensure!(
                Instant::now() < deadline,
                "the agent doesn't answer; see {}",
                self.log.display()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether its process is there; one that was killed is given a moment to be gone.
    pub fn runs(&mut self) -> bool {
        if let Some(killer) = self.killer.take() {
            let _ = killer.join();
            self.reap();
        }
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Kills it with -9 and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
        }
        self.reap();
    }

    /// Kills it with -9 after this time, whatever it does then.
    pub fn kill_soon(&mut self, after: Duration) {
        let Some(pid) = self
            .child
            .as_ref()
            .and_then(|child| Pid::from_raw(child.id() as i32))
        else {
            return;
        };
        if self.killer.is_some() {
            return;
        }
        // The child isn't waited for before this thread has ended, so the number is its own.
        self.killer = Some(thread::spawn(move || {
            let (_keep, never) = mpsc::channel::<()>();
            let _ = never.recv_timeout(after);
            let _ = kill_process(pid, Signal::KILL);
        }));
    }

    /// Ends it in good order, which takes less than its unit allows.
    pub fn end(mut self) -> Result<()> {
        let child = self.child.as_ref().context("the agent doesn't run")?;
        let pid = Pid::from_raw(child.id() as i32).context("no pid")?;
        kill_process(pid, Signal::TERM)?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.runs() {
            ensure!(Instant::now() < deadline, "the agent doesn't end");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Reports something; `Ok` means that the agent has promised to keep it.
    pub fn report(&mut self, values: &Value, priority: &str) -> Result<()> {
        let answer = self.ask(&json!({"cmd": "report", "values": values, "priority": priority}))?;
        ensure!(answer["ok"] == true, "the agent says {answer}");
        Ok(())
    }

    /// What it says of itself.
    pub fn status(&self) -> Result<Value> {
        let mut stream =
            BufReader::new(UnixStream::connect(self.dir.path().join("run/agent.sock"))?);
        exchange(&mut stream, &json!({"cmd": "status"}))
    }

    fn ask(&mut self, request: &Value) -> Result<Value> {
        exchange(self.stream.as_mut().context("not connected")?, request)
    }

    fn reap(&mut self) {
        if let Some(killer) = self.killer.take() {
            let _ = killer.join();
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.stream = None;
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.reap();
    }
}

fn exchange(stream: &mut BufReader<UnixStream>, request: &Value) -> Result<Value> {
    let mut line = request.to_string();
    line.push('\n');
    stream.get_mut().write_all(line.as_bytes())?;
    let mut answer = String::new();
    if stream.read_line(&mut answer)? == 0 {
        bail!("the agent hung up");
    }
    Ok(serde_json::from_str(&answer)?)
}
