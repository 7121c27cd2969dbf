//! The control plane's process: started, ready, and gone when it is dropped or the test dies.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Deserialize;

use crate::tools;

/// How long the server may take to start or to stop, beside machines under emulation.
pub const START: Duration = Duration::from_secs(60);

/// What the server prints when it is ready.
#[derive(Debug, Deserialize)]
pub struct Ready {
    /// The HTTPS listener.
    pub https: SocketAddr,
    /// The MQTT listener.
    pub mqtt: SocketAddr,
    /// The listener for health and metrics.
    pub admin: SocketAddr,
    /// The file of the CA's certificate.
    pub ca: PathBuf,
}

/// A running server.
pub struct Server {
    process: OwnedFd,
    /// Its process id.
    pub id: u32,
    /// What it printed.
    pub ready: Ready,
    /// Starts the process, reads what it prints, and waits for its end.
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// `cairn-control serve` over `data`, with its log added to `log`; listeners and names are the caller's.
    ///
    /// # Errors
    /// If the log can't be written to.
    pub fn command(program: &Path, data: &Path, log: &Path) -> Result<Command> {
        let mut command = Command::new(tools::require("setpriv")?);
        command
            // Whatever ends the test ends the server.
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(["serve", "--admin", "127.0.0.1:0", "--data"])
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::options().create(true).append(true).open(log)?);
        Ok(command)
    }

    /// The signal at the parent's death comes when the *thread* that started the process
    /// dies, so a thread of its own starts it and stays until its end.
    ///
    /// # Errors
    /// If it doesn't become ready.
    pub fn start(mut command: Command) -> Result<Self> {
        let (started, process) = mpsc::channel();
        let (said, line) = mpsc::channel();
        let thread = thread::spawn(move || {
            let child = command.spawn().map_err(anyhow::Error::from);
            let child = child.and_then(|child| {
                let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
                let pid = pid.context("the server has no process id")?;
                let process = pidfd_open(pid, PidfdFlags::empty())?;
                Ok(((process, child.id()), child))
            });
            let mut child = match child {
                Ok((process, child)) => {
                    let _ = started.send(Ok(process));
                    child
                }
                Err(error) => return drop(started.send(Err(error))),
            };
            if let Some(stdout) = child.stdout.take() {
                let mut stdout = BufReader::new(stdout);
                let mut first = String::new();
                let _ = stdout.read_line(&mut first);
                let _ = said.send(first);
                let _ = stdout.read_to_end(&mut Vec::new());
            }
            let _ = child.wait();
        });
        let (process, id) = process.recv().context("the starting thread died")??;
        let ready = line
            .recv_timeout(START)
            .context("it isn't ready in time")
            .and_then(|line| {
                serde_json::from_str(&line).with_context(|| format!("it said {line:?}"))
            });
        match ready {
            Ok(ready) => Ok(Self {
                process,
                id,
                ready,
                thread: Some(thread),
            }),
            Err(error) => {
                let _ = pidfd_send_signal(&process, Signal::KILL);
                let _ = thread.join();
                Err(error)
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
