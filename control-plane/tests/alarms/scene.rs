//! A server with an operator, templates and channels.

use reqwest::Method;
use serde_json::{Value, json};

use crate::receiver::Receiver;
use crate::support::{Node, Operator, Server};

pub struct Scene {
    _dir: tempfile::TempDir,
    pub server: Server,
    pub operator: Operator,
}

pub fn storage() -> Value {
    json!({ "resource": "storage-use", "key": "disk.*.used_percent", "severity": "warning",
            "when": { "above": { "limit": 90, "clear": 85 } } })
}

pub fn webhook(receiver: &Receiver) -> Value {
    json!({ "per_minute": 6000, "to": { "webhook": { "url": receiver.url, "secret": "hush" } } })
}

impl Scene {
    /// With the template `storage` in the place of the built-in ones, and this channel.
    pub async fn new(channels: &[(&str, Value)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(&dir.path().join("data"), &[]);
        let operator = server.operator().await;
        let scene = Self {
            _dir: dir,
            server,
            operator,
        };
        let templates = scene.get("/v1/alarm-templates").await;
        for template in templates["items"].as_array().unwrap() {
            let path = format!("/v1/alarm-templates/{}", template["name"].as_str().unwrap());
            let (status, _) = scene.operator.send(Method::DELETE, &path, None).await;
            assert_eq!(status, 204);
        }
        scene.put("/v1/alarm-templates/storage", storage()).await;
        for (name, channel) in channels {
            scene
                .put(&format!("/v1/alarm-channels/{name}"), channel.clone())
                .await;
        }
        scene
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.operator.send(Method::GET, path, None).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    pub async fn put(&self, path: &str, body: Value) -> Value {
        let (status, body) = self.operator.send(Method::PUT, path, Some(body)).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    pub async fn node(&self, name: &str) -> Node {
        self.server.enrol(&self.server.token(1, 600), name).await
    }

    /// A device sends how full its disk is, by MQTT.
    pub fn disk(&self, node: &Node, percent: i64) {
        let payload = json!({ "disk./.used_percent": percent }).to_string();
        assert!(node.publish(&self.server, "v1/devices/me/telemetry", &payload));
    }

    /// The deliveries of an alarm.
    pub async fn deliveries(&self, alarm: i64) -> Vec<Value> {
        let alarm = self.get(&format!("/v1/alarms/{alarm}")).await;
        alarm["deliveries"].as_array().unwrap().clone()
    }
}
