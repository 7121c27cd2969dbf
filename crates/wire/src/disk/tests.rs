use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::Desired;

fn full() -> Value {
    json!({
        "name": "cache1",
        "find": { "serial": "S3Z8NB0K" },
        "partitions": [
            { "name": "small", "size": "512MiB", "file_system": "ext4", "label": "sixteen-bytes-ok", "mount": "/srv/small", "options": ["commit=30", "noatime"] },
            { "name": "big", "size": "2TiB", "file_system": "btrfs", "mount": "/var/mnt/big", "options": ["compress=zstd:3"] },
            { "name": "raw", "size": "rest", "file_system": "xfs", "label": "twelve-bytes" },
        ],
        "erase": { "serial": "S3Z8NB0K", "word": "0123456789abcdef" },
        "dry_run": true,
    })
}

fn minimal(name: &str, find: Value, mount: &str) -> Value {
    json!({ "name": name, "find": find, "partitions": [{ "name": "a", "size": "rest", "file_system": "xfs", "mount": mount }] })
}

fn read(items: Vec<Value>) -> Disks {
    let document = json!({ "revision": 1, "disks": items });
    let desired: Desired = serde_json::from_value(document).unwrap();
    desired.disks.unwrap()
}

fn reason(value: Value) -> String {
    match read(vec![value]).iter().next().unwrap() {
        Declared::Unusable { reason, .. } => reason.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_that_can_be_said_comes_back_as_it_was() {
    let by_size = json!({ "size": { "least": "900GiB", "most": "1TiB" } });
    let by_path = json!({ "path": "/dev/disk/by-path/pci-0000:00:1f.2-ata-2" });
    let items = vec![
        full(),
        minimal("b", by_size, "/srv/b"),
        minimal("c", by_path, "/srv/c"),
    ];
    let disks = read(items.clone());
    assert_eq!(disks.usable().count(), 3, "{disks:?}");
    assert_eq!(serde_json::to_value(disks).unwrap(), json!(items));
}

#[test]
fn a_document_without_disks_says_nothing_of_them() {
    let desired: Desired = serde_json::from_str(r#"{"revision":1}"#).unwrap();
    assert_eq!(desired.disks, None);
    assert_eq!(
        serde_json::to_string(&desired).unwrap(),
        r#"{"revision":1}"#
    );
}

#[test]
fn one_that_is_wrong_hides_no_other_and_is_kept_as_it_is() {
    let serial = |text: &str| json!({ "serial": text });
    let disks = read(vec![
        minimal("a", serial("1"), "/srv/a"),
        json!("nonsense"),
        minimal("a", serial("2"), "/srv/a2"),
        minimal("b", serial("1"), "/srv/b"),
        minimal("c", serial("3"), "/srv/a/below"),
        minimal("d", serial("4"), "/srv"),
        minimal("e", serial("5"), "/srv/ab"),
    ]);
    let usable: Vec<_> = disks.usable().map(|disk| disk.name.as_str()).collect();
    assert_eq!(usable, ["a", "e"]);
    let again: Disks = serde_json::from_value(serde_json::to_value(&disks).unwrap()).unwrap();
    assert_eq!(again, disks);
    let many = (0..MAX_DISKS + 5).map(|n| {
        minimal(
            &format!("d{n}"),
            serial(&n.to_string()),
            &format!("/srv/{n}"),
        )
    });
    let many = read(many.collect());
    assert_eq!((many.iter().count(), many.usable().count()), (33, 32));
}

const MAX_DISKS: usize = declared::MAX;

#[test]
fn what_is_wrong_is_named() {
    let with = |path: &str, value: Value| {
        let mut disk = full();
        *disk.pointer_mut(path).unwrap() = value;
        reason(disk)
    };
    let cases = [
        (
            "/partitions/0/label",
            json!("seventeen-bytes-x"),
            "partition small: label: expected at most 16 bytes for ext4",
        ),
        (
            "/partitions/2/label",
            json!("thirteenbytes"),
            "partition raw: label: expected at most 12 bytes for xfs",
        ),
        (
            "/partitions/0/size",
            json!("rest"),
            "partition small: size: only the last one",
        ),
        (
            "/partitions/0/size",
            json!("8MiB"),
            "partition small: size: ext4 needs 16 MiB",
        ),
        (
            "/partitions/1/size",
            json!("1.5TiB"),
            "expected a size as 512MiB, 100GiB or 4TiB, or rest",
        ),
        (
            "/partitions/1/name",
            json!("small"),
            "partition small: the name is there twice",
        ),
        (
            "/partitions/0/mount",
            json!("/usr/local"),
            "none of the system's folders",
        ),
        (
            "/partitions/0/mount",
            json!("/var/mnt"),
            "would hide each other",
        ),
        (
            "/partitions/0/options",
            json!(["suid"]),
            "expected one of noatime",
        ),
        (
            "/partitions/0/options",
            json!(["compress=zstd:3"]),
            "options: ext4 has no compress=zstd:3",
        ),
        (
            "/partitions/0/options",
            json!(["noatime", "relatime"]),
            "says another thing twice",
        ),
        (
            "/partitions/0/file_system",
            json!("zfs"),
            "unknown variant `zfs`",
        ),
        (
            "/partitions",
            json!([]),
            "partitions: expected 1 to 16, got 0",
        ),
        (
            "/find",
            json!({ "path": "/dev/sdb" }),
            "expected a link in /dev/disk/by-path/",
        ),
        (
            "/find",
            json!({ "serial": "other" }),
            "erase.serial: expected other",
        ),
        (
            "/find",
            json!({ "size": { "least": "2GiB", "most": "1GiB" } }),
            "find.size: expected `least`",
        ),
        (
            "/erase/word",
            json!("yes"),
            "expected the word that the node told",
        ),
    ];
    for (path, value, expected) in cases {
        let reason = with(path, value);
        assert!(reason.contains(expected), "{path}: {reason}");
    }
}

#[test]
fn the_systems_folders_are_nobodys_mount_point() {
    for good in [
        "/srv/a",
        "/mnt",
        "/var/mnt/a",
        "/data/mnt",
        "/home/x",
        "/data/workloads",
    ] {
        assert!(good.parse::<MountPoint>().is_ok(), "{good}");
    }
    let bad = [
        "/",
        "",
        "srv",
        "/srv/",
        "/srv//a",
        "/srv/../etc",
        "/srv/.a",
        "/srv/a b",
        "/srv/%i",
        "/etc",
        "/etc/x",
        "/usr",
        "/proc/1",
        "/data",
        "/var",
        "/var/lib",
        "/data/agent",
        "/srv/ä",
        "/srv/a\\x2d",
    ];
    for bad in bad {
        assert!(bad.parse::<MountPoint>().is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_text_panics_and_a_size_comes_back(text in ".{0,24}", number in 1u64..5000, unit in 0..3usize) {
        let _ = text.parse::<Size>();
        let _ = text.parse::<MountOption>();
        let _ = text.parse::<MountPoint>();
        let _ = Extent::try_from(text);
        let size: Size = format!("{number}{}", ["MiB", "GiB", "TiB"][unit]).parse().unwrap();
        prop_assert_eq!(size.to_string().parse::<Size>().unwrap(), size);
        prop_assert_eq!(size.bytes(), number << [20, 30, 40][unit]);
    }
}
