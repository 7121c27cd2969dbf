//! Each kind of channel, against something that speaks as it does.

use reqwest::Method;
use serde_json::json;

use crate::receiver::{Receiver, post_office};
use crate::scene::Scene;
use crate::support::until;

#[tokio::test(flavor = "multi_thread")]
async fn mail_reaches_its_recipients_and_cannot_be_bent_by_a_device() {
    let (port, got) = post_office().await;
    let email = json!({ "to": { "email": { "host": "127.0.0.1", "port": port, "security": "plain",
        "from": "Cairn <cairn@example.org>", "recipients": ["ops@example.org", "boss@example.org"] } } });
    let scene = Scene::new(&[("mail", email)]).await;
    let node = scene.node("edge").await;
    let payload = json!({ "disk.x\r\nBcc: eve@example.org.used_percent": 95 }).to_string();
    assert!(node.publish(&scene.server, "v1/devices/me/telemetry", &payload));
    until("the mail", || {
        got.lock()
            .unwrap()
            .iter()
            .any(|line| line == ".")
            .then_some(())
    });
    let lines = got.lock().unwrap().clone();
    let has = |wanted: &str| lines.iter().any(|line| line.starts_with(wanted));
    for wanted in [
        "MAIL FROM:<cairn@example.org>",
        "RCPT TO:<ops@example.org>",
        "RCPT TO:<boss@example.org>",
        "Subject: [WARNING] storage on edge",
        "Message-ID: <1-fired-mail@example.org>",
    ] {
        assert!(has(wanted), "{wanted}: {lines:#?}");
    }
    assert!(!has("Bcc:") && !has("RCPT TO:<eve"), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wecoms_own_word_counts_and_not_only_http() {
    let receiver = Receiver::start(&[
        (200, r#"{"errcode":93000,"errmsg":"invalid webhook url"}"#),
        (200, r#"{"errcode":0,"errmsg":"ok"}"#),
    ])
    .await;
    let robot = json!({ "to": { "wecom": { "url": receiver.url } } });
    let scene = Scene::new(&[("robot", robot)]).await;
    let test = || {
        scene.operator.send(
            Method::POST,
            "/v1/alarm-channels/robot/test",
            Some(json!({})),
        )
    };
    let (status, answer) = test().await;
    assert_eq!(
        (status, answer["code"].as_str()),
        (502, Some("channel-failed"))
    );
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .contains("errcode 93000"),
        "{answer}"
    );
    assert_eq!(test().await, (200, json!({ "sent": true })));
    let body = receiver.got()[1].json();
    assert_eq!(body["msgtype"], "markdown");
    assert!(
        body["markdown"]["content"]
            .as_str()
            .unwrap()
            .contains("test"),
        "{body}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_asked_as_it_wants_and_its_answer_is_read() {
    let receiver = Receiver::start(&[(200, r#"{"code":"ERR"}"#), (200, r#"{"code":"OK"}"#)]).await;
    let gateway = json!({ "to": { "sms": {
        "url": format!("{}&id={{{{ alarm }}}}", receiver.url), "secret": "hush",
        "headers": { "Authorization": "Bearer {{ secret }}", "Content-Type": "application/json" },
        "recipients": ["+4912345"],
        "content": r#"{"to": {{ recipients|tojson }}, "text": {{ title|tojson }}}"#,
        "good": { "pointer": "/code", "equals": "OK" } } } });
    let scene = Scene::new(&[("sms", gateway)]).await;
    let test = || {
        scene
            .operator
            .send(Method::POST, "/v1/alarm-channels/sms/test", Some(json!({})))
    };
    let (status, answer) = test().await;
    assert_eq!(status, 502);
    assert_eq!(
        answer["message"],
        r#"its answer has "ERR" at /code, expected "OK""#
    );
    assert_eq!(test().await.0, 200);
    let got = receiver.got().remove(1);
    assert_eq!(got.headers["authorization"], "Bearer hush");
    let body = json!({ "to": ["+4912345"], "text": "[INFO] test on no device (instance): test" });
    assert_eq!(got.json(), body);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_written_and_never_read() {
    let receiver = Receiver::start(&[]).await;
    let channel = json!({ "to": { "webhook": { "url": receiver.url, "secret": "hush", "headers": { "X-Key": "hush" } } } });
    let scene = Scene::new(&[("ops", channel)]).await;
    let mut shown = scene.get("/v1/alarm-channels/ops").await;
    let list = scene.get("/v1/alarm-channels").await;
    let log = scene.get("/v1/audit").await;
    for text in [&shown, &list, &log] {
        assert!(!text.to_string().contains("hush"), "{text}");
    }
    assert_eq!(shown["to"]["webhook"]["url"], "(set)");
    // What is shown can be changed and put back.
    shown["severity"] = json!("critical");
    scene.put("/v1/alarm-channels/ops", shown).await;
    let (status, _) = scene
        .operator
        .send(Method::POST, "/v1/alarm-channels/ops/test", Some(json!({})))
        .await;
    assert_eq!(status, 200);
    assert_eq!(receiver.got()[0].headers["x-key"], "hush");
    let said = std::fs::read_to_string(scene.server.data.with_extension("log")).unwrap();
    assert!(!said.contains("hush"));
    for (channel, field) in [
        (
            json!({ "to": { "wecom": { "url": "gopher://x" } } }),
            "url:",
        ),
        (
            json!({ "text": "{{ nope }}", "to": { "wecom": { "url": "https://x" } } }),
            "text:",
        ),
    ] {
        let (status, error) = scene
            .operator
            .send(Method::PUT, "/v1/alarm-channels/bad", Some(channel))
            .await;
        assert_eq!((status, error["code"].as_str()), (400, Some("bad-channel")));
        assert!(
            error["message"].as_str().unwrap().starts_with(field),
            "{error}"
        );
    }
}
