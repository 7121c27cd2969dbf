use std::io::Cursor;

use cairn_release::Digest;
use cairn_wire::Disks;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::claim::Claim;
use crate::gpt::{Entry, Table};
use crate::shape::{MARGIN, MEBIBYTE};
use crate::{Disk, Guid, Shape, Signature, Surface, courses, guid};

fn table(shape: Shape, disk: Guid) -> Table {
    let entry = |number: u64, kind| Entry {
        kind,
        id: Guid::derive(&["p", &number.to_string()]),
        start: number * 2 * MEBIBYTE,
        size: MEBIBYTE,
        name: format!("part {number}"),
    };
    let last = Entry {
        start: 10 * MEBIBYTE,
        size: shape.room().end - 10 * MEBIBYTE,
        ..entry(3, guid::LINUX)
    };
    let entries = [
        (1, entry(1, guid::LINUX)),
        (2, entry(2, guid::UNFINISHED)),
        (3, last),
    ];
    Table {
        disk,
        entries: entries.into(),
    }
}

fn image(shape: Shape, table: &Table) -> Vec<u8> {
    let mut image = vec![0; shape.size() as usize];
    for write in table.writes(shape).concat() {
        let at = write.at as usize;
        image[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
    }
    image
}

fn find(shape: Shape, image: &[u8]) -> Option<crate::gpt::Found> {
    let margin = MARGIN as usize;
    Table::find(shape, &image[..margin], &image[image.len() - margin..])
}

#[test]
fn others_read_the_table_as_we_do() {
    for sector in [512, 4096] {
        let shape = Shape::new(64 * MEBIBYTE + 3 * 4096, sector).unwrap();
        let ours = table(shape, Guid::derive(&["d"]));
        let mut bytes = image(shape, &ours);
        let read = gptman::GPT::read_from(&mut Cursor::new(&bytes), sector.into()).unwrap();
        assert_eq!(read.header.disk_guid, ours.disk.to_gpt());
        for (number, entry) in &ours.entries {
            let theirs = &read[*number];
            assert_eq!(theirs.starting_lba * u64::from(sector), entry.start);
            assert_eq!(theirs.size().unwrap() * u64::from(sector), entry.size);
            assert_eq!(theirs.unique_partition_guid, entry.id.to_gpt());
            assert_eq!(theirs.partition_name.as_str(), entry.name);
        }
        // Their reader falls back to the second copy, too.
        bytes[sector as usize..3 * sector as usize].fill(0xff);
        let read = gptman::GPT::find_from(&mut Cursor::new(&bytes)).unwrap();
        assert_eq!(read.header.disk_guid, ours.disk.to_gpt());
        let found = find(shape, &bytes).unwrap();
        assert_eq!((found.table, found.whole), (ours, false));
    }
}

#[test]
fn a_table_of_another_form_is_none_of_ours() {
    let shape = Shape::new(64 * MEBIBYTE, 512).unwrap();
    let ours = table(shape, Guid::derive(&["d"]));
    let bytes = image(shape, &ours);
    assert!(find(shape, &bytes).unwrap().whole);
    // On a disk of another size the copies aren't where they say.
    let larger = Shape::new(65 * MEBIBYTE, 512).unwrap();
    let mut grown = bytes.clone();
    grown.resize(65 << 20, 0);
    assert_eq!(find(larger, &grown), None);
    assert_eq!(find(shape, &vec![0; 64 << 20]), None);
}

#[test]
fn a_claim_is_read_back_and_nothing_else_is_one() {
    let signature = |kind: &str| Signature {
        kind: kind.to_owned(),
        uuid: Some("1".to_owned()),
        label: None,
    };
    let held: Vec<_> = (0..32).map(|n| signature(&format!("fs{n}"))).collect();
    let claim = Claim::new(Guid::derive(&["d"]), held.iter()).unwrap();
    let sector = claim.to_sector(4096);
    assert_eq!(
        (sector.len(), Claim::read(&sector)),
        (4096, Some(claim.clone()))
    );
    assert!(
        sector[511..].iter().all(|b| *b == 0),
        "it has to fit into the smallest sector"
    );
    assert!(claim.knows(&held[7]) && !claim.knows(&signature("ext4")));
    let more = [signature("ext4")];
    assert_eq!(Claim::new(claim.disk, held.iter().chain(&more)), None);
    for at in 0..200 {
        let mut damaged = sector.clone();
        damaged[at] ^= 1;
        assert_eq!(Claim::read(&damaged), None, "byte {at}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(head in prop::collection::vec(any::<u8>(), 0..20_000), patch in prop::collection::vec((0..17_000usize, any::<u8>()), 0..8)) {
        let shape = Shape::new(64 * MEBIBYTE, 512).unwrap();
        Surface::read(shape, &head, &head, true);
        // A table that was tampered with is whole, in one copy, or none; never another one.
        let ours = table(shape, Guid::derive(&["d"]));
        let mut bytes = image(shape, &ours);
        for (at, byte) in patch {
            bytes[at] = byte;
        }
        if let Some(found) = find(shape, &bytes) {
            prop_assert_eq!(found.table, ours);
        }
    }

    #[test]
    fn ids_come_back(text in ".{0,40}") {
        let id = Guid::derive(&[&text]);
        prop_assert_eq!(Guid::from_gpt(id.to_gpt()), id);
        prop_assert_eq!(id.to_string().parse::<Guid>().unwrap(), id);
        let _ = text.parse::<Guid>();
    }
}

fn disk(node: &str, serial: &str, gib: u64) -> Disk {
    let shape = Shape::new(gib << 30, 512).unwrap();
    let margin = vec![0; MARGIN as usize];
    Disk {
        node: node.into(),
        links: vec![format!("/dev/disk/by-path/{node}")],
        serial: Some(serial.into()),
        shape,
        signatures: Vec::new(),
        surface: Surface::read(shape, &margin, &margin, true),
        parts: Vec::new(),
        mounts: Vec::new(),
        holders: Vec::new(),
        is_system: false,
        is_busy: false,
        is_read_only: false,
        print: Digest::of(b""),
        erasures: 0,
    }
}

fn declared(items: &[(&str, Value)]) -> Disks {
    let item = |(name, find): &(&str, Value)| json!({ "name": name, "find": find, "partitions": [{ "name": "a", "size": "rest", "file_system": "xfs", "mount": format!("/srv/{name}") }] });
    serde_json::from_value(items.iter().map(item).collect()).unwrap()
}

/// For each name: the node of its disk, or why there is none.
fn found(items: &[(&str, Value)], seen: &[Disk]) -> Vec<String> {
    let folders = ["/srv".to_owned()];
    let courses = courses(&declared(items), seen, &folders);
    let word = |course: &crate::Course<'_>| match (&course.plan.refused, course.disk) {
        (Some(reason), _) => reason.clone(),
        (None, Some(disk)) => disk.node.clone(),
        (None, None) => "?".to_owned(),
    };
    courses.values().map(word).collect()
}

#[test]
fn the_disk_that_is_meant_is_found_or_none() {
    let serial = |text: &str| json!({ "serial": text });
    let size = |least: &str, most: &str| json!({ "size": { "least": least, "most": most } });
    let path = |node: &str| json!({ "path": format!("/dev/disk/by-path/{node}") });
    let mut system = disk("sda", "S0", 100);
    system.is_system = true;
    let seen = [
        system,
        disk("sdb", "S1", 100),
        disk("sdc", "S2", 100),
        disk("sdd", "S3", 200),
    ];
    let one = |find: Value| found(&[("d", find)], &seen).remove(0);
    assert_eq!(one(serial("S2")), "sdc");
    assert_eq!(one(path("sdd")), "sdd");
    assert_eq!(one(size("150GiB", "250GiB")), "sdd");
    assert_eq!(one(serial("S9")), "no disk here has the serial number S9");
    assert_eq!(
        one(serial("S0")),
        "it is the disk that the system runs from"
    );
    assert_eq!(
        one(size("90GiB", "110GiB")),
        "several disks have 90GiB to 110GiB: sdb, sdc"
    );
    // What another one is named for isn't meant by a size, and neither is the system's.
    assert_eq!(
        found(
            &[("d", size("90GiB", "110GiB")), ("e", serial("S1"))],
            &seen
        ),
        ["sdc", "sdb"]
    );
    assert_eq!(
        found(&[("d", path("sdb")), ("e", serial("S1"))], &seen),
        [
            "sdb",
            "its disk is another one's of those that are declared"
        ]
    );
    let twins = [disk("sdb", "S1", 100), disk("sdc", "S1", 100)];
    assert_eq!(
        found(&[("d", serial("S1"))], &twins),
        ["several disks have the serial number S1: sdb, sdc"]
    );
}

#[test]
fn mounts_keep_to_the_nodes_folders() {
    let seen = [disk("sdb", "S1", 100)];
    let declared = declared(&[("d", json!({ "serial": "S1" }))]);
    for (folder, allowed) in [
        ("/srv", true),
        ("/srv/d", false),
        ("/sr", false),
        ("/mnt", false),
    ] {
        let courses = courses(&declared, &seen, &[folder.to_owned()]);
        let plan = &courses.values().next().unwrap().plan;
        assert_eq!(plan.refused.is_none(), allowed, "{folder}: {plan:?}");
        assert_eq!(plan.steps.is_empty(), !allowed);
    }
}

#[test]
fn what_somebody_has_is_never_touched_whatever_the_order_says() {
    let all: [fn(&mut Disk); 5] = [
        |disk| disk.is_system = true,
        |disk| disk.is_busy = true,
        |disk| disk.is_read_only = true,
        |disk| disk.mounts.push("/data".into()),
        |disk| disk.holders.push("dm-0".into()),
    ];
    for spoil in all {
        let mut seen = disk("sdb", "S1", 100);
        seen.signatures.push(Signature {
            kind: "ext4".into(),
            uuid: None,
            label: Some("x".into()),
        });
        seen.surface.is_blank = false;
        let mut wanted = declared(&[("d", json!({ "serial": "S1" }))])
            .usable()
            .next()
            .unwrap()
            .clone();
        let erase = json!({ "serial": "S1", "word": seen.word() });
        wanted.erase = Some(serde_json::from_value(erase).unwrap());
        assert!(!crate::plan(&wanted, &seen).steps.is_empty());
        spoil(&mut seen);
        let plan = crate::plan(&wanted, &seen);
        assert!(plan.steps.is_empty() && plan.refused.is_some(), "{plan:?}");
    }
}

#[test]
fn the_plan_reads_as_a_list_of_what_will_be_done() {
    let seen = [disk("sdb", "S1", 100)];
    let declared = declared(&[("d", json!({ "serial": "S1" }))]);
    let folders = ["/srv".to_owned()];
    let courses = courses(&declared, &seen, &folders);
    let lines: Vec<String> = courses
        .values()
        .next()
        .unwrap()
        .plan
        .steps
        .iter()
        .map(ToString::to_string)
        .collect();
    let claim = format!("claim the disk as {}", seen[0].id(&"d".parse().unwrap()));
    let expected = [
        claim.as_str(),
        "make the partitions a (102398 MiB)",
        "have the kernel read the partition table",
        "make xfs in partition a",
        "mount partition a at /srv/d",
    ];
    assert_eq!(lines, expected);
}
