//! With a real Docker Engine and a real registry on loopback. Each test asks Docker itself what came of it.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_wire::workload::{Status, WorkloadState, Workloads};
use cairn_workload::Command;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::docker::Socket;
use super::{Deps, Input, Running, Settings, run, steer};
use crate::clock::Clock;
use crate::outbox::{self, Outbox};
use crate::shutdown::{self, Trigger};

/// Under emulation everything takes its time.
const PATIENCE: Duration = Duration::from_secs(90);

/// A process of ours; ended with the test, whatever happens, by its own id.
struct Process(Child);

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

/// Docker, a registry, an image there, and the agent's part that runs workloads.
struct Site {
    dockerd: Option<Process>,
    _registry: Process,
    image: String,
    agent: Option<(Trigger, tokio::task::JoinHandle<()>)>,
    declared: watch::Sender<Option<Arc<Workloads>>>,
    running: watch::Sender<Arc<Vec<Running>>>,
    outbox: Outbox,
    settings: Settings,
    handle: Option<steer::Handle>,
    folder: tempfile::TempDir,
}

impl Site {
    async fn start(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
            path("registry").display()
        );
        std::fs::write(path("registry.yml"), config).unwrap();
        let registry = spawn(
            process::Command::new("docker-registry")
                .arg("serve")
                .arg(path("registry.yml")),
            &path("registry.log"),
        );
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
            _registry: registry,
            image: String::new(),
            agent: None,
            declared: watch::channel(None).0,
            running: watch::channel(Arc::default()).0,
            outbox: Outbox::open(&path("outbox"), &outbox, clock).unwrap(),
            settings,
            handle: None,
            folder,
        };
        site.start_docker().await;
        let root = site.path("root");
        std::fs::create_dir_all(root.join("bin")).unwrap();
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
        let tar = site.path("root.tar");
        let made = process::Command::new("tar")
            .arg("-C")
            .arg(&root)
            .arg("-cf")
            .arg(&tar)
            .arg(".")
            .status();
        assert!(made.unwrap().success());
        let tag = format!("127.0.0.1:{port}/app:1");
        site.docker(&["import", tar.to_str().unwrap(), &tag]);
        site.docker(&["push", "--quiet", &tag]);
        let digests = site.docker(&[
            "image",
            "inspect",
            "--format",
            "{{json .RepoDigests}}",
            &tag,
        ]);
        let digests: Vec<String> = serde_json::from_str(&digests).unwrap();
        site.image.clone_from(&digests[0]);
        site.docker(&["rmi", "--force", &tag, &digests[0]]);
        site.start_agent();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn start_docker(&mut self) {
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

    fn start_agent(&mut self) {
        let node = "test-node".to_owned();
        let socket = Socket::new(
            self.settings.socket.clone(),
            node.clone(),
            self.path("volumes"),
        );
        let (handle, asked) = steer::pair();
        self.handle = Some(handle);
        let deps = Deps {
            settings: self.settings.clone(),
            memory: self.path("memory.json"),
            node,
            declared: self.declared.subscribe(),
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
    async fn kill_agent(&mut self) {
        let (_trigger, task) = self.agent.take().unwrap();
        task.abort();
        let _ = task.await;
    }

    fn ask(&self, arguments: &[&str]) -> Option<String> {
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

    fn docker(&self, arguments: &[&str]) -> String {
        self.ask(arguments)
            .unwrap_or_else(|| panic!("docker {arguments:?}"))
    }

    fn inspect(&self, container: &str, what: &str) -> Option<String> {
        self.ask(&["inspect", "--format", what, container])
    }

    fn runs(&self, container: &str) -> bool {
        self.inspect(container, "{{.State.Running}}").as_deref() == Some("true")
    }

    async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
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

    fn workload(&self, name: &str, script: &str) -> Value {
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

    fn declare(&self, items: Value) {
        let workloads: Workloads = serde_json::from_value(items).unwrap();
        self.declared.send_replace(Some(Arc::new(workloads)));
    }

    /// The last that was told of a key.
    fn told(&self, key: &str) -> Vec<Value> {
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

const SLEEP: &str = "exec busybox sleep 1000";

#[tokio::test]
async fn it_runs_within_its_limits_and_out_of_memory_is_told() {
    let site = Site::start("").await;
    let mut web = site.workload("web", SLEEP);
    web["limits"] = json!({ "memory": 20 << 20, "cpus": 0.5, "pids": 7 });
    web["volumes"] = json!([{ "volume": "cache", "target": "/cache" }]);
    // Docker notes it at the end, if the word came before: so the first process outlives the greedy one.
    let mut greedy = site.workload("greedy", "busybox tail /dev/zero; busybox sleep 2; exit 9");
    greedy["limits"] = json!({ "memory": 8 << 20 });
    greedy["restart"] = json!("never");
    site.declare(json!([web, greedy, { "name": "wrong" }]));
    site.until("web runs", |site| site.runs("cairn-web")).await;
    let host = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}} {{.HostConfig.Privileged}}";
    assert_eq!(
        site.inspect("cairn-web", host).unwrap(),
        "20971520 500000000 7 [ALL] [no-new-privileges] false"
    );
    // The kernel has them, too.
    let limit = site.docker(&[
        "exec",
        "cairn-web",
        "/bin/busybox",
        "cat",
        "/sys/fs/cgroup/pids/pids.max",
    ]);
    assert_eq!(limit, "7");
    assert!(site.path("volumes/web/cache").is_dir());
    let labels = "{{index .Config.Labels \"cairn.workload\"}} {{index .Config.Labels \"cairn.customer\"}} {{index .Config.Labels \"cairn.business\"}}";
    assert_eq!(site.inspect("cairn-web", labels).unwrap(), "web acme vod");
    site.until("greedy ended", |site| {
        site.inspect("cairn-greedy", "{{.State.OOMKilled}}")
            .as_deref()
            == Some("true")
    })
    .await;
    let running = site.running.subscribe();
    site.until("it is known what runs", |_| {
        running
            .borrow()
            .iter()
            .map(|one| one.workload.as_str())
            .eq(["web"])
    })
    .await;
    let namespace = site.inspect("cairn-web", "{{.NetworkSettings.SandboxKey}}");
    assert_eq!(running.borrow()[0].namespace.to_str(), namespace.as_deref());
    let mut reasons = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while !reasons
        .iter()
        .any(|reason: &Value| reason.as_str().unwrap_or("").contains("out of memory"))
    {
        assert!(Instant::now() < deadline, "{reasons:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        reasons.extend(site.told("workload.greedy.reason"));
    }
}

#[tokio::test]
async fn a_sick_update_gives_way_to_the_one_before_even_if_the_agent_is_killed() {
    let mut site = Site::start("").await;
    site.docker(&[
        "run",
        "--detach",
        "--name",
        "theirs",
        "--network",
        "none",
        &site.image,
        "/bin/busybox",
        "sleep",
        "1000",
    ]);
    site.declare(json!([site.workload("web", SLEEP)]));
    site.until("web runs", |site| site.runs("cairn-web")).await;
    let first = site.inspect("cairn-web", "{{.Id}}").unwrap();
    let mut sick = site.workload("web", "exec busybox sleep 2000");
    sick["health"] = json!({ "command": ["/bin/busybox", "false"], "interval_seconds": 1, "timeout_seconds": 1, "retries": 3 });
    site.declare(json!([sick]));
    site.until("the new one is on trial", |site| {
        site.runs("cairn-web")
            && !site.runs("cairn-web.previous")
            && site.inspect("cairn-web", "{{.Id}}").as_ref() != Some(&first)
    })
    .await;
    site.kill_agent().await;
    site.start_agent();
    site.until("the one before runs again", |site| {
        site.runs("cairn-web") && site.inspect("cairn-web", "{{.Id}}").as_ref() == Some(&first)
    })
    .await;
    assert!(site.inspect("cairn-web.previous", "{{.Id}}").is_none());
    // A good one takes its place.
    site.declare(json!([site.workload("web", "exec busybox sleep 3000")]));
    site.until("the good one has proved itself", |site| {
        site.runs("cairn-web")
            && site.inspect("cairn-web", "{{.Id}}").as_ref() != Some(&first)
            && site.inspect(&first, "{{.Id}}").is_none()
    })
    .await;
    // Docker is killed, and comes back.
    let mut dockerd = site.dockerd.take().unwrap();
    dockerd.0.kill().unwrap();
    dockerd.0.wait().unwrap();
    drop(dockerd);
    // Its containerd died with it, and nobody may have reaped it: dockerd would take that for alive.
    let _ = std::fs::remove_file(site.path("exec/containerd/containerd.pid"));
    site.start_docker().await;
    site.until("it runs again", |site| site.runs("cairn-web"))
        .await;
    // Nothing is declared any more; only ours goes.
    site.declare(json!([]));
    site.until("it is gone", |site| {
        site.inspect("cairn-web", "{{.Id}}").is_none()
    })
    .await;
    assert!(site.inspect("theirs", "{{.Id}}").is_some());
}

#[tokio::test]
async fn what_is_ordered_for_one_is_done_before_it_is_answered() {
    let mut site = Site::start("").await;
    let script = "echo begun; exec busybox sleep 1000";
    site.declare(json!([site.workload("web", script)]));
    site.until("web runs", |site| site.runs("cairn-web")).await;
    let web = || "web".parse().unwrap();
    let state = |status: &Status| status.state;
    let handle = site.handle.clone().unwrap();
    let stopped = handle.steer(web(), Command::Stop).await.unwrap();
    assert_eq!(state(&stopped), WorkloadState::Stopped);
    assert!(!site.runs("cairn-web"));
    // It stays so, whoever comes back.
    site.kill_agent().await;
    site.start_agent();
    let handle = site.handle.clone().unwrap();
    site.until("the agent has looked", |site| {
        site.told("workload.web.state").contains(&json!("stopped"))
    })
    .await;
    assert!(!site.runs("cairn-web"));
    let started = handle.steer(web(), Command::Start).await.unwrap();
    assert_eq!(state(&started), WorkloadState::Running);
    let at = |site: &Site| site.inspect("cairn-web", "{{.Id}} {{.State.StartedAt}}");
    let before = at(&site).unwrap();
    handle.steer(web(), Command::Restart).await.unwrap();
    let after = at(&site).unwrap();
    assert_eq!(before[..64], after[..64], "the same Docker container");
    assert_ne!(before, after);
    handle.steer(web(), Command::Redeploy).await.unwrap();
    assert_ne!(at(&site).unwrap()[..64], after[..64]);
    assert!(site.inspect("cairn-web.previous", "{{.Id}}").is_none());
    let lines = handle.logs(web(), 10).await.unwrap();
    assert!(
        lines.len() == 1 && lines[0].ends_with("Z begun"),
        "{lines:?}"
    );
    let nobody = handle.steer("other".parse().unwrap(), Command::Start).await;
    assert_eq!(nobody.unwrap_err(), "there is no workload other here");
    // One that can't run says why.
    site.declare(json!([site.workload("web", script), {
        "name": "bad", "owner": { "customer": "acme", "business": "vod" }, "image": site.image, "network": "none",
        "command": ["/no/such/program"],
    }]));
    site.until("bad is known", |site| {
        !site.told("workload.bad.state").is_empty()
    })
    .await;
    let failed = handle
        .steer("bad".parse().unwrap(), Command::Start)
        .await
        .unwrap_err();
    assert!(
        failed.starts_with("workload bad is failed: ") && failed.contains("/no/such/program"),
        "{failed}"
    );
}
