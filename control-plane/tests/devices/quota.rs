//! A device that has used up its quota is slowed down, and loses nothing.

use std::time::{Duration, Instant};

use cairn_control_plane::config::Config;
use cairn_control_plane::registry::credentials::{self, Credential};
use cairn_control_plane::server::Server;
use cairn_control_plane::store::StoreError;
use cairn_control_plane::telemetry::Series as _;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, PublishOptions};
use tokio_util::sync::CancellationToken;

use crate::support::{PATIENCE, client, tls};

/// 1000 bytes come back in a second.
const QUOTA: usize = 86_400_000;

#[tokio::test(flavor = "multi_thread")]
async fn who_has_used_up_the_quota_is_answered_later() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        telemetry_quota: u64::try_from(QUOTA).unwrap(),
        ..Config::new(dir.path().join("data"))
    };
    let server = Server::bind(config).await.unwrap();
    let (app, https, mqtt) = (server.app.clone(), server.https, server.mqtt);
    let stop = CancellationToken::new();
    let running = tokio::spawn(server.run(stop.clone()));
    app.store
        .write::<_, StoreError, _>(|tx| {
            tx.execute(
                "INSERT INTO device (id, name, created) VALUES ('greedy', 'greedy', 1)",
                [],
            )?;
            credentials::add(tx, "greedy", &Credential::AccessToken("its-token".into()))
        })
        .await
        .unwrap();
    let ca = dir.path().join("data/ca/ca.pem");
    let http = client(&ca, None);
    let post = async |body: &'static str| {
        http.post(format!("https://{https}/api/v1/its-token/telemetry"))
            .body(body)
            .send()
            .await
            .unwrap()
    };
    assert_eq!(post(r#"{"ts":1,"values":{"a":1}}"#).await.status(), 200);

    let begun = Instant::now();
    let wait = app
        .quota
        .charge(&"greedy".parse().unwrap(), QUOTA + 3_000, begun);
    assert!(wait > Duration::from_secs(2), "{wait:?}");
    let refused = post(r#"{"ts":2,"values":{"a":2}}"#).await;
    assert_eq!(refused.status(), 429);
    let seconds: u64 = refused.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=4).contains(&seconds), "{seconds}");

    let mut options = MqttOptions::new("x", ("127.0.0.1", mqtt.port()));
    options.set_username("its-token");
    options.set_transport(rumqttc::Transport::tls_with_config(tls(&ca, None).into()));
    let (publisher, mut events) = AsyncClient::builder(options).capacity(8).build();
    publisher
        .publish(
            "v1/devices/me/telemetry",
            r#"{"ts":3,"values":{"a":3}}"#,
            PublishOptions::at_least_once(),
        )
        .await
        .unwrap();
    let acknowledged = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Event::Incoming(Packet::PubAck(_)) = events.poll().await.unwrap() {
                return;
            }
        }
    });
    acknowledged.await.expect("it is acknowledged in the end");
    assert!(begun.elapsed() >= wait, "{:?} of {wait:?}", begun.elapsed());
    let times: Vec<_> = app
        .store
        .read::<_, StoreError, _>(|c| c.samples("greedy", "a", 0..i64::MAX, 10))
        .await
        .unwrap()
        .iter()
        .map(|sample| sample.ts)
        .collect();
    assert_eq!(times, [3, 1], "what was acknowledged, and no more");
    stop.cancel();
    running.await.unwrap().unwrap();
}
