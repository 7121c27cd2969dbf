//! The disk harness on an image of the project's layout.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use cairn_system::Command;
use cairn_tests::Disk;

const MIB: u64 = 1 << 20;

/// GPT with a small BIOS-boot, a FAT ESP and an ext4 DATA, as `imgtool flash` makes it.
fn image(path: &Path) -> Disk {
    File::create(path).unwrap().set_len(96 * MIB).unwrap();
    Command::new("sgdisk")
        .args(["-n1:2048:+1M", "-t1:ef02", "-c1:cairn-bios"])
        .args(["-n2:0:+40M", "-t2:ef00", "-c2:cairn-esp"])
        .args(["-n3:0:0", "-t3:8300", "-c3:cairn-data"])
        .arg(path)
        .run()
        .unwrap();
    let disk = Disk::open(path).unwrap();
    let esp = disk.partition("cairn-esp").unwrap();
    Command::new("mkfs.vfat")
        .args(["-F32", "--offset", &(esp.start / 512).to_string()])
        .arg(path)
        .arg((esp.size / 1024).to_string())
        .run()
        .unwrap();
    let data = disk.partition("cairn-data").unwrap();
    Command::new("mke2fs")
        .args([
            "-q",
            "-t",
            "ext4",
            "-b",
            "4096",
            "-E",
            &format!("offset={}", data.start),
        ])
        .arg(path)
        .arg((data.size / 4096).to_string())
        .run()
        .unwrap();
    disk
}

#[test]
fn partitions_are_read_as_sgdisk_wrote_them() {
    let dir = tempfile::tempdir().unwrap();
    let disk = image(&dir.path().join("disk.img"));
    let names: Vec<_> = disk
        .partitions()
        .unwrap()
        .into_iter()
        .map(|p| p.name)
        .collect();
    assert_eq!(names, ["cairn-bios", "cairn-esp", "cairn-data"]);
    let data = disk.partition("cairn-data").unwrap();
    let told = Command::new("sgdisk")
        .args(["-i3"])
        .arg(disk.path())
        .run()
        .unwrap();
    assert!(
        told.text().to_lowercase().contains(&data.uuid),
        "{}",
        told.text()
    );
    assert!(
        disk.partition("none")
            .unwrap_err()
            .to_string()
            .contains("no partition none")
    );
}

#[test]
fn files_of_both_file_systems_are_written_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let disk = image(&dir.path().join("disk.img"));
    disk.write_data_file("releases/1.0/root.erofs", b"first")
        .unwrap();
    disk.write_data_file("releases/1.0/root.erofs", b"second")
        .unwrap();
    assert_eq!(
        disk.read_data_file("/releases/1.0/root.erofs").unwrap(),
        b"second"
    );
    assert_eq!(
        disk.list_data_folder("releases/1.0").unwrap(),
        ["root.erofs"]
    );
    disk.remove_data_file("releases/1.0/root.erofs").unwrap();
    assert!(disk.read_data_file("releases/1.0/root.erofs").is_err());
    assert!(disk.remove_data_file("releases/1.0/root.erofs").is_err());

    disk.esp_write("boot-a.env", b"state").unwrap();
    assert_eq!(disk.esp_read("boot-a.env").unwrap(), b"state");
    disk.esp_remove("boot-a.env").unwrap();
    assert!(disk.esp_read("boot-a.env").is_err());
    disk.fsck().unwrap();
    assert!(disk.is_clean().unwrap());
}

#[test]
fn flips_exactly_the_byte_that_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let disk = image(&dir.path().join("disk.img"));
    let bytes: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
    disk.write_data_file("file", &bytes).unwrap();
    let before = disk.copy_to(dir.path().join("before.img")).unwrap();
    disk.flip_byte_in_data_file("file", 70_001).unwrap();

    let (old, new) = (
        fs::read(before.path()).unwrap(),
        fs::read(disk.path()).unwrap(),
    );
    assert_eq!(old.iter().zip(&new).filter(|(a, b)| a != b).count(), 1);
    let mut expected = bytes;
    expected[70_001] ^= 0xff;
    assert!(disk.read_data_file("file").unwrap() == expected);
    assert!(disk.flip_byte_in_data_file("file", 1_000_000).is_err());
    disk.fsck().unwrap();
}

#[test]
fn fsck_names_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let disk = image(&dir.path().join("disk.img"));
    let data = disk.partition("cairn-data").unwrap();
    // The block bitmap's checksum in the first group descriptor.
    let file = File::options().write(true).open(disk.path()).unwrap();
    file.write_all_at(&[0xff; 64], data.start + 4096).unwrap();
    assert!(disk.fsck().unwrap_err().to_string().contains("e2fsck"));
}
