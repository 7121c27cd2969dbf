//! The agent at rest: how big, how much memory, how much processor time, with TLS on and default intervals.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cairn_tests::programs;

use super::control::server::{Server, resident};

/// How long it is watched; the default interval is a minute.
const WATCHED: Duration = Duration::from_secs(180);
const MIB: f64 = 1024.0 * 1024.0;

/// A running agent; it ends with this.
pub struct Running(Child);

impl Running {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Measures it.
pub fn run() -> Result<()> {
    println!("## Agent: the binary of a node, connected by mutual TLS, default intervals\n");
    let program = programs::of_a_node("agent")?.join("cairn-agent");
    let size = fs::metadata(&program)?.len();
    println!(
        "binary                                  {:8.2} MiB   (goal 4)",
        size as f64 / MIB
    );
    let dir = super::folder("agent")?;
    let server = Server::start(&dir)?;
    let agent = start(&server, &program, &dir)?;
    let pid = agent.id();
    let (mut most, began, before) = (0, Instant::now(), processor_time(pid)?);
    while began.elapsed() < WATCHED {
        std::thread::sleep(Duration::from_secs(5));
        most = most.max(resident(pid)?);
    }
    let used = processor_time(pid)? - before;
    println!(
        "resident memory, the most in {} s      {:8.2} MiB   (goal 8)",
        WATCHED.as_secs(),
        most as f64 / MIB
    );
    println!(
        "processor time                          {:8.3} % of one",
        100.0 * used / WATCHED.as_secs_f64()
    );
    Ok(())
}

/// Starts an agent that enrols with the server, and waits until it is online. Its settings are those in `dir/config`, its folder is `dir/node`.
pub fn start(server: &Server, program: &Path, dir: &Path) -> Result<Running> {
    let data = dir.join("node");
    fs::create_dir_all(data.join("agent"))?;
    server.token(1)?;
    fs::rename(
        server.data.join("enrol.toml"),
        data.join("agent/enrol.toml"),
    )?;
    let agent = std::process::Command::new(program)
        .args(["run", "--data"])
        .arg(&data)
        .arg("--run-dir")
        .arg(dir.join("run"))
        .arg("--config-dir")
        .arg(dir.join("config"))
        .stdout(Stdio::null())
        .stderr(fs::File::create(dir.join("agent.log"))?)
        .spawn()
        .context("cannot start the agent")?;
    let agent = Running(agent);
    let deadline = Instant::now() + Duration::from_secs(60);
    while server.online()? == 0 {
        ensure!(
            Instant::now() < deadline,
            "the agent is not online; see {}",
            dir.join("agent.log").display()
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(agent)
}

/// Processor time of a process so far in seconds: fields 14 and 15 of `/proc/<pid>/stat`.
pub fn processor_time(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').context("no name in stat")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field =
        |n: usize| -> Result<u64> { Ok(fields.get(n).context("too few fields in stat")?.parse()?) };
    let per_second = f64::from(u32::try_from(rustix::param::clock_ticks_per_second())?);
    Ok((field(11)? + field(12)?) as f64 / per_second)
}
