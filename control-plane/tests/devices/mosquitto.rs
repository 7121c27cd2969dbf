//! mosquitto's clients with certificates: telemetry, attributes, calls; what is refused.

use std::time::Duration;

use cairn_control_plane::registry::attributes::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Server, Subscriber, mosquitto, until};

#[tokio::test]
async fn telemetry_and_attributes_are_stored_before_they_are_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let node = server.enrol(&server.token(1, 600), "node").await;
    let telemetry = "v1/devices/me/telemetry";
    assert!(node.publish(&server, telemetry, r#"{"a":1,"b":"two"}"#));
    assert_eq!(
        (server.value(&node.id, "a"), server.value(&node.id, "b")),
        (Some(json!(1)), Some(json!("two")))
    );
    assert!(node.publish(
        &server,
        telemetry,
        r#"[{"ts":1700000000000,"values":{"c":true}},{"c":{"d":[1]}}]"#
    ));
    assert_eq!(
        server.count(
            "SELECT count(*) FROM sample WHERE device = ?1 AND key = 'c'",
            &node.id
        ),
        2
    );
    assert_eq!(server.value(&node.id, "c"), Some(json!({ "d": [1] })));

    // Known by its id, whatever its time.
    let record = |seq: u64, ts: i64| {
        format!(r#"{{"ts":{ts},"values":{{"n":{seq}}},"cairn":{{"log":"abc","seq":{seq}}}}}"#)
    };
    for (seq, ts) in [
        (1, 1_700_000_000_000),
        (1, 1_700_000_000_001),
        (2, 1_700_000_000_002),
    ] {
        assert!(node.publish(&server, telemetry, &record(seq, ts)));
    }
    assert_eq!(
        server.count(
            "SELECT count(*) FROM sample WHERE device = ?1 AND key = 'n'",
            &node.id
        ),
        2
    );
    // Without a time, several at once: none is lost.
    let many: Vec<Value> = (0..50).map(|n| json!({ "m": n })).collect();
    assert!(node.publish(&server, telemetry, &Value::from(many).to_string()));
    assert_eq!(
        server.count(
            "SELECT count(*) FROM sample WHERE device = ?1 AND key = 'm'",
            &node.id
        ),
        50
    );

    assert!(node.publish(&server, "v1/devices/me/attributes", r#"{"kernel":"6.12"}"#));
    assert_eq!(
        server.attribute(&node.id, Scope::Client, "kernel"),
        Some(json!("6.12"))
    );
}

#[tokio::test]
async fn many_messages_of_one_connection_all_arrive() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let node = server.enrol(&server.token(1, 600), "node").await;
    let mut input = String::new();
    for n in 0..5000 {
        input.push_str(&format!(
            "{{\"ts\":{},\"values\":{{\"n\":{n}}}}}\n",
            1_700_000_000_000_i64 + n
        ));
    }
    let file = dir.path().join("lines");
    std::fs::write(&file, input).unwrap();
    let status = node
        .mosquitto("mosquitto_pub", &server)
        .args(["-q", "1", "-t", "v1/devices/me/telemetry", "-l"])
        .stdin(std::fs::File::open(&file).unwrap())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(
        server.count("SELECT count(*) FROM sample WHERE device = ?1", &node.id),
        5000
    );
}

#[tokio::test]
async fn what_makes_no_sense_ends_the_connection_and_is_not_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let node = server.enrol(&server.token(1, 600), "node").await;
    let telemetry = "v1/devices/me/telemetry";
    let long = "x".repeat(300);
    for (topic, message) in [
        (telemetry, "no json"),
        (telemetry, "[1]"),
        (telemetry, r#"{"ts":-5,"values":{"a":1}}"#),
        (
            telemetry,
            r#"{"ts":1,"values":{"a":1},"cairn":{"log":"UPPER","seq":1}}"#,
        ),
        (telemetry, &json!({ long: 1 }).to_string()),
        ("v1/devices/me/attributes", "[]"),
        ("v1/devices/me/unknown", "{}"),
        ("v1/devices/other/telemetry", r#"{"a":1}"#),
        ("some/where", r#"{"a":1}"#),
    ] {
        let ended = node
            .mosquitto("mosquitto_pub", &server)
            .args(["-q", "1", "-d", "-t", topic, "-m", message])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(
            !said.contains("received PUBACK"),
            "{topic} {message}: {said}"
        );
    }
    // QoS 2 isn't served.
    let two = node
        .mosquitto("mosquitto_pub", &server)
        .args(["-q", "2", "-t", telemetry, "-m", "{\"a\":1}"])
        .output();
    assert!(!two.unwrap().status.success());
    assert_eq!(
        server.count("SELECT count(*) FROM sample WHERE device = ?1", &node.id),
        0
    );
    // What comes before the bad one counts.
    let file = dir.path().join("lines");
    std::fs::write(&file, "{\"good\":1}\nbad\n").unwrap();
    let mut again_and_again = node
        .mosquitto("mosquitto_pub", &server)
        .args(["-q", "1", "-t", telemetry, "-l"])
        .stdin(std::fs::File::open(&file).unwrap())
        .spawn()
        .unwrap();
    until("the good one", || server.value(&node.id, "good"));
    again_and_again.kill().unwrap();
    again_and_again.wait().unwrap();
    assert_eq!(server.value(&node.id, "good"), Some(json!(1)));
    assert!(node.publish(&server, telemetry, r#"{"after":1}"#));
}

#[tokio::test]
async fn attributes_and_calls_reach_the_device_and_its_answer_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let operator = server.operator().await;
    let node = server.enrol(&server.token(1, 600), "node").await;
    let path = format!("/v1/devices/{}/rpc", node.id);
    let call = json!({ "method": "status", "params": { "x": 1 }, "timeout": 5 });
    let (status, body) = operator.send(Method::POST, &path, Some(call.clone())).await;
    assert!(
        status >= 400,
        "an offline device was reached: {status} {body}"
    );

    let subscriber = node.subscribe(
        &server,
        &["v1/devices/me/attributes", "v1/devices/me/rpc/request/+"],
    );
    subscriber.line("SUBACK");
    until("the device to be online", || {
        (server.count("SELECT online FROM device WHERE id = ?1", &node.id) == 1).then_some(())
    });
    let path_ = format!("/v1/devices/{}/attributes", node.id);
    let (status, body) = operator
        .send(
            Method::PATCH,
            &path_,
            Some(json!({ "shared": { "level": 3 } })),
        )
        .await;
    assert!(status < 300, "{status} {body}");
    assert!(
        subscriber
            .message("v1/devices/me/attributes {")
            .ends_with(r#"{"level":3}"#)
    );
    assert_eq!(
        server.attribute(&node.id, Scope::Shared, "level"),
        Some(json!(3))
    );

    // The subscriber takes the call; the answer comes over HTTP, from the same device.
    let http = server.http(Some(&node));
    let answer = async {
        let line = tokio::task::spawn_blocking(move || {
            let line = subscriber.message("v1/devices/me/rpc/request/");
            (line, subscriber)
        });
        let (line, subscriber) = line.await.unwrap();
        let (topic, payload) = line.split_once(' ').unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(payload).unwrap(),
            json!({ "method": "status", "params": { "x": 1 } })
        );
        let id = topic.rsplit_once('/').unwrap().1;
        let url = server.url(&format!("/api/v1/me/rpc/{id}"));
        assert_eq!(
            http.post(&url)
                .json(&json!({ "ok": true }))
                .send()
                .await
                .unwrap()
                .status(),
            200
        );
        // Once only.
        assert_eq!(
            http.post(&url)
                .json(&json!({ "ok": true }))
                .send()
                .await
                .unwrap()
                .status(),
            404
        );
        subscriber
    };
    let ((status, body), _subscriber) =
        tokio::join!(operator.send(Method::POST, &path, Some(call)), answer);
    assert_eq!(status, 200, "{body}");
    assert!(body.to_string().contains(r#""ok":true"#), "{body}");
}

#[tokio::test]
async fn the_newer_connection_of_a_device_wins() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let node = server.enrol(&server.token(1, 600), "node").await;
    let mut first = node.mosquitto("mosquitto_sub", &server);
    first.args(["-t", "v1/devices/me/attributes", "-E"]);
    let older = node.subscribe(&server, &["v1/devices/me/attributes"]);
    older.line("SUBACK");
    let newer = node.subscribe(&server, &["v1/devices/me/attributes"]);
    newer.line("SUBACK");
    let log = server.data.with_extension("log");
    until("the older connection to be closed", || {
        std::fs::read_to_string(&log)
            .unwrap()
            .contains("superseded")
            .then_some(())
    });
}

#[tokio::test]
async fn who_is_not_known_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let publish = |arguments: &[&str]| {
        let output = mosquitto("mosquitto_pub", &server)
            .args([
                "-q",
                "1",
                "-t",
                "v1/devices/me/telemetry",
                "-m",
                "{\"a\":1}",
            ])
            .args(arguments)
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    assert!(!publish(&[]).0);
    let (worked, said) = publish(&["-u", "no-such-token"]);
    assert!(
        !worked && said.contains("bad user name or password"),
        "{said}"
    );
    // TLS 1.2 is served as well.
    let node = server.enrol(&server.token(1, 600), "node").await;
    server.access_token(&node.id, "secret-token");
    assert!(publish(&["-u", "secret-token", "--tls-version", "tlsv1.2"]).0);
    assert_eq!(server.value(&node.id, "a"), Some(json!(1)));
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    // Another's slow handshake holds up nobody.
    let _idle: Vec<_> = (0..50)
        .map(|_| std::net::TcpStream::connect(&server.mqtt).unwrap())
        .collect();
    let mut ready = reqwest_blocking(&server.admin, "/readyz");
    assert!(ready.contains("ready"), "{ready}");
    ready = reqwest_blocking(&server.admin, "/metrics");
    assert!(ready.contains("cairn_mqtt_messages_total 0"), "{ready}");
    let mut command = mosquitto("mosquitto_sub", &server);
    command.args(["-u", "nobody", "-t", "v1/devices/me/attributes"]);
    let mut subscriber = Subscriber::start(command);
    assert!(!subscriber.ended().success());
}

fn reqwest_blocking(address: &str, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}
