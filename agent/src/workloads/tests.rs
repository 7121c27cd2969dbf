//! With a real Docker Engine and a real registry on loopback. Each test asks Docker itself what came of it.

mod site;

use std::sync::Arc;

use cairn_wire::workload::{Status, WorkloadState};
use cairn_workload::Command;
use serde_json::json;

use site::Site;

const SLEEP: &str = "exec busybox sleep 1000";

#[tokio::test]
async fn it_runs_within_its_limits_and_out_of_memory_is_told() {
    let site = Site::start("").await;
    let mut web = site.workload("web", SLEEP);
    web["limits"] = json!({ "memory": 20 << 20, "cpus": 0.5, "pids": 7 });
    web["volumes"] = json!([{ "volume": "cache", "target": "/cache" }]);
    // Docker hears of it only once the container counts as started, and notes it only at the end.
    let mut greedy = site.workload(
        "greedy",
        "until [ -e /gate/in ]; do busybox sleep 0.1; done; busybox tail /dev/zero; until [ -e /gate/out ]; do busybox sleep 0.1; done; exit 9",
    );
    greedy["limits"] = json!({ "memory": 8 << 20 });
    greedy["volumes"] = json!([{ "volume": "gate", "target": "/gate" }]);
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
    site.until("greedy runs", |site| site.runs("cairn-greedy"))
        .await;
    std::fs::write(site.path("volumes/greedy/gate/in"), "").unwrap();
    let heard = "events --since 1h --until 0s --filter event=oom --filter container=cairn-greedy";
    let heard: Vec<_> = heard.split(' ').collect();
    site.until("Docker hears of it", |site| !site.docker(&heard).is_empty())
        .await;
    std::fs::write(site.path("volumes/greedy/gate/out"), "").unwrap();
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
            .flat_map(|running| running.iter())
            .map(|one| one.workload.as_str())
            .eq(["web"])
    })
    .await;
    let namespace = site.inspect("cairn-web", "{{.NetworkSettings.SandboxKey}}");
    let known = running.borrow().clone().unwrap();
    assert_eq!(known[0].namespace.to_str(), namespace.as_deref());
    site.until_told("workload.greedy.reason", |reason| {
        reason.contains("out of memory")
    })
    .await;
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
    let policy = |site: &Site| site.inspect("cairn-web", "{{.HostConfig.RestartPolicy.Name}}");
    assert_eq!(policy(&site).unwrap(), "no");
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
    assert_eq!(policy(&site).unwrap(), "unless-stopped");
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

#[tokio::test]
async fn a_damaged_image_never_runs_and_a_good_one_does_once_it_is_there() {
    let site = Site::start("").await;
    let (layer, noise) = (site.layer(), 7);
    let whole = std::fs::read(&layer).unwrap();
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= noise;
    std::fs::write(&layer, &damaged).unwrap();
    site.declare(json!([site.workload("web", SLEEP)]));
    site.until_told("workload.web.reason", |reason| !reason.is_empty())
        .await;
    assert!(site.inspect("cairn-web", "{{.Id}}").is_none());
    assert!(site.docker(&["image", "ls", "--quiet"]).is_empty());
    std::fs::write(&layer, &whole).unwrap();
    site.until("web runs", |site| site.runs("cairn-web")).await;
}

#[tokio::test]
async fn a_full_disk_stops_nobody_who_runs_and_is_told() {
    let site = Site::start("").await;
    let large = site.publish("large", 30 << 20);
    site.declare(json!([site.workload("web", SLEEP)]));
    site.until("web runs", |site| site.runs("cairn-web")).await;
    let ballast = site.fill(10 << 20);
    let mut other = site.workload("other", SLEEP);
    other["image"] = json!(large);
    site.declare(json!([site.workload("web", SLEEP), other]));
    site.until_told("workload.other.reason", |reason| {
        reason.contains("no space left")
    })
    .await;
    assert!(site.runs("cairn-web"));
    assert!(site.inspect("cairn-other", "{{.Id}}").is_none());
    // There is room again.
    std::fs::remove_file(ballast).unwrap();
    site.until("the other runs", |site| site.runs("cairn-other"))
        .await;
}

#[tokio::test]
async fn a_registry_that_wants_a_password_is_given_it_and_nobody_else_sees_it() {
    let mut site = Site::start("").await;
    site.lock_registry();
    site.declare(json!([site.workload("web", SLEEP)]));
    site.until_told("workload.web.reason", |reason| !reason.is_empty())
        .await;
    let registry = site.image.split('/').next().unwrap().to_owned();
    let login = json!([{ "registry": registry, "user": "edge", "password": "very-secret" }]);
    site.logins
        .send_replace(Arc::new(serde_json::from_value(login).unwrap()));
    site.until("web runs", |site| site.runs("cairn-web")).await;
    assert!(
        !site
            .inspect("cairn-web", "{{json .}}")
            .unwrap()
            .contains("very-secret")
    );
    for log in ["docker.log", "registry.log"] {
        let log = std::fs::read_to_string(site.path(log)).unwrap();
        assert!(!log.contains("very-secret"));
    }
}

#[tokio::test]
async fn a_workload_waits_for_the_disk_that_its_volume_lies_on() {
    let site = Site::start("host-paths = ['/var/tmp']").await;
    let mounted = tempfile::Builder::new()
        .prefix("cairn-workload-")
        .tempdir_in("/var/tmp")
        .unwrap();
    let path = mounted.path().to_str().unwrap();
    let mut web = site.workload("web", SLEEP);
    web["volumes"] = json!([{ "host_path": path, "target": "/cache" }]);
    web["restart"] = json!("never");
    let missing = |folders: &[&str]| {
        let folders = folders.iter().map(|path| path.parse().unwrap());
        site.missing.send_replace(Some(Arc::new(folders.collect())));
    };
    missing(&[path]);
    site.declare(json!([web, site.workload("other", SLEEP)]));
    site.until("the other runs", |site| site.runs("cairn-other"))
        .await;
    assert!(site.ask(&["inspect", "cairn-web"]).is_none());
    missing(&[]);
    site.until("web runs", |site| site.runs("cairn-web")).await;
    missing(&[path]);
    site.until("web is stopped", |site| !site.runs("cairn-web"))
        .await;
    missing(&[]);
    site.until("web runs again", |site| site.runs("cairn-web"))
        .await;
    assert!(site.runs("cairn-other"));
}
