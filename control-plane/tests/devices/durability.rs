//! What was acknowledged is there after kill -9.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use rumqttc::{AsyncClient, Event, MqttOptions, Packet, PublishOptions};
use serde_json::json;

use crate::support::{Server, tls, until};

#[tokio::test]
async fn acknowledged_messages_outlive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(&dir.path().join("data"), &[]);
    let node = server.enrol(&server.token(1, 600), "node").await;
    let mut acknowledged = 0_u64;
    for round in 0..3_u64 {
        let mut publisher = node
            .mosquitto("mosquitto_pub", &server)
            .args(["-q", "1", "-d", "-t", "v1/devices/me/telemetry", "-l"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = publisher.stdin.take().unwrap();
        let feeder = std::thread::spawn(move || {
            for n in 0_u64.. {
                let record = json!({ "ts": 1_700_000_000_000_u64 + round * 1_000_000 + n, "values": { "n": n },
                                     "cairn": { "log": format!("a{round}"), "seq": n + 1 } });
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
                .count() as u64
        });
        until("a good number of records", || {
            let sql = "SELECT coalesce(sum(last - first + 1), 0) FROM record_run WHERE device = ?1";
            (server.count(sql, &node.id) > 500 * (i64::try_from(round).unwrap() + 1)).then_some(())
        });
        server.kill();
        // It would try for ever.
        let _ = publisher.kill();
        publisher.wait().unwrap();
        acknowledged += counter.join().unwrap();
        feeder.join().unwrap();
        server.start_again();
        let stored = server.count(
            "SELECT coalesce(sum(last - first + 1), 0) FROM record_run WHERE device = ?1",
            &node.id,
        );
        let samples = server.count("SELECT count(*) FROM sample WHERE device = ?1", &node.id);
        assert_eq!(
            stored, samples,
            "round {round}: a record without its sample, or the other way round"
        );
        assert!(
            u64::try_from(stored).unwrap() >= acknowledged,
            "round {round}: {stored} stored, {acknowledged} acknowledged"
        );
        // A message under way when the server died comes again as another of the next round's would.
        acknowledged = u64::try_from(stored).unwrap();
    }
    assert!(acknowledged > 1000);
}

#[tokio::test]
async fn acknowledgements_come_in_order_and_a_shutdown_loses_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(&dir.path().join("data"), &[]);
    let node = server.enrol(&server.token(1, 600), "node").await;
    let port: u16 = server.mqtt_port().parse().unwrap();
    let mut options = MqttOptions::new("x", ("127.0.0.1", port));
    options.set_transport(rumqttc::Transport::tls_with_config(
        tls(&server.ca(), Some(&node)).into(),
    ));
    let (client, mut events) = AsyncClient::builder(options).capacity(64).build();
    let publisher = tokio::spawn(async move {
        for n in 0..1000 {
            let topic = if n % 10 == 9 {
                "v1/devices/me/attributes"
            } else {
                "v1/devices/me/telemetry"
            };
            if client
                .publish(
                    topic,
                    format!(r#"{{"k{n}":{n}}}"#),
                    PublishOptions::at_least_once(),
                )
                .await
                .is_err()
            {
                return;
            }
        }
        let _ = client
            .publish(
                "v1/devices/me/attributes/request/1",
                "{}",
                PublishOptions::at_least_once(),
            )
            .await;
        std::future::pending::<()>().await;
    });
    let mut order = Vec::new();
    let deadline = tokio::time::sleep(Duration::from_secs(60));
    tokio::pin!(deadline);
    while order.len() < 1001 {
        tokio::select! {
            event = events.poll() => {
                if let Event::Incoming(Packet::PubAck(ack)) = event.unwrap() {
                    order.push(ack.pkid);
                }
            }
            () = &mut deadline => panic!("only {} acknowledgements", order.len()),
        }
    }
    publisher.abort();
    // The client numbers its packets round and round.
    let jumps = order
        .windows(2)
        .filter(|pair| pair[1] != pair[0] + 1 && pair[1] != 1)
        .count();
    assert_eq!(jumps, 0, "{order:?}");
    let (status, took) = server.stop();
    assert!(
        status.success() && took < Duration::from_secs(10),
        "{status} {took:?}"
    );
    assert_eq!(
        server.count("SELECT count(*) FROM sample WHERE device = ?1", &node.id),
        900
    );
    assert_eq!(
        server.count(
            "SELECT count(*) FROM attribute WHERE device = ?1 AND scope = 'client'",
            &node.id
        ),
        100
    );
}
