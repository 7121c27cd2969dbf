//! Docker, a registry, and the agent's part that runs workloads.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_wire::workload::{Login, Workloads};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::super::docker::Socket;
use super::super::{Deps, Input, Runs, Settings, run, steer};
use crate::clock::Clock;
use crate::outbox::{self, Outbox};
use crate::shutdown::{self, Trigger};

/// Under emulation everything takes its time.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);

/// A process of ours; ended with the test, whatever happens, by its own id.
pub(super) struct Process(pub(super) Child);

impl Drop for Process {
    fn drop(&mut self) {
        // dockerd takes its containers with it only when it ends in good order.
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(command: &mut process::Command, log: &Path) -> Process {
    let log = std::fs::File::options()
        .append(true)
        .create(true)
        .open(log)
        .unwrap();
    let command = command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .process_group(0);
    Process(command.spawn().unwrap())
}

/// A disk of its own; Docker has left it when this is dropped.
struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        // A Docker that was killed has left its own mount on top.
        let unmount = || {
            let mut unmount = process::Command::new("umount");
            let unmount = unmount.arg("--lazy").arg(&self.0).stderr(Stdio::null());
            unmount.status().is_ok_and(|status| status.success())
        };
        while unmount() {}
    }
}

/// Docker, a registry, an image there, and the agent's part that runs workloads.
pub(super) struct Site {
    pub(super) dockerd: Option<Process>,
    registry: Option<Process>,
    pub(super) image: String,
    agent: Option<(Trigger, tokio::task::JoinHandle<()>)>,
    declared: watch::Sender<Option<Arc<Workloads>>>,
    pub(super) missing: watch::Sender<crate::disks::Missing>,
    pub(super) running: watch::Sender<Runs>,
    outbox: Outbox,
    settings: Settings,
    pub(super) handle: Option<steer::Handle>,
    port: u16,
    pub(super) logins: watch::Sender<Arc<Vec<Login>>>,
    disk: Option<Disk>,
    folder: tempfile::TempDir,
}

fn start_registry(folder: &Path, port: u16, more: &str) -> Process {
    let config = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n{more}",
        folder.join("registry").display()
    );
    let file = folder.join("registry.yml");
    std::fs::write(&file, config).unwrap();
    let mut command = process::Command::new("docker-registry");
    command.arg("serve").arg(&file);
    spawn(&mut command, &folder.join("registry.log"))
}

impl Site {
    pub(super) async fn start(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let registry = start_registry(folder.path(), port, "");
        let input: Input = toml::from_str(settings).unwrap();
        let mut settings = Settings::check(&input).unwrap();
        settings.socket = path("docker.sock");
        let outbox = outbox::Settings {
            commit_interval: Duration::from_millis(1),
            ..outbox::Settings::default()
        };
        let clock = Clock::manual("b", 1_800_000_000, 0);
        let mut site = Self {
            dockerd: None,
            registry: Some(registry),
            image: String::new(),
            agent: None,
            declared: watch::channel(None).0,
            missing: watch::channel(None).0,
            running: watch::channel(None).0,
            outbox: Outbox::open(&path("outbox"), &outbox, clock).unwrap(),
            settings,
            handle: None,
            port,
            logins: watch::channel(Arc::default()).0,
            disk: None,
            folder,
        };
        site.mount();
        site.start_docker().await;
        site.image = site.publish("app", 0);
        site.start_agent();
        site
    }

    /// From now on the registry wants to know who asks: `edge` with the password `very-secret`.
    pub(super) fn lock_registry(&mut self) {
        drop(self.registry.take());
        let users = self.path("users");
        let user = "edge:$2b$04$abcdefghijklmnopqrstuu5u7RSF69qTXAYJy4JX7L1LsdKua7N6.\n";
        std::fs::write(&users, user).unwrap();
        let auth = format!(
            "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            users.display()
        );
        self.registry = Some(start_registry(self.folder.path(), self.port, &auth));
    }

    /// Docker has a disk of its own.
    fn mount(&mut self) {
        let folder = self.path("docker");
        std::fs::create_dir_all(&folder).unwrap();
        let mut mount = process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=200m", "tmpfs"]);
        assert!(mount.arg(&folder).status().unwrap().success());
        self.disk = Some(Disk(folder));
    }

    /// Fills Docker's disk up to so many bytes; gives the file that does it.
    pub(super) fn fill(&self, left: u64) -> PathBuf {
        let stat = rustix::fs::statvfs(self.path("docker")).unwrap();
        let ballast = self.path("docker/ballast");
        let file = std::fs::File::create(&ballast).unwrap();
        let length = stat.f_bavail * stat.f_frsize - left;
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&file, flags, 0, length).unwrap();
        ballast
    }

    /// Puts an image with so much noise in it into the registry, and nowhere else; gives what to declare.
    pub(super) fn publish(&self, name: &str, noise: usize) -> String {
        let root = self.path(name);
        std::fs::create_dir_all(root.join("bin")).unwrap();
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
        let mut bytes = vec![0; noise];
        rand::RngCore::fill_bytes(&mut rand::thread_rng(), &mut bytes);
        std::fs::write(root.join("noise"), bytes).unwrap();
        let tar = self.path("root.tar");
        let mut made = process::Command::new("tar");
        made.arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".");
        assert!(made.status().unwrap().success());
        let tag = format!("127.0.0.1:{}/{name}:1", self.port);
        self.docker(&["import", tar.to_str().unwrap(), &tag]);
        self.docker(&["push", "--quiet", &tag]);
        let format = "{{json .RepoDigests}}";
        let digests = self.docker(&["image", "inspect", "--format", format, &tag]);
        let digests: Vec<String> = serde_json::from_str(&digests).unwrap();
        self.docker(&["rmi", "--force", &tag, &digests[0]]);
        digests[0].clone()
    }

    /// The registry's largest file: a layer.
    pub(super) fn layer(&self) -> PathBuf {
        let blobs = self.path("registry/docker/registry/v2/blobs/sha256");
        let folders = |path: PathBuf| {
            std::fs::read_dir(path)
                .unwrap()
                .map(|entry| entry.unwrap().path())
        };
        let files = folders(blobs)
            .flat_map(folders)
            .map(|folder| folder.join("data"));
        files
            .max_by_key(|file| file.metadata().unwrap().len())
            .unwrap()
    }

    /// Waits until this is told of a key.
    pub(super) async fn until_told(&self, key: &str, is_it: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut told = Vec::new();
        while !told
            .iter()
            .any(|value: &Value| value.as_str().is_some_and(&is_it))
        {
            assert!(Instant::now() < deadline, "{key}: {told:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
            told.extend(self.told(key));
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) async fn start_docker(&mut self) {
        let host = format!("unix://{}", self.settings.socket.display());
        let path = |name: &str| self.path(name);
        let mut command = process::Command::new("dockerd");
        command.args([
            "--host",
            &host,
            "--iptables=false",
            "--ip6tables=false",
            "--bridge=none",
        ]);
        command.arg("--data-root").arg(path("docker"));
        command.arg("--exec-root").arg(path("exec"));
        command.arg("--pidfile").arg(path("docker.pid"));
        self.dockerd = Some(spawn(&mut command, &path("docker.log")));
        self.until("Docker answers", |site| site.ask(&["version"]).is_some())
            .await;
    }

    pub(super) fn start_agent(&mut self) {
        let node = "test-node".to_owned();
        let socket = Socket::new(
            self.settings.socket.clone(),
            node.clone(),
            self.path("volumes"),
            self.logins.subscribe(),
        );
        let (handle, asked) = steer::pair();
        self.handle = Some(handle);
        let deps = Deps {
            settings: self.settings.clone(),
            memory: self.path("memory.json"),
            node,
            declared: self.declared.subscribe(),
            missing: self.missing.subscribe(),
            volumes: self.path("volumes"),
            running: self.running.clone(),
            status: watch::channel(Arc::default()).0,
            asked,
            outbox: self.outbox.clone(),
            clock: Clock::open(&self.path("clock"), 0),
        };
        let (trigger, shutdown) = shutdown::pair();
        self.agent = Some((trigger, tokio::spawn(run(socket, deps, shutdown))));
    }

    /// As `kill -9`: nothing gets done any more.
    pub(super) async fn kill_agent(&mut self) {
        let (_trigger, task) = self.agent.take().unwrap();
        task.abort();
        let _ = task.await;
    }

    pub(super) fn ask(&self, arguments: &[&str]) -> Option<String> {
        let output = process::Command::new("docker")
            .env(
                "DOCKER_HOST",
                format!("unix://{}", self.settings.socket.display()),
            )
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        output.status.success().then(|| text.trim().to_owned())
    }

    pub(super) fn docker(&self, arguments: &[&str]) -> String {
        self.ask(arguments)
            .unwrap_or_else(|| panic!("docker {arguments:?}"))
    }

    pub(super) fn inspect(&self, container: &str, what: &str) -> Option<String> {
        self.ask(&["inspect", "--format", what, container])
    }

    pub(super) fn runs(&self, container: &str) -> bool {
        self.inspect(container, "{{.State.Running}}").as_deref() == Some("true")
    }

    pub(super) async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            let log = || std::fs::read_to_string(self.path("docker.log")).unwrap_or_default();
            assert!(
                Instant::now() < deadline,
                "not in time: {what}\n{:?}\n{}",
                self.ask(&["ps", "-a"]),
                log()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub(super) fn workload(&self, name: &str, script: &str) -> Value {
        json!({
            "name": name,
            "owner": { "customer": "acme", "business": "vod" },
            "image": self.image,
            "command": ["/bin/busybox", "sh", "-c", script],
            "network": "none",
            "update": { "healthy_seconds": 30 },
            "stop": { "grace_seconds": 0 },
        })
    }

    pub(super) fn declare(&self, items: Value) {
        let workloads: Workloads = serde_json::from_value(items).unwrap();
        self.declared.send_replace(Some(Arc::new(workloads)));
    }

    /// The last that was told of a key.
    pub(super) fn told(&self, key: &str) -> Vec<Value> {
        let mut told = Vec::new();
        while let Some(batch) = self.outbox.next_batch(60_000) {
            told.extend(
                batch
                    .records
                    .iter()
                    .filter_map(|record| record.values.get(key).cloned()),
            );
            self.outbox.acked(batch);
        }
        told
    }
}
