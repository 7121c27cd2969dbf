//! Release files over HTTP.

use cairn_release::{Digest, name};
use reqwest::{Method, Response};

use crate::release;
use crate::site::Site;

struct Published {
    site: Site,
    token: String,
    image: Vec<u8>,
}

impl Published {
    async fn new() -> Self {
        let site = Site::start().await;
        let token = site.login("root").await;
        site.set_trust(&release::trust(
            &site.folder.path().join("trust"),
            1,
            &[1],
            &[10],
            &[1],
        ));
        let folder = release::make(site.folder.path(), "1.0.0", 1, 10, 1000);
        crate::cairnctl::run(
            &site,
            &token,
            &["release", "upload", folder.to_str().unwrap()],
        );
        let image = std::fs::read(folder.join(name::ROOT)).unwrap();
        Self { site, token, image }
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        self.ask(Method::GET, path, headers).await
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = self.site.request(method, path, Some(&self.token));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }
}

const ROOT: &str = "/releases/stable/1.0.0/root.erofs";

#[tokio::test]
async fn parts_of_a_file_are_what_was_asked_for() {
    let published = Published::new().await;
    let (image, size) = (&published.image, published.image.len());
    let whole = published.get(ROOT, &[]).await;
    assert_eq!(whole.status(), 200);
    let tag = whole.headers()["etag"].to_str().unwrap().to_owned();
    assert_eq!(tag, format!("\"{}\"", Digest::of(image)));
    assert_eq!(whole.headers()["accept-ranges"], "bytes");
    assert_eq!(whole.content_length(), Some(size as u64));
    assert_eq!(whole.bytes().await.unwrap(), *image);

    let last = format!("bytes={}-", size - 1);
    let cases = [
        ("bytes=0-0", 0..1),
        ("bytes=4096-8191", 4096..8192),
        ("bytes=-10", size - 10..size),
        (&last, size - 1..size),
    ];
    for (range, expected) in cases {
        let part = published
            .get(ROOT, &[("range", range), ("if-range", &tag)])
            .await;
        assert_eq!(part.status(), 206, "{range}");
        let told = format!("bytes {}-{}/{size}", expected.start, expected.end - 1);
        assert_eq!(part.headers()["content-range"], told.as_str());
        assert_eq!(part.bytes().await.unwrap(), image[expected], "{range}");
    }
    let beyond = published
        .get(ROOT, &[("range", &format!("bytes={size}-"))])
        .await;
    assert_eq!(beyond.status(), 416);
    assert_eq!(
        beyond.headers()["content-range"],
        format!("bytes */{size}").as_str()
    );
    let other = published
        .get(ROOT, &[("range", "bytes=0-0"), ("if-range", "\"other\"")])
        .await;
    assert_eq!(
        (other.status().as_u16(), other.content_length()),
        (200, Some(size as u64))
    );
    assert_eq!(
        published
            .get(ROOT, &[("if-none-match", &tag)])
            .await
            .status(),
        304
    );
    let head = published
        .ask(Method::HEAD, ROOT, &[("range", "bytes=0-0")])
        .await;
    assert_eq!(head.status(), 200);
    assert_eq!(head.headers()["content-length"], size.to_string().as_str());
    assert!(head.bytes().await.unwrap().is_empty());
}

#[tokio::test]
async fn latest_and_trust_are_served_and_nothing_beside_them() {
    let published = Published::new().await;
    let data = published.site.data();
    for (path, file) in [
        (
            "/releases/stable/latest.dsse.json",
            "releases/stable/1.0.0/manifest.dsse.json",
        ),
        ("/releases/stable/trust/1.dsse.json", "trust/1.dsse.json"),
        (
            "/releases/stable/1.0.0/manifest.dsse.json",
            "releases/stable/1.0.0/manifest.dsse.json",
        ),
    ] {
        let answer = published.get(path, &[]).await;
        assert_eq!(
            (
                answer.status().as_u16(),
                answer.headers()["content-type"].to_str().unwrap()
            ),
            (200, "application/json")
        );
        let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
        assert_eq!(
            answer.bytes().await.unwrap(),
            std::fs::read(data.join(file)).unwrap(),
            "{path}"
        );
        assert_eq!(
            published
                .get(path, &[("if-none-match", &tag)])
                .await
                .status(),
            304,
            "{path}"
        );
    }
    std::fs::write(data.join("releases/stable/1.0.0/extra"), "not ours").unwrap();
    std::os::unix::fs::symlink(
        "/etc/passwd",
        data.join("releases/stable/trust/7.dsse.json"),
    )
    .unwrap();
    for path in [
        "/releases/stable/1.0.0/extra",
        "/releases/stable/1.0.0/..%2F..%2F..%2Fcairn.db",
        "/releases/..%2F/latest.dsse.json",
        "/releases/..%2F..%2Fca/trust/ca.key",
        "/releases/.uploads/1.0.0/root.erofs",
        "/releases/stable/trust/01.dsse.json",
        "/releases/stable/trust/+1.dsse.json",
        "/releases/stable/trust/..%2Flatest.dsse.json",
        "/releases/stable/%2E%2E/cairn.db",
        "/releases/stable/1.0.0/root.erofs%00",
        "/releases/stable/2.0.0/root.erofs",
        "/releases/beta/latest.dsse.json",
    ] {
        assert_eq!(published.get(path, &[]).await.status(), 404, "{path}");
    }
    let link = published
        .get("/releases/stable/trust/7.dsse.json", &[])
        .await;
    assert!(!link.status().is_success());
    assert!(!link.text().await.unwrap().contains("root:"));
}

#[tokio::test]
async fn a_slow_reader_costs_no_memory() {
    let published = Published::new().await;
    // Warm.
    published.get(ROOT, &[]).await.bytes().await.unwrap();
    let before = published.site.memory();
    // Nobody reads these answers.
    let mut open = Vec::new();
    for _ in 0..50 {
        open.push(published.get(ROOT, &[]).await);
    }
    let part = published.get(ROOT, &[("range", "bytes=0-3")]).await;
    assert_eq!(part.bytes().await.unwrap(), published.image[..4]);
    assert!(open.iter().all(|answer| answer.status() == 200));
    let (grown, whole) = (
        published.site.memory().saturating_sub(before),
        open.len() * published.image.len() / 1024,
    );
    assert!(
        grown < whole as u64 / 2,
        "{grown} KiB for answers of {whole} KiB"
    );
}

#[tokio::test]
async fn a_device_fetches_with_its_certificate_until_it_is_revoked() {
    let published = Published::new().await;
    let site = &published.site;
    let (device, http) = site.enrol(&published.token, "edge-1").await;
    let fetch = || {
        http.get(format!("{}{ROOT}", site.url))
            .header("range", "bytes=0-9")
            .send()
    };
    let part = fetch().await.unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(part.bytes().await.unwrap(), published.image[..10]);
    // It is a device, and nobody else.
    for path in ["/v1/releases", "/v1/devices", "/v1/account"] {
        assert_eq!(
            http.get(format!("{}{path}", site.url))
                .send()
                .await
                .unwrap()
                .status(),
            401,
            "{path}"
        );
    }
    let revoke = format!("/v1/devices/{device}/revoke");
    assert_eq!(
        site.post(&revoke, &published.token, serde_json::json!({}))
            .await
            .status,
        204
    );
    // The open connection too is of no use any more.
    match fetch().await {
        Ok(refused) => assert!(
            [401, 403].contains(&refused.status().as_u16()),
            "{refused:?}"
        ),
        Err(cut) => assert!(cut.is_request() || cut.is_connect(), "{cut}"),
    }
}
