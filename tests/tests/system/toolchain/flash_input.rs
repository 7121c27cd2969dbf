//! Wrong input to `imgtool flash`: one clear error, no half disk.

use super::bench::{Bench, User, refuses};
use anyhow::{Context, Result};
use cairn_system::Command;
use cairn_tests::workshop::{GOOD, NEXT, copy_tree};
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// A copy of the good release in root's folder.
fn copy(bench: &Bench, name: &str) -> Result<PathBuf> {
    let to = bench.home(User::Root).join(name);
    copy_tree(&bench.workshop.release(GOOD), &to)?;
    Ok(to)
}

fn flip(path: &Path, at: usize) -> Result<()> {
    let mut bytes = fs::read(path)?;
    *bytes.get_mut(at).context("the file is shorter")? ^= 0x10;
    Ok(fs::write(path, bytes)?)
}

#[test]
fn a_damaged_release_is_not_flashed() -> Result<()> {
    let bench = Bench::new()?;
    let flash = |more: &[&str]| {
        let release = bench.home(User::Root).join("r");
        bench.flash(User::Root, &release, "disk.img", more)
    };
    refuses!(bench, User::Root, "no_release", flash(&[]));
    let release = copy(&bench, "r")?;
    let root = release.join("root.erofs");
    let length = fs::metadata(&root)?.len();
    flip(&root, 1_000_000)?;
    refuses!(bench, User::Root, "altered_root", flash(&[]));
    File::options()
        .write(true)
        .open(&root)?
        .set_len(length / 2)?;
    refuses!(bench, User::Root, "truncated_root", flash(&[]));
    fs::write(&root, "")?;
    refuses!(bench, User::Root, "empty_root", flash(&[]));
    fs::remove_file(&root)?;
    refuses!(bench, User::Root, "missing_root", flash(&[]));
    fs::write(release.join("manifest.dsse.json"), "")?;
    fs::write(&root, "")?;
    refuses!(bench, User::Root, "empty_manifest", flash(&[]));
    Ok(())
}

#[test]
fn what_is_not_trusted_is_not_flashed() -> Result<()> {
    let bench = Bench::new()?;
    let good = bench.workshop.release(GOOD);
    let next = bench.workshop.release(NEXT).display().to_string();
    let flash = |more: &[&str]| bench.flash(User::Root, &good, "disk.img", more);
    let home = bench.home(User::Root);
    bench
        .imgtool(User::Root, &["trust", "init", "--root-key", "root.key"])
        .args([
            "--release-key",
            "stranger.key.pub",
            "--boot-key",
            "boot.key.pub",
        ])
        .args([
            "--out",
            "strangers.json",
            "--passphrase-env",
            "CAIRN_PASSPHRASE",
        ])
        .status()?;
    // A loader that those trust, so that it is the release that isn't.
    let mut loader = bench.loader(User::Root, &[]);
    let loader = loader.args(["--key", "stranger.key"]).output()?;
    assert!(loader.status.success(), "{}", bench.text(&loader));
    refuses!(
        bench,
        User::Root,
        "untrusted_loader",
        flash(&["--trust", "strangers.json"])
    );
    let swap = |more: &[&str]| {
        let mut command = bench.imgtool(User::Root, &["flash", "--loader", "out/loader"]);
        command
            .arg("--release")
            .arg(&good)
            .args(["--to", "disk.img"])
            .args(more);
        command
    };
    refuses!(
        bench,
        User::Root,
        "untrusted_release",
        swap(&["--trust", "strangers.json"])
    );
    refuses!(
        bench,
        User::Root,
        "no_trust",
        flash(&["--trust", "nowhere.json"])
    );
    refuses!(
        bench,
        User::Root,
        "unknown_good",
        flash(&["--good", "9.9.9"])
    );
    refuses!(
        bench,
        User::Root,
        "unknown_trial",
        flash(&["--trial", "9.9.9"])
    );
    refuses!(
        bench,
        User::Root,
        "good_on_trial",
        flash(&["--trial", GOOD])
    );
    refuses!(
        bench,
        User::Root,
        "which_is_good",
        flash(&["--release", &next])
    );
    refuses!(bench, User::Root, "given_twice", {
        flash(&["--release", &good.display().to_string(), "--good", GOOD])
    });

    let efi = home.join("loader/BOOTX64.EFI");
    flip(&efi, 4096)?;
    refuses!(bench, User::Root, "altered_loader", flash(&[]));
    fs::remove_file(&efi)?;
    refuses!(bench, User::Root, "missing_efi", flash(&[]));
    fs::remove_dir_all(home.join("loader"))?;
    refuses!(bench, User::Root, "missing_loader", flash(&[]));
    Ok(())
}

#[test]
fn a_place_that_takes_no_disk_is_named() -> Result<()> {
    let bench = Bench::new()?;
    let good = bench.workshop.release(GOOD);
    let flash = |to: &str, more: &[&str]| bench.flash(User::Root, &good, to, more);
    let home = bench.home(User::Root);
    fs::write(home.join("there.img"), "precious")?;
    refuses!(bench, User::Root, "target_there", flash("there.img", &[]));
    assert_eq!(fs::read(home.join("there.img"))?, b"precious");
    refuses!(bench, User::Root, "target_is_a_folder", flash("out", &[]));
    refuses!(
        bench,
        User::Root,
        "target_in_no_folder",
        flash("no/disk.img", &[])
    );
    refuses!(
        bench,
        User::Root,
        "small_disk",
        flash("disk.img", &["--size", "200M"])
    );
    refuses!(
        bench,
        User::Root,
        "tiny_disk",
        flash("disk.img", &["--size", "1M"])
    );
    refuses!(
        bench,
        User::Root,
        "no_disk_size",
        flash("disk.img", &["--size", "big"])
    );
    refuses!(
        bench,
        User::Root,
        "image_with_serial",
        flash("disk.img", &["--serial", "S1"])
    );
    refuses!(bench, User::Root, "full_folder", {
        let command = flash("out/disk.img", &["--size", "1G"]);
        let mut shell = bench.program(User::Root, "unshare");
        shell
            .args(["--mount", "sh", "-c"])
            .arg("mount -t tmpfs -o size=64M none out && \"$@\"; code=$?; ls -A out; exit $code")
            .arg("sh")
            .arg(command.get_program())
            .args(command.get_args());
        shell
    });
    let user_out = bench.home(User::Ci).join("out");
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&user_out, fs::Permissions::from_mode(0o555))?;
    refuses!(bench, User::Ci, "read_only_folder", {
        bench.flash(User::Ci, &good, "out/disk.img", &[])
    });
    Ok(())
}

#[test]
fn a_token_goes_onto_the_disk_and_only_its_owner_reads_it() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::new()?;
    let good = bench.workshop.release(GOOD);
    let home = bench.home(User::Root);
    let flash = || {
        let more = ["--size", "1G", "--enrol", "enrol.toml"];
        bench.flash(User::Root, &good, "disk.img", &more)
    };
    refuses!(bench, User::Root, "no_enrolment_file", flash());
    let text = "server = \"https://c.example\"\nca = \"PEM\"\ntoken = \"s3cret\"\n";
    fs::write(home.join("enrol.toml"), text.replace("token", "tokens"))?;
    refuses!(bench, User::Root, "no_token", flash());

    fs::write(home.join("enrol.toml"), text)?;
    let output = flash().output()?;
    assert!(output.status.success(), "{}", bench.text(&output));
    assert!(!bench.text(&output).contains("s3cret"));
    let image = home.join("disk.img");
    assert_eq!(fs::metadata(&image)?.permissions().mode() & 0o777, 0o600);
    let disk = cairn_tests::Disk::open(&image)?;
    assert_eq!(disk.read_data_file("/agent/enrol.toml")?, text.as_bytes());
    assert_eq!(disk.data_file_mode("/agent/enrol.toml")?, 0o600);
    disk.fsck()
}

/// A loop device, which is nobody's once this is dropped.
struct Loop(String);

impl Loop {
    fn new(file: &Path) -> Result<Self> {
        let losetup = Command::new("losetup").args(["--find", "--show"]);
        Ok(Self(losetup.arg(file).run()?.text()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).run();
    }
}

#[test]
fn only_the_disk_that_is_named_is_erased() -> Result<()> {
    let bench = Bench::new()?;
    let good = bench.workshop.release(GOOD);
    let file = bench.home(User::Root).join("stick");
    File::create(&file)?.set_len(1 << 30)?;
    Command::new("mkfs.ext4")
        .args(["-q", "-F"])
        .arg(&file)
        .run()?;
    let device = Loop::new(&file)?;
    let serial = file.display().to_string();
    let flash = |more: &[&str]| bench.flash(User::Root, &good, &device.0, more);
    let superblock = || -> Result<Vec<u8>> {
        let mut bytes = vec![0; 4096];
        File::open(&file)?.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    let before = superblock()?;
    let refuses = |name: &str, command: &mut std::process::Command| -> Result<()> {
        insta::assert_snapshot!(name, bench.shown(command)?);
        assert!(superblock()? == before, "{name}: the disk was written to");
        Ok(())
    };
    refuses("device_unnamed", &mut flash(&[]))?;
    refuses("device_misnamed", &mut flash(&["--serial", "S1"]))?;
    refuses(
        "device_with_size",
        &mut flash(&["--serial", &serial, "--size", "1G"]),
    )?;
    let mut ci = bench.flash(User::Ci, &good, &device.0, &["--serial", &serial]);
    refuses("device_not_ours", &mut ci)?;

    // Mounted where only a shell's own namespace sees it; the device is in use all the same.
    let mounted = |command: std::process::Command| {
        let mut shell = bench.program(User::Root, "unshare");
        shell
            .args(["--mount", "sh", "-c"])
            .arg("mount -o ro,noload \"$0\" out && \"$@\"")
            .arg(&device.0)
            .arg(command.get_program())
            .args(command.get_args());
        shell
    };
    refuses("device_mounted", &mut mounted(flash(&[])))?;
    refuses(
        "device_mounted_and_named",
        &mut mounted(flash(&["--serial", &serial])),
    )?;

    // The one that is meant is written, and becomes a disk that others find in order.
    let output = flash(&["--serial", &serial]).output()?;
    assert!(output.status.success(), "{}", bench.text(&output));
    drop(device);
    cairn_tests::Disk::open(&file)?.fsck()?;
    bench.is_at_rest()
}
