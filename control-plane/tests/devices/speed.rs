//! How a device measures its line.

use cairn_wire::speed::{LARGEST, PATH};
use serde_json::Value;

use crate::support::Server;

#[tokio::test]
async fn as_many_bytes_as_are_asked_for_and_none_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let node = server.enrol(&server.token(1, 600), "node").await;
    let http = server.http(Some(&node));
    let get = |bytes: &str| {
        http.get(server.url(&format!("{PATH}?bytes={bytes}")))
            .send()
    };
    // One after the other, over one connection.
    for bytes in [0, 1, 1, 65_536, 65_537, 5_000_000] {
        let answer = get(&bytes.to_string()).await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.content_length()),
            (200, Some(bytes))
        );
        assert_eq!(answer.bytes().await.unwrap().len() as u64, bytes);
        let body = vec![7; usize::try_from(bytes).unwrap()];
        let post = http.post(server.url(PATH)).body(body).send();
        assert_eq!(post.await.unwrap().status(), 204);
    }
    let code = async |answer: reqwest::Response| {
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap();
        (status, body["code"].as_str().unwrap().to_owned())
    };
    let large = get(&(LARGEST + 1).to_string()).await.unwrap();
    assert_eq!(code(large).await, (413, "too-large".to_owned()));
    let endless = futures_util::stream::repeat(Ok::<_, std::fmt::Error>("x"));
    let endless = reqwest::Body::wrap_stream(endless);
    let endless = http.post(server.url(PATH)).body(endless).send().await;
    // Refused before it is read, so the connection may be cut while the client still sends.
    if let Ok(answer) = endless {
        assert_eq!(code(answer).await, (411, "length-required".to_owned()));
    }
    assert_eq!(get("many").await.unwrap().status(), 400);
    assert_eq!(get("-1").await.unwrap().status(), 400);

    // One at a time, and the place is free again when who has it hangs up.
    let mut first = get(&LARGEST.to_string()).await.unwrap();
    assert!(first.chunk().await.unwrap().is_some());
    let second = get("1").await.unwrap();
    assert_eq!(code(second).await, (429, "speed-busy".to_owned()));
    let other = server.enrol(&server.token(1, 600), "other").await;
    let other = server.http(Some(&other));
    let beside = other
        .get(server.url(&format!("{PATH}?bytes=9")))
        .send()
        .await
        .unwrap();
    assert_eq!(beside.bytes().await.unwrap().len(), 9);
    drop(first);
    while get("1").await.unwrap().status() == 429 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_device_has_so_many_bytes_in_a_day() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let node = server.enrol(&server.token(1, 600), "node").await;
    // What it asked for counts, whether it takes that or not; the last one may be more than is left.
    for _ in 0..17 {
        let http = server.http(Some(&node));
        loop {
            let answer = http
                .get(server.url(&format!("{PATH}?bytes={LARGEST}")))
                .send()
                .await
                .unwrap();
            if answer.status() == 200 {
                break;
            }
            assert_eq!(answer.json::<Value>().await.unwrap()["code"], "speed-busy");
        }
    }
    let http = server.http(Some(&node));
    loop {
        let answer = http
            .get(server.url(&format!("{PATH}?bytes=1")))
            .send()
            .await
            .unwrap();
        let wait = answer.headers().get("retry-after").cloned();
        let body: Value = answer.json().await.unwrap();
        if body["code"] == "quota" {
            assert!(wait.is_some());
            break;
        }
        assert_eq!(body["code"], "speed-busy");
    }
}
