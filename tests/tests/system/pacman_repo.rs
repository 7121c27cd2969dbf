//! The repository as real pacman sees it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cairn_system::Command;
use cairn_tests::addition::{self, CAP_NET_RAW};
use cairn_tests::apt::{self, AptIndex};
use cairn_tests::convert::{Form, convert};
use cairn_tests::{ExtraRepo, PacmanRepo, TestPackage, tools};

/// Installs packages into `dir/root`, with the tree's own hooks only.
fn install(dir: &Path, conf: &str, packages: &[&str]) {
    tools::require("pacman").unwrap();
    let root = dir.join("root");
    fs::create_dir_all(root.join("var/lib/pacman")).unwrap();
    fs::write(dir.join("pacman.conf"), conf).unwrap();
    let no_hooks = root.join("etc/pacman.d/hooks");
    Command::new("pacman")
        .env("LC_ALL", "C.UTF-8")
        .arg("--config")
        .arg(dir.join("pacman.conf"))
        .arg("--root")
        .arg(&root)
        .arg("--cachedir")
        .arg(dir.join("cache"))
        .arg("--hookdir")
        .arg(no_hooks)
        .args(["--noconfirm", "--noprogressbar", "-Sy"])
        .args(packages)
        .run()
        .unwrap();
}

#[test]
fn pacman_installs_a_whole_system_and_runs_its_hooks() {
    let repo = PacmanRepo::ensure().unwrap();
    assert!(repo.packages().len() < 150, "{}", repo.packages().len());
    let dir = tempfile::tempdir().unwrap();
    let conf = repo.pacman_conf(&[]);
    install(
        dir.path(),
        &conf,
        &["base", "linux-qemu", "linux-firmware", "grub"],
    );

    let root = dir.path().join("root");
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    assert!(read("etc/passwd").contains("\nmessagebus:"), "sysusers ran");
    assert!(
        read("etc/shells").contains("/bin/bash"),
        "the scriptlet ran"
    );
    assert!(root.join("usr/lib/udev/hwdb.bin").is_file());
    assert!(root.join("etc/ssl/certs/ca-certificates.crt").is_file());
    let modules = fs::read_dir(root.join("usr/lib/modules")).unwrap();
    let modules = modules.map(|entry| entry.unwrap().path()).next().unwrap();
    assert!(modules.join("vmlinuz").is_file());
    let deps = fs::read_to_string(modules.join("modules.dep")).unwrap();
    for module in [
        "virtio_blk",
        "ext4",
        "erofs",
        "squashfs",
        "dm-verity",
        "overlay",
        "i6300esb",
    ] {
        assert!(deps.contains(&format!("/{module}.ko:")), "{module}");
    }
    for file in [
        "usr/bin/grub-mkimage",
        "usr/lib/grub/i386-pc/loopback.mod",
        "usr/lib/grub/x86_64-efi/loopback.mod",
    ] {
        assert!(root.join(file).is_file(), "{file}");
    }
}

#[test]
fn owners_links_capabilities_and_names_survive_pacman() {
    let repo = PacmanRepo::ensure().unwrap();
    let dir = tempfile::tempdir().unwrap();
    // Alone: with all that it needs this test would take ten times as long.
    let extra = ExtraRepo::build(
        dir.path(),
        "first",
        &[addition::odd_files(), TestPackage::new("filesystem", "9")],
    )
    .unwrap();
    install(
        dir.path(),
        &repo.pacman_conf(&[&extra]),
        &["cairn-odd-files"],
    );

    let root = dir.path().join("root/usr");
    let stat = |path: &str| fs::symlink_metadata(root.join(path)).unwrap();
    let file = stat("share/odd/nobodys/file");
    assert_eq!(
        (file.uid(), file.gid(), file.mode() & 0o7777),
        (4242, 4243, 0o640)
    );
    assert_eq!(stat("share/odd/nobodys").mode() & 0o7777, 0o2750);
    assert_eq!(stat("bin/odd-setuid").mode() & 0o7777, 0o4755);
    assert_eq!(
        stat("share/odd/a-name").ino(),
        stat("share/odd/b-name").ino()
    );
    assert_eq!(
        fs::read_link(root.join("share/odd/link")).unwrap(),
        Path::new("a-name")
    );
    assert!(stat("share/odd/Grüße-石").is_file());
    let mut value = [0; 64];
    let capable = root.join("bin/odd-capable");
    let size = rustix::fs::getxattr(&capable, "security.capability", &mut value).unwrap();
    assert_eq!(&value[..size], CAP_NET_RAW);
}

#[test]
fn a_repository_named_first_replaces_one_package() {
    let repo = PacmanRepo::ensure().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let packages = [
        TestPackage::new("filesystem", "9"),
        TestPackage::new("dash", "9"),
        TestPackage::init("broken-init", "1.0", "#!/bin/sh\nexit 1\n"),
        TestPackage::new("all", "1").depends("systemd-sysv"),
    ];
    let extra = ExtraRepo::build(dir.path(), "first", &packages).unwrap();
    let conf = repo.pacman_conf(&[&extra]);
    install(dir.path(), &conf, &["all", "broken-init"]);
    let init = dir.path().join("root/usr/sbin/init");
    assert_eq!(fs::read_to_string(init).unwrap(), "#!/bin/sh\nexit 1\n");
}

#[test]
fn converting_a_package_twice_gives_the_same_bytes() {
    let index = AptIndex::load().unwrap();
    let package = index.get("kmod").unwrap();
    let debs = tempfile::tempdir().unwrap();
    apt::download(&[package], debs.path()).unwrap();
    let deb = debs.path().join(package.file_name());
    let make = || {
        let dir = tempfile::tempdir().unwrap();
        let info = convert(&index, package, Form::Plain, &deb, dir.path()).unwrap();
        fs::read(dir.path().join(info.file_name())).unwrap()
    };
    assert!(make() == make());
}

#[test]
fn the_second_use_takes_what_the_first_made() {
    let first = PacmanRepo::ensure().unwrap();
    let file = first.package_file("bash").unwrap();
    let before = fs::metadata(&file).unwrap();
    let second = PacmanRepo::ensure().unwrap();
    assert_eq!(first.packages(), second.packages());
    let after = fs::metadata(second.package_file("bash").unwrap()).unwrap();
    assert_eq!(before.ino(), after.ino());
}
