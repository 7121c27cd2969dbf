//! The patches that `imgtool publish` keeps.

use crate::bench::{Bench, fingerprint};
use crate::release::{self, Plan, moved};
use cairn_delta::apply;
use cairn_release::{BLOCK, Digest, name};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

const BLOCKS: usize = 40;

/// A release folder called as its version, with the root of this step.
fn write(bench: &Bench, version: &'static str, sequence: u64, step: usize, blocks: usize) {
    let mut plan = Plan::new(version, sequence);
    plan.root = moved(step, blocks);
    plan.write(bench, version);
}

fn args<'a>(release: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = "--to www --channel stable --trust 1.dsse.json".split(' ');
    ["--quiet", "--json", "publish", release]
        .into_iter()
        .chain(fixed)
        .chain(more.iter().copied())
        .collect()
}

fn publish(bench: &Bench, release: &str, more: &[&str]) -> Value {
    serde_json::from_str(&bench.ok(&args(release, more))).unwrap()
}

/// Where each patch leads from, and how it came.
fn told(done: &Value) -> Vec<(&str, &str, &str)> {
    let kept = done["patches"].as_array().unwrap();
    kept.iter()
        .map(|kept| {
            let text = |key: &str| kept[key].as_str().unwrap();
            (text("image"), text("from"), text("how"))
        })
        .collect()
}

fn read(bench: &Bench, path: &str) -> Vec<u8> {
    std::fs::read(bench.path(path)).unwrap()
}

/// The patch from this release's root in a published release.
fn patch_from(bench: &Bench, version: &str, release: &str) -> String {
    let old = Digest::of(&read(bench, &format!("{version}/root.erofs")));
    format!("www/stable/{release}/patches/{}", name::patch(&old))
}

#[test]
fn a_release_has_patches_from_the_last_ones_before_it() {
    let bench = Bench::new();
    release::trust(&bench);
    // The roots of 1.2 and 1.3 are the same; only the kernel container of 1.0 is another.
    let mut first = Plan::new("1.0", 1);
    first.root = moved(0, BLOCKS);
    first.kernel[7] = 1;
    first.write(&bench, "1.0");
    for (version, sequence, step) in [("1.1", 2, 1), ("1.2", 3, 2), ("1.3", 4, 2), ("1.4", 5, 3)] {
        write(&bench, version, sequence, step, BLOCKS);
    }
    for version in ["1.0", "1.1", "1.2", "1.3"] {
        publish(&bench, version, &["--patches", "0"]);
        assert!(
            !bench
                .path("www/stable")
                .join(version)
                .join("patches")
                .exists()
        );
    }
    let done = publish(&bench, "1.4", &[]);
    assert_eq!(
        told(&done),
        [("root.erofs", "1.3", "made"), ("root.erofs", "1.1", "made")],
        "three releases, two roots, one kernel container"
    );
    let new = read(&bench, "1.4/root.erofs");
    for (version, kept) in ["1.3", "1.1"]
        .iter()
        .zip(done["patches"].as_array().unwrap())
    {
        let path = patch_from(&bench, version, "1.4");
        assert_eq!(kept["patch"], path.as_str());
        let patch = read(&bench, &path);
        assert_eq!(kept["patch_bytes"], patch.len());
        assert!(patch.len() as u64 * 20 < kept["block_bytes"].as_u64().unwrap());
        let old = read(&bench, &format!("{version}/root.erofs"));
        assert!(apply::image(&old, &patch, &release::root_verity(&bench, "1.4")).unwrap() == new);
    }
    assert_eq!(bench.names("www/stable/1.4/patches").len(), 2);

    // Once more is no work, and what is missing or unreadable comes again.
    let before = fingerprint(&bench.path("www"));
    let again = publish(&bench, "1.4", &[]);
    assert_eq!(
        told(&again),
        [
            ("root.erofs", "1.3", "there"),
            ("root.erofs", "1.1", "there")
        ]
    );
    std::fs::remove_file(bench.path(&patch_from(&bench, "1.3", "1.4"))).unwrap();
    bench.write(&patch_from(&bench, "1.1", "1.4"), "CAIRNP0\n");
    let mended = publish(&bench, "1.4", &[]);
    assert!(
        told(&mended).iter().all(|kept| kept.2 == "made"),
        "{mended}"
    );
    assert_eq!(fingerprint(&bench.path("www")), before);

    // More of them, with the kernel container's; those that were there stay.
    let all = publish(&bench, "1.4", &["--patches", "8"]);
    let kernel: Vec<_> = told(&all)
        .into_iter()
        .filter(|kept| kept.0 == name::KERNEL)
        .collect();
    assert_eq!(kernel, [(name::KERNEL, "1.0", "made")], "{all}");
    assert_eq!(bench.names("www/stable/1.4/patches").len(), 4);
    assert!(told(&publish(&bench, "1.4", &["--patches", "0"])).is_empty());
    assert_eq!(bench.names("www/stable/1.4/patches").len(), 4);
    // Nodes don't go back by themselves.
    assert!(told(&publish(&bench, "1.0", &[])).is_empty());
    let much = bench.run(&args("1.4", &["--patches", "9"]));
    assert!(
        much.contains("exit code: 2") && much.contains("0..=8"),
        "{much}"
    );
}

#[test]
fn text_and_every_command_take_a_release_with_patches() {
    let bench = Bench::new();
    release::trust(&bench);
    write(&bench, "1.0", 1, 0, BLOCKS);
    write(&bench, "1.1", 2, 1, BLOCKS);
    publish(&bench, "1.0", &[]);
    let mut text = args("1.1", &[]);
    text.retain(|arg| *arg != "--json");
    let text = bench.ok(&text);
    assert!(
        text.starts_with("www/stable/1.1 published\npatch of root.erofs from 1.0: ")
            && text.ends_with(" instead of 164.0 KiB, made\nlatest is 1.1\n"),
        "{text}"
    );
    let folder = "www/stable/1.1";
    bench.ok(&["verify", folder, "--trust", "1.dsse.json"]);
    bench.ok(&["inspect", folder]);
    bench.ok(&["diff", "www/stable/1.0", folder]);
    bench.ok(&["sign", folder, "--key", "release", "--trust", "1.dsse.json"]);
    bench.ok(&["delta", "--from", "www/stable/1.0", "--to", folder]);
    // A release with patches is published as any other.
    let beta = args(folder, &[])
        .join(" ")
        .replace("stable --trust", "beta --trust");
    bench.ok(&beta.split(' ').collect::<Vec<_>>());
    assert!(
        !bench.path("www/beta/1.1/patches").exists(),
        "nothing comes before it"
    );
}

#[test]
fn a_patch_that_was_made_before_is_copied_if_it_gives_the_image() {
    let bench = Bench::new();
    release::trust(&bench);
    write(&bench, "1.0", 1, 0, BLOCKS);
    write(&bench, "1.1", 2, 1, BLOCKS);
    write(&bench, "1.2", 3, 2, BLOCKS);
    publish(&bench, "1.0", &[]);
    publish(&bench, "1.1", &[]);
    bench.ok(&["delta", "--from", "1.0", "--to", "1.2"]);
    bench.ok(&["delta", "--from", "1.1", "--to", "1.2"]);
    let ready = |version: &str| patch_from(&bench, version, "1.2").replace("www/stable/", "");
    let mut damaged = read(&bench, &ready("1.0"));
    let middle = damaged.len() / 2;
    damaged.truncate(middle);
    bench.write(&ready("1.0"), &damaged);
    bench.write("1.2/patches/notes", "not a patch");

    let output = bench.imgtool(&args("1.2", &[])).output().unwrap();
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        told(&done),
        [
            ("root.erofs", "1.1", "copied"),
            ("root.erofs", "1.0", "made")
        ]
    );
    let warned = String::from_utf8(output.stderr).unwrap();
    assert!(
        warned.contains(&format!("{} isn't used", ready("1.0"))),
        "{warned}"
    );
    assert_eq!(
        read(&bench, &patch_from(&bench, "1.1", "1.2")),
        read(&bench, &ready("1.1"))
    );
    let made = read(&bench, &patch_from(&bench, "1.0", "1.2"));
    let (old, new) = (
        read(&bench, "1.0/root.erofs"),
        read(&bench, "1.2/root.erofs"),
    );
    assert!(apply::image(&old, &made, &release::root_verity(&bench, "1.2")).unwrap() == new);
    assert_eq!(
        bench.names("www/stable/1.2/patches").len(),
        2,
        "patches and nothing else"
    );
}

#[test]
fn a_patch_that_saves_nothing_is_not_kept() {
    let bench = Bench::new();
    release::trust(&bench);
    for (version, sequence) in [("1.0", 1), ("1.1", 2)] {
        let mut plan = Plan::new(version, sequence);
        // Nothing is like anything else; the verity tree is one full block.
        let noise = |at: usize| Digest::of(format!("{version} {at}").as_bytes()).0;
        plan.root = (0..128 * BLOCK / 32).flat_map(noise).collect();
        plan.write(&bench, version);
    }
    publish(&bench, "1.0", &[]);
    let done = publish(&bench, "1.1", &[]);
    assert_eq!(told(&done), [("root.erofs", "1.0", "needless")], "{done}");
    assert!(!bench.path("www/stable/1.1/patches").exists());
}

#[test]
fn what_cannot_be_made_is_told_and_loses_no_release() {
    let bench = Bench::new();
    release::trust(&bench);
    write(&bench, "1.0", 1, 0, BLOCKS);
    write(&bench, "1.1", 2, 1, BLOCKS);
    publish(&bench, "1.0", &[]);
    let old = "www/stable/1.0/root.erofs";
    let good = read(&bench, old);
    let mut bent = good.clone();
    bent[5000] ^= 1;
    bench.write(old, &bent);
    // And one that is no release any more.
    std::fs::create_dir(bench.path("www/stable/0.9")).unwrap();

    let output = bench.imgtool(&args("1.1", &[])).output().unwrap();
    assert!(output.status.success());
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told(&done), [("root.erofs", "1.0", "failed")]);
    let why = done["patches"][0]["error"].as_str().unwrap();
    assert!(why.contains("expected the image with digest"), "{why}");
    let warned = String::from_utf8(output.stderr).unwrap();
    assert!(
        warned.contains("no patch of root.erofs from 1.0, nodes fetch blocks: ")
            && warned.contains("no patches from 0.9: "),
        "{warned}"
    );
    let latest = read(&bench, "www/stable/latest.dsse.json");
    assert_eq!(latest, read(&bench, "1.1/manifest.dsse.json"));
    assert!(!bench.path("www/stable/1.1/patches").exists());

    bench.write(old, &good);
    assert_eq!(
        told(&publish(&bench, "1.1", &[])),
        [("root.erofs", "1.0", "made")]
    );
}

#[test]
fn stopped_while_patches_are_made_it_goes_on_at_the_next_try() {
    let bench = Bench::new();
    release::trust(&bench);
    // Large enough that making a patch takes longer than a signal.
    write(&bench, "1.0", 1, 0, 2500);
    write(&bench, "1.1", 2, 1, 2500);
    write(&bench, "1.2", 3, 2, 2500);
    publish(&bench, "1.0", &[]);
    publish(&bench, "1.1", &["--patches", "0"]);
    let before = read(&bench, "www/stable/latest.dsse.json");
    for (signal, code) in [("TERM", Some(143)), ("KILL", None)] {
        let mut args = args("1.2", &[]);
        args.retain(|arg| *arg != "--quiet");
        let mut child = bench.imgtool(&args);
        let mut child = child
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let seen = lines.find(|line| line.as_ref().unwrap().contains("patching root.erofs from"));
        seen.unwrap().unwrap();
        bench.tool("kill", &["-s", signal, &child.id().to_string()]);
        assert_eq!(child.wait().unwrap().code(), code, "{signal}");
        let rest: Vec<_> = lines.map(|line| line.unwrap()).collect();
        assert_eq!(
            rest.iter()
                .any(|line| line.contains("`latest` is as it was")),
            signal == "TERM",
            "{rest:?}"
        );
        assert_eq!(
            read(&bench, "www/stable/latest.dsse.json"),
            before,
            "{signal}"
        );
        bench.ok(&["verify", "www/stable/1.2", "--trust", "1.dsse.json"]);
        assert!(!bench.path("www/stable/1.2/patches").exists(), "{signal}");
    }
    let done = publish(&bench, "1.2", &[]);
    assert_eq!(
        told(&done),
        [("root.erofs", "1.1", "made"), ("root.erofs", "1.0", "made")]
    );
    assert_eq!(done["latest"], "1.2");
}
