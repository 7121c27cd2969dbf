//! Workloads by a real agent and a real Docker Engine: from the order to the running container, against `docker run` by
//! hand; and what the agent needs beside fifty of them.
//!
//! All of it has a network, mounts and process ids of its own, which end with it.

mod docker;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use cairn_system::Command;
use cairn_tests::{programs, tools};
use serde_json::{Value, json};

use super::agent::{self, Running, processor_time};
use super::control::rest::Rest;
use super::control::server::{Server, resident};
use docker::Docker;

/// The word by which this program calls itself.
pub const INSIDE: &str = "workloads-inside";

/// Rounds with the image there, and with one that has to be fetched.
const ROUNDS: [usize; 2] = [25, 11];
/// What a container does.
const SLEEP: [&str; 3] = ["/bin/busybox", "sleep", "100000"];
/// What it does so that there is something to meter: nobody listens, and each answer is a refusal.
const TALK: [&str; 4] = [
    "/bin/busybox",
    "sh",
    "-c",
    "while :; do /bin/busybox nc -w 1 10.99.0.1 9; /bin/busybox sleep 10; done",
];
/// What the image has beside busybox.
const NOISE: usize = 16 << 20;
/// Containers beside which the agent is watched.
const CONTAINERS: usize = 50;
/// How long; a slot of traffic ends meanwhile.
const WATCHED: Duration = Duration::from_secs(320);
const MIB: f64 = 1024.0 * 1024.0;

/// Measures it.
pub fn run() -> Result<()> {
    // Built where there is a network.
    programs::of_a_node("agent")?;
    programs::of_this_machine(true)?;
    let status = std::process::Command::new(tools::require("unshare")?)
        .args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .arg(std::env::current_exe()?)
        .arg(INSIDE)
        .status()?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}

/// The same, inside.
pub fn inside() -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Command::new("ip").args(["link", "set", "lo", "up"]).run()?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(measure())
}

async fn measure() -> Result<()> {
    println!("## Workloads: the agent of a node, Docker's engine, a registry on the loopback\n");
    let dir = super::folder("workloads")?;
    // Sockets have short names.
    let short = tempfile::tempdir()?;
    let docker = Docker::start(short.path())?;
    let image = docker.publish("app", NOISE)?;
    fs::create_dir_all(dir.join("config"))?;
    fs::write(
        dir.join("config/bench.toml"),
        format!(
            "[workloads]\nsocket = \"{}\"\nvolumes = \"{}\"\n",
            docker.socket.display(),
            dir.join("volumes").display()
        ),
    )?;
    let server = Server::start(&dir)?;
    let program = programs::of_a_node("agent")?.join("cairn-agent");
    let agent = agent::start(&server, &program, &dir)?;
    let devices = server.ctl().args(["device", "list", "--json"]).run()?;
    let devices: Value = serde_json::from_slice(&devices.stdout)?;
    let devices = devices.get("items").unwrap_or(&devices);
    let device = devices[0]["id"].as_str().context("no device")?.to_owned();
    let site = Site {
        rest: Rest::new(&server)?,
        docker,
        device,
        image,
    };
    let [present, fetched] = ROUNDS;
    site.docker.run(&["pull", "--quiet", &site.image])?;
    site.compare("the image is there", present, false).await?;
    site.compare(
        "the image is fetched, 18 MB from the loopback",
        fetched,
        true,
    )
    .await?;
    site.beside(&agent).await
}

/// The parts of it.
struct Site {
    rest: Rest,
    docker: Docker,
    device: String,
    image: String,
}

impl Site {
    /// In turn, medians.
    async fn compare(&self, what: &str, rounds: usize, fetched: bool) -> Result<()> {
        let (mut ours, mut hand) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let name = format!("w{round}");
            if fetched {
                self.docker.run(&["rmi", "--force", &self.image])?;
            }
            let began = now();
            self.declare(&name, &SLEEP).await?;
            ours.push(self.docker.until("start", &format!("cairn-{name}"))? - began);
            self.rest.delete(&format!("/v1/workloads/{name}")).await?;
            self.docker.until("destroy", &format!("cairn-{name}"))?;

            if fetched {
                self.docker.run(&["rmi", "--force", &self.image])?;
            }
            let began = now();
            self.by_hand("hand")?;
            hand.push(self.docker.until("start", "hand")? - began);
            self.docker.run(&["rm", "--force", "hand"])?;
        }
        let (ours, hand) = (super::median(&mut ours), super::median(&mut hand));
        println!("to the running container, {what}; {rounds} rounds in turn; medians");
        println!(
            "  from the order to the control plane       {:7.0} ms   ratio {:.2} (goal 1.20)",
            1000.0 * ours,
            ours / hand
        );
        println!(
            "  docker run by hand                        {:7.0} ms",
            1000.0 * hand
        );
        Ok(())
    }

    async fn declare(&self, name: &str, command: &[&str]) -> Result<()> {
        let workload = json!({
            "place": { "on": { "devices": [self.device] } },
            "owner": { "customer": "acme", "business": "vod" },
            "image": self.image,
            "command": command,
            "network": { "named": "edge" },
            "stop": { "grace_seconds": 0 },
        });
        self.rest
            .put(&format!("/v1/workloads/{name}"), &workload)
            .await
    }

    /// As the agent does it.
    fn by_hand(&self, name: &str) -> Result<()> {
        let options = [
            "run",
            "--detach",
            "--network=edge",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
            "--pids-limit=1024",
            "--restart=unless-stopped",
            "--log-driver=local",
            "--log-opt=max-size=8m",
            "--log-opt=max-file=2",
        ];
        let mut arguments = options.to_vec();
        let name = format!("--name={name}");
        arguments.extend([&name, &*self.image]);
        arguments.extend(SLEEP);
        self.docker.run(&arguments).map(drop)
    }

    /// What the agent needs beside many containers.
    async fn beside(&self, agent: &Running) -> Result<()> {
        let process = Path::new("/proc").join(agent.id().to_string());
        let before = (resident(agent.id())?, proportional(&process)?);
        let names: Vec<String> = (0..CONTAINERS).map(|n| format!("idle-{n}")).collect();
        let began = now();
        for name in &names {
            self.declare(name, &TALK).await?;
        }
        let mut last = began;
        let mut waited: std::collections::BTreeSet<String> =
            names.iter().map(|name| format!("cairn-{name}")).collect();
        while !waited.is_empty() {
            let (container, at) = self.docker.next("start")?;
            waited.remove(&container);
            last = at;
        }
        println!(
            "{CONTAINERS} declared one after another, all run after {:7.1} s",
            last - began
        );
        let (mut most, mut most_proportional) = (0, 0);
        let (watched, used) = (Instant::now(), processor_time(agent.id())?);
        while watched.elapsed() < WATCHED {
            tokio::time::sleep(Duration::from_secs(2)).await;
            most = most.max(resident(agent.id())?);
            most_proportional = most_proportional.max(proportional(&process)?);
        }
        let used = processor_time(agent.id())? - used;
        let seconds = watched.elapsed().as_secs_f64();
        println!(
            "beside {CONTAINERS} running containers, each metered, for {} s",
            WATCHED.as_secs()
        );
        println!(
            "  the agent's resident memory at most       {:7.2} MB   (goal 15); before the first of them {:.2}",
            most as f64 / 1e6,
            before.0 as f64 / 1e6
        );
        println!(
            "  of it its own (proportional)              {:7.2} MB; before {:.2}",
            most_proportional as f64 / 1e6,
            before.1 as f64 / 1e6
        );
        println!(
            "  the agent's processor time                {:7.3} % of one",
            100.0 * used / seconds
        );
        println!(
            "  Docker's own proportional memory          {:7.1} MiB",
            self.docker.memory()? as f64 / MIB
        );
        let metered = self.metered().await?;
        ensure!(metered >= CONTAINERS, "{metered} containers are metered");
        Ok(())
    }

    /// How many containers the control plane has traffic of, once the slot that is over has come.
    async fn metered(&self) -> Result<usize> {
        let path = "/v1/traffic/subjects?dimension=meter&limit=500";
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let page: Value = serde_json::from_slice(&self.rest.get(path).await?)?;
            let items = page["items"].as_array().context("no items")?;
            let of_containers = |item: &&Value| {
                item["kind"] == "container"
                    && item["name"]
                        .as_str()
                        .is_some_and(|name| name.contains("/idle-"))
            };
            let count = items.iter().filter(of_containers).count();
            if count >= CONTAINERS || Instant::now() > deadline {
                return Ok(count);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(f64::NAN, |since| since.as_secs_f64())
}

/// The proportional memory of a process, by its folder in `/proc`, in bytes.
fn proportional(process: &Path) -> Result<u64> {
    let text = fs::read_to_string(process.join("smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.context("no Pss")?.trim().trim_end_matches("kB").trim();
    Ok(kib.parse::<u64>()? * 1024)
}
