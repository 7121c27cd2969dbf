//! Workloads, as a person declares them and a device gets them.

use reqwest::Method;
use serde_json::{Value, json};

use crate::cairnctl::{self, until_online};
use crate::device_data::answer_calls;
use crate::site::Site;

fn declaration(tag: &str) -> Value {
    json!({
        "owner": { "customer": "acme", "business": "vod" },
        "image": format!("registry.example.org/app:{tag}@sha256:{}", "a".repeat(64)),
        "environment": { "TOKEN": "very-secret" },
        "place": { "on": { "group": "fra" } },
    })
}

/// The device's document, once its revision is another than `before`.
async fn document(site: &Site, http: &reqwest::Client, before: u64) -> Value {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let url = format!("{}/v1/me/desired", site.url);
        let desired: Value = http.get(url).send().await.unwrap().json().await.unwrap();
        if desired["revision"].as_u64().unwrap() > before {
            return desired;
        }
        assert!(std::time::Instant::now() < deadline, "{desired}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_declared_comes_to_the_devices_that_are_meant() {
    let mut site = Site::start().await;
    let root = site.login("root").await;
    let (device, http) = site.enrol(&root, "edge-1").await;
    let file = site.folder.path().join("web.json");
    std::fs::write(&file, declaration("1.0").to_string()).unwrap();
    let file = file.to_str().unwrap();
    let set = cairnctl::run(&site, &root, &["workload", "set", "web", file]);
    assert_eq!(
        (&set["name"], &set["customer"]),
        (&json!("web"), &json!("acme"))
    );
    cairnctl::run(&site, &root, &["device", "set", &device, "--group", "fra"]);
    let desired = document(&site, &http, 0).await;
    assert_eq!(desired["workloads"][0]["name"], "web");
    assert_eq!(
        desired["workloads"][0]["environment"]["TOKEN"],
        "very-secret"
    );
    assert!(desired["workloads"][0].get("place").is_none());

    // It is still there after a kill, and the device says how it gets on.
    site.kill_and_start();
    let root = site.login("root").await;
    let url = format!("{}/api/v1/me/telemetry", site.url);
    let told = json!({ "workload.web.state": "failed", "workload.web.reason": "it ended with 1" });
    assert!(
        http.post(url)
            .json(&told)
            .send()
            .await
            .unwrap()
            .status()
            .is_success()
    );
    let list = cairnctl::run(&site, &root, &["workload", "list", "--device", &device]);
    assert_eq!(
        (&list[0]["state"], &list[0]["reason"]),
        (&json!("failed"), &json!("it ended with 1"))
    );
    let show = cairnctl::run(&site, &root, &["workload", "show", "web"]);
    assert_eq!(
        (&show["devices"], &show["missing"]),
        (&json!(1), &Value::Null)
    );
    assert_eq!(show["places"][0]["device"], device);

    // Secrets are for those who may change them.
    site.add_account("vera", "viewer");
    let vera = site.login("vera").await;
    let seen = site.get("/v1/workloads/web", &vera).await;
    assert!(seen.status == 200 && !seen.body.to_string().contains("very-secret"));
    assert_eq!(
        site.get("/v1/workloads/web/declaration", &vera)
            .await
            .status,
        403
    );
    let put = site
        .call(
            Method::PUT,
            "/v1/workloads/web",
            Some(&vera),
            declaration("2"),
        )
        .await;
    assert_eq!(put.status, 403);
    let audit = site.get("/v1/audit", &root).await.body.to_string();
    assert!(audit.contains("workload.set") && !audit.contains("very-secret"));
    let whole = cairnctl::run(&site, &root, &["workload", "show", "web", "--declaration"]);
    assert_eq!(whole["environment"]["TOKEN"], "very-secret");
    assert_eq!(whole["place"], json!({ "on": { "group": "fra" } }));

    // A registry's user comes with what needs it, and to nobody else.
    let revision = document(&site, &http, 0).await["revision"]
        .as_u64()
        .unwrap();
    for registry in ["registry.example.org", "other.example.org"] {
        let set = [
            "registry",
            "set",
            registry,
            "--user",
            "edge",
            "--password-stdin",
        ];
        let done = cairnctl::run_with_stdin(&site, &root, &set, "pass-of-registry\n");
        assert_eq!(done["user"], "edge");
    }
    let desired = document(&site, &http, revision).await;
    let login = json!([{ "registry": "registry.example.org", "user": "edge", "password": "pass-of-registry" }]);
    assert_eq!(desired["logins"], login);
    let list = cairnctl::run(&site, &root, &["registry", "list"]);
    assert!(list.as_array().unwrap().len() == 2 && !list.to_string().contains("pass-of"));
    let audit = site.get("/v1/audit", &root).await.body.to_string();
    assert!(audit.contains("registry-login.set") && !audit.contains("pass-of"));
    let put = json!({ "user": "edge", "password": "x" });
    let bad = site
        .call(Method::PUT, "/v1/registry-logins/nginx", Some(&root), put)
        .await;
    assert!(
        bad.body["message"]
            .as_str()
            .unwrap()
            .starts_with("registry: expected a registry as")
    );
    cairnctl::run(
        &site,
        &root,
        &["registry", "remove", "registry.example.org"],
    );
    let revision = desired["revision"].as_u64().unwrap();
    assert!(
        document(&site, &http, revision)
            .await
            .get("logins")
            .is_none()
    );

    // Mistakes are named, and change nothing.
    for (body, reason) in [
        (
            json!({ "image": "nginx" }),
            "place: expected where it shall run",
        ),
        (
            json!({ "place": { "on": "all" }, "image": "nginx" }),
            "an image as",
        ),
        (json!([]), "expected an object"),
    ] {
        let answer = site
            .call(Method::PUT, "/v1/workloads/web", Some(&root), body)
            .await;
        let message = answer.body["message"].as_str().unwrap_or_default();
        assert!(
            answer.status == 400 && message.contains(reason),
            "{answer:?}"
        );
    }
    assert_eq!(site.get("/v1/workloads/other", &root).await.status, 404);

    // Drained, it is told to run none; removed, nobody has it any more.
    let revision = document(&site, &http, 0).await["revision"]
        .as_u64()
        .unwrap();
    let drained = cairnctl::run(&site, &root, &["device", "drain", &device]);
    assert!(drained["drained"].is_i64());
    let desired = document(&site, &http, revision).await;
    assert_eq!(desired["workloads"], json!([]));
    let undrained = cairnctl::run(&site, &root, &["device", "undrain", &device]);
    assert_eq!(undrained["drained"], Value::Null);
    let revision = desired["revision"].as_u64().unwrap();
    let desired = document(&site, &http, revision).await;
    assert_eq!(desired["workloads"].as_array().unwrap().len(), 1);
    cairnctl::run(&site, &root, &["workload", "remove", "web"]);
    let desired = document(&site, &http, desired["revision"].as_u64().unwrap()).await;
    assert_eq!(desired["workloads"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_for_a_workload_are_answered_by_the_device() {
    let site = Site::start().await;
    let root = site.login("root").await;
    let (device, http) = site.enrol(&root, "edge-1").await;
    let answers = vec![
        (
            "workload",
            json!({ "ok": true, "result": { "state": "stopped" } }),
        ),
        (
            "workload",
            json!({ "ok": false, "error": "there is no workload web here" }),
        ),
        (
            "workload-logs",
            json!({ "ok": true, "result": { "lines": ["one", "two\u{1b}[2J"] } }),
        ),
    ];
    let node = tokio::spawn(answer_calls(site.url.clone(), http, answers));
    let (ok, out, error) = until_online(&site, &root, &["workload", "stop", &device, "web"]);
    assert!(
        ok && out == format!("web on {device} is stopped\n"),
        "{out} {error}"
    );
    let (ok, _, error) = until_online(&site, &root, &["workload", "restart", &device, "web"]);
    assert!(
        !ok && error.contains("refused: there is no workload web here"),
        "{error}"
    );
    let (ok, out, error) = until_online(
        &site,
        &root,
        &["workload", "logs", &device, "web", "--lines", "2"],
    );
    assert!(ok && out == "one\ntwo\u{fffd}[2J\n", "{out} {error}");
    node.await.unwrap();
    let path = format!("/v1/devices/{device}/workloads/web/explode");
    assert_eq!(
        site.post(&path, &root, json!({})).await.code(),
        "bad-action"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_are_declared_and_the_device_says_how_they_are() {
    let site = Site::start().await;
    let root = site.login("root").await;
    let (device, http) = site.enrol(&root, "edge-1").await;
    let layout = json!([{ "name": "cache1", "find": { "serial": "S3Z8NB0K" }, "partitions": [
        { "name": "objects", "size": "rest", "file_system": "xfs", "mount": "/srv/objects" }
    ] }]);
    let file = site.folder.path().join("layout.json");
    std::fs::write(&file, layout.to_string()).unwrap();
    let file = file.to_str().unwrap();
    let set = cairnctl::run(&site, &root, &["device", "disks", &device, "--set", file]);
    assert_eq!(
        (&set["disks"], &set["states"][0]["state"]),
        (&layout, &Value::Null)
    );
    let desired = document(&site, &http, 0).await;
    assert_eq!(
        (&desired["disks"], desired.get("workloads")),
        (&layout, None)
    );
    let told = json!({ "disk_layout.cache1.state": "planned", "disk_layout.cache1.device": "sdb",
        "disk_layout.cache1.plan": ["make xfs", "mount\u{1b}[2J it"] });
    let url = format!("{}/api/v1/me/telemetry", site.url);
    assert!(
        http.post(url)
            .json(&told)
            .send()
            .await
            .unwrap()
            .status()
            .is_success()
    );
    let (ok, out, error) = until_online(&site, &root, &["device", "disks", &device]);
    assert!(
        ok && out == "cache1 on sdb: planned\n    make xfs\n    mount\u{fffd}[2J it\n",
        "{out} {error}"
    );
    // What can't be read stays where it is.
    let bad = json!([{ "name": "cache1", "find": { "path": "/dev/sdb" }, "partitions": [] }]);
    let path = format!("/v1/devices/{device}/disks");
    let answer = site.call(Method::PUT, &path, Some(&root), bad).await;
    let message = answer.body["message"].as_str().unwrap_or_default();
    assert!(
        answer.status == 400 && message.starts_with("cache1: "),
        "{answer:?}"
    );
    assert_eq!(site.get(&path, &root).await.body["disks"], layout);
}
