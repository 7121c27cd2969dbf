//! `imgtool publish`.

use crate::bench::{Bench, fingerprint};
use crate::release::{self, Plan};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

const TO: [&str; 6] = [
    "--to",
    "www",
    "--channel",
    "stable",
    "--trust",
    "1.dsse.json",
];

fn publish(bench: &Bench, release: &str, more: &[&str]) -> String {
    let mut args = vec!["publish", release];
    args.extend(TO);
    args.extend(more);
    bench.run(&args)
}

fn latest(bench: &Bench) -> Vec<u8> {
    std::fs::read(bench.path("www/stable/latest.dsse.json")).unwrap()
}

fn manifest(bench: &Bench, release: &str) -> Vec<u8> {
    std::fs::read(bench.path(release).join("manifest.dsse.json")).unwrap()
}

#[test]
fn a_channel_grows_and_latest_follows_the_sequence() {
    let bench = Bench::new();
    release::trust(&bench);
    for (version, sequence) in [("1.0", 1), ("1.1", 2), ("0.9", 0)] {
        Plan::new(version, sequence).write(&bench, version);
    }
    insta::assert_snapshot!("first", publish(&bench, "1.0", &[]));
    assert_eq!(latest(&bench), manifest(&bench, "1.0"));
    insta::assert_snapshot!("second", publish(&bench, "1.1", &[]));
    assert_eq!(latest(&bench), manifest(&bench, "1.1"));
    insta::assert_snapshot!("again", publish(&bench, "1.1", &[]));
    insta::assert_snapshot!("older", publish(&bench, "0.9", &[]));
    assert_eq!(
        bench.names("www/stable"),
        ["1.0", "1.1", "latest.dsse.json", "trust"]
    );
    insta::assert_snapshot!("older_kept", publish(&bench, "0.9", &["--keep-latest"]));
    assert_eq!(latest(&bench), manifest(&bench, "1.1"));
    assert_eq!(
        bench.names("www/stable"),
        ["0.9", "1.0", "1.1", "latest.dsse.json", "trust"]
    );
    assert_eq!(bench.names("www/stable/trust"), ["1.dsse.json"]);
    let public = bench
        .path("www/stable/1.1")
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(
        public & 0o777,
        0o755,
        "an HTTP server must be able to look in"
    );
    // What a client would fetch is the whole release.
    bench.ok(&["verify", "www/stable/1.1", "--trust", "www/stable/trust"]);
}

#[test]
fn what_must_not_be_published_changes_nothing() {
    let bench = Bench::new();
    release::trust(&bench);
    Plan::new("1.0", 5).write(&bench, "1.0");
    publish(&bench, "1.0", &[]);
    let before = fingerprint(&bench.path("www"));

    let mut other = Plan::new("1.0", 5);
    other.root[0] = 0xff;
    other.write(&bench, "changed");
    insta::assert_snapshot!("same_version", publish(&bench, "changed", &[]));
    Plan::new("1.0b", 5).write(&bench, "twin");
    insta::assert_snapshot!("same_sequence", publish(&bench, "twin", &[]));
    let bent = Plan::new("2.0", 6).write(&bench, "bent");
    std::fs::write(bent.join("root.erofs"), "short").unwrap();
    insta::assert_snapshot!("not_whole", publish(&bench, "bent", &[]));
    Plan::new("latest.dsse.json", 7).write(&bench, "named");
    insta::assert_snapshot!("reserved", publish(&bench, "named", &[]));
    // Another line of trust than the channel's.
    bench.ok(&[
        "trust",
        "init",
        "--out",
        "foreign",
        "--root-key",
        "other",
        "--release-key",
        "release.pub",
    ]);
    Plan::new("3.0", 8).write(&bench, "3.0");
    insta::assert_snapshot!(
        "foreign_trust",
        bench.run(&[
            "publish",
            "3.0",
            "--to",
            "www",
            "--channel",
            "stable",
            "--trust",
            "foreign",
        ])
    );
    insta::assert_snapshot!(
        "channel",
        bench.run(&[
            "publish",
            "3.0",
            "--to",
            "www",
            "--channel",
            "../up",
            "--trust",
            "1.dsse.json",
        ])
    );
    assert_eq!(fingerprint(&bench.path("www")), before);
}

#[test]
fn trust_roots_are_published_in_their_order() {
    let bench = Bench::new();
    release::trust(&bench);
    Plan::new("1.0", 1).write(&bench, "1.0");
    publish(&bench, "1.0", &[]);
    bench.ok(&[
        "trust",
        "add",
        "1.dsse.json",
        "other.pub",
        "--role",
        "release",
        "--key",
        "root",
        "--out",
        "2.dsse.json",
    ]);
    publish(&bench, "1.0", &["--trust", "2.dsse.json"]);
    assert_eq!(
        bench.names("www/stable/trust"),
        ["1.dsse.json", "2.dsse.json"]
    );
    // The newest alone is enough from now on, and a later one may follow it alone.
    bench.ok(&[
        "trust",
        "rotate",
        "2.dsse.json",
        "--expires",
        "2031-01-01T00:00:00Z",
        "--key",
        "root",
        "--out",
        "3.dsse.json",
    ]);
    bench.ok(&[
        "publish",
        "1.0",
        "--to",
        "www",
        "--channel",
        "stable",
        "--trust",
        "3.dsse.json",
    ]);
    assert_eq!(bench.names("www/stable/trust").len(), 3);
}

#[test]
fn a_full_or_read_only_disk_leaves_the_channel_as_it_was() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let bench = Bench::new();
    release::trust(&bench);
    Plan::new("1.0", 1).write(&bench, "1.0");
    let mut plan = Plan::new("1.1", 2);
    plan.root = vec![7; 1 << 20];
    plan.write(&bench, "1.1");
    std::fs::create_dir(bench.path("www")).unwrap();
    // In a mount namespace of its own, so that nothing stays mounted.
    let script = r#"
        set -e
        mount -t tmpfs -o size=512k tmpfs www
        publish() { "$IMGTOOL" -q publish "$1" --to www --channel stable --trust 1.dsse.json; }
        publish 1.0
        find www | sort > before
        publish 1.1 && exit 99 || echo "no space: $?"
        find www | sort | diff before -
        cmp www/stable/latest.dsse.json 1.0/manifest.dsse.json
        mount -o remount,ro www
        publish 1.1 && exit 99 || echo "read only: $?"
    "#;
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .env("IMGTOOL", env!("CARGO_BIN_EXE_imgtool"))
        .current_dir(bench.path(""))
        .output()
        .unwrap();
    insta::assert_snapshot!("disk", bench.shown(&output));
}

#[test]
fn a_place_that_is_a_file_is_named() {
    let bench = Bench::new();
    release::trust(&bench);
    Plan::new("1.0", 1).write(&bench, "1.0");
    bench.write("www", "a file");
    insta::assert_snapshot!("place", publish(&bench, "1.0", &[]));
    assert_eq!(std::fs::read(bench.path("www")).unwrap(), b"a file");
}
