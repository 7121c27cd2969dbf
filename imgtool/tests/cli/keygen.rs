//! `imgtool keygen`, and reading keys back.

use crate::bench::{Bench, PASSPHRASE};
use crate::release;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

fn mode(bench: &Bench, name: &str) -> u32 {
    bench.path(name).metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn openssl_reads_the_encrypted_release_key_and_its_public_half() {
    let bench = Bench::new();
    let said = bench.ok(&[
        "keygen",
        "release",
        "--out",
        "k",
        "--passphrase-env",
        "PASSPHRASE",
    ]);
    assert_eq!((mode(&bench, "k"), mode(&bench, "k.pub")), (0o600, 0o644));
    let secret = std::fs::read_to_string(bench.path("k")).unwrap();
    assert!(secret.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
    let public = bench.tool(
        "openssl",
        &["pkey", "-in", "k", "-passin", "env:PASSPHRASE", "-pubout"],
    );
    assert_eq!(
        public,
        std::fs::read_to_string(bench.path("k.pub")).unwrap()
    );
    // What was printed is the id by which envelopes name the key.
    let key = cairn_imgtool::keys::load_public(&bench.path("k.pub")).unwrap();
    assert!(said.contains(&key.id().to_string()), "{said}");
}

#[test]
fn imgtool_reads_keys_that_openssl_made() {
    let bench = Bench::new();
    release::trust(&bench);
    release::Plan::new("1", 1).write(&bench, "r");
    bench.tool(
        "openssl",
        &["genpkey", "-algorithm", "ed25519", "-out", "open"],
    );
    bench.tool(
        "openssl",
        &[
            "pkcs8",
            "-topk8",
            "-in",
            "open",
            "-out",
            "closed",
            "-passout",
            "env:PASSPHRASE",
            "-v2",
            "aes-256-cbc",
        ],
    );
    bench.ok(&["sign", "r", "--key", "open"]);
    bench.ok(&[
        "sign",
        "r",
        "--key",
        "closed",
        "--passphrase-env",
        "PASSPHRASE",
    ]);
}

#[test]
fn a_passphrase_comes_from_a_descriptor_a_variable_or_a_file() {
    let bench = Bench::new();
    bench.write("phrase", format!("{PASSPHRASE}\n"));
    bench.ok(&[
        "keygen",
        "release",
        "--out",
        "k",
        "--passphrase-file",
        "phrase",
    ]);
    release::Plan::new("1", 1).write(&bench, "r");
    let mut command = bench.imgtool(&["sign", "r", "--key", "k", "--passphrase-fd", "0"]);
    let phrase = std::fs::File::open(bench.path("phrase")).unwrap();
    let output = command.stdin(Stdio::from(phrase)).output().unwrap();
    assert!(output.status.success(), "{}", bench.shown(&output));
    bench.ok(&["sign", "r", "--key", "k", "--passphrase-env", "PASSPHRASE"]);
    let key = std::fs::read_to_string(bench.path("k")).unwrap();
    let args = [
        "sign",
        "r",
        "--key",
        "env:KEY",
        "--passphrase-env",
        "PASSPHRASE",
    ];
    let output = bench.imgtool(&args).env("KEY", key).output().unwrap();
    assert!(output.status.success(), "{}", bench.shown(&output));
    let mut command = bench.imgtool(&["sign", "r", "--key", "fd:0", "--passphrase-file", "phrase"]);
    let key = std::fs::File::open(bench.path("k")).unwrap();
    let output = command.stdin(Stdio::from(key)).output().unwrap();
    assert!(output.status.success(), "{}", bench.shown(&output));
}

#[test]
fn without_a_terminal_nobody_is_asked() {
    let bench = Bench::new();
    insta::assert_snapshot!(
        "no_passphrase",
        bench.run(&["keygen", "release", "--out", "k"])
    );
    let empty = bench
        .imgtool(&[
            "keygen",
            "release",
            "--out",
            "k",
            "--passphrase-env",
            "EMPTY",
        ])
        .env("EMPTY", "")
        .output()
        .unwrap();
    insta::assert_snapshot!("empty_passphrase", bench.shown(&empty));
    insta::assert_snapshot!(
        "two_sources",
        bench.run(&[
            "keygen",
            "release",
            "--out",
            "k",
            "--no-passphrase",
            "--passphrase-fd",
            "3"
        ])
    );
    assert!(bench.names(".").is_empty());
}

#[test]
fn nothing_is_ever_overwritten() {
    let bench = Bench::new();
    bench.write("k.pub", "mine");
    insta::assert_snapshot!(
        "overwrite_public",
        bench.run(&["keygen", "release", "--out", "k", "--no-passphrase"])
    );
    assert_eq!(bench.names("."), ["k.pub"]);
    bench.write("sb", "mine");
    insta::assert_snapshot!(
        "overwrite_folder",
        bench.run(&[
            "keygen",
            "secure-boot",
            "--out-dir",
            "sb",
            "--no-passphrase"
        ])
    );
    insta::assert_snapshot!(
        "missing_folder",
        bench.run(&["keygen", "release", "--out", "no/k", "--no-passphrase"])
    );
}

#[test]
fn a_key_that_cannot_be_used_is_named_with_what_it_is() {
    let bench = Bench::new();
    release::trust(&bench);
    release::Plan::new("1", 1).write(&bench, "r");
    bench.write("zero", "");
    bench.write("noise", "not a key at all\n");
    bench.tool("openssl", &["genpkey", "-algorithm", "rsa", "-out", "rsa"]);
    bench.ok(&[
        "keygen",
        "release",
        "--out",
        "locked",
        "--passphrase-env",
        "PASSPHRASE",
    ]);
    bench.write("phrase", "wrong\n");
    std::fs::create_dir(bench.path("folder")).unwrap();
    for key in [
        "zero", "noise", "rsa", "root.pub", "absent", "folder", "locked", "env:NOPE", "fd:77",
    ] {
        let name = format!("bad_key_{}", key.replace([':', '.'], "_"));
        insta::assert_snapshot!(name, bench.run(&["sign", "r", "--key", key]));
    }
    insta::assert_snapshot!(
        "bad_key_wrong_passphrase",
        bench.run(&[
            "sign",
            "r",
            "--key",
            "locked",
            "--passphrase-file",
            "phrase"
        ])
    );
}

#[test]
fn a_key_that_may_not_be_read_is_named() {
    // Root may read everything; only another user can be refused.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let bench = Bench::new();
    release::trust(&bench);
    release::Plan::new("1", 1).write(&bench, "r");
    let open = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(&bench.path(""), 0o755);
    open(&bench.path("root"), 0o000);
    // The binary may lie where only root may look.
    std::fs::copy(env!("CARGO_BIN_EXE_imgtool"), bench.path("imgtool")).unwrap();
    open(&bench.path("imgtool"), 0o755);
    let output = std::process::Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "./imgtool",
        ])
        .args(["sign", "r", "--key", "root"])
        .current_dir(bench.path(""))
        .output()
        .unwrap();
    insta::assert_snapshot!(bench.shown(&output));
}

#[test]
fn gpgv_accepts_what_the_boot_key_signs_and_nothing_else() {
    let bench = Bench::new();
    let said = bench.ok(&[
        "keygen",
        "boot",
        "--out",
        "b",
        "--passphrase-env",
        "PASSPHRASE",
    ]);
    assert_eq!((mode(&bench, "b"), mode(&bench, "b.pub")), (0o600, 0o644));
    let load = |phrase: &str| {
        let passphrase = cairn_imgtool::keys::PassphraseArgs::known(phrase.to_owned().into());
        let source = cairn_imgtool::keys::KeySource::File(bench.path("b"));
        cairn_imgtool::keys::BootKey::load(&source, &passphrase)
    };
    let message = load("wrong").unwrap_err().to_string();
    assert!(message.ends_with("b: wrong passphrase"), "{message}");
    let key = load(PASSPHRASE).unwrap();
    assert!(said.contains(&key.fingerprint()), "{said}");

    let at = cairn_release::Timestamp::from_unix(1_795_305_600).unwrap();
    let signature = key.sign_detached(b"a kernel", at).unwrap();
    assert_eq!(
        key.sign_detached(b"a kernel", at).unwrap(),
        signature,
        "deterministic"
    );
    bench.write("vmlinuz", "a kernel");
    bench.write("vmlinuz.sig", &signature);
    bench.tool("gpgv", &["--keyring", "./b.pub", "vmlinuz.sig", "vmlinuz"]);
    let long_ago = cairn_release::Timestamp::from_unix(0).unwrap();
    assert_eq!(
        key.sign_detached(b"a kernel", long_ago).unwrap(),
        signature,
        "never older than its key"
    );

    let public = std::fs::read(bench.path("b.pub")).unwrap();
    let public = cairn_imgtool::keys::boot_public(&public).unwrap();
    assert_eq!(public.fingerprint(), key.fingerprint());
    assert!(public.verify_detached(b"a kernel", &signature));
    assert!(!public.verify_detached(b"b kernel", &signature));
    let mut bent = signature.clone();
    *bent.last_mut().unwrap() ^= 1;
    assert!(!public.verify_detached(b"a kernel", &bent));
    // The packets as gpg reads them: version 4, SHA-512 (10), the issuer unhashed.
    let packets = bench.tool(
        "gpg",
        &["--homedir", ".", "--batch", "--list-packets", "vmlinuz.sig"],
    );
    assert!(
        packets.contains("version 4, created 1795305600"),
        "{packets}"
    );
    assert!(packets.contains("digest algo 10"), "{packets}");
    assert!(packets.contains("\tsubpkt 16 len 8"), "{packets}");

    for (name, thing) in [("wrong_kind_public", "b.pub"), ("wrong_kind_secret", "b")] {
        release::trust(&bench);
        release::Plan::new("1", 1).write(&bench, "r");
        insta::assert_snapshot!(name, bench.run(&["sign", "r", "--key", thing]));
    }
}
