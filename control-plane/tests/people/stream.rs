//! The stream as other systems and people read it, and telemetry by steps.

use std::process::Stdio;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::cairnctl;
use crate::site::{PASSWORD, Site};

const GROUP: &str = "/v1/stream/groups/bus";

fn kinds(batch: &Value) -> Vec<&str> {
    let events = batch["events"].as_array().unwrap();
    events
        .iter()
        .map(|event| event["kind"].as_str().unwrap())
        .collect()
}

async fn sends(site: &Site, http: &reqwest::Client, what: &str, body: Value) {
    let url = format!("{}/api/v1/me/{what}", site.url);
    let sent = http.post(url).json(&body).send().await.unwrap();
    assert!(sent.status().is_success(), "{sent:?}");
}

#[tokio::test]
async fn whoever_waits_is_given_what_comes_and_the_same_until_he_acknowledges_it() {
    let mut site = Site::start().await;
    let root = site.login("root").await;
    let reader = site.token(&root, &["stream:write"]).await;
    let (device, http) = site.enrol(&root, "edge-1").await;
    let put = |body| site.call(Method::PUT, GROUP, Some(&reader), body);
    assert_eq!(put(json!({ "kinds": ["rumour"] })).await.status, 422);
    assert_eq!(
        put(json!({ "select": { "devices": [] } })).await.code(),
        "bad-select"
    );
    let made = put(json!({ "kinds": ["telemetry", "attributes"] })).await;
    assert_eq!(
        (made.status.as_u16(), &made.body["behind"]),
        (200, &json!(0)),
        "{made:?}"
    );

    let path = format!("{GROUP}/read");
    // Who may only look takes nothing from those who read.
    let looker = site.token(&root, &["stream:read"]).await;
    assert_eq!(site.post(&path, &looker, json!({})).await.status, 403);
    let seen = site.call(Method::GET, GROUP, Some(&looker), Value::Null);
    assert_eq!(seen.await.body["name"], "bus");

    let begun = Instant::now();
    let waiting = site.post(&path, &reader, json!({ "wait": 25 }));
    let sending = sends(
        &site,
        &http,
        "telemetry",
        json!({ "ts": 5, "values": { "load": 1.5 } }),
    );
    let (batch, ()) = tokio::join!(waiting, sending);
    assert!(begun.elapsed() < Duration::from_secs(20), "{batch:?}");
    let event = &batch.body["events"][0];
    assert_eq!(event["body"], json!({ "ts": 5, "values": { "load": 1.5 } }));
    assert_eq!(
        (&event["device"], &event["kind"]),
        (&json!(device), &json!("telemetry"))
    );

    sends(&site, &http, "attributes", json!({ "model": "x" })).await;
    site.kill_and_start();
    let again = site.post(&path, &reader, json!({})).await;
    assert_eq!(again.body, batch.body);
    let ack = json!({ "next": batch.body["next"] });
    assert_eq!(
        site.post(&format!("{GROUP}/ack"), &reader, ack.clone())
            .await
            .status,
        204
    );
    let twice = site.post(&format!("{GROUP}/ack"), &reader, ack).await;
    assert_eq!(
        (twice.status.as_u16(), twice.code()),
        (409, "no-such-batch")
    );
    let next = site.post(&path, &reader, json!({})).await;
    assert_eq!(kinds(&next.body), ["attributes"]);
    assert_eq!(
        next.body["events"][0]["body"],
        json!({ "values": { "model": "x" } })
    );
    for body in [
        json!({ "limit": 0 }),
        json!({ "wait": 31 }),
        json!({ "patience": 0 }),
        json!({ "member": "a/b" }),
    ] {
        assert_eq!(
            site.post(&path, &reader, body.clone()).await.status,
            400,
            "{body}"
        );
    }
    let deleted = site
        .call(Method::DELETE, GROUP, Some(&reader), Value::Null)
        .await;
    assert_eq!(deleted.status, 204);
    assert_eq!(site.post(&path, &reader, json!({})).await.status, 404);
    let actions: Vec<String> = site
        .audit(&root)
        .await
        .into_iter()
        .map(|line| line.1)
        .collect();
    for action in ["stream-group.set", "stream-group.remove"] {
        assert!(actions.iter().any(|it| it == action), "{actions:?}");
    }
}

#[tokio::test]
async fn a_suppliers_people_read_what_they_may_see_of_their_own_devices() {
    let site = Site::start().await;
    let root = site.login("root").await;
    let (own, http) = site.enrol(&root, "own").await;
    let (other, _) = site.enrol(&root, "other").await;
    let set = json!({ "supplier": "north" });
    let path = format!("/v1/devices/{own}");
    assert_eq!(
        site.call(Method::PATCH, &path, Some(&root), set)
            .await
            .status,
        200
    );
    let account =
        json!({ "name": "ann", "role": "operator", "supplier": "north", "password": PASSWORD });
    assert_eq!(site.post("/v1/accounts", &root, account).await.status, 201);
    let ann = site.login("ann").await;
    let body = json!({ "from": "oldest" });
    assert_eq!(
        site.call(Method::PUT, GROUP, Some(&ann), body).await.status,
        200
    );
    sends(&site, &http, "telemetry", json!({ "secret": 1 })).await;
    let database = rusqlite::Connection::open(site.data().join("cairn.db")).unwrap();
    let body = json!({ "online": true });
    for device in [&own, &other] {
        use cairn_control_plane::stream::{Kind, one};
        let tx = database.unchecked_transaction().unwrap();
        let now = cairn_control_plane::people::now() * 1000 + 5000;
        one(&tx, Kind::Connection, device, now, &body).unwrap();
        tx.commit().unwrap();
    }
    let batch = site.post(&format!("{GROUP}/read"), &ann, json!({})).await;
    assert_eq!(kinds(&batch.body), ["connection"], "{batch:?}");
    assert_eq!(batch.body["events"][0]["device"], json!(own));
    // The operator's groups are others.
    assert_eq!(site.get(GROUP, &root).await.status, 404);
    assert_eq!(
        site.get("/v1/stream/groups", &root).await.body["items"],
        json!([])
    );
}

#[tokio::test]
async fn cairnctl_reads_the_stream_and_telemetry_by_steps() {
    let site = Site::start().await;
    let root = site.login("root").await;
    let (device, http) = site.enrol(&root, "edge-1").await;
    let run = |arguments: &[&str]| cairnctl::run(&site, &root, arguments);
    let made = run(&[
        "stream",
        "set",
        "bus",
        "--kind",
        "telemetry",
        "--device",
        &device,
    ]);
    assert_eq!(made["select"], json!({ "devices": [device] }));
    let hour = cairn_control_plane::people::now() / 3600 * 3_600_000;
    let samples = [
        (hour - 7_200_000, 1),
        (hour - 7_199_000, 4),
        (hour - 3_600_000, 7),
    ];
    for (ts, value) in samples {
        sends(
            &site,
            &http,
            "telemetry",
            json!({ "ts": ts, "values": { "load": value } }),
        )
        .await;
    }
    let batch = run(&["stream", "read", "bus", "--limit", "2"]);
    assert_eq!(batch["events"].as_array().unwrap().len(), 2);
    let next = batch["next"].to_string();
    assert_eq!(
        run(&["stream", "ack", "bus", &next])["acknowledged"],
        batch["next"]
    );
    assert_eq!(run(&["stream", "groups"])[0]["behind"], json!(1));
    assert_eq!(
        run(&["stream", "remove", "bus"]),
        json!({ "removed": "bus" })
    );

    let (ok, _, error) = cairnctl::until_online(&site, &root, &["stream", "read", "nope"]);
    assert!(!ok && error.contains("stream group \"nope\""), "{error}");

    let windows = run(&[
        "device",
        "telemetry",
        &device,
        "load",
        "--step",
        "1h",
        "--last",
        "24",
    ]);
    let expected = json!([
        { "start": hour - 7_200_000, "count": 2, "min": 1.0, "max": 4.0, "sum": 5.0, "last": 4.0, "avg": 2.5 },
        { "start": hour - 3_600_000, "count": 1, "min": 7.0, "max": 7.0, "sum": 7.0, "last": 7.0, "avg": 7.0 },
    ]);
    assert_eq!(windows, expected);
    let path = format!("/v1/devices/{device}/telemetry/windows?key=load");
    for (query, code) in [
        ("step=0", "bad-step"),
        ("step=1&from=0", "bad-step"),
        (
            "step=60&from=9223372036854775807&to=-9223372036854775808",
            "",
        ),
    ] {
        let answer = site.get(&format!("{path}&{query}"), &root).await;
        assert_eq!(answer.code(), code, "{query}: {answer:?}");
    }
}

#[tokio::test]
async fn what_nobody_reads_is_not_acknowledged() {
    let site = Site::start().await;
    let root = site.login("root").await;
    let (_, http) = site.enrol(&root, "edge-1").await;
    let run = |arguments: &[&str]| cairnctl::run(&site, &root, arguments);
    run(&["stream", "set", "bus", "--kind", "telemetry"]);
    let follow = || {
        let mut follow = cairnctl::command(&site);
        follow
            .env("CAIRN_SERVER", &site.url)
            .env("CAIRN_CA", site.data().join("ca/ca.pem"))
            .env("CAIRN_TOKEN", &root)
            .args(["stream", "read", "bus", "--follow", "--wait", "1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = follow.spawn().unwrap();
        drop(child.stdout.take());
        child.wait_with_output().unwrap()
    };
    let body = json!({ "ts": 5, "values": { "load": 1 } });
    for (behind, what) in [(0, "nothing came"), (1, "something came")] {
        if behind == 1 {
            sends(&site, &http, "telemetry", body.clone()).await;
        }
        let done = follow();
        assert!(done.status.success(), "{what}: {done:?}");
        assert!(done.stderr.is_empty(), "{what}: {done:?}");
        let group = &run(&["stream", "groups"])[0];
        assert_eq!(group["behind"], json!(behind), "{what}");
    }
}
