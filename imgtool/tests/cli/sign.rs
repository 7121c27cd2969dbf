//! `imgtool sign`.

use crate::bench::Bench;
use crate::release::{self, Plan};

#[test]
fn openssl_accepts_the_signature_over_the_signed_bytes() {
    let bench = Bench::new();
    release::trust(&bench);
    Plan::new("1.0", 1).write(&bench, "r");
    bench.ok(&["sign", "r", "--key", "other"]);
    let output = bench
        .imgtool(&["inspect", "r", "--signed-bytes"])
        .output()
        .unwrap();
    bench.write("message", &output.stdout);
    let envelope = std::fs::read(bench.path("r/manifest.dsse.json")).unwrap();
    let envelope =
        cairn_release::Envelope::parse(&envelope, cairn_release::manifest::PAYLOAD_TYPE).unwrap();
    assert_eq!(output.stdout, envelope.signed_bytes());
    assert_eq!(envelope.signatures.len(), 2);
    for name in ["release", "other"] {
        let public = format!("{name}.pub");
        let key = cairn_imgtool::keys::load_public(&bench.path(&public)).unwrap();
        let signature = envelope
            .signatures
            .iter()
            .find(|s| s.keyid == key.id())
            .unwrap();
        bench.write("signature", &signature.sig);
        bench.tool(
            "openssl",
            &[
                "pkeyutl",
                "-verify",
                "-rawin",
                "-pubin",
                "-inkey",
                &public,
                "-sigfile",
                "signature",
                "-in",
                "message",
            ],
        );
    }
}

#[test]
fn says_who_signed_and_warns_about_a_key_that_counts_for_nothing() {
    let bench = Bench::new();
    release::trust(&bench);
    Plan::new("1.0", 1).write(&bench, "r");
    insta::assert_snapshot!(
        "signed",
        bench.run(&["sign", "r", "--key", "release", "--trust", "1.dsse.json"])
    );
    insta::assert_snapshot!(
        "stranger",
        bench.run(&["sign", "r", "--key", "other", "--trust", "1.dsse.json"])
    );
    insta::assert_snapshot!(
        "json",
        bench.run(&["sign", "r", "--key", "other", "--json"])
    );
}

#[test]
fn what_is_no_envelope_is_left_alone() {
    let bench = Bench::new();
    release::trust(&bench);
    let envelope = cairn_release::Envelope::new("text/plain", b"hello".to_vec());
    let foreign = envelope.to_json();
    let empty = cairn_release::Envelope::new(cairn_release::manifest::PAYLOAD_TYPE, b"{}".to_vec());
    for (name, bytes) in [
        ("zero", &b""[..]),
        ("json", b"{}"),
        ("foreign", &foreign),
        ("empty", &empty.to_json()),
    ] {
        let path = bench.write("thing", bytes);
        let said = bench.run(&["sign", "thing", "--key", "release"]);
        insta::assert_snapshot!(format!("not_signed_{name}"), said);
        assert_eq!(std::fs::read(path).unwrap(), bytes);
    }
    insta::assert_snapshot!(
        "not_signed_absent",
        bench.run(&["sign", "no", "--key", "release"])
    );
}
