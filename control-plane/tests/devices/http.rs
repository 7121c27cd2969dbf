//! ThingsBoard's HTTP device API, and ours beside it.

use cairn_control_plane::registry::attributes::Scope;
use cairn_wire::Desired;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Server;

#[tokio::test]
async fn telemetry_attributes_and_provisioning_by_token_and_by_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let node = server.enrol(&server.token(1, 600), "node").await;
    server.access_token(&node.id, "t-1");
    let (with, without) = (server.http(Some(&node)), server.http(None));
    for (http, who, key) in [(&with, "me", "a"), (&without, "t-1", "b")] {
        let url = |path: &str| server.url(&format!("/api/v1/{who}/{path}"));
        assert_eq!(
            http.post(url("telemetry"))
                .json(&json!({ key: 1 }))
                .send()
                .await
                .unwrap()
                .status(),
            200
        );
        assert_eq!(server.value(&node.id, key), Some(json!(1)));
        assert_eq!(
            http.post(url("attributes"))
                .json(&json!({ key: "x" }))
                .send()
                .await
                .unwrap()
                .status(),
            200
        );
        assert_eq!(
            server.attribute(&node.id, Scope::Client, key),
            Some(json!("x"))
        );
        let found: Value = http
            .get(url(&format!("attributes?clientKeys={key},none")))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        assert_eq!(found, json!({ "client": { key: "x" } }));
        let time: Value = http
            .post(url("rpc"))
            .json(&json!({ "method": "getCurrentTime" }))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        assert!(time["time"].is_i64());
        assert_eq!(
            http.post(url("claim"))
                .body("{}")
                .send()
                .await
                .unwrap()
                .status(),
            200
        );
        for (path, body) in [
            ("telemetry", "nonsense"),
            ("attributes", "[1]"),
            ("rpc", "{}"),
        ] {
            assert_eq!(
                http.post(url(path))
                    .body(body)
                    .send()
                    .await
                    .unwrap()
                    .status(),
                400,
                "{path}"
            );
        }
        let large = format!("{{\"k\":\"{}\"}}", "x".repeat(70_000));
        assert_eq!(
            http.post(url("telemetry"))
                .body(large)
                .send()
                .await
                .unwrap()
                .status(),
            413
        );
        assert_eq!(
            http.get(url("firmware?title=a&version=b"))
                .send()
                .await
                .unwrap()
                .status(),
            404
        );
    }
    let body = json!({ "provisionDeviceKey": "none", "provisionDeviceSecret": "none" });
    let answer = without
        .post(server.url("/api/v1/provision"))
        .json(&body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 404);
    assert_eq!(answer.json::<Value>().await.unwrap()["status"], "NOT_FOUND");
    // A path that nobody has, and a method: in our words.
    let answer = without.get(server.url("/nothing")).send().await.unwrap();
    assert_eq!(answer.status(), 404);
    assert_eq!(answer.json::<Value>().await.unwrap()["code"], "not-found");
    assert_eq!(
        without
            .delete(server.url("/v1/enrol"))
            .send()
            .await
            .unwrap()
            .status(),
        405
    );
}

#[tokio::test]
async fn a_device_that_polls_gets_attributes_and_calls() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let operator = server.operator().await;
    let node = server.enrol(&server.token(1, 600), "node").await;
    let http = server.http(Some(&node));
    let url = |path: &str| server.url(&format!("/api/v1/me/{path}"));
    let nothing = http.get(url("rpc?timeout=100")).send().await.unwrap();
    assert_eq!(nothing.status(), 408);

    // It polls again soon, so the call waits for it.
    let call = json!({ "method": "status", "params": {}, "timeout": 20 });
    let path = format!("/v1/devices/{}/rpc", node.id);
    let poll = async {
        let call: Value = http
            .get(url("rpc?timeout=20000"))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        assert_eq!(call["method"], "status");
        let answer = http
            .post(url(&format!("rpc/{}", call["id"])))
            .json(&json!({ "fine": true }))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
    };
    let ((status, body), ()) = tokio::join!(operator.send(Method::POST, &path, Some(call)), poll);
    assert_eq!((status, body), (200, json!({ "answer": { "fine": true } })));

    let attributes = format!("/v1/devices/{}/attributes", node.id);
    let poll = async {
        http.get(url("attributes/updates?timeout=20000"))
            .send()
            .await
            .unwrap()
            .json::<Value>()
            .await
            .unwrap()
    };
    let set = async {
        // The request must be there first; a change in between is asked for, not pushed.
        let mut level = 0;
        loop {
            level += 1;
            let body = json!({ "shared": { "level": level } });
            assert!(
                operator
                    .send(Method::PATCH, &attributes, Some(body))
                    .await
                    .0
                    < 300
            );
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let change: Value = tokio::select! {
        change = poll => change,
        () = set => unreachable!(),
    };
    assert!(change["level"].is_i64(), "{change}");
}

#[tokio::test]
async fn the_desired_state_has_an_etag_and_evidence_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let node = server.enrol(&server.token(1, 600), "node").await;
    let http = server.http(Some(&node));
    let answer = http.get(server.url("/v1/me/desired")).send().await.unwrap();
    let etag = answer.headers()["etag"].to_str().unwrap().to_owned();
    assert_eq!(answer.json::<Desired>().await.unwrap(), Desired::default());
    assert_eq!(etag, "\"0\"");
    let ask = |known: &str| {
        http.get(server.url("/v1/me/desired"))
            .header("if-none-match", known)
            .send()
    };
    assert_eq!(ask(&etag).await.unwrap().status(), 304);
    assert_eq!(ask("\"7\", W/\"0\"").await.unwrap().status(), 304);
    assert_eq!(ask("\"1\"").await.unwrap().status(), 200);

    let put = |name: &str, body: Vec<u8>| {
        http.put(server.url(&format!("/v1/me/evidence/{name}")))
            .body(body)
            .send()
    };
    assert_eq!(
        put("boot.tar.gz", vec![7; 100]).await.unwrap().status(),
        204
    );
    assert_eq!(put("boot.tar.gz", vec![8; 50]).await.unwrap().status(), 204);
    assert_eq!(
        std::fs::read(server.data.join("evidence/node/boot.tar.gz")).unwrap(),
        vec![8; 50]
    );
    // Refused before it is read, so the connection may be cut while the client still sends.
    if let Ok(answer) = put("large", vec![0; (4 << 20) + 1]).await {
        assert_eq!(answer.status(), 413);
    }
    assert!(!server.data.join("evidence/node/large").exists());
    assert_eq!(put("whole", vec![0; 4 << 20]).await.unwrap().status(), 204);
}
