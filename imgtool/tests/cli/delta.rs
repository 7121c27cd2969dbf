//! `imgtool delta`.

use crate::bench::Bench;
use crate::release::{self, Plan};
use cairn_delta::apply;
use cairn_release::{Digest, name};
use serde_json::Value;

/// Two releases with the same kernel container; all of the root has moved by a byte.
fn two(bench: &Bench) {
    let mut plan = Plan::new("1.0", 1);
    plan.root = release::moved(0, 40);
    plan.write(bench, "old");
    let mut plan = Plan::new("1.1", 2);
    plan.root = release::moved(1, 40);
    plan.write(bench, "new");
}

fn read(bench: &Bench, path: &str) -> Vec<u8> {
    std::fs::read(bench.path(path)).unwrap()
}

#[test]
fn a_patch_is_small_is_named_after_the_old_image_and_gives_the_new_one() {
    let bench = Bench::new();
    two(&bench);
    let made = bench.ok(&["--json", "--quiet", "delta", "--from", "old", "--to", "new"]);
    let made: Value = serde_json::from_str(&made).unwrap();
    let [kernel, root] = made["images"].as_array().unwrap().as_slice() else {
        panic!("{made}");
    };
    assert_eq!(kernel["patch"], Value::Null, "both have the same one");
    let bytes = |what: &str| root[what].as_u64().unwrap();
    assert!(bytes("patch_bytes") < bytes("block_bytes") / 20, "{made}");
    assert!(bytes("block_bytes") <= bytes("image_bytes"), "{made}");

    let (old, new) = (
        read(&bench, "old/root.erofs"),
        read(&bench, "new/root.erofs"),
    );
    let path = format!("new/patches/{}", name::patch(&Digest::of(&old)));
    assert_eq!(root["patch"], path.as_str());
    let patch = read(&bench, &path);
    assert_eq!(patch.len() as u64, bytes("patch_bytes"));
    let applied = apply::image(&old, &patch, &release::root_verity(&bench, "new")).unwrap();
    assert!(applied == new);

    // A release with patches is as good as one without.
    let text = bench.ok(&[
        "delta",
        "--from",
        "old",
        "--to",
        "new",
        "--out",
        "elsewhere",
    ]);
    assert!(text.contains("kernel.squashfs  the same"), "{text}");
    assert_eq!(bench.names("elsewhere"), [name::patch(&Digest::of(&old))]);
}

#[test]
fn an_image_that_is_not_its_manifest_s_is_refused() {
    let bench = Bench::new();
    two(&bench);
    let mut root = read(&bench, "old/root.erofs");
    root[5000] ^= 1;
    bench.write("old/root.erofs", &root);
    let shown = bench.run(&["delta", "--from", "old", "--to", "new"]);
    assert!(shown.contains("exit code: 3"), "{shown}");
    assert!(
        shown.contains("old/root.erofs: expected the image"),
        "{shown}"
    );
    assert!(!bench.path("new/patches").exists());
}
