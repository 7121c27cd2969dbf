//! Altered files: each is refused with a reason on the console, and the good
//! release boots by itself.

use super::*;
use cairn_release::Envelope;

/// A trial that GRUB or the hook refuses, and the good release after it.
fn refused(name: &str, reason: &str, alter: impl FnOnce(&Bench) -> Result<()>) -> Result<Bench> {
    let bench = Bench::on_trial()?;
    alter(&bench)?;
    let vm = bench.start(name)?;
    says(&vm, &format!("cairn: {NEXT}: {reason}"))?;
    is_up(&vm, GOOD, "good")?;
    goes_off(vm, &bench.disk)?;
    Ok(bench)
}

/// As [`refused`], by the hook: it also leaves a record, and the release isn't tried again.
fn recorded(name: &str, reason: &str, alter: impl FnOnce(&Bench) -> Result<()>) -> Result<Bench> {
    let bench = refused(name, reason, alter)?;
    let record = bench.disk.read_data_file("/agent/boot-failures.jsonl")?;
    let record: serde_json::Value = serde_json::from_slice(&record)?;
    assert_eq!(record["release"], NEXT);
    let shown = bench.shown()?;
    assert_eq!(
        (&shown["failed"][0], &shown["trial"]),
        (&NEXT.into(), &serde_json::Value::Null)
    );
    Ok(bench)
}

#[test]
fn a_flipped_byte_in_vmlinuz() -> Result<()> {
    refused(
        "tamper-vmlinuz",
        "vmlinuz is missing, damaged or not signed",
        |bench| {
            let image = bench.repacked(NEXT, |tree| flip(&tree.join("vmlinuz"), 1_000_000))?;
            bench
                .disk
                .write_data_file(&Bench::data("kernel.squashfs"), &image)
        },
    )?;
    Ok(())
}

#[test]
fn a_flipped_byte_in_the_signature_of_vmlinuz() -> Result<()> {
    refused(
        "tamper-signature",
        "vmlinuz is missing, damaged or not signed",
        |bench| {
            let image = bench.repacked(NEXT, |tree| flip(&tree.join("vmlinuz.sig"), 300))?;
            bench
                .disk
                .write_data_file(&Bench::data("kernel.squashfs"), &image)
        },
    )?;
    Ok(())
}

#[test]
fn a_flipped_byte_in_the_initramfs_and_so_in_the_trust_root_inside() -> Result<()> {
    refused(
        "tamper-initramfs",
        "initramfs.img is missing, damaged or not signed",
        |bench| {
            let image = bench.repacked(NEXT, |tree| flip(&tree.join("initramfs.img"), 100_000))?;
            bench
                .disk
                .write_data_file(&Bench::data("kernel.squashfs"), &image)
        },
    )?;
    Ok(())
}

#[test]
fn a_module_exchanged_in_the_kernel_container() -> Result<()> {
    // vmlinuz and initramfs are as signed; only the verity tree tells.
    recorded(
        "tamper-module-exchanged",
        "kernel.squashfs.*(manifest names|expected .* bytes)",
        |bench| {
            let image = bench.repacked(NEXT, |tree| {
                let module = walkdir::WalkDir::new(tree.join("modules"))
                    .into_iter()
                    .filter_map(Result::ok)
                    .find(|entry| entry.file_name() == "virtio_net.ko")
                    .context("no virtio_net.ko")?;
                flip(module.path(), 5000)
            })?;
            bench
                .disk
                .write_data_file(&Bench::data("kernel.squashfs"), &image)
        },
    )?;
    Ok(())
}

#[test]
fn a_flipped_byte_in_a_module_is_an_error_and_never_wrong_bytes() -> Result<()> {
    let bench = Bench::new(NEXT, 1)?;
    // Somewhere in the modules' blocks: squashfs keeps its tables at the end.
    let size = bench
        .disk
        .read_data_file(&Bench::data("kernel.squashfs"))?
        .len() as u64;
    bench
        .disk
        .flip_byte_in_data_file(&Bench::data("kernel.squashfs"), size * 6 / 10)?;
    let vm = bench.start("tamper-module")?;
    is_up(&vm, NEXT, "trial")?;
    let read = asks(
        &vm,
        "find /usr/lib/modules /usr/lib/firmware -type f -exec cat {} + > /dev/null",
    )?;
    assert!(read.contains("Input/output error"), "{read}");
    assert!(
        vm.serial().transcript().contains("is corrupted"),
        "the kernel gave no reason"
    );
    vm.cut_power();
    let vm = bench.start("tamper-module-again")?;
    is_up(&vm, GOOD, "good")
}

#[test]
fn a_flipped_byte_in_the_manifest() -> Result<()> {
    recorded("tamper-manifest", "", |bench| {
        let path = Bench::data("manifest.dsse.json");
        let mut envelope: Envelope = serde_json::from_slice(&bench.disk.read_data_file(&path)?)?;
        envelope.payload[40] ^= 1;
        bench.disk.write_data_file(&path, &envelope.to_json())
    })?;
    Ok(())
}

#[test]
fn a_damaged_trust_root_is_not_used() -> Result<()> {
    let bench = Bench::on_trial()?;
    let mut trust: Envelope = serde_json::from_slice(&std::fs::read(bench.workshop.trust(2))?)?;
    trust.payload[60] ^= 1;
    bench
        .disk
        .write_data_file("/trust/2.dsse.json", &trust.to_json())?;
    let vm = bench.start("tamper-trust")?;
    says(&vm, "trust root 2 is ignored")?;
    is_up(&vm, NEXT, "trial")
}

#[test]
fn a_flipped_byte_in_the_superblock_of_the_root() -> Result<()> {
    recorded("tamper-superblock", "root.erofs", |bench| {
        bench
            .disk
            .flip_byte_in_data_file(&Bench::data("root.erofs"), 1030)
    })?;
    Ok(())
}

#[test]
fn a_flipped_byte_in_a_file_of_the_root_is_an_error_and_never_wrong_bytes() -> Result<()> {
    let bench = Bench::new(NEXT, 1)?;
    let image = bench.workshop.release(NEXT).join("root.erofs");
    let extents = cairn_system::Command::new("dump.erofs")
        .args(["-e", "--path=/usr/bin/openssl"])
        .arg(&image)
        .run()?
        .text();
    // "   0:        0..   12288 |   12288 :    4030464..   4034560 |    4096"
    let place = Regex::new(r"0:\s+0\.\.\s*\d+ \|\s+\d+ :\s+(\d+)\.\.")?;
    let place: u64 = place.captures(&extents).context(extents.clone())?[1].parse()?;
    bench
        .disk
        .flip_byte_in_data_file(&Bench::data("root.erofs"), place + 100)?;
    let vm = bench.start("tamper-root-block")?;
    is_up(&vm, NEXT, "trial")?;
    let read = asks(&vm, "sha256sum /usr/bin/openssl")?;
    assert!(read.contains("Input/output error"), "{read}");
    assert!(
        vm.serial().transcript().contains("is corrupted"),
        "the kernel gave no reason"
    );
    vm.cut_power();
    let vm = bench.start("tamper-root-block-again")?;
    is_up(&vm, GOOD, "good")
}

#[test]
fn a_root_image_of_another_signed_release() -> Result<()> {
    recorded(
        "tamper-swapped",
        "root.erofs.*(manifest names|expected .* bytes)",
        |bench| {
            let other = std::fs::read(bench.workshop.release(GOOD).join("root.erofs"))?;
            bench
                .disk
                .write_data_file(&Bench::data("root.erofs"), &other)
        },
    )?;
    Ok(())
}

#[test]
fn a_release_signed_by_a_revoked_key() -> Result<()> {
    recorded("tamper-revoked", ".*signed by revoked key", |bench| {
        bench.disk.write_data_file(
            "/trust/2.dsse.json",
            &std::fs::read(bench.workshop.trust(2))?,
        )?;
        signed_by(bench, "revoked")
    })?;
    Ok(())
}

#[test]
fn a_release_signed_by_an_unknown_key() -> Result<()> {
    recorded("tamper-unknown", ".*signed by unknown key", |bench| {
        signed_by(bench, "stranger")
    })?;
    Ok(())
}

/// Puts a manifest onto the disk that only this key signed.
fn signed_by(bench: &Bench, key: &str) -> Result<()> {
    let path = bench.dir.path().join("manifest.dsse.json");
    let mut envelope: Envelope = serde_json::from_slice(&std::fs::read(
        bench.workshop.release(NEXT).join("manifest.dsse.json"),
    )?)?;
    envelope.signatures.clear();
    std::fs::write(&path, envelope.to_json())?;
    bench
        .workshop
        .imgtool(["sign"])
        .arg(&path)
        .arg("--key")
        .arg(bench.workshop.key(key))
        .args(["--passphrase-env", "CAIRN_PASSPHRASE"])
        .run()?;
    bench
        .disk
        .write_data_file(&Bench::data("manifest.dsse.json"), &std::fs::read(&path)?)
}
