//! What the outbox promises, checked against a server that takes each record id once.

mod power;
mod space;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::time::Duration;

use cairn_wire::{Object, Record, RecordId};

use super::*;

const NOW: i64 = 1_800_000_000;

/// Called at each sync with the outbox's folder.
pub(super) struct Hook(pub Box<dyn FnMut(&Path) + Send>);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a hook")
    }
}

/// A control plane: each id once.
#[derive(Debug, Default, Clone)]
struct Server(HashMap<RecordId, Record>);

impl Server {
    fn take(&mut self, records: &[Record]) {
        for record in records {
            let id = record.id.clone().unwrap();
            let before = self.0.entry(id).or_insert_with(|| record.clone());
            assert_eq!(
                before.values, record.values,
                "an id came again with other values"
            );
        }
    }

    /// The numbers that [`value`] put in, sorted.
    fn numbers(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self
            .0
            .values()
            .filter_map(|record| record.values.get("n")?.as_u64())
            .collect();
        numbers.sort_unstable();
        numbers
    }

    /// In each log, times grow with the numbers.
    fn check_times(&self) {
        let mut logs: BTreeMap<&str, Vec<(u64, i64)>> = BTreeMap::new();
        for (id, record) in &self.0 {
            logs.entry(&id.log)
                .or_default()
                .extend(record.ts.map(|ts| (id.seq, ts)));
        }
        for (log, mut times) in logs {
            times.sort_unstable();
            assert!(
                times.windows(2).all(|pair| pair[0].1 < pair[1].1),
                "{log}: {times:?}"
            );
        }
    }
}

fn value(n: u64) -> Object {
    [
        ("n".to_owned(), n.into()),
        (
            "pad".to_owned(),
            "x".repeat(usize::try_from(n * 37 % 300).unwrap()).into(),
        ),
    ]
    .into_iter()
    .collect()
}

fn small() -> Settings {
    Settings {
        budget: 128 * 1024,
        commit_interval: Duration::from_millis(1),
    }
}

fn open(folder: &Path, clock: &Clock) -> Outbox {
    Outbox::open(folder, &small(), clock.clone()).unwrap()
}

fn drain(outbox: &Outbox, server: &mut Server) {
    while let Some(batch) = outbox.next_batch(4000) {
        server.take(&batch.records);
        outbox.acked(batch);
    }
    assert!(!outbox.0.state().has_work() || outbox.0.state().failing.is_none());
}

fn clock() -> Clock {
    Clock::manual("boot-1", NOW, NOW - 1000)
}

fn set_full(outbox: &Outbox, full: bool) {
    outbox.0.store.lock().unwrap().full = full;
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn files(folder: &Path, ending: &str) -> Vec<std::path::PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.retain(|path| path.to_str().unwrap().ends_with(ending));
    paths.sort();
    paths
}

#[test]
fn records_survive_a_restart_and_go_when_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = open(folder.path(), &clock());
    for n in 0..100 {
        outbox.append(Priority::ALL[usize::try_from(n % 3).unwrap()], value(n));
    }
    outbox.0.commit();
    drop(outbox);
    let outbox = open(folder.path(), &clock());
    assert_eq!(outbox.stats().records, 100);
    assert_eq!(outbox.stats().oldest_ms, Some(NOW * 1000));
    let mut server = Server::default();
    drain(&outbox, &mut server);
    assert_eq!(server.numbers(), (0..100).collect::<Vec<_>>());
    server.check_times();
    outbox.0.commit();
    drop(outbox);
    let outbox = open(folder.path(), &clock());
    assert_eq!(
        (outbox.stats().records, outbox.stats().oldest_ms),
        (0, None)
    );
    assert!(outbox.next_batch(4000).is_none());
}

#[test]
fn new_records_go_before_old_ones_and_events_before_samples() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = open(folder.path(), &clock());
    for n in 0..200 {
        outbox.append(Priority::Sample, value(n));
        outbox.0.commit();
    }
    outbox.append(Priority::Event, value(1000));
    outbox.append(Priority::Fact, value(1001));
    outbox.0.commit();
    let first = outbox.next_batch(4000).unwrap();
    assert_eq!(
        (first.priority, &first.records[0].values["n"]),
        (Priority::Event, &1000.into())
    );
    assert_eq!(
        outbox.next_batch(4000).unwrap().priority,
        Priority::Fact,
        "the first is still under way"
    );
    let live = outbox.next_batch(4000).unwrap();
    let oldest_live = live.records[0].values["n"].as_u64().unwrap();
    assert!(oldest_live > 50, "{oldest_live} is old");
    let mut server = Server::default();
    for batch in [first, live] {
        server.take(&batch.records);
        outbox.acked(batch);
    }
    drain(&outbox, &mut server);
    assert_eq!(server.numbers().len(), 202);
}

#[test]
fn what_is_not_acknowledged_is_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = open(folder.path(), &clock());
    for n in 0..300 {
        outbox.append(Priority::Sample, value(n));
    }
    outbox.0.commit();
    let batches: Vec<Batch> = (0..5).map(|_| outbox.next_batch(2000).unwrap()).collect();
    let mut seen = BTreeSet::new();
    for record in batches.iter().flat_map(|batch| &batch.records) {
        assert!(seen.insert(record.id.clone()), "given out twice");
    }
    for (number, batch) in batches.into_iter().enumerate() {
        // One way to give back is to be forgotten, as by a task that was cancelled.
        if number % 2 == 0 {
            outbox.returned(batch)
        } else {
            drop(batch)
        }
    }
    assert_eq!(outbox.stats().records, 300);
    let mut server = Server::default();
    drain(&outbox, &mut server);
    assert_eq!(server.numbers(), (0..300).collect::<Vec<_>>());
}

#[test]
fn records_made_before_the_clock_was_set_get_their_time_in_the_same_boot_only() {
    let folder = tempfile::tempdir().unwrap();
    let unset = Clock::manual("boot-0", 100, NOW);
    let outbox = open(folder.path(), &unset);
    outbox.append(Priority::Sample, value(1));
    outbox.0.commit();
    drop(outbox);

    let clock = Clock::manual("boot-1", 100, NOW);
    let outbox = open(folder.path(), &clock);
    outbox.append(Priority::Sample, value(2));
    clock.advance(Duration::from_secs(60));
    outbox.append(Priority::Sample, value(3));
    outbox.0.commit();
    drop(outbox);
    // The agent restarts within the boot, and only then the time is told.
    let outbox = open(folder.path(), &clock);
    outbox.append(Priority::Sample, value(4));
    clock.advance(Duration::from_secs(5));
    clock.learned(NOW + 1000);
    outbox.append(Priority::Sample, value(5));
    outbox.0.commit();
    let mut server = Server::default();
    drain(&outbox, &mut server);
    server.check_times();
    let ts: BTreeMap<u64, Option<i64>> = server
        .0
        .values()
        .map(|record| (record.values["n"].as_u64().unwrap(), record.ts))
        .collect();
    let at = (NOW + 1000) * 1000;
    assert_eq!(ts[&1], None);
    assert_eq!(
        (ts[&2], ts[&3], ts[&5]),
        (Some(at - 65_000), Some(at - 5_000), Some(at))
    );
    assert!(ts[&4].is_some_and(|ts| (at - 5_000..at).contains(&ts)));
}

#[test]
fn a_clock_that_is_set_back_begins_a_new_log() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::default();
    for (wall, n) in [
        (NOW, 1),
        (NOW - 30, 2),
        (NOW - 86_400, 3),
        (NOW - 86_400, 4),
    ] {
        let outbox = open(folder.path(), &Clock::manual("b", wall, 0));
        outbox.append(Priority::Sample, value(n));
        outbox.0.commit();
        drain(&outbox, &mut server);
        outbox.0.commit();
    }
    server.check_times();
    let logs: BTreeSet<&str> = server.0.keys().map(|id| id.log.as_str()).collect();
    let seqs: BTreeSet<u64> = server.0.keys().map(|id| id.seq).collect();
    assert_eq!((logs.len(), seqs.len()), (2, 4));
}

#[test]
fn a_poison_record_is_found_by_halves_and_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = open(folder.path(), &clock());
    (0..20).for_each(|n| outbox.append(Priority::Fact, value(n)));
    outbox.append(
        Priority::Fact,
        [("long".to_owned(), "x".repeat(70_000).into())]
            .into_iter()
            .collect(),
    );
    outbox.0.commit();
    let mut server = Server::default();
    let mut work = vec![outbox.next_batch(60_000).unwrap()];
    while let Some(batch) = work.pop() {
        if !batch.records.iter().any(|record| record.values["n"] == 13) {
            server.take(&batch.records);
            outbox.acked(batch);
        } else if batch.len() == 1 {
            outbox.set_aside(batch);
        } else {
            let (first, second) = batch.split();
            work.push(first);
            work.extend(second);
        }
    }
    drain(&outbox, &mut server);
    assert_eq!(
        server.numbers(),
        (0..20).filter(|n| *n != 13).collect::<Vec<_>>()
    );
    assert_eq!((outbox.stats().set_aside, outbox.stats().records), (2, 0));
    let kept = fs::read_to_string(folder.path().join(set_aside::FILE)).unwrap();
    assert!(kept.lines().count() == 2 && kept.contains("\"n\":13"));
}

#[test]
fn a_damaged_middle_costs_only_itself_and_is_counted() {
    for when_open in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let outbox = open(folder.path(), &clock());
        for n in 0..400 {
            outbox.append(Priority::Sample, value(n));
        }
        outbox.0.commit();
        let damage = || {
            let path = &files(folder.path(), ".log")[1];
            let mut bytes = fs::read(path).unwrap();
            bytes[700] ^= 0xff;
            fs::write(path, bytes).unwrap();
        };
        let outbox = if when_open {
            damage();
            outbox
        } else {
            drop(outbox);
            damage();
            open(folder.path(), &clock())
        };
        let mut server = Server::default();
        drain(&outbox, &mut server);
        assert_eq!(server.numbers().len(), 399);
        assert_eq!((outbox.stats().damaged, outbox.stats().records), (1, 0));
        outbox.0.commit();
        drop(outbox);
        assert_eq!(
            open(folder.path(), &clock()).stats().damaged,
            1,
            "it isn't counted again"
        );
    }
}

#[test]
fn a_segment_that_vanishes_is_counted_too() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = open(folder.path(), &clock());
    (0..400).for_each(|n| outbox.append(Priority::Sample, value(n)));
    outbox.0.commit();
    fs::remove_file(&files(folder.path(), ".log")[2]).unwrap();
    let mut server = Server::default();
    drain(&outbox, &mut server);
    let stats = outbox.stats();
    assert!(stats.damaged > 5);
    assert_eq!(
        (server.numbers().len() as u64 + stats.damaged, stats.records),
        (400, 0)
    );
}

#[test]
fn a_lost_ledger_begins_a_new_log_above_all_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::default();
    for (round, damage) in [&b""[..], b"rubbish", &[0u8; 1024]].into_iter().enumerate() {
        let outbox = open(folder.path(), &clock());
        (0..30).for_each(|n| outbox.append(Priority::Fact, value(n + 100 * round as u64)));
        outbox.0.commit();
        let batch = outbox.next_batch(2000).unwrap();
        server.take(&batch.records);
        outbox.acked(batch);
        outbox.0.commit();
        drop(outbox);
        fs::write(folder.path().join("ledger"), damage).unwrap();
    }
    drain(&open(folder.path(), &clock()), &mut server);
    assert_eq!(server.numbers().len(), 90);
}

#[tokio::test]
async fn it_commits_by_itself_and_wakes_the_one_who_waits() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = open(folder.path(), &clock());
    let waiting = tokio::spawn({
        let outbox = outbox.clone();
        async move {
            outbox.ready().await;
            outbox.next_batch(1000).map(|batch| batch.records.len())
        }
    });
    outbox.append(Priority::Event, value(1));
    let got = tokio::time::timeout(Duration::from_secs(20), waiting)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(got, Some(1));
    outbox.append(Priority::Event, value(2));
    outbox.flush().await.unwrap();
    drop(outbox);
    let outbox = open(folder.path(), &clock());
    assert_eq!(outbox.stats().records, 2, "nothing was acknowledged");
}

#[test]
fn memory_stays_small_however_long_the_backlog() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        budget: 16 << 20,
        ..Settings::default()
    };
    let outbox = Outbox::open(folder.path(), &settings, clock()).unwrap();
    for n in 0..40_000 {
        outbox.append(Priority::Sample, value(n));
    }
    outbox.0.commit();
    let state = outbox.0.state();
    let held: usize = state
        .streams
        .iter()
        .flat_map(|stream| &stream.recent)
        .map(|entry| entry.bytes.len())
        .sum();
    assert!(held <= 25 * 1024, "{held} bytes");
    assert!(state.streams[2].segments.len() <= 80);
    assert!(state.records() == 40_000);
}
