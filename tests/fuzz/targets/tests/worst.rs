//! The worst inputs that we know, as long as a node takes them: the bounds hold, and a
//! fuzzer needn't be lucky to come near them.

use cairn_fuzz_targets::release::KEY;
use cairn_fuzz_targets::{TARGETS, Target};
use cairn_wire::MAX_PAYLOAD;

/// What the agent takes for a manifest or a trust root.
const FILE: usize = 1 << 20;

fn target(name: &str) -> Target {
    let found = TARGETS.into_iter().find(|target| target.0 == name);
    found.unwrap().1
}

/// `piece`, as often as it fits, between two ends, with commas between.
fn filled(start: &str, piece: &str, end: &str, length: usize) -> Vec<u8> {
    let times = (length - start.len() - end.len()) / (piece.len() + 1);
    let middle = vec![piece; times].join(",");
    format!("{start}{middle}{end}").into_bytes()
}

fn nested(open: &str, close: &str) -> String {
    open.repeat(100) + "0" + &close.repeat(100)
}

#[test]
fn messages() {
    let wire = target("wire");
    for piece in [
        "0".to_owned(),
        "{}".into(),
        r#"{"":0}"#.into(),
        r#"{"ts":0,"values":{"":0}}"#.into(),
        nested(r#"{"":"#, "}"),
        nested("[", "]"),
    ] {
        wire(&filled("[", &piece, "]", MAX_PAYLOAD));
        wire(&filled(r#"{"a":["#, &piece, "]}", MAX_PAYLOAD));
        wire(&filled(
            r#"{"method":"a","params":["#,
            &piece,
            "]}",
            MAX_PAYLOAD,
        ));
    }
    let quoted = "\u{e000}".repeat(20_000);
    wire(format!(r#"{{"revision":"{quoted}"}}"#).as_bytes());
}

#[test]
fn manifests() {
    let manifest = target("manifest");
    for piece in ["0", "[0]", "{}", &nested("[", "]"), &nested(r#"{"":"#, "}")] {
        manifest(&filled(
            r#"{"format":1,"kernel":{"a":["#,
            piece,
            "]}}",
            FILE,
        ));
    }
    manifest(&filled(r#"{"format":1,"kernel":{"#, r#""":0"#, "}}", FILE));
    manifest(&filled(
        r#"{"format":1,"compatible":["#,
        r#""""#,
        "]}",
        FILE,
    ));
}

#[test]
fn signers() {
    let role = format!(r#"{{"threshold":1,"keys":["{}"]}}"#, KEY.public());
    let key = format!(r#""{}""#, KEY.public());
    let id = format!(r#""{}""#, KEY.public().id());
    let short = MAX_PAYLOAD;
    let keys = filled(
        r#"{"format":1,"version":2,"root":{"threshold":1,"keys":["#,
        &key,
        &format!(r#"]}},"release":{role},"revoked":[]}}"#),
        short,
    );
    assert!(target("trust")(&keys));
    let revoked = filled(
        &format!(r#"{{"format":1,"version":2,"root":{role},"release":{role},"revoked":["#),
        &id,
        "]}",
        short,
    );
    target("trust")(&revoked);
    let signatures = filled(
        r#"{"payloadType":"application/vnd.cairn.trust+json","payload":"","signatures":["#,
        &format!(r#"{{"keyid":{id},"sig":""}}"#),
        "]}",
        short,
    );
    target("trust")(&signatures);
    let digest = "0".repeat(64);
    let devices = filled(
        &format!(
            r#"{{"format":1,"release":"{digest}","not_after":"2030-01-01T00:00:00Z","devices":["#
        ),
        r#""""#,
        "]}",
        short,
    );
    assert!(target("order")(&devices));
}
