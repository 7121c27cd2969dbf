//! A fleet that comes back at once after the server was killed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{Connect, Packet, Publish};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{Server, der};

/// How many; `CAIRN_CROWD=5000` for more.
fn size() -> usize {
    std::env::var("CAIRN_CROWD")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(500)
}

/// Devices as if they had enrolled, each with its own key.
fn devices(server: &Server, count: usize) -> Vec<Arc<rustls::ClientConfig>> {
    let read = |file: &str| std::fs::read_to_string(server.data.join("ca").join(file)).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(
        &read("ca.pem"),
        rcgen::KeyPair::from_pem(&read("ca.key")).unwrap(),
    )
    .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der(&read("ca.pem"))).unwrap();
    let roots = Arc::new(roots);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut database = server.database();
    let tx = database.transaction().unwrap();
    let devices = (0..count)
        .map(|number| {
            let (id, key) = (
                format!("crowd-{number}"),
                rcgen::KeyPair::generate().unwrap(),
            );
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, id.as_str());
            params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            let certificate = params.signed_by(&key, &issuer).unwrap();
            let public = {
                let (_, parsed) = x509_parser::parse_x509_certificate(certificate.der()).unwrap();
                parsed.public_key().raw.to_vec()
            };
            tx.execute(
                "INSERT INTO device (id, name, created, public_key) VALUES (?1, ?1, 0, ?2)",
                rusqlite::params![id, public],
            )
            .unwrap();
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(Arc::clone(&roots))
                .with_client_auth_cert(vec![certificate.der().clone()], key)
                .unwrap();
            config.resumption = rustls::client::Resumption::in_memory_sessions(1);
            Arc::new(config)
        })
        .collect();
    tx.commit().unwrap();
    devices
}

type Link = TlsStream<TcpStream>;

/// Connects, says CONNECT, and stores one record.
async fn connect(
    address: String,
    config: Arc<rustls::ClientConfig>,
    n: usize,
) -> std::io::Result<Link> {
    let stream = TcpStream::connect(address).await?;
    let mut link = TlsConnector::from(config)
        .connect(ServerName::try_from("localhost").unwrap(), stream)
        .await?;
    let mut out = bytes::BytesMut::new();
    let mut connect = Connect::new("x");
    connect.keep_alive = 600;
    Packet::Connect(connect).write(&mut out, 1000).unwrap();
    let mut message = Publish::new(
        "v1/devices/me/telemetry",
        QoS::AtLeastOnce,
        format!("{{\"n\":{n}}}"),
    );
    message.pkid = 1;
    Packet::Publish(message).write(&mut out, 1000).unwrap();
    link.write_all(&out).await?;
    // CONNACK and PUBACK.
    let mut answers = [0; 8];
    link.read_exact(&mut answers).await?;
    assert_eq!(answers, [0x20, 2, 0, 0, 0x40, 2, 0, 1]);
    Ok(link)
}

async fn all(
    server: &Server,
    devices: &[Arc<rustls::ClientConfig>],
    n: usize,
) -> (Vec<Link>, Duration) {
    let begun = Instant::now();
    let tasks: Vec<_> = devices
        .iter()
        .map(|config| tokio::spawn(connect(server.mqtt.clone(), Arc::clone(config), n)))
        .collect();
    let mut links = Vec::new();
    for task in tasks {
        let link = tokio::time::timeout(Duration::from_secs(60), task)
            .await
            .unwrap();
        links.push(link.unwrap().unwrap());
    }
    (links, begun.elapsed())
}

fn resident_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_is_back_soon_after_a_restart() {
    cairn_control_plane::server::raise_file_limit().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(&dir.path().join("data"), &[]);
    let devices = devices(&server, size());
    let before = resident_kib(&server);
    let (links, first) = all(&server, &devices, 1).await;
    let online = |server: &Server| -> i64 {
        server
            .database()
            .query_row("SELECT count(*) FROM device WHERE online", [], |row| {
                row.get(0)
            })
            .unwrap()
    };
    assert_eq!(online(&server), i64::try_from(devices.len()).unwrap());
    let each = (resident_kib(&server).saturating_sub(before)) * 1024 / devices.len() as u64;
    server.kill();
    drop(links);
    server.start_again();
    let (links, again) = all(&server, &devices, 2).await;
    println!(
        "{} devices: {first:?} at first, {again:?} after a restart, {each} bytes each",
        devices.len()
    );
    assert!(again < Duration::from_secs(60), "{again:?}");
    assert!(each < 100 * 1024, "{each} bytes for each idle connection");
    assert_eq!(online(&server), i64::try_from(devices.len()).unwrap());
    let samples: i64 = server
        .database()
        .query_row("SELECT count(*) FROM sample", [], |row| row.get(0))
        .unwrap();
    assert_eq!(samples, 2 * i64::try_from(devices.len()).unwrap());
    // A shutdown with all of them connected.
    let (status, took) = server.stop();
    assert!(
        status.success() && took < Duration::from_secs(10),
        "{took:?}"
    );
    drop(links);
}
