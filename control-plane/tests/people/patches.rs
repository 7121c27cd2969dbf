//! Patches of published releases: taken, replaced, served, refused.

use std::path::{Path, PathBuf};

use cairn_delta::{Patch, make};
use cairn_release::{Digest, name};
use futures_util::stream;
use reqwest::{Body, Method};
use serde_json::json;

use crate::cairnctl::run;
use crate::release;
use crate::site::{Answer, Site};
use crate::uploads;

/// Two published releases, 1.0.0 and 2.0.0.
struct Two {
    site: Site,
    token: String,
    old: PathBuf,
    new: PathBuf,
}

impl Two {
    async fn new() -> Self {
        let (site, token) = uploads::site().await;
        let folder = |version, sequence| {
            let folder = release::make(site.folder.path(), version, sequence, 10, 50);
            run(
                &site,
                &token,
                &["release", "upload", folder.to_str().unwrap()],
            );
            folder
        };
        let (old, new) = (folder("1.0.0", 1), folder("2.0.0", 2));
        Self {
            site,
            token,
            old,
            new,
        }
    }

    async fn put(&self, version: &str, file: &str, bytes: impl Into<Body>) -> Answer {
        let path = format!("/v1/releases/stable/{version}/patches/{file}");
        let request = self.site.request(Method::PUT, &path, Some(&self.token));
        self.site.send(request.body(bytes)).await
    }

    /// The patch from the old root to the new one, and its name.
    fn patch(&self) -> (String, Vec<u8>) {
        patch(&self.old, &self.new, name::ROOT)
    }

    fn kept(&self) -> PathBuf {
        self.site.data().join("releases/stable/2.0.0/patches")
    }
}

fn patch(old: &Path, new: &Path, image: &str) -> (String, Vec<u8>) {
    let read = |folder: &Path| std::fs::read(folder.join(image)).unwrap();
    let (old, new) = (read(old), read(new));
    let patch = make::make(&old, &new, new.len(), |_, _| {}).unwrap();
    (name::patch(&Digest::of(&old)), patch)
}

/// Head and table alone, with other digests.
fn head(patch: &[u8], from: Digest, to: Digest) -> Vec<u8> {
    let mut patch = Patch::parse(patch).unwrap();
    (patch.from, patch.to) = (from, to);
    patch.to_bytes().unwrap()
}

fn url(version: &str, file: &str) -> String {
    format!("/releases/stable/{version}/patches/{file}")
}

#[tokio::test]
async fn a_patch_is_served_as_long_as_its_release_is() {
    let mut two = Two::new().await;
    let (file, patch) = two.patch();
    let (device, http) = two.site.enrol(&two.token, "edge-1").await;
    let place = url("2.0.0", &file);
    let get = async |headers: &[(&str, &str)]| {
        let mut request = http.get(format!("{}{place}", two.site.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    };
    assert_eq!(get(&[]).await.status(), 404, "there is none yet");
    let kept = two.put("2.0.0", &file, patch.clone()).await;
    assert_eq!(kept.status, 200, "{kept:?}");
    let tag = format!("\"{}\"", Digest::of(&patch));
    assert_eq!(kept.body["sha256"], tag.trim_matches('"'));

    let whole = get(&[]).await;
    assert_eq!(whole.status(), 200);
    assert_eq!(whole.headers()["etag"], tag.as_str());
    assert_eq!(whole.headers()["cache-control"], "no-cache");
    assert_eq!(whole.bytes().await.unwrap(), patch);
    let part = get(&[("range", "bytes=8-71"), ("if-range", &tag)]).await;
    assert_eq!(part.status(), 206);
    let told = format!("bytes 8-71/{}", patch.len());
    assert_eq!(part.headers()["content-range"], told.as_str());
    assert_eq!(part.bytes().await.unwrap(), patch[8..72]);
    assert_eq!(get(&[("if-none-match", &tag)]).await.status(), 304);

    // A better one takes its place; who has begun the old one gets the new one whole.
    let better = [patch.clone(), b"better".to_vec()].concat();
    assert_eq!(two.put("2.0.0", &file, better.clone()).await.status, 200);
    let other = get(&[("range", "bytes=8-71"), ("if-range", &tag)]).await;
    assert_eq!(other.status(), 200);
    assert_eq!(other.bytes().await.unwrap(), better);
    let list = two
        .site
        .get("/v1/releases/stable/2.0.0/patches", &two.token)
        .await;
    let told = json!({ "name": file, "size": better.len(), "sha256": Digest::of(&better) });
    assert_eq!(list.body, json!({ "items": [told] }));

    // The release is what it was, and the log says who did what.
    for file in std::fs::read_dir(&two.new).unwrap() {
        let file = file.unwrap();
        let there = two.kept().with_file_name(file.file_name());
        assert_eq!(
            std::fs::read(there).unwrap(),
            std::fs::read(file.path()).unwrap()
        );
    }
    let log = two.site.audit(&two.token).await;
    let patches = log.iter().filter(|line| line.1 == "release.patch");
    assert!(
        patches
            .clone()
            .all(|line| (line.0.as_str(), line.2.as_str()) == ("root", "release/stable/2.0.0"))
    );
    assert_eq!(patches.count(), 2);

    // It outlives the server, and goes with the release.
    two.site.kill_and_start();
    let served = two
        .site
        .request(Method::GET, &place, Some(&two.token))
        .send()
        .await
        .unwrap();
    assert_eq!(served.bytes().await.unwrap(), better);
    run(&two.site, &two.token, &["release", "remove", "2.0.0"]);
    assert_eq!(two.site.get(&place, &two.token).await.status, 404);
    assert_eq!(two.put("2.0.0", &file, patch).await.status, 404);
    assert!(!two.kept().parent().unwrap().exists());
    drop(device);
}

#[tokio::test]
async fn what_is_no_patch_to_the_release_is_refused() {
    let two = Two::new().await;
    let (file, patch) = two.patch();
    let read = Patch::parse(&patch).unwrap();
    for bad in [
        "root.erofs",
        "x.patch",
        &file.to_uppercase(),
        &format!("..%2F{file}"),
        &format!("{file}x"),
    ] {
        let refused = two.put("2.0.0", bad, patch.clone()).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code()),
            (400, "bad-name"),
            "{bad}"
        );
        assert_eq!(
            two.site.get(&url("2.0.0", bad), &two.token).await.status,
            404,
            "{bad}"
        );
    }
    assert_eq!(two.put("3.0.0", &file, patch.clone()).await.status, 404);

    let stranger = Digest::of(b"another image");
    let image = two.new.join(name::ROOT).metadata().unwrap().len() as usize;
    let kernel = two.new.join(name::KERNEL).metadata().unwrap().len() as usize;
    let to_kernel = head(
        &patch,
        read.from,
        Digest::of(&std::fs::read(two.new.join(name::KERNEL)).unwrap()),
    );
    let cases: [(&str, Vec<u8>, &str); 7] = [
        ("empty", vec![], "expected"),
        ("noise", b"this is no patch at all, however long one looks at it: there is nothing in it that would be one".to_vec(), "no patch"),
        ("short", patch[..patch.len().min(cairn_delta::patch::HEAD + 3)].to_vec(), "expected"),
        ("of another old image", head(&patch, stranger, read.to), "it starts from the image"),
        ("to another image", head(&patch, read.from, stranger), "no image of 2.0.0"),
        ("to the old image", head(&patch, read.from, read.from), "no image of 2.0.0"),
        ("larger than what it makes", [to_kernel, vec![0; kernel]].concat(), "itself only"),
    ];
    for (what, bytes, why) in cases {
        let refused = two.put("2.0.0", &file, bytes).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code()),
            (422, "bad-patch"),
            "{what}: {refused:?}"
        );
        let message = refused.body["message"].as_str().unwrap();
        assert!(
            message.starts_with(&file) && message.contains(why),
            "{what}: {message}"
        );
    }
    // Larger than any image; said at once, or found out.
    let much = vec![0; image + 1];
    let announced = two.put("2.0.0", &file, much.clone()).await;
    assert_eq!(
        (announced.status.as_u16(), announced.code()),
        (413, "too-much")
    );
    let pieces: Vec<Result<Vec<u8>, std::io::Error>> =
        much.chunks(4096).map(|piece| Ok(piece.to_vec())).collect();
    let endless = two
        .put("2.0.0", &file, Body::wrap_stream(stream::iter(pieces)))
        .await;
    assert_eq!((endless.status.as_u16(), endless.code()), (413, "too-much"));

    assert!(!two.kept().exists());
    let left = std::fs::read_dir(two.site.data().join("releases/.uploads"))
        .unwrap()
        .count();
    assert_eq!(left, 0);

    // Sixteen fit; one of them can still be replaced.
    for number in 0..=16 {
        let from = Digest([number; 32]);
        let put = two
            .put("2.0.0", &name::patch(&from), head(&patch, from, read.to))
            .await;
        if number < 16 {
            assert_eq!(put.status, 200, "{number}: {put:?}");
        } else {
            assert_eq!((put.status.as_u16(), put.code()), (409, "too-many-patches"));
        }
    }
    let first = Digest([0; 32]);
    let again = two
        .put("2.0.0", &name::patch(&first), head(&patch, first, read.to))
        .await;
    assert_eq!(again.status, 200);
}

#[tokio::test]
async fn a_patch_that_was_cut_off_is_not_there() {
    let mut two = Two::new().await;
    let (file, patch) = two.patch();
    // Half of it, and then nothing for ever.
    let half = patch[..patch.len() / 2].to_vec();
    let begun = stream::unfold(Some(half), |half| async {
        match half {
            Some(half) => Some((Ok::<_, std::io::Error>(half), None)),
            None => std::future::pending().await,
        }
    });
    let path = format!("/v1/releases/stable/2.0.0/patches/{file}");
    let request = two.site.request(Method::PUT, &path, Some(&two.token));
    let sending = tokio::spawn(request.body(Body::wrap_stream(begun)).send());
    let arrived = two.site.data().join("releases/.uploads");
    let arrived = || std::fs::read_dir(&arrived).unwrap().count();
    while arrived() == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let busy = two.put("2.0.0", &file, patch.clone()).await;
    assert_eq!((busy.status.as_u16(), busy.code()), (409, "upload-busy"));
    two.site.kill_and_start();
    assert!(sending.await.unwrap().is_err());
    assert_eq!(arrived(), 0);
    assert!(!two.kept().exists());
    assert_eq!(two.put("2.0.0", &file, patch).await.status, 200);
}

#[tokio::test]
async fn cairnctl_sends_the_patches_of_a_release_folder() {
    let two = Two::new().await;
    let folder = two.new.join(name::PATCHES);
    std::fs::create_dir(&folder).unwrap();
    let (root, patch_bytes) = two.patch();
    let (kernel, kernel_bytes) = patch(&two.old, &two.new, name::KERNEL);
    std::fs::write(folder.join(&root), &patch_bytes).unwrap();
    std::fs::write(folder.join(&kernel), &kernel_bytes).unwrap();
    std::fs::write(folder.join(".imgtool-x"), "what a cut left").unwrap();
    let token = two
        .site
        .token(&two.token, &["releases:write", "releases:read"])
        .await;
    let upload = || {
        run(
            &two.site,
            &token,
            &["release", "upload", two.new.to_str().unwrap()],
        )
    };
    let unchanged = |done: &serde_json::Value| -> Vec<bool> {
        let patches = done["patches"].as_array().unwrap();
        patches
            .iter()
            .map(|patch| patch["unchanged"].as_bool().unwrap())
            .collect()
    };
    let done = upload();
    assert_eq!(done["unchanged"], true, "the release was there");
    assert_eq!(unchanged(&done), [false, false], "{done}");
    assert_eq!(std::fs::read(two.kept().join(&root)).unwrap(), patch_bytes);
    assert_eq!(
        std::fs::read(two.kept().join(&kernel)).unwrap(),
        kernel_bytes
    );
    assert_eq!(std::fs::read_dir(two.kept()).unwrap().count(), 2);
    assert_eq!(unchanged(&upload()), [true, true]);
    let better = [patch_bytes, b"better".to_vec()].concat();
    std::fs::write(folder.join(&root), &better).unwrap();
    assert_eq!(unchanged(&upload()).iter().filter(|same| **same).count(), 1);
    assert_eq!(std::fs::read(two.kept().join(&root)).unwrap(), better);
    let shown = run(&two.site, &token, &["release", "show", "2.0.0"]);
    assert_eq!(shown["patches"].as_array().unwrap().len(), 2);

    // A release of its own comes with them at once; too many are refused before anything is sent.
    let third = release::make(two.site.folder.path(), "3.0.0", 3, 10, 50);
    std::fs::create_dir(third.join(name::PATCHES)).unwrap();
    let (file, bytes) = patch(&two.new, &third, name::ROOT);
    for number in 0..16 {
        let surplus = name::patch(&Digest([number; 32]));
        std::fs::write(third.join(name::PATCHES).join(surplus), "").unwrap();
    }
    std::fs::write(third.join(name::PATCHES).join(&file), bytes).unwrap();
    let upload = ["release", "upload", third.to_str().unwrap()];
    let (ok, _, error) = crate::cairnctl::until_online(&two.site, &token, &upload);
    assert!(
        !ok && error.contains("expected at most 16 patches"),
        "{error}"
    );
    assert_eq!(
        two.site
            .get("/v1/releases/stable/3.0.0", &token)
            .await
            .status,
        404
    );
    for number in 0..16 {
        let surplus = name::patch(&Digest([number; 32]));
        std::fs::remove_file(third.join(name::PATCHES).join(surplus)).unwrap();
    }
    let (ok, out, error) = crate::cairnctl::until_online(&two.site, &token, &upload);
    assert!(
        ok && out.contains("3.0.0 published in stable, with 1 patch\n"),
        "{out}{error}"
    );
}
