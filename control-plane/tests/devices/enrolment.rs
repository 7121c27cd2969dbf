//! Tokens, certificates, renewal, revocation.

use std::time::{Duration, Instant};

use cairn_control_plane::ca::now;
use reqwest::Method;

use crate::support::{Node, PATIENCE, Server, csr};

#[tokio::test]
async fn a_token_buys_as_many_devices_as_it_says_even_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let token = server.token(2, 600);
    let keys: Vec<_> = (0..8)
        .map(|_| rcgen::KeyPair::generate().unwrap())
        .collect();
    let tries = keys.iter().map(|key| server.try_enrol(&token, "node", key));
    let answers = futures_util::future::join_all(tries).await;
    let refused: Vec<_> = answers
        .iter()
        .filter_map(|answer| answer.as_ref().err())
        .collect();
    assert_eq!(refused.len(), 6);
    assert!(
        refused
            .iter()
            .all(|(status, body)| *status == 403 && body.code == "token-used"),
        "{refused:?}"
    );
    let count: i64 = server
        .database()
        .query_row("SELECT count(*) FROM device", [], |row| row.get(0))
        .unwrap();
    assert_eq!(count, 2);

    // The answer was lost: the same key and token give the same device, though the token is used up.
    let (key, first) = keys
        .iter()
        .zip(&answers)
        .find_map(|(key, answer)| Some((key, answer.as_ref().ok()?)))
        .unwrap();
    let again = server.try_enrol(&token, "other", key).await.unwrap();
    assert_eq!(again.device, first.device);
    assert_ne!(again.certificate, first.certificate);

    let late = server.token(1, -1);
    let unknown = rcgen::KeyPair::generate().unwrap();
    assert_eq!(
        server
            .try_enrol(&late, "late", &unknown)
            .await
            .unwrap_err()
            .1
            .code,
        "token-expired"
    );
    assert_eq!(
        server
            .try_enrol("cet-nothing", "x", &unknown)
            .await
            .unwrap_err()
            .1
            .code,
        "token-unknown"
    );
    let body = serde_json::json!({ "token": server.token(1, 600), "csr": "no request" });
    let answer = server
        .http(None)
        .post(server.url("/v1/enrol"))
        .json(&body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 400);
    assert!(answer.text().await.unwrap().contains("bad-csr"));
    // Nothing in the database or the log holds a token.
    let log = std::fs::read_to_string(server.data.with_extension("log")).unwrap();
    assert!(!log.contains(&token));
}

#[tokio::test]
async fn what_is_issued_names_the_device_and_not_what_the_request_wished() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &["--certificate-days", "7"]);
    let node = server.enrol(&server.token(1, 600), "Edge Node/7").await;
    assert_eq!(node.id, "edge-node-7");
    let der = crate::support::der(&node.identity.certificate);
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert_eq!(certificate.subject().to_string(), "CN=edge-node-7");
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    assert!(!certificate.is_ca());
    let life = certificate.validity().not_after.timestamp() - node.identity.time;
    assert!(
        (7 * 86_400 - 60..=7 * 86_400 + 60).contains(&life),
        "{life}"
    );
    assert!(certificate.validity().not_before.timestamp() <= node.identity.time - 86_000);
    assert_eq!(node.identity.mqtt, server.mqtt);
    let (group, facts): (String, String) = server
        .database()
        .query_row(
            "SELECT grp, facts FROM device WHERE id = ?1",
            [&node.id],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    assert_eq!(
        (group.as_str(), facts.as_str()),
        ("edge", r#"{"hardware":"test"}"#)
    );
}

#[tokio::test]
async fn an_expired_certificate_is_refused_and_renewed_by_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let node = server.enrol(&server.token(1, 600), "old").await;

    // The same authority signs this key for a time that is over.
    let expired = Node::new(
        dir.path(),
        rcgen::KeyPair::from_pem(&node.key.serialize_pem()).unwrap(),
        {
            let mut identity = node.identity.clone();
            identity.certificate = sign(&server, &node.key, &node.id, 2020, 2021);
            identity
        },
    );
    assert!(!expired.publish(&server, "v1/devices/me/telemetry", r#"{"a":1}"#));
    assert!(
        server
            .http(Some(&expired))
            .get(server.url("/v1/me/desired"))
            .send()
            .await
            .is_err()
    );
    assert_eq!(
        server.count("SELECT count(*) FROM sample WHERE device = ?1", &node.id),
        0
    );

    let identity = server.renew(&node.id, &node.key).await.unwrap();
    let renewed = Node::new(
        dir.path(),
        rcgen::KeyPair::from_pem(&node.key.serialize_pem()).unwrap(),
        identity,
    );
    assert!(renewed.publish(&server, "v1/devices/me/telemetry", r#"{"a":1}"#));
    assert_eq!(server.value(&node.id, "a"), Some(1.into()));

    // Another key, another device.
    let other = rcgen::KeyPair::generate().unwrap();
    let (status, body) = server.renew(&node.id, &other).await.unwrap_err();
    assert_eq!((status, body.code.as_str()), (403, "wrong-key"));
    let (status, body) = server.renew("nobody", &other).await.unwrap_err();
    assert_eq!((status, body.code.as_str()), (404, "unknown-device"));
    // A request that somebody else signed is no request of this key's owner.
    let mut request = pem::parse(csr(&node.key)).unwrap().into_contents();
    *request.last_mut().unwrap() ^= 1;
    let forged = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", request));
    let body = serde_json::json!({ "device": node.id, "csr": forged });
    let answer = server
        .http(None)
        .post(server.url("/v1/renew"))
        .json(&body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 400);
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let mut node = server.enrol(&server.token(1, 600), "old").await;
    let soon = u64::try_from(now()).unwrap() + 8;
    let short = sign_as(&server, &node.key, &node.id, |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(soon);
    });
    std::fs::write(&node.certificate, &short).unwrap();
    node.identity.certificate = short;
    let subscriber = node.subscribe(&server, &["v1/devices/me/attributes"]);
    subscriber.line("SUBACK");
    let http = server.http(Some(&node));
    let ask = || http.get(server.url("/v1/me/desired")).send();
    assert_eq!(ask().await.unwrap().status(), 200);

    metrics_say(&server, "cairn_mqtt_closed_total{reason=\"expired\"} 1").await;
    assert!(u64::try_from(now()).unwrap() > soon, "not before its end");
    // Nor does an open HTTPS connection go on. A new one that takes up its TLS session is refused a little later.
    let after = ask().await;
    assert!(!after.is_ok_and(|answer| answer.status().is_success()));
}

/// Waits until the server's metrics have this line.
async fn metrics_say(server: &Server, line: &str) {
    let admin = server.http(None);
    let end = Instant::now() + PATIENCE;
    loop {
        let url = format!("http://{}/metrics", server.admin);
        let metrics = admin.get(url).send().await.unwrap().text().await.unwrap();
        if metrics.contains(line) {
            return;
        }
        assert!(
            Instant::now() < end,
            "expected {line:?} among the metrics:\n{metrics}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A certificate of the server's own authority, with a life of the caller's choice.
pub(crate) fn sign(
    server: &Server,
    key: &rcgen::KeyPair,
    name: &str,
    from: i32,
    until: i32,
) -> String {
    sign_as(server, key, name, |params| {
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
    })
}

fn sign_as(
    server: &Server,
    key: &rcgen::KeyPair,
    name: &str,
    change: impl FnOnce(&mut rcgen::CertificateParams),
) -> String {
    let read = |file: &str| std::fs::read_to_string(server.data.join("ca").join(file)).unwrap();
    let ca = rcgen::KeyPair::from_pem(&read("ca.key")).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("ca.pem"), ca).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    change(&mut params);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.signed_by(key, &issuer).unwrap().pem()
}

#[tokio::test]
async fn a_revoked_device_is_cut_off_at_once_and_stays_out() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let operator = server.operator().await;
    let node = server.enrol(&server.token(1, 600), "bad").await;
    server.access_token(&node.id, "its-token");
    let subscriber = node.subscribe(&server, &["v1/devices/me/attributes"]);
    subscriber.line("SUBACK");
    let http = server.http(Some(&node));
    assert_eq!(
        http.get(server.url("/v1/me/desired"))
            .send()
            .await
            .unwrap()
            .status(),
        200
    );

    let (status, body) = operator
        .send(
            Method::POST,
            &format!("/v1/devices/{}/revoke", node.id),
            None,
        )
        .await;
    assert!(status < 300, "{status} {body}");
    // mosquitto_sub is closed, tries again and is refused.
    subscriber.line("received CONNACK (5)");
    drop(subscriber);
    // The kept connection is cut, perhaps just as it is used; a new one is nobody's.
    let url = server.url("/v1/me/desired");
    let answer = match http.get(&url).send().await {
        Ok(answer) => answer,
        Err(_) => http.get(&url).send().await.unwrap(),
    };
    assert_eq!(answer.status(), 403);
    assert!(answer.text().await.unwrap().contains("revoked"));
    assert!(!node.publish(&server, "v1/devices/me/telemetry", r#"{"a":1}"#));
    let answer = server
        .http(None)
        .post(server.url("/api/v1/its-token/telemetry"))
        .body(r#"{"a":1}"#)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 401);
    let (status, body) = server.renew(&node.id, &node.key).await.unwrap_err();
    assert_eq!((status, body.code.as_str()), (403, "revoked"));
    let (status, body) = server
        .try_enrol(&server.token(1, 600), "bad", &node.key)
        .await
        .unwrap_err();
    assert_eq!((status, body.code.as_str()), (403, "revoked"));
    assert_eq!(
        server.count("SELECT count(*) FROM sample WHERE device = ?1", &node.id),
        0
    );
}

#[tokio::test]
async fn the_authority_and_the_certificate_outlive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(&dir.path().join("data"), &[]);
    let node = server.enrol(&server.token(1, 600), "node").await;
    let before = std::fs::read(server.ca()).unwrap();
    let (status, took) = server.stop();
    assert!(status.success());
    assert!(took < Duration::from_secs(10), "{took:?}");
    server.start_again();
    assert_eq!(std::fs::read(server.ca()).unwrap(), before);
    assert!(node.publish(&server, "v1/devices/me/telemetry", r#"{"a":2}"#));

    // Another name makes another certificate, of the same authority.
    let old = std::fs::read(server.data.join("tls/server.pem")).unwrap();
    server.stop();
    server.arguments = vec!["--name".into(), "cairn.example".into()];
    server.start_again();
    assert_ne!(
        std::fs::read(server.data.join("tls/server.pem")).unwrap(),
        old
    );
    assert!(node.publish(&server, "v1/devices/me/telemetry", r#"{"a":3}"#));

    use std::os::unix::fs::PermissionsExt;
    for (file, mode) in [
        ("", 0o700),
        ("ca", 0o700),
        ("ca/ca.key", 0o600),
        ("tls/server.key", 0o600),
    ] {
        let found = std::fs::metadata(server.data.join(file))
            .unwrap()
            .permissions()
            .mode()
            & 0o777;
        assert_eq!(found, mode, "{file}");
    }
    // A lost key isn't replaced in silence.
    server.stop();
    std::fs::remove_file(server.data.join("ca/ca.key")).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_cairn-control"))
        .args([
            "serve",
            "--https",
            "127.0.0.1:0",
            "--mqtt",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--data",
        ])
        .arg(&server.data)
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("put it back from your backup"));
}

#[tokio::test]
async fn a_revocation_goes_to_its_end_if_the_operator_hangs_up() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let operator = server.operator().await;
    let node = server.enrol(&server.token(1, 600), "bad").await;
    let subscriber = node.subscribe(&server, &["v1/devices/me/attributes"]);
    subscriber.line("SUBACK");
    // The disk is busy: somebody else writes, and the revocation waits.
    let busy = server.database();
    busy.execute_batch("BEGIN IMMEDIATE").unwrap();
    let path = format!("/v1/devices/{}/revoke", node.id);
    let revocation = operator.send(Method::POST, &path, None);
    let given_up = tokio::time::timeout(Duration::from_millis(500), revocation).await;
    assert!(given_up.is_err(), "it didn't wait");
    drop(operator);
    // The server has seen that the operator is gone.
    let gone = "cairn_connections_open{front=\"https\"} 0";
    metrics_say(&server, gone).await;
    busy.execute_batch("COMMIT").unwrap();
    subscriber.line("received CONNACK (5)");
}
