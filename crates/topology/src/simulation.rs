//! Random worlds: disks with or without somebody's data, cuts at any sector, customers who write, orders that change.

use std::collections::BTreeMap;

use cairn_release::Digest;
use cairn_wire::Disk as Wanted;
use proptest::prelude::*;
use serde_json::json;

use crate::gpt::{Entry, Table};
use crate::seen::is_zero;
use crate::shape::{MARGIN, MEBIBYTE};
use crate::{Disk, Guid, Part, Plan, Shape, Signature, Step, Surface, guid, plan};

const MIB: u64 = MEBIBYTE;

/// A cut within a step: what is on the disk of the group that was being written.
#[derive(Debug, Clone)]
struct Cut {
    group: usize,
    landed: Vec<bool>,
}

#[derive(Debug, Clone)]
enum Happening {
    Turn(Option<Cut>),
    Declare(usize),
    /// The order to erase: right for now, or for something else.
    Order(bool),
    CustomerWrites(u64),
    /// The disk goes to another machine and comes back with this on it.
    Elsewhere(usize),
    Reboot,
}

struct Sim {
    shape: Shape,
    sectors: BTreeMap<u64, Vec<u8>>,
    parts: Vec<(u32, u64, u64)>,
    mounts: BTreeMap<u32, String>,
    wanted: Wanted,
    erasures: u32,
    arrays: u32,
    /// What somebody has written, and must be there for ever.
    treasure: BTreeMap<u64, Vec<u8>>,
}

fn layout(index: usize) -> Wanted {
    let partitions = [
        "a 64MiB ext4 one",
        "a 64MiB ext4 one, b rest ext4",
        "a 64MiB ext4 one, b 32MiB ext4, c 128MiB btrfs",
        "a 128MiB btrfs",
        "b rest btrfs x",
        "a 2GiB xfs",
    ][index];
    let partition = |text: &str| {
        let words: Vec<&str> = text.split(' ').collect();
        let (name, label) = (words[0], words.get(3));
        json!({ "name": name, "size": words[1], "file_system": words[2], "label": label, "mount": format!("/srv/{name}") })
    };
    let partitions: Vec<_> = partitions.split(", ").map(partition).collect();
    let disk = json!({ "name": "d", "find": { "serial": "S1" }, "partitions": partitions });
    let disk: Wanted = serde_json::from_value(disk).unwrap();
    disk.check().unwrap();
    disk
}

const LAYOUTS: usize = 6;
const FOREIGN: usize = 6;

impl Sim {
    fn new(sector: u32, foreign: usize, wanted: usize) -> Self {
        let mut sim = Self {
            shape: Shape::new(400 * MIB + 5 * 4096, sector).unwrap(),
            sectors: BTreeMap::new(),
            parts: Vec::new(),
            mounts: BTreeMap::new(),
            wanted: layout(wanted),
            erasures: 0,
            arrays: 0,
            treasure: BTreeMap::new(),
        };
        sim.foreign(foreign);
        sim
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        let sector = self.shape.sector();
        for (n, piece) in (0u64..).zip(bytes.chunks(sector as usize)) {
            let mut piece = piece.to_vec();
            piece.resize(sector as usize, 0);
            if is_zero(&piece) {
                self.sectors.remove(&(at / sector + n));
            } else {
                self.sectors.insert(at / sector + n, piece);
            }
        }
    }

    fn bytes(&self, at: u64, length: u64) -> Vec<u8> {
        let sector = self.shape.sector();
        let mut bytes = vec![0; length as usize];
        let range = at / sector..(at + length).div_ceil(sector);
        for (number, data) in self.sectors.range(range) {
            let from = (number * sector - at) as usize;
            bytes[from..from + data.len()].copy_from_slice(data);
        }
        bytes
    }

    /// A file system of this kind, in the model: a text in its ninth sector.
    fn make_fs(&mut self, start: u64, kind: &str, uuid: &str, label: &str) {
        let text = format!("FS {kind} {uuid} {label}\n");
        self.put(start + 8 * 4096, text.as_bytes());
    }

    fn fs(&self, start: u64) -> Vec<Signature> {
        let text = self.bytes(start + 8 * 4096, 4096);
        let text = String::from_utf8_lossy(&text).into_owned();
        let Some(rest) = text
            .strip_prefix("FS ")
            .and_then(|text| text.split('\n').next())
        else {
            return Vec::new();
        };
        let words: Vec<&str> = rest.split(' ').collect();
        let label = Some(words[2]).filter(|label| !label.is_empty());
        vec![Signature {
            kind: words[0].into(),
            uuid: Some(words[1].into()),
            label: label.map(Into::into),
        }]
    }

    /// Somebody else's: nothing, a file system, a table with one, noise in three places.
    fn foreign(&mut self, index: usize) {
        let tail = self.shape.tail();
        match index {
            0 => {}
            1 => self.make_fs(0, "ext4", "11111111", "backup"),
            2 => {
                let disk = Guid::derive(&["theirs"]);
                let entry = Entry {
                    kind: guid::LINUX,
                    id: Guid::derive(&["p"]),
                    start: MIB,
                    size: 100 * MIB,
                    name: "x".into(),
                };
                let table = Table {
                    disk,
                    entries: [(1, entry)].into(),
                };
                for write in table.writes(self.shape).concat() {
                    self.put(write.at, &write.bytes);
                }
                self.make_fs(MIB, "xfs", "22222222", "");
                self.parts = vec![(1, MIB, 100 * MIB)];
            }
            // What leaves the first sector alone.
            3 => {
                // No two arrays have the same id.
                self.arrays += 1;
                self.make_fs(0, "linux_raid_member", &self.arrays.to_string(), "");
                self.put(20 * MIB, &[8; 4096]);
                self.put(MIB + 4096, &[8; 4096]);
            }
            4 => self.put(4096 * 100, &[7; 4096]),
            _ => self.put(tail + 4096, &[9; 512]),
        }
        self.treasure = self.sectors.clone();
    }

    fn look(&self) -> Disk {
        let (shape, sector) = (self.shape, self.shape.sector());
        let (head, tail) = (self.bytes(0, MARGIN), self.bytes(shape.tail(), MARGIN));
        let inner = MARGIN / sector..shape.tail() / sector;
        let between = self
            .sectors
            .range(inner)
            .all(|(_, data)| data.iter().all(|b| *b == 0));
        let surface = Surface::read(shape, &head, &tail, between);
        let mut signatures = self.fs(0);
        if head[510..512] == [0x55, 0xaa] || surface.table.is_some() {
            signatures.push(Signature {
                kind: "gpt".into(),
                uuid: None,
                label: None,
            });
        }
        let parts = self.parts.iter().map(|(number, start, size)| Part {
            number: *number,
            start: *start,
            size: *size,
            signatures: self.fs(*start),
            mounts: self.mounts.get(number).cloned().into_iter().collect(),
            holders: Vec::new(),
        });
        let all: Vec<u8> = self
            .sectors
            .iter()
            .flat_map(|(at, data)| at.to_le_bytes().into_iter().chain(data.iter().copied()))
            .collect();
        Disk {
            node: "sdx".into(),
            links: Vec::new(),
            serial: Some("S1".into()),
            shape,
            signatures,
            surface,
            parts: parts.collect(),
            mounts: Vec::new(),
            holders: Vec::new(),
            is_system: false,
            is_busy: !self.mounts.is_empty(),
            is_read_only: false,
            print: Digest::of(&all),
            erasures: self.erasures,
        }
    }

    fn plan(&self) -> Plan {
        plan(&self.wanted, &self.look())
    }

    /// Does the first step, or a part of it.
    fn turn(&mut self, cut: Option<&Cut>) -> bool {
        let disk = self.look();
        let Some(step) = self.plan().steps.into_iter().next() else {
            return false;
        };
        assert!(
            self.treasure.is_empty() || disk.is_ours(&self.wanted.name) || self.is_allowed(&disk),
            "{step} on somebody's data"
        );
        if let Step::Claim(_) = step {
            self.treasure.clear();
        }
        match &step {
            Step::Refresh => {
                let table = disk.surface.table.as_ref().unwrap();
                self.parts = kernel(&table.table);
            }
            Step::Mount { partition, at, .. } => {
                let part = disk
                    .parts
                    .iter()
                    .find(|part| part.number == partition.number)
                    .unwrap();
                assert_eq!((part.start, part.size), (partition.start, partition.size));
                assert_eq!(part.signatures.len(), 1, "nothing to mount");
                self.mounts.insert(partition.number, at.to_string());
            }
            Step::Format {
                partition,
                file_system,
                label,
                finished,
            } => {
                assert!(!self.mounts.contains_key(&partition.number), "mounted");
                let range = partition.start..partition.start + partition.size;
                let sector = self.shape.sector();
                assert!(
                    self.treasure
                        .range(range.start / sector..range.end / sector)
                        .next()
                        .is_none()
                );
                // A half of it: the old one may be gone, garbage or a whole superblock may be there.
                let early = cut.filter(|cut| cut.group == 0);
                let landed = |n: usize| early.is_none_or(|cut| cut.landed[n]);
                if landed(0) {
                    self.put(partition.start, &vec![0; MIB as usize]);
                }
                if landed(1) {
                    self.put(partition.start + 20 * 4096, &[3; 4096]);
                }
                if landed(2) {
                    let uuid = partition.id.file_system().to_string();
                    let label = label.as_ref().map_or("", |label| label.as_str());
                    self.make_fs(partition.start, file_system.as_str(), &uuid, label);
                }
                if early.is_none() {
                    self.write_groups(
                        finished.writes(self.shape),
                        cut.map(|cut| (cut.group - 1, cut)),
                    );
                }
            }
            step => self.write_groups(step.writes(self.shape), cut.map(|cut| (cut.group, cut))),
        }
        let claimed = matches!(step, Step::Claim(_)) && self.look().is_ours(&self.wanted.name);
        self.erasures += u32::from(claimed && !disk.is_empty());
        self.check();
        true
    }

    fn write_groups(&mut self, groups: Vec<Vec<crate::write::Write>>, cut: Option<(usize, &Cut)>) {
        for (n, group) in groups.into_iter().enumerate() {
            let torn = cut.filter(|(at, _)| *at == n).map(|(_, cut)| cut);
            self.write_group(&group, torn);
            if torn.is_some() {
                break;
            }
        }
    }

    fn write_group(&mut self, group: &[crate::write::Write], torn: Option<&Cut>) {
        let sector = self.shape.sector() as usize;
        for write in group {
            for (n, piece) in write.bytes.chunks(sector).enumerate() {
                let landed = torn.is_none_or(|cut| cut.landed[n % cut.landed.len()]);
                if landed {
                    self.put(write.at + (n * sector) as u64, piece);
                }
            }
        }
    }

    fn is_allowed(&self, disk: &Disk) -> bool {
        self.wanted
            .erase
            .as_ref()
            .is_some_and(|erase| erase.word.as_str() == disk.word())
    }

    fn check(&self) {
        for (at, data) in &self.treasure {
            assert_eq!(self.sectors.get(at), Some(data), "sector {at} is lost");
        }
    }

    fn happen(&mut self, happening: &Happening) {
        match happening {
            Happening::Turn(cut) => {
                self.turn(cut.as_ref());
                // A cut ends the machine.
                if cut.is_some() {
                    self.reboot();
                }
            }
            Happening::Declare(index) => {
                let erase = self.wanted.erase.take();
                self.wanted = layout(*index);
                self.wanted.erase = erase;
            }
            Happening::Order(right) => {
                let word = if *right {
                    self.look().word()
                } else {
                    "0123456789abcdef".into()
                };
                let erase = json!({ "serial": "S1", "word": word });
                self.wanted.erase = Some(serde_json::from_value(erase).unwrap());
            }
            Happening::CustomerWrites(at) => {
                for number in self.mounts.keys().copied().collect::<Vec<_>>() {
                    let (_, start, size) =
                        *self.parts.iter().find(|part| part.0 == number).unwrap();
                    let (sector, room) = (self.shape.sector(), size - MIB);
                    let place = (start + MIB / 2 + at % room) / sector * sector;
                    self.put(place, &vec![5; sector as usize]);
                    self.treasure
                        .insert(place / sector, vec![5; sector as usize]);
                    // Whoever writes changes the superblock, too; the whole file system is dear from now on.
                    let fs = (start + 8 * 4096) / sector;
                    self.treasure.insert(fs, self.sectors[&fs].clone());
                }
            }
            Happening::Elsewhere(index) => {
                (self.mounts, self.parts) = Default::default();
                self.treasure.clear();
                // What was ours there was given up by its owner, but only some users wipe it.
                if *index != 3 {
                    self.sectors.clear();
                }
                let before = std::mem::take(&mut self.sectors);
                self.foreign(*index);
                for (at, data) in before {
                    self.sectors.entry(at).or_insert(data);
                }
                self.reboot();
            }
            Happening::Reboot => self.reboot(),
        }
        self.check();
    }

    /// Mounts are gone, and the kernel has read what table there is.
    fn reboot(&mut self) {
        self.mounts.clear();
        let (head, tail) = (self.bytes(0, MARGIN), self.bytes(self.shape.tail(), MARGIN));
        let found = Table::find(self.shape, &head, &tail);
        let readable = found.filter(|_| head[510..512] == [0x55, 0xaa]);
        self.parts = readable.map_or_else(Vec::new, |found| kernel(&found.table));
    }

    fn settle(&mut self) {
        for _ in 0..60 {
            if !self.turn(None) {
                return;
            }
        }
        panic!("no rest: {:?}", self.plan().steps.first());
    }
}

fn kernel(table: &Table) -> Vec<(u32, u64, u64)> {
    let all = table.entries.iter();
    all.map(|(number, entry)| (*number, entry.start, entry.size))
        .collect()
}

fn cut() -> impl Strategy<Value = Cut> {
    let landed = prop::collection::vec(any::<bool>(), 3..40);
    (0..4usize, landed).prop_map(|(group, landed)| Cut { group, landed })
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        8 => Just(Happening::Turn(None)),
        6 => cut().prop_map(|cut| Happening::Turn(Some(cut))),
        3 => (0..LAYOUTS).prop_map(Happening::Declare),
        2 => any::<bool>().prop_map(Happening::Order),
        4 => any::<u64>().prop_map(Happening::CustomerWrites),
        1 => (0..FOREIGN).prop_map(Happening::Elsewhere),
        2 => Just(Happening::Reboot),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The treasure is checked after every step.
    #[test]
    fn nobodys_data_is_ever_lost(
        sector in prop::sample::select(vec![512u32, 4096]), foreign in 0..FOREIGN, first in 0..LAYOUTS,
        happenings in prop::collection::vec(happening(), 0..60),
    ) {
        let mut sim = Sim::new(sector, foreign, first);
        for happening in &happenings {
            sim.happen(happening);
        }
        sim.settle();
        prop_assert!(sim.plan().steps.is_empty());
    }

    #[test]
    fn whatever_cuts_it_short_it_comes_to_its_end(
        sector in prop::sample::select(vec![512u32, 4096]), foreign in 0..FOREIGN, first in 0..LAYOUTS - 1,
        cuts in prop::collection::vec(prop::option::weighted(0.7, cut()), 0..30),
    ) {
        let mut sim = Sim::new(sector, foreign, first);
        if foreign > 0 {
            sim.settle();
            prop_assert!(sim.plan().refused.unwrap().contains(&sim.look().word()));
            sim.happen(&Happening::Order(true));
        }
        for cut in &cuts {
            sim.happen(&Happening::Turn(cut.clone()));
        }
        sim.settle();
        prop_assert_eq!(sim.plan(), Plan::default());
        let disk = sim.look();
        prop_assert_eq!(disk.parts.len(), sim.wanted.partitions.len());
        for (partition, part) in sim.wanted.partitions.iter().zip(&disk.parts) {
            prop_assert_eq!(&part.mounts, &vec![partition.mount.clone().unwrap().to_string()]);
            prop_assert_eq!(&part.signatures[0].kind, partition.file_system.as_str());
        }
        // The same order a year later, even with the same bytes: a word holds once.
        sim.happen(&Happening::CustomerWrites(12345));
        sim.happen(&Happening::Elsewhere(foreign.max(1)));
        sim.settle();
        prop_assert!(sim.plan().refused.is_some());
    }

    /// A layout may be lengthened; nothing else about it is ever changed.
    #[test]
    fn a_longer_layout_keeps_what_is_there(writes in prop::collection::vec(any::<u64>(), 1..8), cuts in prop::collection::vec(cut(), 0..8)) {
        let mut sim = Sim::new(512, 0, 0);
        sim.settle();
        for at in &writes {
            sim.happen(&Happening::CustomerWrites(*at));
        }
        sim.happen(&Happening::Declare(2));
        for cut in &cuts {
            sim.happen(&Happening::Turn(Some(cut.clone())));
        }
        sim.settle();
        prop_assert_eq!(sim.plan(), Plan::default());
        prop_assert_eq!(sim.mounts.len(), 3);
        prop_assert!(!sim.treasure.is_empty());
        for (index, word) in [(1, "nothing is ever deleted"), (3, "no size is ever changed"), (0, "nothing is ever deleted")] {
            sim.happen(&Happening::Declare(index));
            sim.settle();
            let refused = sim.plan().refused.unwrap();
            prop_assert!(refused.contains(word), "{}", refused);
        }
    }
}
