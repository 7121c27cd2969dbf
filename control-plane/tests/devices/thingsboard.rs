//! ThingsBoard's own Python device SDK as a device: `.ci/setup` puts it into target/venv.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use cairn_control_plane::registry::attributes::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::Server;

struct Sdk {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    input: ChildStdin,
}

impl Sdk {
    fn start(arguments: &[&str]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join("../target/venv/bin/python");
        assert!(
            python.exists(),
            "{} is missing: run .ci/setup, which installs ThingsBoard's SDK there",
            python.display()
        );
        let mut child = Command::new(python)
            .arg(root.join("tests/thingsboard_sdk.py"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let input = child.stdin.take().unwrap();
        Self {
            child,
            lines,
            input,
        }
    }

    /// The next step, which must be this one.
    fn step(&mut self, name: &str) -> Value {
        // The SDK gives up by itself after a minute, and then there is no line.
        let line = self
            .lines
            .next()
            .unwrap_or_else(|| panic!("the SDK ended before {name:?}"))
            .unwrap();
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
        assert_eq!(said["step"], name, "{said}");
        said
    }

    fn go(&mut self) {
        self.input.write_all(b"\n").unwrap();
    }
}

impl Drop for Sdk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cairn(server: &Server, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_cairn-control"))
        .args(arguments)
        .arg("--data")
        .arg(&server.data)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_sdk_does_everything_that_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let operator = server.operator().await;
    cairn(
        &server,
        &[
            "profile",
            "set",
            "key-1",
            "--secret-stdin",
            "--group",
            "sdk",
        ],
        "secret-1\n",
    );
    let package: Vec<u8> = (0..20_500_u32)
        .map(|n| u8::try_from(n * 7 % 251).unwrap())
        .collect();
    let file = dir.path().join("app.bin");
    std::fs::write(&file, &package).unwrap();
    let stored = cairn(
        &server,
        &[
            "package",
            "add",
            file.to_str().unwrap(),
            "--title",
            "app",
            "--version",
            "v2",
        ],
        "",
    );
    let firmware: Value = serde_json::from_str(&stored).unwrap();
    let audited = "SELECT count(*) FROM audit WHERE action = 'package.add' AND subject = ?1";
    assert_eq!(server.count(audited, "app"), 1);

    let node = server.enrol(&server.token(1, 600), "certified").await;
    let ca = server.ca();
    let mut sdk = Sdk::start(&[
        "127.0.0.1",
        server.mqtt_port(),
        ca.to_str().unwrap(),
        node.certificate.to_str().unwrap(),
        node.key_file.to_str().unwrap(),
    ]);
    let made = sdk.step("provisioned");
    assert_eq!(made["credentials"]["status"], "SUCCESS", "{made}");
    assert_eq!(made["credentials"]["credentialsType"], "ACCESS_TOKEN");
    assert_eq!(sdk.step("refused")["credentials"], Value::Null);
    assert_eq!(
        sdk.step("provisioned-basic")["credentials"]["credentialsType"],
        "MQTT_BASIC"
    );
    let device = "sdk-device";
    let group: String = server
        .database()
        .query_row("SELECT grp FROM device WHERE id = ?1", [device], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(group, "sdk");

    sdk.step("telemetry");
    assert_eq!(server.value(device, "temperature"), Some(json!(21.5)));
    assert_eq!(
        server.count(
            "SELECT count(*) FROM sample WHERE device = ?1 AND key = 'humidity'",
            device
        ),
        2
    );
    sdk.step("attributes");
    assert_eq!(
        server.attribute(device, Scope::Client, "nested"),
        Some(json!({ "a": [1, 2] }))
    );
    let attributes = format!("/v1/devices/{device}/attributes");
    let (status, body) = operator
        .send(
            Method::PATCH,
            &attributes,
            Some(json!({ "shared": { "interval": 5 } })),
        )
        .await;
    assert!(status < 300, "{status} {body}");
    sdk.go();
    assert_eq!(sdk.step("pushed")["value"], json!({ "interval": 5 }));
    let asked = sdk.step("requested");
    assert_eq!(
        asked["value"],
        json!({ "client": { "serial": "sdk-1" }, "shared": { "interval": 5 } })
    );
    assert!(sdk.step("server-time")["value"]["time"].as_i64().unwrap() > 1_700_000_000_000);
    assert!(
        sdk.step("server-error")["value"]["error"]
            .as_str()
            .unwrap()
            .contains("no-such-method")
    );
    sdk.step("listening");
    let call = json!({ "method": "blink", "params": { "times": 3 }, "timeout": 30 });
    let (status, body) = operator
        .send(
            Method::POST,
            &format!("/v1/devices/{device}/rpc"),
            Some(call),
        )
        .await;
    assert_eq!(
        (status, &body),
        (200, &json!({ "answer": { "echo": { "times": 3 } } }))
    );
    assert_eq!(sdk.step("called")["value"]["method"], "blink");
    crate::support::until("the claim", || {
        server.attribute(device, Scope::Server, "claim")
    });
    sdk.go();

    let (status, body) = operator
        .send(
            Method::PATCH,
            &attributes,
            Some(json!({ "shared": firmware })),
        )
        .await;
    assert!(status < 300, "{status} {body}");
    sdk.step("asking");
    let got = sdk.step("firmware");
    let sum: u64 = package.iter().map(|byte| u64::from(*byte)).sum();
    assert_eq!(
        (got["size"].as_u64(), got["sum"].as_u64()),
        (Some(package.len() as u64), Some(sum))
    );
    assert_eq!(got["version"], "v2");
    crate::support::until("the SDK's report", || {
        (server.value(device, "fw_state") == Some(json!("UPDATED"))).then_some(())
    });
    sdk.go();
    sdk.step("done");
    assert_eq!(server.value(&node.id, "by"), Some(json!("certificate")));
    assert!(sdk.child.wait().unwrap().success());
}
