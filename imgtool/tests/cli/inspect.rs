//! `imgtool inspect`: guesses from content, asks for nothing.

use crate::bench::Bench;
use crate::release::{self, Plan};

#[test]
fn says_what_each_thing_is() {
    let bench = Bench::new();
    release::trust(&bench);
    Plan::new("1.0", 1).write(&bench, "r");
    let state = cairn_boot_state::block::BootState {
        generation: 7,
        good: Some("1.0".parse().unwrap()),
        trial: Some("1.1".parse().unwrap()),
        trial_tries: 2,
        failed: vec!["0.9".parse().unwrap()],
        ..Default::default()
    };
    bench.write("boot-a.env", state.to_block());
    for thing in [
        "r",
        "r/manifest.dsse.json",
        "1.dsse.json",
        "root",
        "root.pub",
        "boot-a.env",
    ] {
        let name = thing.replace(['/', '.'], "_");
        insta::assert_snapshot!(format!("inspect_{name}"), bench.run(&["inspect", thing]));
        insta::assert_snapshot!(
            format!("inspect_{name}_json"),
            bench.run(&["inspect", thing, "--json"])
        );
    }
}

#[test]
fn looks_at_keys_without_asking_for_a_passphrase() {
    let bench = Bench::new();
    bench.ok(&[
        "keygen",
        "release",
        "--out",
        "k",
        "--passphrase-env",
        "PASSPHRASE",
    ]);
    bench.ok(&[
        "keygen",
        "secure-boot",
        "--out-dir",
        "sb",
        "--passphrase-env",
        "PASSPHRASE",
    ]);
    let said = bench.ok(&["inspect", "k"]);
    let key = cairn_imgtool::keys::load_public(&bench.path("k.pub")).unwrap();
    assert!(said.contains("protection    a passphrase"), "{said}");
    assert!(said.contains(&key.id().to_string()), "{said}");
    assert!(bench.ok(&["inspect", "sb/db.crt"]).contains("CN=Cairn db"));
    assert!(
        bench
            .ok(&["inspect", "sb/db.key"])
            .contains("an encrypted PKCS#8 secret key")
    );
}

#[test]
fn what_it_does_not_know_is_named() {
    let bench = Bench::new();
    bench.write("zero", "");
    bench.write("noise", "some text\n");
    bench.write("json", "{\"a\": 1}");
    bench.write("state", "# GRUB Environment Block\nx=1\n");
    std::fs::create_dir(bench.path("folder")).unwrap();
    for thing in ["zero", "noise", "json", "state", "folder", "absent"] {
        insta::assert_snapshot!(format!("unknown_{thing}"), bench.run(&["inspect", thing]));
    }
}
