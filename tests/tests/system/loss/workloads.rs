//! Workloads run on without the agent, and after a restart of the node without a control plane.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cairn_tests::Fleet;
use cairn_tests::site::Site;
use serde_json::{Value, json};

use super::agent::Agent;
use super::docker::Docker;
use super::netns::Space;
use super::{WITHIN, online, programs};

/// Which Docker container it is, and since when it runs.
const LIFE: &str = "{{.Id}} {{.State.Running}} {{.State.StartedAt}}";

#[test]
fn workloads_outlive_the_agent_and_come_back_with_the_node_while_nobody_answers() -> Result<()> {
    let fleet = programs()?;
    Space::new("restart")?.within(|| outlive(&fleet))
}

fn outlive(fleet: &Fleet) -> Result<()> {
    let mut site = Site::local(fleet, "workloads")?;
    let mut docker = Docker::start()?;
    let settings = format!("[workloads]\nsocket = \"{}\"\n", docker.socket().display());
    let mut agent = Agent::new(&site, "workloads", &settings)?;
    let image = docker.publish()?;
    agent.start()?;
    let device = online(&site)?;
    let declare = |site: &Site, name: &str, says: &str| {
        let workload = workload(&device, &image, says);
        let set = site.ctl_command(&["workload", "set", name, "-"])?;
        set.stdin(workload.to_string()).run()?;
        Ok::<_, anyhow::Error>(())
    };
    declare(&site, "web", "web 1")?;
    declare(&site, "cache", "cache 1")?;
    for name in ["web", "cache"] {
        runs_well(&site, &device, name)?;
    }

    // Nobody looks after them, and they go on. What was ordered meanwhile is carried out, and nothing else.
    let (web, cache) = (docker.inspect("web", LIFE)?, docker.inspect("cache", LIFE)?);
    agent.kill();
    declare(&site, "cache", "cache 2")?;
    declare(&site, "late", "late 1")?;
    ensure!(docker.inspect("web", LIFE)? == web && docker.inspect("cache", LIFE)? == cache);
    agent.start()?;
    until("what was ordered is done", || {
        Ok(docker.logs("cache")? == "cache 2" && docker.logs("late")? == "late 1")
    })?;
    for name in ["web", "cache", "late"] {
        runs_well(&site, &device, name)?;
    }
    ensure!(docker.inspect("web", LIFE)? == web, "web was touched");

    // The node restarts and is alone. The agent is there before Docker is, and of one workload nothing is left.
    site.kill();
    docker.close_registry();
    agent.kill();
    docker.ask(&["rm", "--force", "cairn-late"])?;
    docker.shut_down();
    agent.start()?;
    docker.boot()?;
    for (name, says) in [("web", "web 1"), ("cache", "cache 2"), ("late", "late 1")] {
        until("it runs again", || {
            let status = agent.status()?;
            Ok(status["workloads"][name]["state"] == "running")
        })?;
        // Those that are still there have said it before.
        let said = docker.logs(name)?;
        ensure!(said.ends_with(says), "{name} said {said:?}");
    }
    let again = docker.inspect("web", LIFE)?;
    ensure!(
        again != web && again[..64] == web[..64],
        "{again}, before {web}"
    );

    // Who comes back can read it, too.
    site.serve()?;
    online(&site)?;
    let lines = site.ctl(&["workload", "logs", &device, "web"])?;
    let lines = lines["lines"].as_array().map_or(0, Vec::len);
    ensure!(
        lines == 2,
        "web has begun twice, and its log has {lines} lines"
    );
    agent.end()
}

fn workload(device: &str, image: &str, says: &str) -> Value {
    json!({
        "place": { "on": { "devices": [device] } },
        "owner": { "customer": "acme", "business": "vod" },
        "image": image,
        "command": ["/bin/busybox", "sh", "-c", format!("echo {says}; exec /bin/busybox sleep 1000")],
        "health": { "command": ["/bin/busybox", "true"], "interval_seconds": 1 },
        "stop": { "grace_seconds": 0 },
    })
}

/// Waits until the control plane knows that it runs.
fn runs_well(site: &Site, device: &str, name: &str) -> Result<()> {
    site.eventually("it runs well", WITHIN, |site| {
        let list = site.ctl(&["workload", "list", "--device", device])?;
        let found = list.as_array().into_iter().flatten();
        let mut states = found.filter(|one| one["workload"] == name);
        Ok(states.any(|one| one["state"] == "running").then_some(()))
    })
}

/// Waits until something is so; what can't be asked isn't yet.
fn until(what: &str, is_so: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + WITHIN;
    loop {
        let seen = is_so();
        if matches!(seen, Ok(true)) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{what}: not in time: {seen:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
