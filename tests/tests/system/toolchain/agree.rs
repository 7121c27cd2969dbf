//! Tools that share no code with imgtool agree with it.

use super::bench::{Bench, User};
use anyhow::{Context, Result, ensure};
use cairn_system::Command;
use cairn_tests::Workshop;
use cairn_tests::tools::require;
use cairn_tests::workshop::{GOOD, NEXT};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What packages bring, as `imgtool build` lists it: (path, record).
fn contents(release: &Path) -> Result<Vec<Value>> {
    let packed = fs::read(release.join("contents.jsonl.zst"))?;
    let text = String::from_utf8(zstd::decode_all(&packed[..])?)?;
    Ok(text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?)
}

#[test]
fn what_packages_own_survives_the_way_into_the_root_image() -> Result<()> {
    let workshop = Workshop::ensure()?;
    let release = workshop.release(GOOD);
    let dir = TempDir::new()?;
    let tree = dir.path().join("root");
    let extract = format!("--extract={}", tree.display());
    let image = release.join("root.erofs");
    Command::new("fsck.erofs")
        .args([&extract, "--preserve"])
        .arg(&image)
        .run()?;
    let meta = |path: &str| fs::symlink_metadata(tree.join(path)).with_context(|| path.to_owned());
    let owner = |path: &str| meta(path).map(|m| (m.uid(), m.gid(), m.mode() & 0o7777));
    assert_eq!(owner("usr/share/odd/nobodys")?, (4242, 4243, 0o2750));
    assert_eq!(owner("usr/share/odd/nobodys/file")?, (4242, 4243, 0o640));
    assert_eq!(
        fs::read_to_string(tree.join("usr/share/odd/Grüße-石"))?,
        "a name beyond ASCII\n"
    );
    assert_eq!(
        fs::read_link(tree.join("usr/share/odd/dangling"))?,
        Path::new("/no/such/file")
    );
    for (path, mode) in [("tmp", 0o1777), ("root", 0o700), ("usr/lib/modules", 0o755)] {
        assert_eq!(owner(path)?, (0, 0, mode), "{path}");
    }
    assert_eq!(tree.join("usr/lib/modules").read_dir()?.count(), 0);

    // fsck.erofs gives files away after it has set their modes, which takes setuid.
    let own = dir.path().join("own");
    Command::new("fsck.erofs")
        .arg(format!("--extract={}", own.display()))
        .args(["--preserve-perms", "--no-preserve-owner"])
        .arg(&image)
        .run()?;
    let setuid = fs::metadata(own.join("usr/bin/odd-setuid"))?.mode();
    assert_eq!(setuid & 0o7777, 0o4755);

    // erofs-utils 1.5 extracts neither attributes nor hard links, but shows them.
    let shown = |path: &str| -> Result<String> {
        let dump = Command::new("dump.erofs").arg(format!("--path={path}"));
        Ok(dump.arg(&image).run()?.text())
    };
    let field = |path: &str, name: &str| -> Result<String> {
        let text = shown(path)?;
        let at = text
            .find(name)
            .with_context(|| format!("{path}: no {name} in {text}"))?;
        let word = text[at + name.len()..].split_whitespace().next();
        Ok(word.context("no value")?.to_owned())
    };
    assert_eq!(
        field("/usr/share/odd/a-name", "NID:")?,
        field("/usr/share/odd/b-name", "NID:")?
    );
    assert_eq!(field("/usr/share/odd/a-name", "Links:")?, "2");
    assert_eq!(field("/usr/bin/odd-setuid", "Xattr size:")?, "0");
    assert_ne!(field("/usr/bin/odd-capable", "Xattr size:")?, "0");
    // The attribute's name and value stand in the image as they are.
    let bytes = fs::read(&image)?;
    let mut entry = b"capability".to_vec();
    entry.extend_from_slice(cairn_tests::addition::CAP_NET_RAW);
    assert!(bytes.windows(entry.len()).any(|window| window == entry));

    let records = contents(&release)?;
    let record = |path: &str| {
        let found = records
            .iter()
            .find(|r| r["path"] == path && r["image"] == "root");
        found.with_context(|| format!("{path} is not listed"))
    };
    let capable = record("/usr/bin/odd-capable")?;
    assert_eq!(
        capable["xattrs"]["security.capability"],
        "AQAAAgAgAAAAAAAAAAAAAAAAAAA="
    );
    let nobodys = record("/usr/share/odd/nobodys/file")?;
    assert_eq!(
        (&nobodys["uid"], &nobodys["gid"]),
        (&4242.into(), &4243.into())
    );
    assert_eq!(record("/usr/bin/odd-setuid")?["mode"], "4755");
    Ok(())
}

#[test]
fn veritysetup_and_the_file_systems_own_tools_accept_the_images() -> Result<()> {
    let workshop = Workshop::ensure()?;
    for version in [GOOD, NEXT] {
        let release = workshop.release(version);
        let manifest = manifest(&release)?;
        for (file, image) in [
            ("kernel.squashfs", &manifest["kernel"]),
            ("root.erofs", &manifest["root"]),
        ] {
            let verity = &image["verity"];
            let text = |name: &str| {
                let value = &verity[name];
                value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned)
            };
            let path = release.join(file);
            assert_eq!(image["size"], fs::metadata(&path)?.len(), "{file}");
            Command::new(require("veritysetup")?)
                .args(["verify", "--no-superblock", "--format=1", "--hash=sha256"])
                .arg(format!("--salt={}", text("salt")))
                .arg(format!("--data-blocks={}", text("data_blocks")))
                .arg(format!("--hash-offset={}", text("hash_offset")))
                .args([&path, &path])
                .arg(text("root_hash"))
                .run()?;
        }
        Command::new("fsck.erofs")
            .arg(release.join("root.erofs"))
            .run()?;
        let list = Command::new("unsquashfs")
            .arg("-lls")
            .arg(release.join("kernel.squashfs"))
            .run()?
            .text();
        for name in [
            "vmlinuz",
            "vmlinuz.sig",
            "initramfs.img",
            "boot.env.sig",
            "kernel-version",
        ] {
            let line = list
                .lines()
                .find(|line| line.ends_with(&format!("squashfs-root/{name}")));
            let line = line.with_context(|| format!("no {name} in {list}"))?;
            assert!(line.starts_with("-rw-r--r-- root/root"), "{line}");
        }
        assert!(list.contains("squashfs-root/modules/") && list.contains("/firmware"));
    }
    Ok(())
}

fn manifest(release: &Path) -> Result<Value> {
    let bytes = fs::read(release.join("manifest.dsse.json"))?;
    let envelope = cairn_release::Envelope::parse(&bytes, cairn_release::manifest::PAYLOAD_TYPE)?;
    Ok(serde_json::from_slice(&envelope.payload)?)
}

#[test]
fn openssl_accepts_the_manifests_signature() -> Result<()> {
    let workshop = Workshop::ensure()?;
    let dir = TempDir::new()?;
    let path = |name: &str| dir.path().join(name);
    let manifest = workshop.release(GOOD).join("manifest.dsse.json");
    let signed = workshop
        .imgtool(["inspect", "--signed-bytes"])
        .arg(&manifest)
        .run()?;
    fs::write(path("signed"), &signed.stdout)?;
    let envelope: Value = serde_json::from_slice(&fs::read(&manifest)?)?;
    let signature = envelope["signatures"][0]["sig"]
        .as_str()
        .context("no signature")?;
    let decoded = Command::new("base64").arg("-d").stdin(signature).run()?;
    fs::write(path("sig"), &decoded.stdout)?;
    let verify = |key: PathBuf| {
        Command::new("openssl")
            .args(["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey"])
            .arg(key)
            .arg("-in")
            .arg(path("signed"))
            .arg("-sigfile")
            .arg(path("sig"))
            .run()
    };
    assert_eq!(
        verify(workshop.public("release"))?.text(),
        "Signature Verified Successfully"
    );
    assert!(verify(workshop.public("stranger")).is_err());
    Ok(())
}

#[test]
fn gpgv_and_sbverify_accept_what_grub_and_the_firmware_check() -> Result<()> {
    let workshop = Workshop::ensure()?;
    let dir = TempDir::new()?;
    let path = |name: &str| dir.path().join(name);
    let container = workshop.release(GOOD).join("kernel.squashfs");
    Command::new("unsquashfs")
        .args(["-quiet", "-no-progress", "-d"])
        .arg(path("k"))
        .arg(&container)
        .run()?;
    Command::new("gpg")
        .args(["--batch", "--dearmor", "--output"])
        .arg(path("ring"))
        .arg(workshop.public("boot"))
        .run()
        .or_else(|_| {
            Command::new("cp")
                .args([workshop.public("boot"), path("ring")])
                .run()
        })?;
    for name in ["vmlinuz", "initramfs.img", "boot.env"] {
        let file = path("k").join(name);
        let gpgv = || {
            Command::new("gpgv")
                .arg("--keyring")
                .arg(path("ring"))
                .arg(path("k").join(format!("{name}.sig")))
                .arg(&file)
                .run()
        };
        gpgv()?;
        if name == "boot.env" {
            fs::write(&file, "altered")?;
            assert!(gpgv().is_err());
        }
    }
    for file in [
        path("k").join("vmlinuz"),
        workshop.loader().join("BOOTX64.EFI"),
    ] {
        Command::new("sbverify")
            .arg("--cert")
            .arg(workshop.secure_boot().join("db.crt"))
            .arg(&file)
            .run()?;
        let other = Command::new("sbverify")
            .arg("--cert")
            .arg(workshop.secure_boot().join("KEK.crt"))
            .arg(&file)
            .run();
        assert!(other.is_err(), "{}", file.display());
    }
    Ok(())
}

#[test]
fn grub_script_check_accepts_the_configuration() -> Result<()> {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bootloader-entries/grub.cfg");
    Command::new("grub-script-check").arg(config).run()?;
    Ok(())
}

#[test]
fn sgdisk_fsck_vfat_and_e2fsck_accept_the_disk_whoever_flashed_it() -> Result<()> {
    let bench = Bench::new()?;
    let release = bench.workshop.release(GOOD);
    for user in [User::Root, User::Ci] {
        let output = bench
            .flash(user, &release, "out/disk.img", &["--size", "1G"])
            .output()?;
        ensure!(output.status.success(), "{}", bench.text(&output));
        let path = bench.home(user).join("out/disk.img");
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o644);
        let disk = cairn_tests::Disk::open(&path)?;
        disk.fsck()?;
        assert!(disk.is_clean()?);
        assert_eq!(
            disk.esp_read("EFI/BOOT/BOOTX64.EFI")?,
            fs::read(bench.workshop.loader().join("BOOTX64.EFI"))?
        );
        let folder = format!("/releases/{GOOD}");
        assert_eq!(
            disk.list_data_folder(&folder)?,
            ["kernel.squashfs", "manifest.dsse.json", "root.erofs"]
        );
        for name in ["kernel.squashfs", "root.erofs"] {
            let there = disk.read_data_file(&format!("{folder}/{name}"))?;
            assert!(there == fs::read(release.join(name))?, "{name} differs");
        }
    }
    bench.is_at_rest()
}
