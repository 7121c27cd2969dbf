//! `imgtool verify`: what is whole passes, what isn't is named.

use crate::bench::Bench;
use crate::release::{self, Plan};
use cairn_release::name;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

fn ready() -> (Bench, PathBuf) {
    let bench = Bench::new();
    release::trust(&bench);
    let folder = Plan::new("1.0", 1).write(&bench, "r");
    (bench, folder)
}

#[test]
fn a_whole_release_passes() {
    let (bench, _) = ready();
    insta::assert_snapshot!(
        "whole",
        bench.run(&["verify", "r", "--trust", "1.dsse.json"])
    );
    insta::assert_snapshot!(
        "whole_json",
        bench.run(&["verify", "r", "--trust", "1.dsse.json", "--json", "--quiet"])
    );
}

#[test]
fn one_flipped_bit_anywhere_is_found() {
    let (bench, folder) = ready();
    for (file, at) in [
        (name::ROOT, 4096),
        (name::ROOT, 3 * 4096 + 5),
        (name::KERNEL, 0),
        (name::ROOT_INDEX, 0),
        (name::SBOM, 30),
        (name::CONTENTS, 20),
    ] {
        let path = folder.join(file);
        let whole = std::fs::read(&path).unwrap();
        let mut bent = whole.clone();
        bent[at] ^= 1;
        std::fs::write(&path, bent).unwrap();
        let said = bench.run(&["verify", "r", "--trust", "1.dsse.json"]);
        insta::assert_snapshot!(format!("flipped_{}_{at}", file.replace('.', "_")), said);
        std::fs::write(&path, whole).unwrap();
    }
    bench.ok(&["verify", "r", "--trust", "1.dsse.json"]);
}

#[test]
fn an_image_that_is_cut_or_empty_is_named_with_its_size() {
    let (bench, folder) = ready();
    let path = folder.join(name::ROOT);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..5000]).unwrap();
    insta::assert_snapshot!("cut", bench.run(&["verify", "r", "--trust", "1.dsse.json"]));
    std::fs::write(&path, "").unwrap();
    insta::assert_snapshot!(
        "empty",
        bench.run(&["verify", "r", "--trust", "1.dsse.json"])
    );
}

#[test]
fn what_is_no_release_folder_is_named() {
    let (bench, folder) = ready();
    bench.write("file", "x");
    insta::assert_snapshot!(
        "absent",
        bench.run(&["verify", "no", "--trust", "1.dsse.json"])
    );
    insta::assert_snapshot!(
        "file",
        bench.run(&["verify", "file", "--trust", "1.dsse.json"])
    );
    std::fs::remove_file(folder.join(name::ROOT_INDEX)).unwrap();
    insta::assert_snapshot!(
        "missing",
        bench.run(&["verify", "r", "--trust", "1.dsse.json"])
    );
    symlink("/etc/hostname", folder.join(name::ROOT_INDEX)).unwrap();
    insta::assert_snapshot!(
        "link",
        bench.run(&["verify", "r", "--trust", "1.dsse.json"])
    );
    std::fs::remove_file(folder.join(name::ROOT_INDEX)).unwrap();
    std::fs::create_dir(folder.join(name::ROOT_INDEX)).unwrap();
    insta::assert_snapshot!(
        "folder",
        bench.run(&["verify", "r", "--trust", "1.dsse.json"])
    );
}

#[test]
fn a_manifest_that_cannot_be_read_or_trusted_is_refused() {
    let (bench, folder) = ready();
    let path = folder.join(name::MANIFEST);
    let whole = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, "").unwrap();
    insta::assert_snapshot!(
        "manifest_empty",
        bench.run(&["verify", "r", "--trust", "1.dsse.json"])
    );
    let mut envelope: cairn_release::Envelope = serde_json::from_str(&whole).unwrap();
    envelope.signatures[0].sig[0] ^= 1;
    std::fs::write(&path, envelope.to_json()).unwrap();
    insta::assert_snapshot!(
        "manifest_bent",
        bench.run(&["verify", "r", "--trust", "1.dsse.json"])
    );
    envelope.signatures.clear();
    envelope.sign(&cairn_release::SecretKey::from_seed(&[3; 32]));
    std::fs::write(&path, envelope.to_json()).unwrap();
    insta::assert_snapshot!(
        "manifest_unknown",
        bench.run(&["verify", "r", "--trust", "1.dsse.json"])
    );
}

#[test]
fn checks_what_grub_will_check_inside_the_kernel_container() {
    let bench = Bench::new();
    bench.ok(&["keygen", "boot", "--out", "b", "--no-passphrase"]);
    bench.ok(&["keygen", "boot", "--out", "c", "--no-passphrase"]);
    let source = cairn_imgtool::keys::KeySource::File(bench.path("b"));
    let key = cairn_imgtool::keys::BootKey::load(&source, &Default::default()).unwrap();
    let at = cairn_release::Timestamp::from_unix(1_795_305_600).unwrap();
    std::fs::create_dir(bench.path("k")).unwrap();
    for file in ["vmlinuz", "initramfs.img", "boot.env"] {
        bench.write(&format!("k/{file}"), file);
        bench.write(
            &format!("k/{file}.sig"),
            key.sign_detached(file.as_bytes(), at).unwrap(),
        );
    }
    let container = |name: &str| {
        bench.tool(
            "mksquashfs",
            &["k", name, "-quiet", "-noappend", "-no-progress"],
        );
        std::fs::read(bench.path(name)).unwrap()
    };
    let mut plan = Plan::new("1.0", 1);
    plan.kernel = container("good.squashfs");
    plan.write(&bench, "good");
    bench.write("k/vmlinuz", "another");
    std::fs::remove_file(bench.path("k/boot.env.sig")).unwrap();
    plan.kernel = container("bad.squashfs");
    plan.write(&bench, "bad");

    // A trust root that names the boot key.
    release::trust(&bench);
    std::fs::remove_file(bench.path("1.dsse.json")).unwrap();
    bench.ok(&[
        "trust",
        "init",
        "--out",
        "t",
        "--root-key",
        "root",
        "--release-key",
        "release.pub",
        "--boot-key",
        "b.pub",
    ]);
    bench.ok(&["verify", "good", "--trust", "t", "--boot-pub", "b.pub"]);
    let output = bench
        .imgtool(&[
            "verify",
            "bad",
            "--trust",
            "t",
            "--boot-pub",
            "b.pub",
            "--json",
            "-q",
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", bench.shown(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let failed: Vec<&str> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["ok"] == false)
        .map(|check| check["check"].as_str().unwrap())
        .collect();
    assert_eq!(failed, ["vmlinuz", "boot.env"]);
    let said = bench.run(&[
        "verify",
        "good",
        "--trust",
        "t",
        "--boot-pub",
        "c.pub",
        "-q",
    ]);
    assert!(
        said.starts_with("exit code: 3") && said.contains("expected boot key"),
        "{said}"
    );
    insta::assert_snapshot!(
        "boot_wrong_kind",
        bench.run(&["verify", "good", "--trust", "t", "--boot-pub", "b"])
    );
}
