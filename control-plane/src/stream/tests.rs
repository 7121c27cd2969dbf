//! Each event once for each acknowledgement, in order, also after a restart; and what is gone is told.

use std::collections::{BTreeMap, BTreeSet};

use cairn_fleet::Selector;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rusqlite::Connection;
use serde_json::{Value, json};

use super::engine::{Batch, Filter, GroupError, GroupId, Start, Taken};
use super::*;
use crate::config::Keep;
use crate::registry;
use crate::store::Store;

const NOW: i64 = 1_000_000_000_000;
const SOON: i64 = NOW + 60_000;

struct Site {
    folder: tempfile::TempDir,
    connection: Connection,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        drop(Store::open(&folder.path().join("cairn.db")).unwrap());
        let site = Self {
            connection: Self::connect(&folder),
            folder,
        };
        for (device, group, supplier) in [
            ("a", "fra", None),
            ("b", "fra", Some("north")),
            ("c", "ber", Some("south")),
        ] {
            site.connection
                .execute(
                    "INSERT INTO device (id, name, grp, supplier, created) VALUES (?1, ?1, ?2, ?3, 1)",
                    (device, group, supplier),
                )
                .unwrap();
        }
        site
    }

    fn connect(folder: &tempfile::TempDir) -> Connection {
        let connection = Connection::open(folder.path().join("cairn.db")).unwrap();
        connection
            .execute_batch("PRAGMA foreign_keys = ON")
            .unwrap();
        connection
    }

    /// Another process over the same file.
    fn again(&mut self) {
        self.connection = Self::connect(&self.folder);
    }

    /// These numbers as events of a device, together.
    fn tell(&mut self, kind: Kind, device: &str, numbers: std::ops::Range<i64>) {
        let tx = self.connection.transaction().unwrap();
        let mut draft = Draft::new(device, NOW);
        for n in numbers {
            draft.add(&tx, kind, &json!({ "n": n })).unwrap();
        }
        draft.finish(&tx).unwrap();
        tx.commit().unwrap();
    }

    fn group(
        &self,
        name: &str,
        supplier: Option<&str>,
        select: Selector,
        kinds: &[Kind],
    ) -> GroupId {
        let id = GroupId {
            supplier: supplier.map(str::to_owned),
            name: name.to_owned(),
        };
        let filter = Filter {
            select,
            kinds: kinds.iter().copied().collect(),
        };
        self.connection
            .put(&id, &filter, Start::Oldest, "root", NOW)
            .unwrap();
        id
    }

    fn take(&self, id: &GroupId, member: &str, limit: usize, now: i64) -> Option<Batch> {
        loop {
            match self
                .connection
                .take(id, member, limit, now, now + 60_000)
                .unwrap()
            {
                Taken::Batch(batch) => return Some(batch),
                Taken::GoOn => {}
                Taken::Nothing => return None,
            }
        }
    }

    /// All that is left for a group, by one member.
    fn drain(&self, id: &GroupId) -> Vec<i64> {
        let mut all = Vec::new();
        while let Some(batch) = self.take(id, "m", 7, NOW) {
            all.extend(numbers(&batch));
            assert!(self.connection.acknowledge(id, "m", batch.next).unwrap());
        }
        all
    }
}

fn numbers(batch: &Batch) -> Vec<i64> {
    let number = |body: &Value| body["n"].as_i64().unwrap();
    batch
        .events
        .iter()
        .map(|event| number(&event.body))
        .collect()
}

#[test]
fn events_are_in_order_and_what_was_undone_is_none() {
    let mut site = Site::new();
    let id = site.group("g", None, Selector::All, &Kind::ALL);
    site.tell(Kind::Telemetry, "a", 0..3);
    {
        let tx = site.connection.transaction().unwrap();
        one(&tx, Kind::Telemetry, "a", NOW, &json!({ "n": 99 })).unwrap();
        tx.rollback().unwrap();
    }
    site.tell(Kind::Attributes, "b", 3..4);
    site.tell(Kind::Telemetry, "c", 4..300);
    let batch = site.take(&id, "m", 1000, NOW).unwrap();
    assert_eq!(numbers(&batch), (0..300).collect::<Vec<_>>());
    let offsets: Vec<_> = batch.events.iter().map(|event| event.offset).collect();
    assert_eq!(offsets, (0..300).collect::<Vec<_>>());
    let seen = &batch.events[3];
    assert_eq!(
        (seen.kind, seen.device.as_str(), seen.time),
        (Kind::Attributes, "b", NOW)
    );
    assert_eq!((batch.next, batch.lost), (300, 0));
}

#[test]
fn a_batch_comes_again_until_it_is_acknowledged_also_after_a_restart() {
    let mut site = Site::new();
    let id = site.group("g", None, Selector::All, &Kind::ALL);
    site.tell(Kind::Telemetry, "a", 0..10);
    let batch = site.take(&id, "m", 4, NOW).unwrap();
    assert_eq!(numbers(&batch), [0, 1, 2, 3]);
    assert_eq!(site.take(&id, "m", 4, NOW), Some(batch.clone()));
    site.again();
    site.tell(Kind::Telemetry, "a", 10..12);
    assert_eq!(site.take(&id, "m", 1000, NOW), Some(batch.clone()));
    // As little as it asks for; the rest comes next.
    let part = site.take(&id, "m", 1, NOW).unwrap();
    assert_eq!(numbers(&part), [0]);
    assert!(!site.connection.acknowledge(&id, "m", batch.next).unwrap());
    assert!(site.connection.acknowledge(&id, "m", part.next).unwrap());
    assert!(!site.connection.acknowledge(&id, "m", part.next).unwrap());
    assert_eq!(site.connection.show(&id).unwrap().unwrap().acknowledged, 1);
    site.again();
    assert_eq!(site.drain(&id), (1..12).collect::<Vec<_>>());
    let group = site.connection.show(&id).unwrap().unwrap();
    assert_eq!((group.acknowledged, group.behind, group.lost), (12, 0, 0));
    assert!(!site.connection.ready(&id, "m", NOW).unwrap());
}

#[test]
fn members_share_and_one_that_is_gone_loses_its_batch() {
    let mut site = Site::new();
    let id = site.group("g", None, Selector::All, &Kind::ALL);
    site.tell(Kind::Telemetry, "a", 0..9);
    let first = site.take(&id, "gone", 3, NOW).unwrap();
    let second = site.take(&id, "m", 3, NOW).unwrap();
    assert_eq!(
        (numbers(&first), numbers(&second)),
        (vec![0, 1, 2], vec![3, 4, 5])
    );
    assert!(site.connection.acknowledge(&id, "m", second.next).unwrap());
    let group = site.connection.show(&id).unwrap().unwrap();
    assert_eq!(
        (group.acknowledged, group.members),
        (0, vec!["gone".to_owned()])
    );
    let late = site.take(&id, "m", 3, SOON).unwrap();
    assert_eq!(numbers(&late), [0, 1, 2]);
    assert!(
        !site
            .connection
            .acknowledge(&id, "gone", first.next)
            .unwrap()
    );
    assert!(site.connection.acknowledge(&id, "m", late.next).unwrap());
    assert_eq!(
        numbers(&site.take(&id, "gone", 9, SOON).unwrap()),
        [6, 7, 8]
    );
}

#[test]
fn whoever_comes_too_late_is_told_how_much_is_gone() {
    let mut site = Site::new();
    let id = site.group("g", None, Selector::All, &Kind::ALL);
    let waiting = site.group("w", None, Selector::All, &Kind::ALL);
    for n in 0..10 {
        site.tell(Kind::Telemetry, "a", n..n + 1);
    }
    assert_eq!(
        numbers(&site.take(&waiting, "m", 3, NOW).unwrap()),
        [0, 1, 2]
    );
    let keep = |bytes| Keep { days: 7, bytes };
    assert_eq!(site.connection.trim(&keep(1 << 20), NOW).unwrap(), 0);
    let each: i64 = site
        .connection
        .query_row("SELECT max(total) / 10 FROM stream_block", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(
        site.connection.trim(&keep(4 * each as u64), NOW).unwrap(),
        6
    );
    let batch = site.take(&id, "m", 2, NOW).unwrap();
    assert_eq!((numbers(&batch), batch.lost), (vec![6, 7], 6));
    assert_eq!(
        site.take(&id, "m", 2, NOW),
        Some(batch.clone()),
        "told again"
    );
    assert!(site.connection.acknowledge(&id, "m", batch.next).unwrap());
    assert_eq!(site.connection.show(&id).unwrap().unwrap().lost, 6);
    assert_eq!(site.drain(&id), [8, 9]);
    // What a member had and hadn't done is gone, too.
    let batch = site.take(&waiting, "m", 3, NOW).unwrap();
    assert_eq!((numbers(&batch), batch.lost, batch.next), (vec![], 3, 3));
    assert!(site.connection.acknowledge(&waiting, "m", 3).unwrap());
    let batch = site.take(&waiting, "m", 3, NOW).unwrap();
    assert_eq!((numbers(&batch), batch.lost), (vec![6, 7, 8], 3));
    // Of age all but the newest goes: offsets never begin anew.
    let old = NOW + 8 * 86_400_000;
    assert_eq!(site.connection.trim(&keep(1 << 20), old).unwrap(), 3);
    assert_eq!(site.connection.trim(&keep(1 << 20), old).unwrap(), 0);
    site.tell(Kind::Telemetry, "a", 10..11);
    assert_eq!(site.drain(&id), [10]);
    assert_eq!(site.connection.show(&id).unwrap().unwrap().acknowledged, 11);
}

#[test]
fn a_group_sees_what_it_wants_and_what_its_owner_may_see() {
    let mut site = Site::new();
    site.connection
        .execute("INSERT INTO device_tag VALUES ('b', 'cache')", [])
        .unwrap();
    let set = |items: &[&str]| {
        items
            .iter()
            .map(|item| (*item).to_owned())
            .collect::<BTreeSet<_>>()
    };
    let groups = [
        (
            site.group("all", None, Selector::All, &Kind::ALL),
            vec![0, 1, 2, 3, 4, 5],
        ),
        (
            site.group(
                "fra",
                None,
                Selector::Group("fra".into()),
                &[Kind::Telemetry],
            ),
            vec![0, 1],
        ),
        (
            site.group("tags", None, Selector::Tags(set(&["cache"])), &Kind::ALL),
            vec![1, 3, 5],
        ),
        (
            site.group("named", None, Selector::Devices(set(&["c"])), &Kind::ALL),
            vec![2, 4],
        ),
        // Of their own devices, and no telemetry.
        (
            site.group("all", Some("north"), Selector::All, &Kind::ALL),
            vec![3, 5],
        ),
        (
            site.group("all", Some("south"), Selector::All, &Kind::ALL),
            vec![4],
        ),
        (
            site.group("all", Some("west"), Selector::All, &Kind::ALL),
            vec![],
        ),
    ];
    for (n, device) in ["a", "b", "c"].into_iter().enumerate() {
        let n = n as i64;
        site.tell(Kind::Telemetry, device, n..n + 1);
    }
    site.tell(Kind::Connection, "b", 3..4);
    site.tell(Kind::Connection, "c", 4..5);
    site.tell(Kind::Alarm, "b", 5..6);
    for (id, expected) in &groups {
        assert_eq!(site.drain(id), *expected, "{id:?}");
    }
    let names = |supplier| -> Vec<String> {
        let groups = site.connection.list(supplier, "", 100).unwrap();
        groups.into_iter().map(|group| group.name).collect()
    };
    assert_eq!(names(None), ["all", "fra", "named", "tags"]);
    assert_eq!(names(Some("north")), ["all"]);
    assert!(site.connection.remove(&groups[0].0).unwrap());
    assert!(!site.connection.remove(&groups[0].0).unwrap());
    let gone = site.connection.take(&groups[0].0, "m", 1, NOW, SOON);
    assert!(matches!(gone, Err(GroupError::None)), "{gone:?}");
}

#[test]
fn what_a_removed_device_sent_is_nobodys_also_if_its_id_is_given_again() {
    let mut site = Site::new();
    let id = site.group("g", None, Selector::All, &Kind::ALL);
    site.tell(Kind::Telemetry, "a", 0..3);
    site.tell(Kind::Telemetry, "b", 3..4);
    let tx = site.connection.transaction().unwrap();
    assert!(registry::remove(&tx, "a").unwrap());
    tx.execute(
        "INSERT INTO device (id, name, created) VALUES ('a', 'a', ?1)",
        [NOW / 1000 + 1],
    )
    .unwrap();
    tx.commit().unwrap();
    assert_eq!(site.drain(&id), [3]);
}

#[test]
fn with_another_filter_all_that_is_not_acknowledged_is_given_again() {
    let mut site = Site::new();
    let id = site.group("g", None, Selector::All, &[Kind::Telemetry]);
    site.tell(Kind::Telemetry, "a", 0..4);
    site.tell(Kind::Connection, "a", 4..6);
    let batch = site.take(&id, "m", 2, NOW).unwrap();
    assert!(site.connection.acknowledge(&id, "m", batch.next).unwrap());
    site.take(&id, "m", 2, NOW).unwrap();
    site.group("g", None, Selector::All, &Kind::ALL);
    assert_eq!(site.drain(&id), [2, 3, 4, 5]);
}

#[test]
fn every_event_is_acknowledged_once_whoever_reads_and_whoever_dies() {
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut site = Site::new();
        let id = site.group(
            "g",
            None,
            Selector::Devices(["a".into(), "b".into()].into()),
            &Kind::ALL,
        );
        let (mut told, mut now) = (0, NOW);
        let mut expected = Vec::new();
        let mut held: BTreeMap<usize, Batch> = BTreeMap::new();
        let mut done = Vec::new();
        for _ in 0..400 {
            let member = random.gen_range(0..3);
            let name = format!("m{member}");
            match random.gen_range(0..10) {
                0..=2 => {
                    let device = ["a", "b", "c"][random.gen_range(0..3)];
                    let many = random.gen_range(1..20);
                    site.tell(Kind::Telemetry, device, told..told + many);
                    if device != "c" {
                        expected.extend(told..told + many);
                    }
                    told += many;
                }
                3..=5 => {
                    if let Some(batch) = site.take(&id, &name, random.gen_range(1..12), now) {
                        assert!(batch.events.is_sorted_by_key(|event| event.offset));
                        held.insert(member, batch);
                    }
                }
                6..=7 => {
                    if let Some(batch) = held.remove(&member)
                        && site.connection.acknowledge(&id, &name, batch.next).unwrap()
                    {
                        done.extend(numbers(&batch));
                    }
                }
                8 => now += random.gen_range(0..50_000),
                _ => site.again(),
            }
        }
        now += 120_000;
        while let Some(batch) = site.take(&id, "last", 1000, now) {
            assert!(
                site.connection
                    .acknowledge(&id, "last", batch.next)
                    .unwrap()
            );
            done.extend(numbers(&batch));
        }
        done.sort_unstable();
        assert_eq!(done, expected, "seed {seed}");
    }
}
