//! The whole chain, by each firmware, from one disk image.

use super::*;
use cairn_tests::Firmware;
use cairn_tests::vm::secure_boot_vars;

#[test]
fn bios_boots_a_verified_root_and_shuts_down_clean() -> Result<()> {
    let bench = Bench::new(NEXT, 1)?;
    bench.disk.fsck()?;
    let vm = bench.start("chain-bios")?;
    vm.serial()
        .expect(&format!("cairn: {NEXT}: root verified"), BOOT)?;
    is_up(&vm, NEXT, "trial")?;
    assert!(asks(&vm, "cat /etc/motd")?.contains("the next one"));
    // The modules come out of the kernel container, through a tree of its own.
    let mounts = asks(
        &vm,
        "grep -E ' (/|/usr/lib/modules|/data|/etc|/var) ' /proc/mounts",
    )?;
    for (place, kind) in [
        ("/", "erofs"),
        ("/usr/lib/modules", "squashfs"),
        ("/data", "ext4"),
        ("/etc", "overlay"),
        ("/var", "overlay"),
    ] {
        assert!(
            mounts.contains(&format!(" {place} {kind} ")),
            "{place}: {mounts}"
        );
    }
    assert!(asks(&vm, "touch /usr/bin/x")?.contains("Read-only file system"));
    asks(
        &vm,
        "echo survived > /etc/kept; echo survived > /var/lib/kept",
    )?;
    goes_off(vm, &bench.disk)?;

    // The one try is used up, and what was written is still there.
    let vm = bench.start("chain-bios-again")?;
    says(&vm, &format!("cairn: {NEXT}: no tries left"))?;
    is_up(&vm, GOOD, "good")?;
    assert_eq!(
        asks(&vm, "cat /etc/kept /var/lib/kept")?
            .matches("survived")
            .count(),
        2
    );
    Ok(())
}

#[test]
fn odd_files_reach_the_node_as_the_packages_have_them() -> Result<()> {
    let bench = Bench::on_trial()?;
    let vm = bench.start("chain-odd")?;
    is_up(&vm, NEXT, "trial")?;
    let stat = asks(
        &vm,
        "stat -c '%n %a %u:%g %h' /usr/bin/odd-setuid /usr/share/odd/nobodys/file /usr/share/odd/a-name",
    )?;
    assert!(stat.contains("/usr/bin/odd-setuid 4755 0:0"), "{stat}");
    assert!(
        stat.contains("/usr/share/odd/nobodys/file") && stat.contains("4242:4243"),
        "{stat}"
    );
    assert!(stat.contains("/usr/share/odd/a-name 644 0:0 2"), "{stat}");
    Ok(())
}

#[test]
fn uefi_boots_the_same_image() -> Result<()> {
    let bench = Bench::on_trial()?;
    let vm = Vm::builder("chain-uefi")
        .disk(bench.disk.path(), Writes::Kept)
        .firmware(Firmware::Ovmf)
        .start()?;
    is_up(&vm, NEXT, "trial")
}

#[test]
fn secure_boot_boots_the_same_image_and_refuses_another_loader() -> Result<()> {
    let bench = Bench::on_trial()?;
    let keys = bench.workshop.secure_boot();
    let vars = bench.dir.path().join("vars.fd");
    secure_boot_vars(
        &keys.join("PK.crt"),
        &keys.join("KEK.crt"),
        &keys.join("db.crt"),
        &vars,
    )?;
    let firmware = || Firmware::OvmfSecureBoot { vars: vars.clone() };
    let start = |name: &str| {
        Vm::builder(name)
            .disk(bench.disk.path(), Writes::Kept)
            .firmware(firmware())
            .start()
    };
    let vm = start("chain-secure-boot")?;
    is_up(&vm, NEXT, "trial")?;
    let on = asks(
        &vm,
        "od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-*",
    )?;
    assert!(on.contains(" 1"), "Secure Boot is off: {on}");
    vm.cut_power();

    // The same program with its signature cut off by one byte.
    let mut loader = bench.disk.esp_read("EFI/BOOT/BOOTX64.EFI")?;
    let middle = loader.len() / 2;
    loader[middle] ^= 1;
    bench.disk.esp_write("EFI/BOOT/BOOTX64.EFI", &loader)?;
    let vm = start("chain-secure-boot-refused")?;
    says(&vm, "(?i)access denied|security violation")
}
