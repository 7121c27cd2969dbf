//! Telemetry that is taken, packed and read by another system, through kill -9.

use std::io::Write;
use std::process::Stdio;

use cairn_control_plane::telemetry::Series as _;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Node, Operator, Server, until};

const READ: &str = "/v1/stream/groups/all/read";
const RECORDS: &str =
    "SELECT coalesce(max(last), 0) FROM record_run WHERE device = ?1 AND log = 'ab' AND first = 1";

/// Publishes records from the first on until the server is killed, which happens when it has taken so many.
fn publish_and_kill(server: &mut Server, node: &Node, base: i64, until_taken: i64) -> i64 {
    let mut publisher = node
        .mosquitto("mosquitto_pub", server)
        .args(["-q", "1", "-d", "-t", "v1/devices/me/telemetry", "-l"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = publisher.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || {
        for n in 0_i64.. {
            let record = json!({ "ts": base + n * 100, "values": { "n": n }, "cairn": { "log": "ab", "seq": n + 1 } });
            if writeln!(input, "{record}").is_err() {
                break;
            }
        }
    });
    let output = publisher.stdout.take().unwrap();
    let counter = std::thread::spawn(move || {
        use std::io::BufRead;
        std::io::BufReader::new(output)
            .lines()
            .map_while(Result::ok)
            .filter(|line| line.contains("received PUBACK"))
            .count()
    });
    until("a good number of records", || {
        (server.count(RECORDS, &node.id) > until_taken).then_some(())
    });
    server.kill();
    // It would try for ever.
    let _ = publisher.kill();
    publisher.wait().unwrap();
    feeder.join().unwrap();
    i64::try_from(counter.join().unwrap()).unwrap()
}

async fn read(operator: &Operator) -> Value {
    let body = json!({ "limit": 500, "wait": 0 });
    let (status, batch) = operator.send(Method::POST, READ, Some(body)).await;
    assert_eq!(status, 200, "{batch}");
    batch
}

#[tokio::test]
async fn killed_while_it_takes_packs_and_streams_it_loses_nothing_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(&dir.path().join("data"), &["--tidy-every", "1s"]);
    let node = server.enrol(&server.token(1, 600), "node").await;
    let mut operator = server.operator().await;
    let group =
        json!({ "kinds": ["telemetry"], "select": { "devices": [node.id] }, "from": "oldest" });
    let path = "/v1/stream/groups/all";
    let (status, made) = operator.send(Method::PUT, path, Some(group)).await;
    assert_eq!(status, 200, "{made}");
    // Two days ago, so that it is packed as it comes.
    let base = (cairn_control_plane::people::now() / 86_400 - 2) * 86_400_000;
    let packed = "SELECT count(*) FROM piece WHERE device = ?1 AND key = 'n'";
    let mut taken = 0;
    for round in 1..=3 {
        // Each time from the first on: what came before is there already.
        let acknowledged = publish_and_kill(&mut server, &node, base, taken + 1500);
        server.start_again();
        taken = server.count(RECORDS, &node.id);
        assert!(
            taken >= acknowledged,
            "round {round}: {taken} taken, {acknowledged} acknowledged"
        );
        until("it to be packed", || {
            (server.count(packed, &node.id) > 0).then_some(())
        });
        let all = server
            .database()
            .samples(&node.id, "n", 0..i64::MAX, usize::MAX)
            .unwrap();
        let values: Vec<_> = all
            .iter()
            .rev()
            .map(|sample| sample.value.clone())
            .collect();
        let expected: Vec<_> = (0..taken).map(Value::from).collect();
        assert_eq!(values, expected, "round {round}");
    }
    let hours = server
        .database()
        .windows(&node.id, "n", 0..i64::MAX, 3_600_000)
        .unwrap();
    assert_eq!(
        hours.iter().map(|hour| hour.count).sum::<u64>(),
        taken as u64
    );

    operator.reconnect(&server);
    // The stream has each of them once and in order, however often its reader and the server die.
    let mut told = Vec::new();
    let mut batches = 0;
    loop {
        let batch = read(&operator).await;
        let Some(next) = batch["next"].as_i64() else {
            break;
        };
        batches += 1;
        if batches % 4 == 1 {
            server.kill();
            server.start_again();
            operator.reconnect(&server);
            assert_eq!(
                read(&operator).await,
                batch,
                "not acknowledged, so it comes again"
            );
        }
        assert_eq!(batch["lost"], 0);
        let events = batch["events"].as_array().unwrap();
        told.extend(
            events
                .iter()
                .map(|event| event["body"]["values"]["n"].as_i64().unwrap()),
        );
        let path = "/v1/stream/groups/all/ack";
        let (status, error) = operator
            .send(Method::POST, path, Some(json!({ "next": next })))
            .await;
        assert_eq!(status, 204, "{error}");
    }
    assert_eq!(told, (0..taken).collect::<Vec<_>>());
}
