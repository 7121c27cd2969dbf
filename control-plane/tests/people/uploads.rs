//! Uploads: in parts, resumed, refused.

use std::path::Path;

use cairn_release::name;
use reqwest::Method;
use serde_json::{Value, json};

use crate::release;
use crate::site::{Answer, Site};

/// What `POST /v1/uploads` wants for a folder.
fn describe(folder: &Path, channel: &str) -> Value {
    let mut sizes = serde_json::Map::new();
    for file in [
        name::KERNEL,
        name::ROOT,
        name::KERNEL_INDEX,
        name::ROOT_INDEX,
        name::SBOM,
        name::CONTENTS,
    ] {
        sizes.insert(
            file.into(),
            folder.join(file).metadata().unwrap().len().into(),
        );
    }
    let manifest = std::fs::read_to_string(folder.join(name::MANIFEST)).unwrap();
    json!({ "channel": channel, "manifest": manifest, "sizes": sizes })
}

pub async fn put(
    site: &Site,
    token: &str,
    id: &str,
    file: &str,
    offset: usize,
    bytes: &[u8],
) -> Answer {
    let path = format!("/v1/uploads/{id}/files/{file}?offset={offset}");
    site.send(
        site.request(Method::PUT, &path, Some(token))
            .body(bytes.to_vec()),
    )
    .await
}

pub async fn begin(site: &Site, token: &str, folder: &Path, channel: &str) -> Answer {
    site.post("/v1/uploads", token, describe(folder, channel))
        .await
}

pub async fn put_all(site: &Site, token: &str, id: &str, folder: &Path) {
    for file in [
        name::KERNEL,
        name::ROOT,
        name::KERNEL_INDEX,
        name::ROOT_INDEX,
        name::SBOM,
        name::CONTENTS,
    ] {
        let answer = put(
            site,
            token,
            id,
            file,
            0,
            &std::fs::read(folder.join(file)).unwrap(),
        )
        .await;
        assert_eq!(answer.status, 200, "{file}: {answer:?}");
    }
}

pub async fn commit(site: &Site, token: &str, id: &str) -> Answer {
    site.post(&format!("/v1/uploads/{id}/commit"), token, json!({}))
        .await
}

async fn publish(site: &Site, token: &str, folder: &Path, channel: &str) -> Answer {
    let begun = begin(site, token, folder, channel).await;
    assert_eq!(begun.status, 200, "{begun:?}");
    let id = begun.body["id"].as_str().unwrap().to_owned();
    put_all(site, token, &id, folder).await;
    commit(site, token, &id).await
}

/// A server with trust root 1: root key 1, release key 10.
pub async fn site() -> (Site, String) {
    let site = Site::start().await;
    let root = site.login("root").await;
    let trust = release::trust(&site.folder.path().join("trust"), 1, &[1], &[10], &[1]);
    site.set_trust(&trust);
    (site, root)
}

fn folder_is_empty(path: &Path) -> bool {
    std::fs::read_dir(path).unwrap().next().is_none()
}

#[tokio::test]
async fn a_manifest_that_is_not_trusted_is_refused_before_any_byte() {
    let site = Site::start().await;
    let root = site.login("root").await;
    let good = release::make(site.folder.path(), "1.0.0", 1, 10, 2);
    assert_eq!(
        begin(&site, &root, &good, "stable").await.code(),
        "trust-unset"
    );
    site.set_trust(&release::trust(
        &site.folder.path().join("trust"),
        1,
        &[1],
        &[10],
        &[1],
    ));

    let stranger = release::make(site.folder.path(), "1.0.0", 1, 66, 2);
    let refused = begin(&site, &root, &stranger, "stable").await;
    assert_eq!(
        (refused.status.as_u16(), refused.code()),
        (403, "untrusted")
    );
    assert!(
        refused.body["message"]
            .as_str()
            .unwrap()
            .contains("unknown key"),
        "{refused:?}"
    );

    let mut changed = describe(&good, "stable");
    // One signed byte is another.
    let mut envelope: Value = serde_json::from_str(changed["manifest"].as_str().unwrap()).unwrap();
    let payload = envelope["payload"].as_str().unwrap().to_owned();
    envelope["payload"] = format!(
        "{}{}",
        if payload.starts_with('e') { "f" } else { "e" },
        &payload[1..]
    )
    .into();
    changed["manifest"] = envelope.to_string().into();
    assert_eq!(
        site.post("/v1/uploads", &root, changed).await.code(),
        "untrusted"
    );

    let mut sizes = describe(&good, "stable");
    sizes["sizes"][name::ROOT] = 1.into();
    assert_eq!(
        site.post("/v1/uploads", &root, sizes).await.code(),
        "bad-sizes"
    );
    for channel in ["../x", ".uploads", "a/b", ""] {
        assert_eq!(
            site.post("/v1/uploads", &root, describe(&good, channel))
                .await
                .status,
            422,
            "{channel}"
        );
    }
    let mut other = describe(&good, "stable");
    other["sizes"]["../../evil"] = 1.into();
    assert_eq!(
        site.post("/v1/uploads", &root, other).await.code(),
        "bad-sizes"
    );
    assert!(folder_is_empty(&site.data().join("releases/.uploads")));
}

#[tokio::test]
async fn a_release_is_published_as_imgtool_does() {
    let (site, root) = site().await;
    let first = release::make(site.folder.path(), "1.0.0", 1, 10, 5);
    let done = publish(&site, &root, &first, "stable").await;
    assert_eq!(done.status, 200, "{done:?}");
    assert_eq!(
        (&done.body["version"], &done.body["published_by"]),
        (&json!("1.0.0"), &json!("root"))
    );

    let channel = site.data().join("releases/stable");
    for file in std::fs::read_dir(&first).unwrap() {
        let file = file.unwrap();
        let there = std::fs::read(channel.join("1.0.0").join(file.file_name())).unwrap();
        assert_eq!(
            there,
            std::fs::read(file.path()).unwrap(),
            "{:?}",
            file.file_name()
        );
    }
    assert_eq!(std::fs::read_dir(channel.join("1.0.0")).unwrap().count(), 7);
    let same =
        |a: &Path, b: &Path| assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    same(
        &channel.join("latest.dsse.json"),
        &first.join(name::MANIFEST),
    );
    same(
        &channel.join("trust/1.dsse.json"),
        &site.folder.path().join("trust/1.dsse.json"),
    );
    assert!(folder_is_empty(&site.data().join("releases/.uploads")));

    // The same again is no work; another one by that name is refused.
    assert_eq!(
        begin(&site, &root, &first, "stable").await.body["published"],
        true
    );
    let other = release::make(site.folder.path(), "1.0.0", 7, 10, 5);
    assert_eq!(
        begin(&site, &root, &other, "stable").await.code(),
        "version-taken"
    );
    assert_eq!(
        begin(&site, &root, &other, "beta").await.code(),
        "version-taken"
    );
    let twin = release::make(site.folder.path(), "1.0.1", 1, 10, 5);
    assert_eq!(
        begin(&site, &root, &twin, "stable").await.code(),
        "sequence-taken"
    );

    let second = release::make(site.folder.path(), "2.0.0", 5, 10, 5);
    assert_eq!(publish(&site, &root, &second, "stable").await.status, 200);
    let older = release::make(site.folder.path(), "1.5.0", 3, 10, 5);
    assert_eq!(
        begin(&site, &root, &older, "stable").await.code(),
        "older-than-latest"
    );
    let mut beside = describe(&older, "stable");
    beside["keep_latest"] = true.into();
    let begun = site.post("/v1/uploads", &root, beside).await;
    let id = begun.body["id"].as_str().unwrap();
    put_all(&site, &root, id, &older).await;
    assert_eq!(commit(&site, &root, id).await.status, 200);
    same(
        &channel.join("latest.dsse.json"),
        &second.join(name::MANIFEST),
    );

    // A release that is taken back leaves latest on the newest that was meant to be one; its name is spent.
    assert_eq!(
        site.call(
            Method::DELETE,
            "/v1/releases/stable/2.0.0",
            Some(&root),
            json!({})
        )
        .await
        .status,
        204
    );
    same(
        &channel.join("latest.dsse.json"),
        &first.join(name::MANIFEST),
    );
    assert!(!channel.join("2.0.0").exists());
    let spent = release::make(site.folder.path(), "2.0.0", 9, 10, 5);
    assert_eq!(
        begin(&site, &root, &spent, "stable").await.code(),
        "version-taken"
    );
    let list = site.get("/v1/releases", &root).await;
    let versions: Vec<_> = list.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["version"].clone())
        .collect();
    assert_eq!(versions, [json!("1.5.0"), json!("1.0.0")]);
    let actions: Vec<_> = site
        .audit(&root)
        .await
        .into_iter()
        .map(|line| line.1)
        .filter(|a| a.starts_with("release"))
        .collect();
    assert_eq!(
        actions,
        [
            "release.remove",
            "release.publish",
            "release.publish",
            "release.publish"
        ]
    );
}

#[tokio::test]
async fn an_upload_goes_on_where_it_stopped() {
    let (mut site, root) = site().await;
    let folder = release::make(site.folder.path(), "1.0.0", 1, 10, 300);
    let image = std::fs::read(folder.join(name::ROOT)).unwrap();
    let begun = begin(&site, &root, &folder, "stable").await;
    let id = begun.body["id"].as_str().unwrap().to_owned();
    assert_eq!(
        put(&site, &root, &id, name::ROOT, 0, &image[..100_000])
            .await
            .body["received"],
        100_000
    );

    let wrong = put(&site, &root, &id, name::ROOT, 5, &image[5..10]).await;
    assert_eq!((wrong.status.as_u16(), wrong.code()), (409, "wrong-offset"));
    let much = put(&site, &root, &id, name::ROOT, 100_000, &image).await;
    assert_eq!((much.status.as_u16(), much.code()), (413, "too-much"));
    let early = commit(&site, &root, &id).await;
    assert_eq!((early.status.as_u16(), early.code()), (409, "incomplete"));
    for file in ["manifest.dsse.json", "upload.json", "..%2Fx", "passwd"] {
        assert_eq!(
            put(&site, &root, &id, file, 0, b"x").await.status,
            404,
            "{file}"
        );
    }

    assert_eq!(site.audit(&root).await[0].1, "upload.begin");
    site.kill_and_start();
    let again = begin(&site, &root, &folder, "stable").await;
    assert_eq!(again.body["id"].as_str(), Some(id.as_str()));
    let files = again.body["files"].as_array().unwrap();
    let progress = files
        .iter()
        .find(|file| file["name"] == name::ROOT)
        .unwrap();
    assert_eq!(progress["received"], 100_000);
    assert_eq!(
        put(&site, &root, &id, name::ROOT, 100_000, &image[100_000..])
            .await
            .status,
        200
    );
    for file in [
        name::KERNEL,
        name::KERNEL_INDEX,
        name::ROOT_INDEX,
        name::SBOM,
        name::CONTENTS,
    ] {
        assert_eq!(
            put(
                &site,
                &root,
                &id,
                file,
                0,
                &std::fs::read(folder.join(file)).unwrap()
            )
            .await
            .status,
            200
        );
    }
    assert_eq!(commit(&site, &root, &id).await.status, 200);
    site.kill_and_start();
    assert_eq!(
        site.get("/v1/releases/stable/1.0.0", &root).await.body["files"]
            .as_array()
            .unwrap()
            .len(),
        7
    );
}

#[tokio::test]
async fn bytes_that_were_damaged_are_found_and_sent_again() {
    let (site, root) = site().await;
    let folder = release::make(site.folder.path(), "1.0.0", 1, 10, 5);
    let begun = begin(&site, &root, &folder, "stable").await;
    let id = begun.body["id"].as_str().unwrap().to_owned();
    put_all(&site, &root, &id, &folder).await;
    let path = site
        .data()
        .join("releases/.uploads")
        .join(&id)
        .join(name::ROOT);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4321] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let refused = commit(&site, &root, &id).await;
    assert_eq!(
        (refused.status.as_u16(), refused.code()),
        (422, "wrong-digest")
    );
    assert!(!site.data().join("releases/stable/1.0.0").exists());
    let image = std::fs::read(folder.join(name::ROOT)).unwrap();
    assert_eq!(
        put(&site, &root, &id, name::ROOT, 0, &image).await.status,
        200
    );
    assert_eq!(commit(&site, &root, &id).await.status, 200);
}

#[tokio::test]
async fn a_trust_root_is_followed_only_by_one_that_it_vouches_for() {
    let (site, root) = site().await;
    let trust = site.folder.path().join("other");
    let stranger = release::trust(&trust, 2, &[5], &[11], &[5]);
    let refused = site.control(&["trust", "set", stranger.to_str().unwrap()], "");
    assert!(!refused.status.success());
    let another = release::trust(&trust, 1, &[5], &[11], &[5]);
    assert!(
        !site
            .control(&["trust", "set", another.to_str().unwrap()], "")
            .status
            .success()
    );
    let skipped = release::trust(&trust, 3, &[1], &[11], &[1]);
    assert!(
        !site
            .control(&["trust", "set", skipped.to_str().unwrap()], "")
            .status
            .success()
    );

    let old = release::make(site.folder.path(), "1.0.0", 1, 10, 2);
    assert_eq!(publish(&site, &root, &old, "stable").await.status, 200);
    let begun = begin(
        &site,
        &root,
        &release::make(site.folder.path(), "1.1.0", 2, 10, 2),
        "stable",
    )
    .await;
    let id = begun.body["id"].as_str().unwrap().to_owned();

    // The next root no longer knows release key 10, and counts at once, in the running server.
    site.set_trust(&release::trust(&trust, 2, &[2], &[11], &[1, 2]));
    put_all(&site, &root, &id, &site.folder.path().join("1.1.0-2-10")).await;
    assert_eq!(commit(&site, &root, &id).await.code(), "untrusted");
    let upload = format!("/v1/uploads/{id}");
    let given_up = site
        .call(Method::DELETE, &upload, Some(&root), json!({}))
        .await;
    assert_eq!(given_up.status, 204);
    assert_eq!(site.get(&upload, &root).await.status, 404);
    assert_eq!(site.audit(&root).await[0].1, "upload.remove");
    let new = release::make(site.folder.path(), "1.2.0", 3, 11, 2);
    assert_eq!(publish(&site, &root, &new, "stable").await.status, 200);
    for number in [1, 2] {
        assert!(
            site.data()
                .join(format!("releases/stable/trust/{number}.dsse.json"))
                .is_file()
        );
    }
    let roots = site.get("/v1/trust", &root).await;
    assert_eq!(roots.body["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn what_a_cut_left_behind_is_mended_at_the_start() {
    let (mut site, root) = site().await;
    let folder = release::make(site.folder.path(), "1.0.0", 1, 10, 2);
    assert_eq!(publish(&site, &root, &folder, "stable").await.status, 200);
    let channel = site.data().join("releases/stable");
    // Cut between the rename and latest; while an upload was begun; while a release was removed.
    std::fs::remove_file(channel.join("latest.dsse.json")).unwrap();
    std::fs::create_dir(site.data().join("releases/.uploads/.new-abc")).unwrap();
    std::fs::create_dir(
        site.data()
            .join("releases/.uploads/0123456789abcdef01234567"),
    )
    .unwrap();
    std::fs::create_dir(channel.join(".removed-0.9.0")).unwrap();
    std::fs::write(channel.join("1.0.0/upload.json"), "{}").unwrap();
    // And somebody's own folder, which is none of ours.
    std::fs::create_dir(channel.join("notes")).unwrap();
    site.kill_and_start();
    assert_eq!(
        std::fs::read(channel.join("latest.dsse.json")).unwrap(),
        std::fs::read(folder.join(name::MANIFEST)).unwrap()
    );
    assert!(folder_is_empty(&site.data().join("releases/.uploads")));
    assert!(!channel.join("1.0.0/upload.json").exists());
    assert!(!channel.join(".removed-0.9.0").exists() && channel.join("notes").exists());
    assert_eq!(
        site.get("/v1/releases", &root).await.body["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}
