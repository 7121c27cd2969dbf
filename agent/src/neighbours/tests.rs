//! Two nodes over real connections: who is answered, and what is given.

use std::net::SocketAddr;
use std::time::Instant;

use cairn_release::BLOCK;
use cairn_release::verity::{Builder, Salt};
use rcgen::{CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};

use super::*;

const BLOCKS: u8 = 200;

/// What a control plane's CA does.
pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn certified(&self, device: &str, purpose: ExtendedKeyUsagePurpose) -> Arc<Identity> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, device);
        params.extended_key_usages = vec![purpose];
        let answer = cairn_wire::enrol::Identity {
            device: device.into(),
            certificate: params.signed_by(&key, &self.0).unwrap().pem(),
            ca: self.0.pem(),
            mqtt: "cp:8883".into(),
            time: 0,
        };
        Identity::new(answer, "https://cp", &key.serialize_pem())
            .unwrap()
            .into()
    }

    pub(crate) fn device(&self, device: &str) -> Arc<Identity> {
        self.certified(device, ExtendedKeyUsagePurpose::ClientAuth)
    }
}

/// One image, of which some blocks are there.
struct OneImage {
    offer: Arc<Offer>,
    bytes: Vec<u8>,
}

impl Shelf for OneImage {
    fn find(&self, image: &Digest) -> Option<Arc<Offer>> {
        (self.offer.image == *image).then(|| self.offer.clone())
    }

    fn read(&self, _: &Digest, bytes: Range<u64>) -> io::Result<Vec<u8>> {
        let range = usize::try_from(bytes.start).unwrap()..usize::try_from(bytes.end).unwrap();
        Ok(self.bytes[range].to_vec())
    }
}

fn image() -> Arc<OneImage> {
    let mut bytes: Vec<u8> = (0..BLOCKS).flat_map(|block| [block; BLOCK]).collect();
    let mut tree = Builder::new(Salt::default());
    bytes.chunks(BLOCK).for_each(|block| tree.push(block));
    let (tree, verity) = tree.finish();
    bytes.extend(tree);
    let offer = Offer::none(&verity);
    offer.begin(BLOCKS.into());
    offer.got(0..u32::from(BLOCKS) - 1);
    Arc::new(OneImage {
        offer: offer.into(),
        bytes,
    })
}

fn clock() -> Clock {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    Clock::manual("boot", now.cast_signed(), 0)
}

/// Answers as `identity`, at so many bytes per second.
async fn serving(identity: Arc<Identity>, shelf: Arc<OneImage>, rate: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let never = server::run(listener, &identity, clock(), shelf, rate).await;
        never.unwrap();
    });
    address
}

/// A node that knows of that one.
fn asking(identity: Option<Arc<Identity>>, other: SocketAddr) -> Neighbours {
    let target = Target {
        identity,
        ..Target::default()
    };
    let http = Http::to_devices(clock(), watch::channel(Arc::new(target)).1);
    let known = Known::default();
    known.add("b".into(), other);
    Neighbours { known, http }
}

#[tokio::test]
async fn a_neighbour_is_told_what_is_there_and_given_only_that() {
    let (ca, image) = (Ca::new(), image());
    let other = serving(ca.device("b"), image.clone(), 1 << 30).await;
    let node = asking(Some(ca.device("a")), other);
    image.offer.set_role(Some(neighbour::Role::Fetches));

    let found = node.holding(&image.offer.image).await;
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].id.as_str(), &found[0].holding),
        ("b", &image.offer.holding("b"))
    );
    assert!(node.holding(&Digest([7; 32])).await.is_empty());
    // Under another name than its own it isn't believed.
    node.known.add("000".into(), other);
    assert_eq!(node.holding(&image.offer.image).await.len(), 1);

    let end = u64::from(BLOCKS - 1) * BLOCK as u64;
    for range in [
        0..end,
        4090..4100,
        end + BLOCK as u64..image.bytes.len() as u64,
    ] {
        let answer = node
            .http
            .get(&found[0].url, Some(range.clone()), &[])
            .await
            .unwrap();
        assert_eq!(answer.status, 206);
        let range = range.start as usize..range.end as usize;
        assert!(answer.bytes(1 << 20).await.unwrap() == image.bytes[range]);
    }
    for (range, status) in [(end..end + 1, 416), (0..end + 1, 416)] {
        let refused = node
            .http
            .get(&found[0].url, Some(range), &[])
            .await
            .unwrap_err();
        assert!(matches!(refused, LinkError::Status { status: s, .. } if s == status));
    }
    let base = format!("https://{other}");
    for path in [
        "/",
        "/v1/images/",
        "/v1/images/xyz",
        "/v1/images/../../etc/passwd",
        "/metrics",
    ] {
        let refused = node
            .http
            .get(&format!("{base}{path}"), None, &[])
            .await
            .unwrap_err();
        assert!(
            matches!(refused, LinkError::Status { status: 404, .. }),
            "{path}"
        );
    }
}

#[tokio::test]
async fn only_devices_of_the_same_ca_are_answered_and_asked() {
    let (ours, theirs, image) = (Ca::new(), Ca::new(), image());
    let stranger = Some(theirs.device("a"));
    let server = ExtendedKeyUsagePurpose::ServerAuth;
    let device = serving(ours.device("b"), image.clone(), 1 << 30).await;
    for (asks, why) in [
        (stranger.clone(), "another CA"),
        (None, "no certificate"),
        (
            Some(ours.certified("cp", server.clone())),
            "a server's certificate",
        ),
    ] {
        assert!(
            asking(asks, device)
                .holding(&image.offer.image)
                .await
                .is_empty(),
            "{why}"
        );
    }
    for answers in [theirs.device("b"), ours.certified("cp", server)] {
        let other = serving(answers, image.clone(), 1 << 30).await;
        let node = asking(Some(ours.device("a")), other);
        assert!(node.holding(&image.offer.image).await.is_empty());
        // It isn't asked again at once.
        assert!(node.known.all().is_empty());
    }
}

#[tokio::test]
async fn all_together_are_given_no_more_than_the_rate() {
    let (ca, image) = (Ca::new(), image());
    let other = serving(ca.device("b"), image.clone(), 1 << 20).await;
    let url = format!(
        "https://{other}{}{}{}",
        neighbour::PATH,
        image.offer.image,
        neighbour::BYTES
    );
    let began = Instant::now();
    let all = (0..4).map(|n| {
        let (node, url) = (
            asking(Some(ca.device(&format!("a{n}"))), other),
            url.clone(),
        );
        async move {
            let answer = node.http.get(&url, Some(0..512 << 10), &[]).await.unwrap();
            assert_eq!(answer.bytes(1 << 20).await.unwrap().len(), 512 << 10);
        }
    });
    join_all(all).await;
    let took = began.elapsed().as_secs_f64();
    // 2 MiB at 1 MiB a second; each may have one piece in advance.
    assert!(took > 1.6, "{took} s");
}
