//! The keeper against a small control plane: TLS, a CA, and the two requests.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cairn_wire::enrol::{EnrolRequest, RenewRequest};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType, IsCa, Issuer,
    KeyPair,
};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

use super::keeper::{Keeper, Standing};
use super::*;
use crate::clock::Clock;
use crate::link::backoff::Backoff;
use crate::shutdown;

const DAY: i64 = 86_400;

struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    now: i64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: String,
    spent: bool,
    public_key: Option<Vec<u8>>,
    renewals: u32,
    /// Answered with 503 so often first.
    failing: u32,
}

impl Ca {
    /// A CA at the time `now`.
    fn new(now: i64) -> Arc<Self> {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "test CA");
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2090, 1, 1);
        Arc::new(Self {
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap(),
            now,
            state: Mutex::new(State {
                token: "secret".into(),
                ..State::default()
            }),
        })
    }

    fn server_config(&self) -> rustls::ServerConfig {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2080, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        rustls::ServerConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap()
    }

    async fn start(self: &Arc<Self>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!(
            "https://localhost:{}",
            listener.local_addr().unwrap().port()
        );
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(self.server_config()));
        let ca = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut request = Vec::new();
                let (head, length) = loop {
                    let mut part = [0; 4096];
                    let read = stream.read(&mut part).await.unwrap_or(0);
                    request.extend_from_slice(&part[..read]);
                    let text = String::from_utf8_lossy(&request).to_lowercase();
                    let head = text.find("\r\n\r\n").map(|end| end + 4);
                    let length: usize = text
                        .split("content-length: ")
                        .nth(1)
                        .and_then(|rest| rest.split("\r\n").next()?.parse().ok())
                        .unwrap_or(0);
                    if let Some(head) = head.filter(|head| request.len() >= head + length) {
                        break (head, length);
                    }
                    if read == 0 {
                        break (0, 0);
                    }
                };
                let path = String::from_utf8_lossy(&request)
                    .split(' ')
                    .nth(1)
                    .unwrap_or("")
                    .to_owned();
                let (status, body) = ca.answer(&path, &request[head..head + length]);
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(body.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        url
    }

    fn answer(&self, path: &str, body: &[u8]) -> (&'static str, String) {
        let mut state = self.state.lock().unwrap();
        let refused = |code: &str| {
            (
                "403 Forbidden",
                format!("{{\"code\":\"{code}\",\"message\":\"{code} it is\"}}"),
            )
        };
        if state.failing > 0 {
            state.failing -= 1;
            return ("503 Service Unavailable", String::new());
        }
        let csr = match path {
            "/v1/enrol" => {
                let request: EnrolRequest = serde_json::from_slice(body).unwrap();
                if request.token != state.token || state.spent {
                    return refused("token-used");
                }
                request.csr
            }
            "/v1/renew" => {
                let request: RenewRequest = serde_json::from_slice(body).unwrap();
                assert_eq!(request.device, "node-1");
                request.csr
            }
            _ => return ("404 Not Found", String::new()),
        };
        let csr = CertificateSigningRequestParams::from_pem(&csr).unwrap();
        let public_key = rcgen::PublicKeyData::subject_public_key_info(&csr.public_key);
        if path == "/v1/renew" {
            if state.public_key.as_ref() != Some(&public_key) {
                return refused("wrong-key");
            }
            state.renewals += 1;
        }
        state.spent = true;
        state.public_key = Some(public_key);
        let mut params = csr.params;
        let at = |seconds: i64| {
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.try_into().unwrap())
        };
        params.not_before = at(self.now - DAY);
        params.not_after = at(self.now + 29 * DAY);
        let issuer = Issuer::from_ca_cert_der(self.issuer.der(), self.issuer_key()).unwrap();
        let certificate = CertificateSigningRequestParams {
            params,
            public_key: csr.public_key,
        }
        .signed_by(&issuer)
        .unwrap();
        let identity = cairn_wire::enrol::Identity {
            device: "node-1".into(),
            certificate: certificate.pem(),
            ca: self.issuer.pem(),
            mqtt: "localhost:8883".into(),
            time: self.now,
        };
        ("200 OK", serde_json::to_string(&identity).unwrap())
    }

    fn issuer_key(&self) -> &KeyPair {
        self.issuer.key()
    }
}

struct Node {
    folder: tempfile::TempDir,
    clock: Clock,
    refused: Arc<Notify>,
    look_again: Arc<Notify>,
    standing: watch::Receiver<Standing>,
    _trigger: shutdown::Trigger,
}

impl Node {
    fn enrol_file(folder: &Path) -> PathBuf {
        folder.join("enrol.toml")
    }

    /// A keeper at work on what lies in `folder`.
    fn start(folder: tempfile::TempDir, clock: Clock) -> Self {
        let (sender, standing) = watch::channel(Standing::default());
        let (refused, look_again) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let keeper = Keeper {
            folder: folder.path().join("identity"),
            enrol_files: vec![Self::enrol_file(folder.path())],
            clock: clock.clone(),
            standing: sender,
            refused: refused.clone(),
            look_again: look_again.clone(),
            backoff: Backoff::new(Duration::from_millis(20), Duration::from_millis(50)),
        };
        keeper.load();
        let (trigger, shutdown) = shutdown::pair();
        tokio::spawn(keeper.run(shutdown));
        Self {
            folder,
            clock,
            refused,
            look_again,
            standing,
            _trigger: trigger,
        }
    }

    fn new(ca: &Ca, url: &str, clock: Clock) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = cairn_wire::enrol::EnrolFile {
            server: url.into(),
            ca: ca.issuer.pem(),
            token: "secret".into(),
        };
        std::fs::write(
            Self::enrol_file(folder.path()),
            toml::to_string(&file).unwrap(),
        )
        .unwrap();
        Self::start(folder, clock)
    }

    async fn wait(&mut self, what: impl FnMut(&Standing) -> bool) -> Standing {
        let deadline = Duration::from_secs(60);
        tokio::time::timeout(deadline, self.standing.wait_for(what))
            .await
            .unwrap()
            .unwrap()
            .clone()
    }
}

const NOW: i64 = 1_800_000_000;

#[tokio::test]
async fn a_node_at_1970_enrols_once_and_learns_the_time() {
    let ca = Ca::new(NOW);
    ca.state.lock().unwrap().failing = 2;
    let url = ca.start().await;
    let mut node = Node::new(&ca, &url, Clock::manual("b", 0, 1_700_000_000));
    let standing = node.wait(|standing| standing.identity.is_some()).await;
    assert_eq!(standing.identity.unwrap().device, "node-1");
    assert!(standing.problem.is_none(), "the 503 is forgotten");
    assert_eq!(node.clock.now().wall_ms, Some(NOW * 1000));
    let file = Node::enrol_file(node.folder.path());
    assert!(!file.exists(), "the spent token is gone");

    // A restart finds the identity; the server is not asked.
    let Node { folder, clock, .. } = node;
    let mut again = Node::start(folder, clock);
    assert!(
        again
            .wait(|standing| standing.identity.is_some())
            .await
            .problem
            .is_none()
    );
}

#[tokio::test]
async fn a_spent_token_is_told_and_a_new_one_taken() {
    let ca = Ca::new(NOW);
    ca.state.lock().unwrap().spent = true;
    let url = ca.start().await;
    let mut node = Node::new(&ca, &url, Clock::manual("b", NOW, 0));
    let standing = node.wait(|standing| standing.problem.is_some()).await;
    let problem = standing.problem.unwrap();
    assert!(
        problem.contains("403") && problem.contains("token-used it is"),
        "{problem}"
    );
    assert!(!problem.contains("secret"));
    ca.state.lock().unwrap().spent = false;
    node.look_again.notify_one();
    node.wait(|standing| standing.identity.is_some() && standing.problem.is_none())
        .await;
}

#[tokio::test]
async fn it_is_renewed_at_two_thirds_by_the_same_key() {
    let ca = Ca::new(NOW);
    let url = ca.start().await;
    let mut node = Node::new(&ca, &url, Clock::manual("b", NOW, 0));
    let first = node
        .wait(|standing| standing.identity.is_some())
        .await
        .identity
        .unwrap();
    assert_eq!(first.renew_at(), first.not_before + 20 * DAY);
    // The next start is after that, and within what is left.
    let Node { folder, clock, .. } = node;
    clock.advance(Duration::from_secs(22 * 86_400));
    let mut later = Node::start(folder, clock);
    later.wait(|_| ca.state.lock().unwrap().renewals > 0).await;
}

#[tokio::test]
async fn an_expired_or_refused_certificate_is_recovered_by_the_key() {
    let ca = Ca::new(NOW);
    let url = ca.start().await;
    let mut node = Node::new(&ca, &url, Clock::manual("b", NOW, 0));
    let first = node
        .wait(|standing| standing.identity.is_some())
        .await
        .identity
        .unwrap();
    node.refused.notify_one();
    let renewed = node
        .wait(|standing| {
            standing
                .identity
                .as_ref()
                .is_some_and(|now| !Arc::ptr_eq(now, &first))
        })
        .await;
    assert_eq!(renewed.identity.unwrap().device, "node-1");

    // Off for a year: it has expired.
    let Node { folder, clock, .. } = node;
    clock.advance(Duration::from_secs(365 * 86_400));
    let before = ca.state.lock().unwrap().renewals;
    let mut later = Node::start(folder, clock);
    later
        .wait(|standing| standing.identity.is_some() && ca.state.lock().unwrap().renewals > before)
        .await;
}

#[test]
fn a_certificate_for_another_key_is_refused() {
    let ca = Ca::new(NOW);
    let key = KeyPair::generate().unwrap().serialize_pem();
    let other = KeyPair::generate().unwrap().serialize_pem();
    let request = EnrolRequest {
        token: "secret".into(),
        csr: key::signing_request(&other, "x").unwrap(),
        name: None,
        facts: Default::default(),
    };
    let (_, body) = ca.answer("/v1/enrol", &serde_json::to_vec(&request).unwrap());
    let answer: cairn_wire::enrol::Identity = serde_json::from_str(&body).unwrap();
    let error = Identity::new(answer.clone(), "https://cp", &key).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the node's certificate: expected one for the node's own key"
    );
    for (device, certificate) in [
        ("../x", answer.certificate.as_str()),
        ("node-1", "rubbish"),
        ("", ""),
    ] {
        let wrong = cairn_wire::enrol::Identity {
            device: device.into(),
            certificate: certificate.into(),
            ..answer.clone()
        };
        assert!(Identity::new(wrong, "https://cp", &other).is_err());
    }
}

#[test]
fn half_an_identity_is_an_error_and_none_is_none() {
    let folder = tempfile::tempdir().unwrap();
    assert!(Identity::load(folder.path()).unwrap().is_none());
    std::fs::write(
        folder.path().join("identity.json"),
        r#"{"device":"a","server":"https://cp","mqtt":"cp:1"}"#,
    )
    .unwrap();
    let error = Identity::load(folder.path()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "certificate.pem: expected a file beside identity.json"
    );
    std::fs::write(folder.path().join("identity.json"), "{").unwrap();
    assert!(Identity::load(folder.path()).is_err());
}

#[test]
fn the_key_is_made_once_and_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let identity = folder.path().join("identity");
    let key = key::load_or_make(&identity).unwrap();
    assert_eq!(key::load_or_make(&identity).unwrap(), key);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode(&identity), mode(&identity.join("key.pem"))),
        (0o700, 0o600)
    );
    std::fs::write(identity.join("key.pem"), "half a k").unwrap();
    assert_ne!(key::load_or_make(&identity).unwrap(), key);
}
