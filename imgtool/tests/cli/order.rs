//! `imgtool order`.

use crate::bench::Bench;
use crate::release::{self, Plan};
use cairn_release::{Digest, DowngradeOrder, Envelope, Timestamp, TrustRoot, order};

#[test]
fn nodes_accept_what_it_makes() {
    let bench = Bench::new();
    release::trust(&bench);
    let folder = Plan::new("1.0", 1).write(&bench, "r");
    let not_after = "2026-12-01T00:00:00Z";
    insta::assert_snapshot!(bench.run(&[
        "order",
        "r",
        "--key",
        "release",
        "--trust",
        "1.dsse.json",
        "--device",
        "node-1",
        "--device",
        "node-2",
        "--not-after",
        not_after,
        "--out",
        "back.dsse.json",
    ]));
    let bytes = std::fs::read(bench.path("back.dsse.json")).unwrap();
    let envelope = Envelope::parse(&bytes, order::PAYLOAD_TYPE).unwrap();
    let trust = TrustRoot::parse(&std::fs::read(bench.path("1.dsse.json")).unwrap()).unwrap();
    let made = DowngradeOrder::from_envelope(&envelope, &trust).unwrap();
    let manifest = std::fs::read(folder.join("manifest.dsse.json")).unwrap();
    let manifest = Envelope::parse(&manifest, cairn_release::manifest::PAYLOAD_TYPE).unwrap();
    let release = Digest::of(&manifest.payload);
    let now: Timestamp = "2026-11-30T00:00:00Z".parse().unwrap();
    assert!(made.allows(&release, "node-2", now).is_ok());
    assert!(made.allows(&release, "node-3", now).is_err());
    insta::assert_snapshot!("inspected", bench.run(&["inspect", "back.dsse.json"]));
    // A second release key can follow.
    bench.ok(&["sign", "back.dsse.json", "--key", "other"]);
}

#[test]
fn mistakes_are_told_before_anything_is_written() {
    let bench = Bench::new();
    release::trust(&bench);
    Plan::new("1.0", 1).write(&bench, "r");
    let run = |extra: &[&str]| {
        let rest = ["order", "r", "--key", "release", "--out", "back.dsse.json"];
        bench.run(&[&rest, extra].concat())
    };
    insta::assert_snapshot!("over", run(&["--not-after", "2026-11-21T00:00:00Z"]));
    let device = ["--not-after", "2026-12-01T00:00:00Z", "--device", "Node 1"];
    insta::assert_snapshot!("device", run(&device));
    assert!(!bench.path("back.dsse.json").exists());
}
