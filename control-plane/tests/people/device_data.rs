//! What a device sends, as people see it.

use reqwest::Method;
use serde_json::{Value, json};

use crate::site::Site;

#[tokio::test]
async fn evidence_is_listed_and_fetched_and_nothing_beside_it() {
    let site = Site::start().await;
    let root = site.login("root").await;
    let (device, http) = site.enrol(&root, "edge-1").await;
    let other = site.device(&root, "edge-2").await;
    let put = http
        .put(format!("{}/v1/me/evidence/boot-1.txt", site.url))
        .body("<script>it panicked</script>");
    assert!(put.send().await.unwrap().status().is_success());

    let list = site
        .get(&format!("/v1/devices/{device}/evidence"), &root)
        .await;
    let items = list.body["items"].as_array().unwrap();
    assert_eq!(
        (items.len(), &items[0]["name"], &items[0]["size"]),
        (1, &json!("boot-1.txt"), &json!(28))
    );
    assert_eq!(
        site.get(&format!("/v1/devices/{other}/evidence"), &root)
            .await
            .body["items"],
        json!([])
    );
    assert_eq!(
        site.get("/v1/devices/none/evidence", &root).await.status,
        404
    );

    let path = format!("/v1/devices/{device}/evidence/boot-1.txt");
    let file = site
        .request(Method::GET, &path, Some(&root))
        .send()
        .await
        .unwrap();
    assert_eq!(file.headers()["content-type"], "application/octet-stream");
    assert_eq!(file.headers()["x-content-type-options"], "nosniff");
    assert_eq!(file.text().await.unwrap(), "<script>it panicked</script>");
    let evidence = site.data().join("evidence").join(&device);
    std::os::unix::fs::symlink("/etc/passwd", evidence.join("link")).unwrap();
    for path in [
        format!("/v1/devices/{other}/evidence/boot-1.txt"),
        format!("/v1/devices/{other}/evidence/..%2F{device}%2Fboot-1.txt"),
        format!("/v1/devices/{device}/evidence/..%2F..%2Fcairn.db"),
        "/v1/devices/..%2F..%2Fca/evidence/ca.key".to_owned(),
        format!("/v1/devices/{device}/evidence/link"),
    ] {
        let answer = site.get(&path, &root).await;
        assert!(!answer.status.is_success(), "{path}: {answer:?}");
    }
    assert_eq!(
        site.call(
            Method::DELETE,
            &format!("/v1/devices/{device}"),
            Some(&root),
            Value::Null
        )
        .await
        .status,
        204
    );
    assert!(!evidence.exists());
}

#[tokio::test]
async fn telemetry_and_the_timeline_tell_what_the_device_said() {
    let site = Site::start().await;
    let root = site.login("root").await;
    let (device, http) = site.enrol(&root, "edge-1").await;
    let update = |state: &str| json!({ "order": "o1", "version": "2.0.0", "digest": "0".repeat(64), "state": state, "running": "1.0.0" });
    let mut failed = update("failed");
    failed["failure"] =
        json!({ "kind": "fell-back", "reason": "the kernel panicked", "retry": false });
    // The registration has today's time, and so have these.
    let now = cairn_control_plane::people::now() * 1000;
    for (ts, values) in [
        (
            now + 5_000,
            json!({ "load": 1.5, "cairn_update": update("fetching") }),
        ),
        (now + 9_000, json!({ "load": 0.5, "cairn_update": failed })),
    ] {
        let sent = http
            .post(format!("{}/api/v1/me/telemetry", site.url))
            .json(&json!({ "ts": ts, "values": values }))
            .send()
            .await
            .unwrap();
        assert!(sent.status().is_success(), "{sent:?}");
    }
    let newest = site
        .get(&format!("/v1/devices/{device}/telemetry"), &root)
        .await;
    let load = newest.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["key"] == "load")
        .unwrap()
        .clone();
    assert_eq!(
        load,
        json!({ "key": "load", "ts": now + 9_000, "value": 0.5 })
    );
    let path = format!("/v1/devices/{device}/telemetry?key=load");
    let all = site.get(&path, &root).await;
    let values: Vec<_> = all.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["value"].clone())
        .collect();
    assert_eq!(values, [json!(0.5), json!(1.5)], "the newest first");
    let part = site
        .get(
            &format!("{path}&from={}&to={}&limit=1", now, now + 9_000),
            &root,
        )
        .await;
    assert_eq!(part.body["items"].as_array().unwrap().len(), 1);
    assert_eq!(part.body["items"][0]["value"], 1.5);
    assert_eq!(
        site.get(&format!("{path}&limit=10001"), &root).await.code(),
        "bad-limit"
    );

    let timeline = site
        .get(&format!("/v1/devices/{device}/timeline"), &root)
        .await;
    let texts: Vec<_> = timeline.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["text"].as_str().unwrap())
        .collect();
    assert_eq!(
        texts[texts.len() - 2..],
        [
            "2.0.0: fetching; runs 1.0.0",
            "2.0.0: failed (fell-back: the kernel panicked); runs 1.0.0",
        ],
        "{texts:?}"
    );
}

/// A device that answers calls over HTTP until it has answered so many.
pub async fn answer_calls(
    site_url: String,
    http: reqwest::Client,
    answers: Vec<(&'static str, Value)>,
) {
    for (method, answer) in answers {
        let poll = format!("{site_url}/api/v1/me/rpc?timeout=30000");
        let call = loop {
            let polled = http.get(&poll).send().await.unwrap();
            // An empty poll is no error.
            if polled.status() == 200 {
                break polled.json::<Value>().await.unwrap();
            }
        };
        assert_eq!(call["method"], method, "{call}");
        let to = format!("{site_url}/api/v1/me/rpc/{}", call["id"]);
        assert!(
            http.post(to)
                .json(&answer)
                .send()
                .await
                .unwrap()
                .status()
                .is_success()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_answered_by_the_device_itself() {
    let site = Site::start().await;
    let root = site.login("root").await;
    let (device, http) = site.enrol(&root, "edge-1").await;
    let answers = vec![
        ("status", json!({ "ok": true, "result": { "slot": "a" } })),
        (
            "logs",
            json!({ "ok": true, "result": { "lines": ["one", "two\u{1b}[2J"] } }),
        ),
        (
            "reboot",
            json!({ "ok": false, "error": "an update is under way" }),
        ),
    ];
    let node = tokio::spawn(answer_calls(site.url.clone(), http, answers));
    let path = format!("/v1/devices/{device}");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while site.get(&path, &root).await.body["online"] != true {
        assert!(
            std::time::Instant::now() < deadline,
            "the device never came online"
        );
    }
    let told = crate::cairnctl::run(&site, &root, &["rpc", &device, "status"]);
    assert_eq!(told, json!({ "ok": true, "result": { "slot": "a" } }));
    // Between two polls it isn't there for a moment.
    let (ok, out, error) =
        crate::cairnctl::until_online(&site, &root, &["logs", &device, "-n", "2"]);
    assert!(ok && out == "one\ntwo\u{fffd}[2J\n", "{out} {error}");
    let (ok, out, error) = crate::cairnctl::until_online(&site, &root, &["rpc", &device, "reboot"]);
    assert!(
        !ok && out.is_empty() && error.contains("edge-1 refused: an update is under way"),
        "{error}"
    );
    node.await.unwrap();
    // Now nobody polls any more.
    let slow = site
        .post(
            &format!("{path}/rpc"),
            &root,
            json!({ "method": "reboot", "timeout": 1 }),
        )
        .await;
    assert!(
        ["no-answer", "device-offline"].contains(&slow.code()),
        "{slow:?}"
    );
}
