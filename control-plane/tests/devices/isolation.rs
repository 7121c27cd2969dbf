//! A device reaches nothing of another's: by topic, path, certificate, token.

use cairn_control_plane::registry::attributes::Scope;
use serde_json::json;

use super::enrolment::sign;
use crate::support::{Node, Server, mosquitto};

async fn two(server: &Server) -> (Node, Node) {
    let token = server.token(2, 600);
    (
        server.enrol(&token, "ada").await,
        server.enrol(&token, "bob").await,
    )
}

#[tokio::test]
async fn by_topic() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let (ada, bob) = two(&server).await;
    for filter in [
        "#",
        "+",
        "v1/#",
        "v1/devices/+/telemetry",
        "v1/devices/bob/attributes",
        "v1/devices/me/#",
        "$SYS/#",
        "v1/devices/me/telemetry",
    ] {
        let output = ada
            .mosquitto("mosquitto_sub", &server)
            .args(["-d", "-q", "1", "-W", "2", "-t", filter])
            .output()
            .unwrap();
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            said.contains("All subscription requests were denied"),
            "{filter}: {said}"
        );
    }
    assert!(bob.publish(&server, "v1/devices/me/telemetry", r#"{"mine":1}"#));
    assert!(ada.publish(&server, "v1/devices/me/telemetry", r#"{"hers":1}"#));
    assert_eq!(server.value(&ada.id, "mine"), None);
    assert_eq!(server.value(&bob.id, "hers"), None);
    // The client id says nothing about who it is.
    let status = ada
        .mosquitto("mosquitto_pub", &server)
        .args([
            "-i",
            &bob.id,
            "-u",
            &bob.id,
            "-q",
            "1",
            "-t",
            "v1/devices/me/attributes",
            "-m",
            r#"{"who":"ada"}"#,
        ])
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(
        server.attribute(&ada.id, Scope::Client, "who"),
        Some(json!("ada"))
    );
    assert_eq!(server.attribute(&bob.id, Scope::Client, "who"), None);
}

#[tokio::test]
async fn by_path() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let (ada, bob) = two(&server).await;
    let http = server.http(Some(&ada));
    for path in [
        "/api/v1/bob/attributes",
        "/v1/devices",
        "/v1/devices/bob",
        "/v1/devices/ada",
        "/v1/audit",
        "/v1/bob/desired",
    ] {
        let status = http
            .get(server.url(path))
            .send()
            .await
            .unwrap()
            .status()
            .as_u16();
        assert!(matches!(status, 401 | 403 | 404), "{path}: {status}");
    }
    for name in ["..%2Fbob%2Fx", "..", "a%2Fb", ".", "x%00y"] {
        let status = http
            .put(server.url(&format!("/v1/me/evidence/{name}")))
            .body("x")
            .send()
            .await
            .unwrap()
            .status();
        assert!(status.is_client_error(), "{name}: {status}");
    }
    assert_eq!(
        http.put(server.url("/v1/me/evidence/log.txt"))
            .body("ada's")
            .send()
            .await
            .unwrap()
            .status(),
        204
    );
    assert_eq!(
        std::fs::read(server.data.join("evidence/ada/log.txt")).unwrap(),
        b"ada's"
    );
    assert!(!server.data.join("evidence/bob").exists());
    // A call to one can't be answered by the other: there is no call 0 to 9 of ada's.
    let other = server.http(Some(&bob));
    for id in 0..10 {
        let answer = other
            .post(server.url(&format!("/api/v1/me/rpc/{id}")))
            .body("{}")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 404);
    }
    // Without a certificate nobody is `me`.
    let nobody = server.http(None);
    for path in [
        "/v1/me/desired",
        "/v1/me/speed?bytes=1",
        "/api/v1/me/attributes",
        "/api/v1/me/attributes/updates",
        "/api/v1/me/rpc",
    ] {
        assert_eq!(
            nobody.get(server.url(path)).send().await.unwrap().status(),
            401,
            "{path}"
        );
    }
}

#[tokio::test]
async fn by_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let (ada, bob) = two(&server).await;
    let key = || rcgen::KeyPair::from_pem(&ada.key.serialize_pem()).unwrap();
    let shown = |certificate: String, key| {
        let mut identity = ada.identity.clone();
        identity.certificate = certificate;
        Node::new(dir.path(), key, identity)
    };
    // Of another authority with our root's name.
    let root = {
        let der = crate::support::der(&std::fs::read_to_string(server.ca()).unwrap());
        let (_, root) = x509_parser::parse_x509_certificate(&der).unwrap();
        root.subject()
            .iter_common_name()
            .next()
            .unwrap()
            .as_str()
            .unwrap()
            .to_owned()
    };
    let named = |name: &str| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params
    };
    let mut ca = named(&root);
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = rcgen::Issuer::new(ca, rcgen::KeyPair::generate().unwrap());
    let forged = shown(named(&bob.id).signed_by(&key(), &ca).unwrap().pem(), key());
    // Signed by itself, with bob's name.
    let selfmade = shown(named(&bob.id).self_signed(&key()).unwrap().pem(), key());
    // Our authority's signature, bob's name, ada's key: as if an old certificate of another life of the id was kept.
    let wrong_key = shown(sign(&server, &key(), &bob.id, 2024, 2040), key());
    // Our authority's, for a device that isn't there.
    let unknown = shown(sign(&server, &key(), "eve", 2024, 2040), key());
    for (what, node) in [
        ("forged", forged),
        ("selfmade", selfmade),
        ("wrong key", wrong_key),
        ("unknown", unknown),
    ] {
        assert!(
            !node.publish(&server, "v1/devices/me/telemetry", r#"{"a":1}"#),
            "{what}"
        );
        if let Ok(answer) = server
            .http(Some(&node))
            .get(server.url("/v1/me/desired"))
            .send()
            .await
        {
            assert_eq!(answer.status(), 403, "{what}");
        }
        // A token doesn't help who shows a certificate that is refused.
        let token = format!("token-{what}");
        server.access_token(&bob.id, &token);
        let status = node
            .mosquitto("mosquitto_pub", &server)
            .args([
                "-u",
                &token,
                "-q",
                "1",
                "-t",
                "v1/devices/me/telemetry",
                "-m",
                r#"{"a":1}"#,
            ])
            .status()
            .unwrap();
        assert!(!status.success(), "{what}");
    }
    let samples: i64 = server
        .database()
        .query_row("SELECT count(*) FROM sample", [], |row| row.get(0))
        .unwrap();
    assert_eq!(samples, 0);
    assert!(ada.publish(&server, "v1/devices/me/telemetry", r#"{"a":1}"#));
}

#[tokio::test]
async fn by_token() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let (ada, bob) = two(&server).await;
    server.access_token(&ada.id, "token-of-ada");
    server.access_token(&bob.id, "token-of-bob");
    let publish = |token: &str, topic: &str| {
        let mut command = mosquitto("mosquitto_pub", &server);
        command
            .args(["-u", token, "-q", "1", "-t", topic, "-m", r#"{"t":1}"#])
            .status()
            .unwrap()
            .success()
    };
    assert!(publish("token-of-ada", "v1/devices/me/telemetry"));
    assert!(!publish("token-of-ada", "v1/devices/bob/telemetry"));
    assert_eq!(
        (server.value(&ada.id, "t"), server.value(&bob.id, "t")),
        (Some(json!(1)), None)
    );
    let http = server.http(None);
    let attributes = |token: &str| {
        http.get(server.url(&format!("/api/v1/{token}/attributes")))
            .send()
    };
    let set = http
        .post(server.url("/api/v1/token-of-bob/attributes"))
        .body(r#"{"secret":"bob's"}"#)
        .send()
        .await;
    assert_eq!(set.unwrap().status(), 200);
    let hers = attributes("token-of-ada")
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(!hers.contains("bob's"), "{hers}");
    assert!(
        attributes("token-of-bob")
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
            .contains("bob's")
    );
    for token in ["token-of-", "ada", "bob", "%00", "TOKEN-OF-ADA"] {
        assert_eq!(attributes(token).await.unwrap().status(), 401, "{token}");
    }
    // An enrolment token is no access token, and the other way round.
    let enrolment = server.token(1, 600);
    assert_eq!(attributes(&enrolment).await.unwrap().status(), 401);
    let key = rcgen::KeyPair::generate().unwrap();
    assert_eq!(
        server
            .try_enrol("token-of-ada", "x", &key)
            .await
            .unwrap_err()
            .1
            .code,
        "token-unknown"
    );
}
