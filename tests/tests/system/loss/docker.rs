//! A Docker Engine and a registry of a test's own, in the network namespace of whoever starts them.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cairn_system::Command;
use cairn_tests::tools;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Under emulation beside it everything takes its time.
const PATIENCE: Duration = Duration::from_secs(90);
/// Where the registry listens; the namespace is the test's own.
const REGISTRY: &str = "127.0.0.1:5000";

/// Docker, and a registry.
pub struct Docker {
    engine: Option<Process>,
    registry: Option<Process>,
    disk: PathBuf,
    dir: TempDir,
}

impl Docker {
    /// Both, running and empty.
    pub fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("cairn-docker-").tempdir()?;
        let disk = dir.path().join("disk");
        fs::create_dir(&disk)?;
        // Docker's layers want a file system that isn't one of layers itself.
        let mount = ["-t", "tmpfs", "-o", "size=300m", "tmpfs"];
        Command::new("mount").args(mount).arg(&disk).run()?;
        let mut docker = Self {
            engine: None,
            registry: None,
            disk,
            dir,
        };
        docker.open_registry()?;
        docker.boot()?;
        Ok(docker)
    }

    /// Starts the engine and waits until it answers.
    pub fn boot(&mut self) -> Result<()> {
        let mut command = guarded("dockerd", "TERM")?;
        let at = |name: &str| self.dir.path().join(name);
        command.arg("--host").arg(self.host());
        command.args(["--iptables=false", "--ip6tables=false"]);
        command.arg("--data-root").arg(&self.disk);
        command.arg("--exec-root").arg(at("exec"));
        command.arg("--pidfile").arg(at("docker.pid"));
        self.engine = Some(Process::spawn(command, &at("docker.log"))?);
        let deadline = Instant::now() + PATIENCE;
        while self.ask(&["version"]).is_err() {
            let log = || fs::read_to_string(at("docker.log")).unwrap_or_default();
            ensure!(Instant::now() < deadline, "no Docker: {}", log());
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Ends the engine with all containers, as the end of a node does.
    pub fn shut_down(&mut self) {
        drop(self.engine.take());
    }

    /// From now on no image comes from anywhere.
    pub fn close_registry(&mut self) {
        drop(self.registry.take());
    }

    fn open_registry(&mut self) -> Result<()> {
        let (file, store) = (self.dir.path().join("registry.yml"), self.dir.path());
        let store = store.join("registry");
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{REGISTRY}'}}\n",
            store.display()
        );
        fs::write(&file, config)?;
        let mut command = guarded("docker-registry", "KILL")?;
        command.arg("serve").arg(&file);
        let log = self.dir.path().join("registry.log");
        self.registry = Some(Process::spawn(command, &log)?);
        Ok(())
    }

    /// Puts an image with busybox and `answer` into the registry, and nowhere else; gives what to declare.
    pub fn publish(&self) -> Result<String> {
        let root = self.dir.path().join("image");
        fs::create_dir_all(root.join("bin"))?;
        fs::copy(tools::require("busybox")?, root.join("bin/busybox"))?;
        let answer = env!("CARGO_BIN_EXE_answer");
        fs::copy(answer, root.join("bin/answer"))?;
        let libraries = Command::new("ldd").arg(answer).run()?.text();
        let words = libraries.split_ascii_whitespace();
        for library in words.filter(|word| word.starts_with('/')) {
            let to = root.join(library.trim_start_matches('/'));
            fs::create_dir_all(to.parent().context("a library without a folder")?)?;
            fs::copy(library, to)?;
        }
        let tar = self.dir.path().join("image.tar");
        let made = Command::new("tar").arg("-C").arg(&root).arg("-cf");
        made.arg(&tar).arg(".").run()?;
        let tag = format!("{REGISTRY}/edge:1");
        self.ask(&["import", &tar.display().to_string(), &tag])?;
        self.ask(&["push", "--quiet", &tag])?;
        let digest = ["image", "inspect", "--format", "{{index .RepoDigests 0}}"];
        let image = self.ask(&[&digest[..], &[&tag]].concat())?;
        self.ask(&["rmi", "--force", &tag, &image])?;
        Ok(image)
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("docker.sock")
    }

    fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Runs `docker`, and gives what it says.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        let docker = Command::new("docker").env("DOCKER_HOST", self.host());
        Ok(docker.args(arguments).run()?.text())
    }

    /// Something of a workload's container.
    pub fn inspect(&self, workload: &str, what: &str) -> Result<String> {
        self.ask(&["inspect", "--format", what, &format!("cairn-{workload}")])
    }

    /// All that a workload's container has written.
    pub fn logs(&self, workload: &str) -> Result<String> {
        self.ask(&["logs", &format!("cairn-{workload}")])
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        self.shut_down();
        let _ = Command::new("umount").arg("--lazy").arg(&self.disk).run();
    }
}

/// A process of ours; it ends in good order with this, and whatever ends the test ends it.
struct Process(Child);

impl Process {
    fn spawn(mut command: process::Command, log: &Path) -> Result<Self> {
        let log = fs::File::options().append(true).create(true).open(log)?;
        command.stdin(Stdio::null()).process_group(0);
        command.stdout(log.try_clone()?).stderr(log);
        Ok(Self(command.spawn()?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline && matches!(self.0.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn guarded(program: &str, signal: &str) -> Result<process::Command> {
    let mut command = process::Command::new(tools::require("setpriv")?);
    command.args(["--pdeathsig", signal, "--"]);
    command.arg(tools::require(program)?);
    Ok(command)
}
