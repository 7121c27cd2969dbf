//! A supplier's people see and acknowledge alarms of their own devices, and nothing else.

use reqwest::Method;
use serde_json::{Value, json};

use crate::receiver::Receiver;
use crate::scene::{Scene, webhook};

struct Person {
    http: reqwest::Client,
    token: String,
    base: String,
}

impl Person {
    async fn new(scene: &Scene, name: &str, role: &str, supplier: &str) -> Self {
        let password = "a long enough password";
        let body =
            json!({ "name": name, "role": role, "supplier": supplier, "password": password });
        let (status, made) = scene
            .operator
            .send(Method::POST, "/v1/accounts", Some(body))
            .await;
        assert_eq!(status, 201, "{made}");
        let http = scene.server.http(None);
        let login = json!({ "account": name, "password": password });
        let answer = http
            .post(scene.server.url("/v1/login"))
            .json(&login)
            .send()
            .await
            .unwrap();
        let answer: Value = answer.json().await.unwrap();
        Self {
            http,
            token: answer["token"].as_str().unwrap().to_owned(),
            base: scene.server.url(""),
        }
    }

    async fn send(&self, method: Method, path: &str) -> (u16, Value) {
        let request = self.http.request(method, format!("{}{path}", self.base));
        let answer = request
            .bearer_auth(&self.token)
            .json(&json!({}))
            .send()
            .await
            .unwrap();
        (
            answer.status().as_u16(),
            answer.json().await.unwrap_or(Value::Null),
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn suppliers_are_isolated_and_get_their_copy() {
    let (ops, acme) = (Receiver::start(&[]).await, Receiver::start(&[]).await);
    let mut copy = webhook(&acme);
    copy["supplier"] = json!("acme");
    let scene = Scene::new(&[("ops", webhook(&ops)), ("acme", copy)]).await;
    let (own, other) = (scene.node("own").await, scene.node("other").await);
    let path = format!("/v1/devices/{}", own.id);
    let (status, device) = scene
        .operator
        .send(Method::PATCH, &path, Some(json!({ "supplier": "acme" })))
        .await;
    assert_eq!((status, device["supplier"].as_str()), (200, Some("acme")));

    scene.disk(&other, 95);
    ops.until(1).await;
    scene.disk(&own, 95);
    ops.until(2).await;
    let copied = acme.until(1).await;
    assert_eq!(copied[0].json()["device"], json!(own.id));

    let admin = json!({ "name": "eve", "role": "admin", "supplier": "acme", "password": "a long enough password" });
    let (status, error) = scene
        .operator
        .send(Method::POST, "/v1/accounts", Some(admin))
        .await;
    assert_eq!(
        (status, error["code"].as_str()),
        (400, Some("bad-supplier"))
    );
    let ann = Person::new(&scene, "ann", "operator", "acme").await;
    let vic = Person::new(&scene, "vic", "viewer", "acme").await;
    let zoe = Person::new(&scene, "zoe", "operator", "zenith").await;

    let (status, list) = ann.send(Method::GET, "/v1/alarms?supplier=zenith").await;
    assert_eq!(status, 200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");
    assert_eq!(list["items"][0]["device"], json!(own.id));
    let (_, none) = zoe.send(Method::GET, "/v1/alarms").await;
    assert_eq!(none["items"], json!([]));
    let (theirs, others) = (list["items"][0]["id"].clone(), 1);
    assert_eq!(theirs, 2);
    for (who, alarm) in [(&ann, others), (&zoe, 2)] {
        assert_eq!(
            who.send(Method::GET, &format!("/v1/alarms/{alarm}"))
                .await
                .0,
            404
        );
        let path = format!("/v1/alarms/{alarm}/acknowledge");
        assert_eq!(who.send(Method::POST, &path).await.0, 404);
    }
    let (_, seen) = ann.send(Method::GET, "/v1/alarms/2").await;
    let channels: Vec<_> = seen["deliveries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| &d["channel"])
        .collect();
    assert_eq!(
        channels,
        ["acme"],
        "whom else the operator tells is his own business"
    );
    assert_eq!(
        vic.send(Method::POST, "/v1/alarms/2/acknowledge").await.0,
        403,
        "a viewer only looks"
    );
    let (status, known) = ann.send(Method::POST, "/v1/alarms/2/acknowledge").await;
    assert_eq!(
        (status, known["acknowledged_by"].as_str()),
        (200, Some("ann"))
    );
    // Nothing else is open to them: no device, no channel, no template.
    for path in [
        "/v1/devices",
        "/v1/rollouts",
        "/v1/accounts",
        "/v1/audit",
        "/v1/enrolment-tokens",
        "/v1/releases",
        "/v1/alarm-templates",
        "/v1/alarm-templates/storage",
        "/v1/alarm-channels",
        "/v1/alarm-channels/acme",
        "/v1/alarm-silences",
    ] {
        let (status, answer) = ann.send(Method::GET, path).await;
        assert_eq!(status, 403, "{path}: {answer}");
    }
    for (method, path) in [
        (Method::PUT, "/v1/alarm-channels/own"),
        (Method::POST, "/v1/alarm-channels/acme/test"),
        (Method::DELETE, "/v1/alarm-channels/ops"),
        (Method::PUT, "/v1/alarm-templates/storage"),
        (Method::POST, "/v1/alarm-silences"),
    ] {
        let (status, answer) = ann.send(method, path).await;
        assert_eq!(status, 403, "{path}: {answer}");
    }
    // Whoever has the device sees what is open.
    let (status, _) = scene
        .operator
        .send(Method::PATCH, &path, Some(json!({ "supplier": "zenith" })))
        .await;
    assert_eq!(status, 200);
    assert_eq!(zoe.send(Method::GET, "/v1/alarms/2").await.0, 200);
    assert_eq!(ann.send(Method::GET, "/v1/alarms/2").await.0, 404);
}
