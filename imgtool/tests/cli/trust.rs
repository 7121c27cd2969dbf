//! `imgtool trust`: from the first trust root through every change.

use crate::bench::Bench;
use crate::release;

#[test]
fn a_life_of_trust_roots_from_init_to_rotation() {
    let bench = Bench::new();
    release::trust(&bench);
    std::fs::remove_file(bench.path("1.dsse.json")).unwrap();
    std::fs::create_dir(bench.path("t")).unwrap();

    // One root key is here, the other elsewhere: the file is not complete yet.
    insta::assert_snapshot!(
        "init",
        bench.run(&[
            "trust",
            "init",
            "--out",
            "t/1.dsse.json",
            "--root-key",
            "root",
            "--root-key",
            "other.pub",
            "--root-threshold",
            "2",
            "--release-key",
            "release.pub",
            "--expires",
            "2030-01-01T00:00:00Z",
        ])
    );
    insta::assert_snapshot!(
        "incomplete",
        bench.run(&["verify", "t", "--trust", "t/1.dsse.json"])
    );
    insta::assert_snapshot!(
        "init_signed",
        bench.run(&["sign", "t/1.dsse.json", "--key", "other"])
    );

    bench.write("second", release::secret_pem(9));
    let second = cairn_release::SecretKey::from_seed(&[9; 32]).public();
    bench.write(
        "second.pub",
        cairn_imgtool::keys::release::public_pem(&second).unwrap(),
    );
    insta::assert_snapshot!(
        "add",
        bench.run(&[
            "trust",
            "add",
            "t/1.dsse.json",
            "second.pub",
            "--role",
            "release",
            "--key",
            "root",
            "--key",
            "other",
            "--out",
            "t/2.dsse.json",
        ])
    );
    let release_id = release::release_key().public().id().to_string();
    insta::assert_snapshot!(
        "revoke",
        bench.run(&[
            "trust",
            "revoke",
            "t/2.dsse.json",
            &release_id[..8],
            "--key",
            "root",
            "--key",
            "other",
            "--out",
            "t/3.dsse.json",
        ])
    );
    insta::assert_snapshot!(
        "rotate",
        bench.run(&[
            "trust",
            "rotate",
            "t/3.dsse.json",
            "--root-key",
            "second",
            "--root-threshold",
            "1",
            "--key",
            "root",
            "--out",
            "t/4.dsse.json",
        ])
    );
    insta::assert_snapshot!(
        "rotate_signed",
        bench.run(&[
            "sign",
            "t/4.dsse.json",
            "--key",
            "other",
            "--trust",
            "t/3.dsse.json",
        ])
    );
    insta::assert_snapshot!("show", bench.run(&["trust", "show", "t/4.dsse.json"]));
    insta::assert_snapshot!(
        "show_json",
        bench.run(&["trust", "show", "t/4.dsse.json", "--json"])
    );

    // The chain holds, and what the revoked key signed no longer counts.
    release::Plan::new("1", 1).write(&bench, "r");
    insta::assert_snapshot!(
        "revoked_release",
        bench.run(&["verify", "r", "--trust", "t"])
    );
    bench.ok(&["sign", "r", "--key", "second"]);
    bench.ok(&["verify", "r", "--trust", "t"]);
}

#[test]
fn a_step_that_could_never_be_met_is_refused_and_leaves_nothing() {
    let bench = Bench::new();
    release::trust(&bench);
    let before = bench.names(".");
    let id = release::release_key().public().id().to_string();
    for (name, args) in [
        (
            "only_release_key",
            vec!["revoke", "1.dsse.json", &id, "--key", "root"],
        ),
        (
            "no_such_key",
            vec!["revoke", "1.dsse.json", "beef", "--key", "root"],
        ),
        (
            "any_key",
            vec!["revoke", "1.dsse.json", "", "--key", "root"],
        ),
        (
            "threshold",
            vec![
                "add",
                "1.dsse.json",
                "other.pub",
                "--role",
                "root",
                "--threshold",
                "3",
                "--key",
                "root",
            ],
        ),
        (
            "twice",
            vec![
                "add",
                "1.dsse.json",
                "release.pub",
                "--role",
                "release",
                "--key",
                "root",
            ],
        ),
        (
            "not_a_root_key",
            vec![
                "add",
                "1.dsse.json",
                "other.pub",
                "--role",
                "release",
                "--key",
                "release",
            ],
        ),
        (
            "secret_as_public",
            vec![
                "add",
                "1.dsse.json",
                "other",
                "--role",
                "release",
                "--key",
                "root",
            ],
        ),
    ] {
        let mut all = vec!["trust"];
        all.extend(args);
        all.extend(["--out", "2.dsse.json"]);
        insta::assert_snapshot!(format!("refused_{name}"), bench.run(&all));
    }
    assert_eq!(bench.names("."), before);
    insta::assert_snapshot!(
        "refused_overwrite",
        bench.run(&[
            "trust",
            "add",
            "1.dsse.json",
            "other.pub",
            "--role",
            "release",
            "--key",
            "root",
            "--out",
            "1.dsse.json",
        ])
    );
}

#[test]
fn a_damaged_or_foreign_trust_root_is_named() {
    let bench = Bench::new();
    release::trust(&bench);
    release::Plan::new("1", 1).write(&bench, "r");
    bench.write("zero", "");
    let whole = std::fs::read(bench.path("1.dsse.json")).unwrap();
    bench.write("cut", &whole[..whole.len() / 2]);
    std::fs::create_dir(bench.path("none")).unwrap();
    for thing in ["zero", "cut", "absent", "none", "r/manifest.dsse.json"] {
        let name = format!("bad_trust_{}", thing.replace(['/', '.'], "_"));
        insta::assert_snapshot!(name, bench.run(&["verify", "r", "--trust", thing]));
    }
}

#[test]
fn a_trust_root_that_is_not_the_next_one_is_refused() {
    let bench = Bench::new();
    release::trust(&bench);
    release::Plan::new("1", 1).write(&bench, "r");
    bench.ok(&[
        "trust",
        "rotate",
        "1.dsse.json",
        "--root-key",
        "other",
        "--key",
        "other",
        "--out",
        "2.dsse.json",
    ]);
    insta::assert_snapshot!(bench.run(&[
        "verify",
        "r",
        "--trust",
        "1.dsse.json",
        "--trust",
        "2.dsse.json"
    ]));
}
