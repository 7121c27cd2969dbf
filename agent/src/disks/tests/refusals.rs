//! What must not be touched isn't.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use cairn_topology::{Step, plan};
use cairn_wire::disk::DiskState;
use rustix::fs::OFlags;
use serde_json::json;

use super::bench::{Bench, alone, run};
use crate::disks::hands::Hands;
use crate::disks::look::Look;
use crate::disks::mounter::Mounter;

/// Refused without a word and with a wrong one, its bytes as they were; made with the right one.
fn guarded(content: &str, spoil: impl Fn(&Bench)) {
    let bench = Bench::with_disk(400);
    spoil(&bench);
    let before = bench.hash();
    let mut layout = bench.layout(&["a rest ext4"]);
    let mut refused = |erase: Option<serde_json::Value>| {
        match erase {
            Some(erase) => layout["erase"] = erase,
            None => drop(layout.as_object_mut().unwrap().remove("erase")),
        }
        let status = bench.settle(&mut bench.runner(), &layout);
        assert_eq!(status.state, DiskState::Refused, "{content}");
        assert!(
            status.reason.contains(content),
            "{content}: {}",
            status.reason
        );
        assert_eq!(bench.hash(), before, "{content}");
        status.reason
    };
    let reason = refused(None);
    refused(Some(
        json!({ "serial": bench.serial("S1"), "word": "0123456789abcdef" }),
    ));
    let right = bench.erase();
    assert!(
        reason.contains(&format!(
            "\"erase\": {{\"serial\": {}, \"word\": {}}}",
            right["serial"], right["word"]
        )),
        "{reason}"
    );
    layout["erase"] = right;
    bench.apply(&layout);
    assert!(bench.options("a").unwrap().starts_with("ext4 rw"));
}

#[test]
fn a_file_system_is_known() {
    if !alone(module_path!(), "a_file_system_is_known") {
        return;
    }
    guarded("ext4 \"photos\"", |bench| {
        run("mkfs.ext4", &["-q", "-L", "photos", &bench.device("S1")]);
    });
}

#[test]
fn a_partition_table_is_known_with_what_is_behind_it() {
    if !alone(
        module_path!(),
        "a_partition_table_is_known_with_what_is_behind_it",
    ) {
        return;
    }
    guarded("xfs \"theirs\"", |bench| {
        let device = bench.device("S1");
        run("sgdisk", &["--new=1:0:+320M", &device]);
        run("partx", &["--update", &device]);
        run("mkfs.xfs", &["-q", "-L", "theirs", &bench.part(1)]);
    });
    guarded("dos", |bench| {
        run(
            "sh",
            &[
                "-c",
                &format!(
                    "echo ',64M' | sfdisk -q --no-reread --no-tell-kernel {}",
                    bench.device("S1")
                ),
            ],
        );
    });
    // Only the second copy is left.
    guarded("bytes that nothing here knows", |bench| {
        run("sgdisk", &["--new=1:0:+100M", &bench.device("S1")]);
        bench.write(0, &[0; 64 << 10]);
        bench.write((400 << 20) + 3 * 4096 - 512, b"no table");
    });
}

#[test]
fn a_part_of_a_volume_group_is_known() {
    if !alone(module_path!(), "a_part_of_a_volume_group_is_known") {
        return;
    }
    guarded("LVM2_member", |bench| {
        run("pvcreate", &["-q", "-y", &bench.device("S1")]);
    });
}

#[test]
fn noise_is_somebodys() {
    if !alone(module_path!(), "noise_is_somebodys") {
        return;
    }
    for at in [0, 512, 900 << 10, 400 << 20] {
        guarded("bytes that nothing here knows", |bench| {
            bench.write(at, &[0xa5; 512])
        });
    }
}

#[test]
fn a_word_holds_for_what_it_was_told_for_and_once() {
    if !alone(
        module_path!(),
        "a_word_holds_for_what_it_was_told_for_and_once",
    ) {
        return;
    }
    let bench = Bench::with_disk(128);
    let make = || {
        run(
            "mkfs.ext4",
            &[
                "-q",
                "-F",
                "-U",
                "11111111-2222-3333-4444-555555555555",
                "-E",
                "hash_seed=11111111-2222-3333-4444-555555555555",
                &bench.device("S1"),
            ],
        )
    };
    make();
    let image = fs::read(bench.image("S1")).unwrap();
    let mut layout = bench.layout(&["a rest ext4"]);
    let word = bench.erase();
    layout["erase"] = word.clone();
    // Somebody mounts it once more: the superblock says so.
    let there = bench.folder.path().join("there");
    fs::create_dir(&there).unwrap();
    run("mount", &[&bench.device("S1"), there.to_str().unwrap()]);
    let status = bench.settle(&mut bench.runner(), &layout);
    assert!(
        status.reason.contains("it is for something else")
            || status.reason.contains("is for something else"),
        "{}",
        status.reason
    );
    layout["erase"] = bench.erase();
    let status = bench.settle(&mut bench.runner(), &layout);
    assert!(
        status.reason.contains("it is mounted at"),
        "{}",
        status.reason
    );
    run("umount", &[there.to_str().unwrap()]);
    // To the byte as it was when the word was told: the word holds. Then the same again: it doesn't.
    bench.write(0, &image);
    layout["erase"] = word;
    bench.apply(&layout);
    bench.reboot();
    run("partx", &["--delete", &bench.device("S1")]);
    bench.write(0, &image);
    let before = bench.hash();
    let status = bench.settle(&mut bench.runner(), &layout);
    assert!(
        status.reason.contains("is for something else"),
        "{}",
        status.reason
    );
    assert_eq!(bench.hash(), before);
}

#[test]
fn what_somebody_has_open_or_mounted_isnt_touched_even_with_the_word() {
    if !alone(
        module_path!(),
        "what_somebody_has_open_or_mounted_isnt_touched_even_with_the_word",
    ) {
        return;
    }
    let bench = Bench::with_disk(128);
    bench.write(4096, b"something");
    let mut layout = bench.layout(&["a rest ext4"]);
    layout["erase"] = bench.erase();
    let before = bench.hash();
    // As an array, a volume group or swap would.
    let flags = i32::try_from(OFlags::EXCL.bits()).unwrap();
    let held = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(bench.device("S1"))
        .unwrap();
    let status = bench.settle(&mut bench.runner(), &layout);
    assert_eq!(
        (status.state, status.reason.as_str()),
        (DiskState::Refused, "somebody has it open")
    );
    assert_eq!(bench.hash(), before);
    drop(held);
    bench.apply(&layout);
}

#[test]
fn the_disk_that_data_is_on_is_the_systems() {
    if !alone(module_path!(), "the_disk_that_data_is_on_is_the_systems") {
        return;
    }
    let bench = Bench::with_disk(128);
    bench.apply(&bench.layout(&["a rest ext4"]));
    let look = Look {
        data: bench.at("a"),
        ..bench.look()
    };
    let seen = look.all(&BTreeMap::new()).unwrap().disks;
    assert_eq!(
        seen[0].taboo().unwrap(),
        "it is the disk that the system runs from"
    );
    let longer = bench.declare(&bench.layout(&["a 64MiB ext4", "b rest ext4"]));
    let plan = plan(longer.usable().next().unwrap(), &seen[0]);
    assert!(plan.steps.is_empty() && plan.refused.is_some(), "{plan:?}");
}

#[test]
fn what_has_changed_since_the_look_isnt_touched() {
    if !alone(
        module_path!(),
        "what_has_changed_since_the_look_isnt_touched",
    ) {
        return;
    }
    let bench = Bench::with_disk(128);
    let layout = bench.declare(&bench.layout(&["a rest ext4"]));
    let wanted = layout.usable().next().unwrap();
    let erasures = BTreeMap::new();
    let seen = bench.look().all(&erasures).unwrap().disks;
    let planned = plan(wanted, &seen[0]).steps.remove(0);
    assert!(matches!(planned, Step::Claim(_)));
    let hands = Hands {
        look: bench.look(),
        mounter: Mounter::Direct,
    };
    let perform = |bench: &Bench| hands.perform(wanted, &bench.loops["S1"], &planned, &erasures);
    // Somebody writes to it.
    bench.write(8192, b"just now");
    let before = bench.hash();
    assert_eq!(
        perform(&bench).unwrap_err(),
        "it has changed since it was looked at"
    );
    assert_eq!(bench.hash(), before);
    bench.write(8192, &[0; 8]);
    // Another disk has got the name, with another serial number.
    let mut other = bench.look();
    other.catalogue = {
        let mut swapped = Bench::new();
        swapped.loops.insert("S7".into(), bench.loops["S1"].clone());
        let catalogue = swapped.look().catalogue;
        swapped.loops.clear();
        catalogue
    };
    let others = Hands {
        look: other,
        mounter: Mounter::Direct,
    };
    let before = bench.hash();
    let error = others
        .perform(wanted, &bench.loops["S1"], &planned, &erasures)
        .unwrap_err();
    assert_eq!(error, "it has changed since it was looked at");
    assert_eq!(bench.hash(), before);
    perform(&bench).unwrap();
    assert_ne!(bench.hash(), before);
}

#[test]
fn a_folder_that_holds_something_or_leads_elsewhere_isnt_mounted_over() {
    if !alone(
        module_path!(),
        "a_folder_that_holds_something_or_leads_elsewhere_isnt_mounted_over",
    ) {
        return;
    }
    let bench = Bench::with_disk(128);
    let layout = bench.layout(&["a rest ext4"]);
    fs::create_dir_all(bench.at("a")).unwrap();
    fs::write(bench.at("a/file"), "x").unwrap();
    let status = bench.settle(&mut bench.runner(), &layout);
    assert!(
        status.reason.contains("the folder isn't empty"),
        "{}",
        status.reason
    );
    fs::remove_dir_all(bench.at("a")).unwrap();
    std::os::unix::fs::symlink("/etc", bench.at("a")).unwrap();
    let status = bench.settle(&mut bench.runner(), &layout);
    assert!(
        status.reason.contains("a symbolic link leads there"),
        "{}",
        status.reason
    );
    fs::remove_file(bench.at("a")).unwrap();
    bench.apply(&layout);
    // And what isn't allowed isn't either.
    let mut elsewhere = layout;
    elsewhere["partitions"][0]["mount"] = json!("/srv/elsewhere");
    let status = bench.settle(&mut bench.runner(), &elsewhere);
    assert!(
        status
            .reason
            .contains("doesn't allow to mount at /srv/elsewhere (disks.mount-folders)"),
        "{}",
        status.reason
    );
    assert!(
        !Command::new("mountpoint")
            .args(["-q", "/srv/elsewhere"])
            .status()
            .unwrap()
            .success()
    );
}
