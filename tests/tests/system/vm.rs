//! The machine and its console, with the kernel of the package repository and
//! an initramfs of one busybox.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use cairn_system::Command;
use cairn_tests::{Firmware, PacmanRepo, Vm, Writes, tools};
use regex::Regex;

const BOOT: Duration = Duration::from_secs(180);
const SOON: Duration = Duration::from_secs(60);

const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
echo cairn-guest: ready
while read -r line; do
    case $line in
    off) /bin/busybox poweroff -f ;;
    again) /bin/busybox reboot -f ;;
    *) echo \"cairn-guest: heard <$line>\" ;;
    esac
done
";

fn kernel(dir: &Path) -> Result<Firmware> {
    let package = PacmanRepo::ensure()?.package_file("linux-qemu")?;
    let reader = zstd::Decoder::new(File::open(package)?)?;
    let vmlinuz = dir.join("vmlinuz");
    let mut archive = tar::Archive::new(reader);
    let entry = archive
        .entries()?
        .filter_map(Result::ok)
        .find(|entry| entry.path().is_ok_and(|path| path.ends_with("vmlinuz")));
    entry.context("no vmlinuz")?.unpack(&vmlinuz)?;
    Ok(Firmware::Kernel {
        vmlinuz,
        initrd: initramfs(dir)?,
        cmdline: "console=ttyS0 panic=-1 quiet".into(),
    })
}

fn initramfs(dir: &Path) -> Result<PathBuf> {
    let tree = dir.join("tree");
    for folder in ["bin", "dev", "proc"] {
        fs::create_dir_all(tree.join(folder))?;
    }
    fs::copy(tools::require("busybox")?, tree.join("bin/busybox"))?;
    fs::write(tree.join("init"), INIT)?;
    Command::new("chmod")
        .arg("755")
        .arg(tree.join("init"))
        .run()?;
    let cpio = Command::new("cpio")
        .args(["--quiet", "-o", "-H", "newc", "-R", "0:0"])
        .dir(&tree)
        .stdin("bin\nbin/busybox\ndev\nproc\ninit\n")
        .run()?;
    let path = dir.join("initramfs.img");
    fs::write(&path, cpio.stdout)?;
    Ok(path)
}

#[test]
fn a_guest_is_heard_spoken_to_and_switched_off() {
    let dir = tempfile::tempdir().unwrap();
    let firmware = kernel(dir.path()).unwrap();
    let mut vm = Vm::builder("harness-guest")
        .firmware(firmware)
        .start()
        .unwrap();
    vm.serial().expect("cairn-guest: ready", BOOT).unwrap();
    vm.serial().send_line("hello there").unwrap();
    let heard = Regex::new("heard <(.*)>").unwrap();
    assert_eq!(
        vm.serial().expect(heard, SOON).unwrap().groups[1],
        "hello there"
    );
    vm.serial().send_line("off").unwrap();
    vm.wait_for_end(SOON).unwrap();
}

#[test]
fn a_reboot_ends_a_machine_that_may_not_reboot() {
    let dir = tempfile::tempdir().unwrap();
    let firmware = kernel(dir.path()).unwrap();
    let vm = Vm::builder("harness-reboot").firmware(firmware).no_reboot();
    let mut vm = vm.start().unwrap();
    vm.serial().expect("cairn-guest: ready", BOOT).unwrap();
    assert!(vm.wait_for_end(Duration::ZERO).is_err());
    vm.serial().send_line("again").unwrap();
    vm.wait_for_end(SOON).unwrap();
}

#[test]
fn a_machine_that_is_dropped_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("empty.img");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let vm = Vm::builder("harness-dropped")
        .disk(&image, Writes::Dropped)
        .memory(128)
        .start()
        .unwrap();
    vm.serial().expect("cairn", Duration::ZERO).unwrap_err();
    let process = vm.process();
    assert!(Path::new(&format!("/proc/{process}")).exists());
    vm.cut_power();
    assert!(!Path::new(&format!("/proc/{process}")).exists());
}

#[test]
fn qemus_complaint_is_in_the_error() {
    let mut vm = Vm::builder("harness-complaint")
        .arg("-no-such-option")
        .start()
        .unwrap();
    let error = vm.wait_for_end(SOON).unwrap_err().to_string();
    assert!(error.contains("no-such-option"), "{error}");
}

#[test]
fn ovmf_starts_and_finds_nothing_to_boot() {
    let vm = Vm::builder("harness-ovmf")
        .firmware(Firmware::Ovmf)
        .memory(512);
    let vm = vm.start().unwrap();
    vm.serial().expect("BdsDxe", BOOT).unwrap();
}

#[test]
fn secure_boot_variables_are_enrolled() {
    let dir = tempfile::tempdir().unwrap();
    let certificate = dir.path().join("db.pem");
    Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=db",
            "-keyout",
            "/dev/null",
            "-out",
        ])
        .arg(&certificate)
        .run()
        .unwrap();
    let vars = dir.path().join("vars.fd");
    cairn_tests::vm::secure_boot_vars(&certificate, &certificate, &certificate, &vars).unwrap();
    let mut bytes = Vec::new();
    File::open(&vars).unwrap().read_to_end(&mut bytes).unwrap();
    let name: Vec<u8> = "SecureBootEnable"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    assert!(bytes.windows(name.len()).any(|window| window == name));
    let firmware = Firmware::OvmfSecureBoot { vars };
    let vm = Vm::builder("harness-secure-boot")
        .firmware(firmware)
        .memory(512);
    vm.start().unwrap().serial().expect("BdsDxe", BOOT).unwrap();
}
