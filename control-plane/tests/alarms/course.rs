//! Alarms from the sample to the webhook, and what survives.

use std::collections::BTreeSet;

use hmac::{Hmac, KeyInit, Mac};
use reqwest::Method;
use serde_json::json;

use crate::receiver::Receiver;
use crate::scene::{Scene, webhook};
use crate::support::until;

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_fires_and_resolves_from_a_device_to_a_webhook() {
    let receiver = Receiver::start(&[]).await;
    let scene = Scene::new(&[("ops", webhook(&receiver))]).await;
    let node = scene.node("edge").await;
    scene.disk(&node, 50);
    scene.disk(&node, 95);
    scene.disk(&node, 96);
    let first = receiver.until(1).await.remove(0);
    let body = first.json();
    assert_eq!(body["id"], first.key());
    for (field, value) in [
        ("event", json!("fired")),
        ("device", json!(node.id)),
        ("device_name", json!("edge")),
        ("template", json!("storage")),
        ("instance", json!("/")),
        ("severity", json!("warning")),
        ("condition", json!("above 90")),
        ("value", json!(95)),
    ] {
        assert_eq!(body[field], value, "{field}: {body}");
    }
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"hush").unwrap();
    mac.update(first.headers["x-cairn-time"].as_bytes());
    mac.update(b".");
    mac.update(&first.body);
    let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
    assert_eq!(first.headers["x-cairn-signature"], signature);

    // The other front end, by HTTP.
    let http = scene.server.http(Some(&node));
    let sent = http
        .post(scene.server.url("/api/v1/me/telemetry"))
        .json(&json!({ "disk./.used_percent": 40 }))
        .send()
        .await
        .unwrap();
    assert_eq!(sent.status(), 200);
    receiver.until(2).await;
    assert_eq!(receiver.events(), ["fired", "resolved"]);
    let alarms = scene.get("/v1/alarms").await;
    let alarm = &alarms["items"][0];
    assert_eq!(alarms["items"].as_array().unwrap().len(), 1);
    assert_eq!(alarm["status"], "resolved");
    let details = scene.get(&format!("/v1/alarms/{}", alarm["id"])).await;
    let kinds: Vec<_> = details["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["fired", "resolved"]);
    // What crosses again is another alarm.
    scene.disk(&node, 99);
    receiver.until(3).await;
    assert_eq!(receiver.events(), ["fired", "resolved", "fired"]);
    let keys: BTreeSet<_> = receiver
        .got()
        .iter()
        .map(|got| got.key().to_owned())
        .collect();
    assert_eq!(keys.len(), 3);
}

/// The worst moments: the sample is acknowledged and nobody was told; and: somebody was told, and the server doesn't know it yet.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_neither_loses_an_alarm_nor_makes_two_of_it() {
    let receiver = Receiver::start(&[]).await;
    let mut scene = Scene::new(&[("ops", webhook(&receiver))]).await;
    let node = scene.node("edge").await;
    receiver.shut();
    scene.disk(&node, 95);
    // Told, and not answered.
    receiver.until(1).await;
    scene.server.kill();
    receiver.open();
    scene.server.start_again();
    let got = receiver.until(2).await;
    assert_eq!(
        got[0].key(),
        got[1].key(),
        "the other side can know that it has it already"
    );
    until("the delivery to be noted", || {
        let sent = scene.server.count(
            "SELECT count(*) FROM alarm_delivery WHERE state = 'sent' AND ?1 = ?1",
            "",
        );
        (sent == 1).then_some(())
    });
    // Acknowledged, and killed at once; several times, since the moment isn't always the same.
    for round in 0..4 {
        scene.disk(&node, if round % 2 == 0 { 10 } else { 95 });
        scene.server.kill();
        scene.server.start_again();
    }
    let last = |got: &[crate::receiver::Got]| {
        let mut seen = BTreeSet::new();
        let mut events = Vec::new();
        for one in got {
            if seen.insert(one.key().to_owned()) {
                events.push(one.json()["event"].as_str().unwrap().to_owned());
            }
        }
        events
    };
    let expected = ["fired", "resolved", "fired", "resolved", "fired"];
    until("all messages", || {
        (last(&receiver.got()).len() == 5).then_some(())
    });
    let mut events = last(&receiver.got());
    // Two lives may overtake each other; what is of one life doesn't.
    events.sort_unstable();
    let mut sorted = expected.to_vec();
    sorted.sort_unstable();
    assert_eq!(events, sorted);
    assert_eq!(
        scene
            .server
            .count("SELECT count(*) FROM alarm WHERE ?1 = ?1", ""),
        3
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_taken_is_sent_again() {
    let receiver = Receiver::start(&[(500, "no"), (200, "")]).await;
    let scene = Scene::new(&[("ops", webhook(&receiver))]).await;
    let node = scene.node("edge").await;
    scene.disk(&node, 95);
    let first = receiver.until(1).await.remove(0);
    let tried = "SELECT count(*) FROM alarm_delivery WHERE attempts = ?1";
    until("the failure to be noted", || {
        (scene.server.count(tried, "1") == 1).then_some(())
    });
    let waiting = scene.deliveries(1).await.remove(0);
    assert_eq!(waiting["attempts"], 1);
    assert_eq!(waiting["state"], "queued");
    assert!(waiting["next"].is_i64(), "{waiting}");
    let reason = waiting["reason"].as_str().unwrap();
    assert!(
        reason.contains("500") && !reason.contains("hush"),
        "{reason}"
    );
    let second = receiver.until(2).await.remove(1);
    assert_eq!(first.key(), second.key());
    let queued = "SELECT count(*) FROM alarm_delivery WHERE state = ?1";
    until("the success to be noted", || {
        (scene.server.count(queued, "queued") == 0).then_some(())
    });
    let done = scene.deliveries(1).await.remove(0);
    assert_eq!(
        (&done["state"], &done["attempts"]),
        (&json!("sent"), &json!(2))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_gets_no_more_than_it_takes() {
    let receiver = Receiver::start(&[]).await;
    let mut channel = webhook(&receiver);
    channel["per_minute"] = json!(2);
    let scene = Scene::new(&[("ops", channel)]).await;
    let node = scene.node("edge").await;
    let disks: serde_json::Map<_, _> = (0..5)
        .map(|n| (format!("disk.{n}.used_percent"), json!(95)))
        .collect();
    let payload = serde_json::Value::from(disks).to_string();
    assert!(node.publish(&scene.server, "v1/devices/me/telemetry", &payload));
    receiver.until(2).await;
    let queued = "SELECT count(*) FROM alarm_delivery WHERE state = 'queued' AND coalesce(reason, '') LIKE ?1";
    // That the two were taken is noted after they have come.
    until("three to wait, and the first of them to say why", || {
        let told = scene.server.count(queued, "%2 a minute") == 1;
        (told && scene.server.count(queued, "%") == 3).then_some(())
    });
    assert_eq!(receiver.got().len(), 2);
    let (status, _) = scene
        .operator
        .send(Method::DELETE, "/v1/alarm-channels/ops", None)
        .await;
    assert_eq!(status, 204);
}

/// A crowd: each device's alarm comes once, whatever else is reported meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn many_devices_report_and_each_alarm_comes_once() {
    const DEVICES: usize = 200;
    let receiver = Receiver::start(&[]).await;
    let scene = Scene::new(&[("ops", webhook(&receiver))]).await;
    {
        let mut connection = scene.server.database();
        let tx = connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .unwrap();
        for n in 0..DEVICES {
            let device = format!("device-{n}");
            tx.execute(
                "INSERT INTO device (id, name, created) VALUES (?1, ?1, 1)",
                [&device],
            )
            .unwrap();
            let token = cairn_control_plane::registry::credentials::Credential::AccessToken(
                format!("token-{n}"),
            );
            assert!(cairn_control_plane::registry::credentials::add(&tx, &device, &token).unwrap());
        }
        tx.commit().unwrap();
    }
    let http = scene.server.http(None);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..DEVICES {
        let (http, url) = (
            http.clone(),
            scene.server.url(&format!("/api/v1/token-{n}/telemetry")),
        );
        tasks.spawn(async move {
            for percent in [50, 95, 95, 96] {
                let body = json!({ "disk./.used_percent": percent, "load_1m": 1 });
                let sent = http.post(&url).json(&body).send().await.unwrap();
                assert_eq!(sent.status(), 200);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let got = receiver.until(DEVICES).await;
    let devices: BTreeSet<_> = got
        .iter()
        .map(|got| got.json()["device"].to_string())
        .collect();
    assert_eq!((got.len(), devices.len()), (DEVICES, DEVICES));
}
