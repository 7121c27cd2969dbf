//! The owner's keys for UEFI Secure Boot, judged by sbsigntool and efitools.

use crate::bench::{Bench, PASSPHRASE};
use cairn_imgtool::keys::{KeySource, PassphraseArgs, SecureBootKey, authenticode};

fn db(bench: &Bench) -> SecureBootKey {
    let passphrase = PassphraseArgs::known(PASSPHRASE.to_owned().into());
    let source = KeySource::File(bench.path("sb/db.key"));
    SecureBootKey::load(&source, &bench.path("sb/db.crt"), &passphrase).unwrap()
}

#[test]
fn a_signed_program_is_accepted_by_sbverify_and_the_same_each_time() {
    let bench = Bench::new();
    bench.ok(&[
        "keygen",
        "secure-boot",
        "--out-dir",
        "sb",
        "--passphrase-env",
        "PASSPHRASE",
    ]);
    bench.tool(
        "grub-mkimage",
        &[
            "-O",
            "x86_64-efi",
            "-p",
            "/boot",
            "-o",
            "grub.efi",
            "part_gpt",
            "fat",
            "normal",
        ],
    );
    let program = std::fs::read(bench.path("grub.efi")).unwrap();
    let key = db(&bench);
    let signed = authenticode::sign(&key, &program).unwrap();
    assert_eq!(
        authenticode::sign(&key, &program).unwrap(),
        signed,
        "deterministic"
    );
    bench.write("signed.efi", &signed);
    bench.tool("sbverify", &["--cert", "sb/db.crt", "signed.efi"]);

    // Byte for byte what sbsign makes, but for the signature itself: same hash,
    // same checksum rule.
    bench.tool(
        "openssl",
        &[
            "pkey",
            "-in",
            "sb/db.key",
            "-passin",
            "env:PASSPHRASE",
            "-out",
            "open.key",
        ],
    );
    bench.tool(
        "sbsign",
        &[
            "--key",
            "open.key",
            "--cert",
            "sb/db.crt",
            "--output",
            "theirs.efi",
            "grub.efi",
        ],
    );
    bench.tool("sbattach", &["--remove", "theirs.efi"]);
    bench.write("ours.efi", &signed);
    bench.tool("sbattach", &["--remove", "ours.efi"]);
    bench.tool("cmp", &["theirs.efi", "ours.efi"]);

    let mut bent = signed.clone();
    bent[program.len() / 2] ^= 1;
    bench.write("bent.efi", &bent);
    let output = std::process::Command::new("sbverify")
        .args(["--cert", "sb/db.crt", "bent.efi"])
        .current_dir(bench.path(""))
        .output()
        .unwrap();
    assert!(!output.status.success(), "{}", bench.shown(&output));

    // A signature that is there already is replaced, not joined by a second one.
    assert!(authenticode::sign(&key, &signed).unwrap() == signed);
    for (thing, message) in [
        (
            &b"MZ"[..],
            "expected an EFI program (PE), got something else or a part of one",
        ),
        (
            &program[..600],
            "expected an EFI program (PE), got something else or a part of one",
        ),
    ] {
        assert_eq!(
            authenticode::sign(&key, thing).unwrap_err().to_string(),
            message
        );
    }
}

#[test]
fn enrolment_files_are_the_ones_that_efitools_would_have_made() {
    let bench = Bench::new();
    bench.ok(&[
        "keygen",
        "secure-boot",
        "--out-dir",
        "sb",
        "--no-passphrase",
    ]);
    let owner = owner(&std::fs::read(bench.path("sb/db.esl")).unwrap());
    for (variable, signer) in [("PK", "PK"), ("KEK", "PK"), ("db", "KEK")] {
        let file = |suffix: &str| format!("sb/{variable}.{suffix}");
        bench.tool(
            "cert-to-efi-sig-list",
            &["-g", &owner, &file("crt"), "theirs.esl"],
        );
        bench.tool("cmp", &[&file("esl"), "theirs.esl"]);
        let (key, certificate) = (format!("sb/{signer}.key"), format!("sb/{signer}.crt"));
        let list = file("esl");
        let output = std::process::Command::new("sign-efi-sig-list")
            .args(["-t", "2026-11-22 00:00:00", "-k", &key, "-c", &certificate])
            .args([variable, &list, "theirs.auth"])
            .env("TZ", "UTC")
            .current_dir(bench.path(""))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", bench.shown(&output));
        bench.tool("cmp", &[&file("auth"), "theirs.auth"]);
    }
}

#[test]
fn a_key_with_another_ones_certificate_is_refused() {
    let bench = Bench::new();
    bench.ok(&[
        "keygen",
        "secure-boot",
        "--out-dir",
        "sb",
        "--no-passphrase",
    ]);
    let source = KeySource::File(bench.path("sb/db.key"));
    let load = |certificate: &str| {
        SecureBootKey::load(
            &source,
            &bench.path(certificate),
            &PassphraseArgs::default(),
        )
    };
    let message = load("sb/KEK.crt").unwrap_err().to_string();
    assert!(
        message.contains("is not the key of certificate"),
        "{message}"
    );
    let message = load("sb/KEK.key").unwrap_err().to_string();
    assert!(
        message.ends_with("expected an X.509 certificate, got an RSA secret key"),
        "{message}"
    );
    assert!(load("sb/db.cer").is_ok(), "a certificate in DER");
}

/// The owner's GUID as text, out of a signature list.
fn owner(list: &[u8]) -> String {
    let guid = &list[28..44];
    let hex = |bytes: &[u8], reverse: bool| -> String {
        let mut bytes = bytes.to_vec();
        if reverse {
            bytes.reverse();
        }
        hex::encode(bytes)
    };
    format!(
        "{}-{}-{}-{}-{}",
        hex(&guid[..4], true),
        hex(&guid[4..6], true),
        hex(&guid[6..8], true),
        hex(&guid[8..10], false),
        hex(&guid[10..], false)
    )
}
