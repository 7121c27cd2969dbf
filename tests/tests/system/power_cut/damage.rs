//! The checker on one disk that is damaged in one way after the other.

use super::*;
use cairn_release::name;
use cairn_tests::power_cut::sweep::scratch;
use cairn_tests::power_cut::{Onlooker, judge};
use cairn_tests::workshop::GOOD;
use cairn_tests::{Disk, Workshop};

type Damage = fn(&Disk) -> Result<()>;

#[test]
fn each_damage_is_seen_by_who_would_stumble_over_it() -> Result<()> {
    let workshop = Workshop::ensure()?;
    let dir = scratch()?;
    let sound = workshop.flash(&dir.path().join("sound.img"), &[GOOD], &[])?;
    let judged = |disk: &Disk| -> Result<Result<(), String>> {
        let mut onlooker = Onlooker::new(disk.path(), trust(&workshop)?, dir.path())?;
        let verdict = judge(&onlooker.look(&[])?, &[GOOD.parse()?]);
        Ok(verdict.map(drop).map_err(|reasons| reasons.join("; ")))
    };
    ensure!(judged(&sound)? == Ok(()));

    let cases: [(Damage, &[&str]); 6] = [
        (
            |disk| disk.flip_byte_in_data_file(&file_of(name::KERNEL), 5_000_000),
            &["for GRUB: ", "kernel.squashfs: expected", "for the hook: "],
        ),
        // GRUB doesn't read this one.
        (
            |disk| disk.flip_byte_in_data_file(&file_of(name::ROOT), 5_000_000),
            &["for the hook: ", "root.erofs: expected"],
        ),
        (
            |disk| disk.flip_byte_in_data_file(&file_of(name::MANIFEST), 500),
            &[
                "for GRUB: manifest.dsse.json is not trusted",
                "for the hook: ",
            ],
        ),
        (
            |disk| disk.remove_data_file(&file_of(name::ROOT)),
            &["for GRUB: GRUB finds no root.erofs", "for the hook: "],
        ),
        (
            |disk| {
                for copy in ["a", "b"] {
                    disk.esp_write(&format!("cairn/boot-{copy}.env"), &[0xff; 1024])?;
                }
                Ok(())
            },
            &["no copy of the boot state is valid"],
        ),
        (
            |disk| {
                let mut block = disk.esp_read("cairn/boot-a.env")?;
                let at = "# GRUB Environment Block\ncairn_gen=".len();
                block[at] = b'9';
                disk.esp_write("cairn/boot-a.env", &block)
            },
            &["boot-a.env looks valid to GRUB, but expected a checksum"],
        ),
    ];
    for (damage, expected) in cases {
        let disk = sound.copy_to(dir.path().join("damaged.img"))?;
        damage(&disk)?;
        let said = judged(&disk)?.err().context("nothing was found")?;
        for part in expected {
            ensure!(said.contains(part), "expected {part:?} in {said:?}");
        }
        let only_hook = !expected.iter().any(|part| part.starts_with("for GRUB"));
        ensure!(!only_hook || !said.contains("for GRUB"), "{said}");
    }
    Ok(())
}

fn file_of(name: &str) -> String {
    format!("/releases/{GOOD}/{name}")
}
