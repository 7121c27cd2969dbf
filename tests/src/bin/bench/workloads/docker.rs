//! A Docker Engine and a registry of our own, with an image there.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cairn_system::Command;
use cairn_tests::tools;
use serde_json::Value;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process; ended by its own id.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(program: &str, arguments: &[String], log: &Path) -> Result<Process> {
    let log = fs::File::create(log)?;
    let child = std::process::Command::new(tools::require(program)?)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    Ok(Process(child))
}

/// Both; they end with this.
pub struct Docker {
    /// Docker's socket.
    pub socket: PathBuf,
    folder: PathBuf,
    port: u16,
    events: Receiver<Event>,
    /// In the order of their end.
    _processes: [Process; 3],
}

/// What Docker told of a container.
struct Event {
    what: String,
    container: String,
    /// In seconds since 1970.
    at: f64,
}

impl Docker {
    /// Starts both, with a bridge `edge`.
    pub fn start(folder: &Path) -> Result<Self> {
        let path = |name: &str| folder.join(name);
        let shown = |name: &str| path(name).display().to_string();
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        fs::write(
            path("registry.yml"),
            format!(
                "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
                shown("registry")
            ),
        )?;
        let registry = ["serve".to_owned(), shown("registry.yml")];
        let registry = spawn("docker-registry", &registry, &path("registry.log"))?;
        let socket = path("docker.sock");
        let mut arguments = vec![format!("--host=unix://{}", socket.display())];
        for (option, file) in [
            ("data-root", "docker"),
            ("exec-root", "exec"),
            ("pidfile", "docker.pid"),
        ] {
            arguments.push(format!("--{option}={}", shown(file)));
        }
        for option in ["--iptables=false", "--ip6tables=false", "--bridge=none"] {
            arguments.push(option.to_owned());
        }
        let dockerd = spawn("dockerd", &arguments, &path("docker.log"))?;
        let answers = || docker(&socket).arg("version").run().is_ok();
        let deadline = Instant::now() + PATIENCE;
        while !answers() {
            let log = path("docker.log");
            ensure!(
                Instant::now() < deadline,
                "Docker doesn't answer; see {}",
                log.display()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        let (teller, events) = listen(&socket)?;
        let docker = Self {
            socket,
            folder: folder.to_owned(),
            port,
            events,
            _processes: [teller, dockerd, registry],
        };
        docker.run(&[
            "network",
            "create",
            "--driver=bridge",
            "--opt=com.docker.network.bridge.name=edge",
            "--subnet=10.99.0.0/22",
            "edge",
        ])?;
        Ok(docker)
    }

    /// `docker` with these arguments; what it says.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = docker(&self.socket).args(arguments).run()?;
        Ok(output.text().trim().to_owned())
    }

    /// Puts an image of busybox and so much noise into the registry; gives its name with its digest. It isn't here afterwards.
    pub fn publish(&self, name: &str, noise: usize) -> Result<String> {
        let root = self.folder.join(name);
        fs::create_dir_all(root.join("bin"))?;
        fs::copy(tools::require("busybox")?, root.join("bin/busybox"))?;
        let mut random = fs::File::open("/dev/urandom")?;
        let mut into = fs::File::create(root.join("noise"))?;
        std::io::copy(
            &mut std::io::Read::take(&mut random, noise as u64),
            &mut into,
        )?;
        let tar = self.folder.join("root.tar");
        Command::new("tar")
            .arg("-C")
            .arg(&root)
            .arg("-cf")
            .arg(&tar)
            .arg(".")
            .run()?;
        let tag = format!("127.0.0.1:{}/{name}:1", self.port);
        self.run(&["import", &tar.display().to_string(), &tag])?;
        self.run(&["push", "--quiet", &tag])?;
        let digests = self.run(&[
            "image",
            "inspect",
            "--format",
            "{{json .RepoDigests}}",
            &tag,
        ])?;
        let digests: Vec<String> = serde_json::from_str(&digests)?;
        let digest = digests.into_iter().next().context("no digest")?;
        self.run(&["rmi", "--force", &tag, &digest])?;
        Ok(digest)
    }

    /// Waits until Docker tells this of a container; gives when it was, in seconds since 1970.
    pub fn until(&self, what: &str, container: &str) -> Result<f64> {
        loop {
            let (found, at) = self.next(what).with_context(|| container.to_owned())?;
            if found == container {
                return Ok(at);
            }
        }
    }

    /// Waits until Docker tells this of any container; gives which, and when it was.
    pub fn next(&self, what: &str) -> Result<(String, f64)> {
        loop {
            let Ok(event) = self.events.recv_timeout(PATIENCE) else {
                bail!("no {what}: {}", self.run(&["ps", "--all"])?);
            };
            if event.what == what {
                return Ok((event.container, event.at));
            }
        }
    }

    /// The proportional memory of the engine and what belongs to it, in bytes.
    pub fn memory(&self) -> Result<u64> {
        let mut sum = 0;
        for entry in fs::read_dir("/proc")? {
            let folder = entry?.path();
            let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
            if ["dockerd", "containerd", "containerd-shim"].contains(&name.trim()) {
                sum += super::proportional(&folder).unwrap_or(0);
            }
        }
        Ok(sum)
    }
}

fn docker(socket: &Path) -> Command {
    Command::new("docker").env("DOCKER_HOST", format!("unix://{}", socket.display()))
}

/// What Docker tells of containers, from now on.
fn listen(socket: &Path) -> Result<(Process, Receiver<Event>)> {
    let mut child = std::process::Command::new(tools::require("docker")?)
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .args([
            "events",
            "--since=1s",
            "--filter=type=container",
            "--format={{json .}}",
        ])
        .stdout(Stdio::piped())
        .spawn()?;
    let told = BufReader::new(child.stdout.take().context("no output")?);
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in told.lines().map_while(Result::ok) {
            let Ok(event) = serde_json::from_str::<Value>(&line) else {
                continue;
            };
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let event = Event {
                what: text(&event["Action"]),
                container: text(&event["Actor"]["Attributes"]["name"]),
                at: event["timeNano"].as_f64().unwrap_or(f64::NAN) / 1e9,
            };
            if sender.send(event).is_err() {
                return;
            }
        }
    });
    Ok((Process(child), receiver))
}
