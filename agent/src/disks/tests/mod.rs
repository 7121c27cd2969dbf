//! With real block devices, file systems and mounts.

mod bench;
mod refusals;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use cairn_wire::Disks;
use cairn_wire::disk::DiskState;
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};

use super::mounter::Mounter;
use super::{Deps, Missing, tools};
use crate::clock::Clock;
use crate::outbox::{self, Outbox};
use bench::{Bench, Loops, alone, run};

#[test]
fn it_is_made_once_as_declared_and_the_second_time_nothing_is_done() {
    if !alone(
        module_path!(),
        "it_is_made_once_as_declared_and_the_second_time_nothing_is_done",
    ) {
        return;
    }
    let bench = Bench::with_disk(1024);
    let layout = bench.layout(&[
        "small 64MiB ext4 sixteen-bytes-ok noatime,commit=30",
        "middle 256MiB btrfs cache compress=zstd:3,noexec",
        "large rest xfs twelve-bytes",
    ]);
    let (mut runner, mut plans) = (bench.runner(), Vec::new());
    let first = bench.round(&mut runner, &layout);
    assert_eq!(first.state, DiskState::Working);
    plans.push(first.plan);
    let status = bench.settle(&mut runner, &layout);
    assert_eq!(
        (status.state, status.reason.as_str()),
        (DiskState::Applied, "")
    );
    assert_eq!(plans[0].len(), 9, "{plans:?}");

    // Others say so, too.
    let verified = run("sgdisk", &["--verify", &bench.device("S1")]);
    assert!(verified.starts_with("No problems found"), "{verified}");
    let blkid = |number: u32, what: &str| {
        run(
            "blkid",
            &["-p", "-s", what, "-o", "value", &bench.part(number)],
        )
    };
    let made = [
        (1, "ext4", "sixteen-bytes-ok"),
        (2, "btrfs", "cache"),
        (3, "xfs", "twelve-bytes"),
    ];
    for (number, kind, label) in made {
        assert_eq!(
            (
                blkid(number, "TYPE").as_str(),
                blkid(number, "LABEL").as_str()
            ),
            (kind, label)
        );
    }
    let mounted = [
        (
            "small",
            vec!["ext4 rw,", "nosuid", "nodev", "noatime", "commit=30"],
        ),
        (
            "middle",
            vec!["btrfs rw,", "nosuid", "nodev", "noexec", "compress=zstd:3"],
        ),
        ("large", vec!["xfs rw,", "nosuid", "nodev", "relatime"]),
    ];
    for (name, expected) in mounted {
        let options = bench.options(name).unwrap();
        assert!(
            expected.iter().all(|option| options.contains(option)),
            "{options}"
        );
    }

    // Written to, cut off, started again: mounted and nothing else.
    fs::write(bench.at("small/file"), "dear").unwrap();
    bench.reboot();
    assert!(bench.options("small").is_none());
    let none = BTreeSet::new();
    let missing = bench.runner().round(&bench.declare(&layout), &none).missing;
    assert_eq!(missing.len(), 3);
    // Nothing can be written where the disk is missing.
    bench.reboot();
    let error = fs::write(bench.at("large/x"), "x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    bench.apply(&layout);
    assert_eq!(fs::read(bench.at("small/file")).unwrap(), b"dear");
    let mut runner = bench.runner();
    let round = runner.round(&bench.declare(&layout), &none);
    assert!(round.missing.is_empty());
    let status = bench.round(&mut runner, &layout);
    assert!(
        status.plan.is_empty() && status.state == DiskState::Applied,
        "{status:?}"
    );
}

#[test]
fn sectors_of_4096_bytes_are_no_different() {
    if !alone(module_path!(), "sectors_of_4096_bytes_are_no_different") {
        return;
    }
    let mut bench = Bench::new();
    bench.add("S1", 128, 4096);
    bench.apply(&bench.layout(&["a 32MiB ext4", "b rest ext4 x"]));
    let verified = run("sgdisk", &["--verify", &bench.device("S1")]);
    assert!(verified.starts_with("No problems found"), "{verified}");
    assert!(bench.options("a").is_some() && bench.options("b").is_some());
}

#[test]
fn cut_off_after_each_step_it_goes_on() {
    if !alone(module_path!(), "cut_off_after_each_step_it_goes_on") {
        return;
    }
    let bench = Bench::with_disk(512);
    bench.write(512 << 10, b"somebody's");
    let mut layout = bench.layout(&["a 64MiB ext4", "b 128MiB btrfs", "c rest ext4 last"]);
    layout["erase"] = bench.erase();
    let mut plans: Vec<usize> = Vec::new();
    loop {
        // Each time another agent on a node that has just started.
        let status = bench.round(&mut bench.runner(), &layout);
        assert_ne!(status.state, DiskState::Refused, "{status:?}");
        assert_ne!(status.state, DiskState::Failed, "{status:?}");
        let mounts = |line: &String| line.starts_with("mount");
        if status.plan.iter().all(mounts) {
            break;
        }
        plans.push(status.plan.len());
        assert!(plans.len() < 20, "{plans:?}");
        bench.reboot();
    }
    // Claim, clear, table, three file systems; the kernel reads the table by itself at a start.
    assert_eq!(plans, [10, 9, 8, 6, 5, 4], "steps that were left");
    bench.apply(&layout);
    assert_eq!(bench.options("c").unwrap().split(' ').next(), Some("ext4"));
}

#[test]
fn mkfs_killed_at_any_write_is_done_again() {
    if !alone(module_path!(), "mkfs_killed_at_any_write_is_done_again") {
        return;
    }
    let bench = Bench::with_disk(1536);
    let all = ["a 400MiB ext4", "b 400MiB btrfs", "c 400MiB xfs"];
    for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
        let layout = bench.layout(&all[..=index]);
        let mkfs = format!("mkfs.{}", all[index].rsplit(' ').next().unwrap());
        let mut kills = 0;
        // It has the last word only when it makes fewer writes than that.
        while let Some(at) = 1u32.checked_shl(kills) {
            bench::kill_at_write(&mkfs, at);
            let status = bench.settle(&mut bench.runner(), &layout);
            if status.state == DiskState::Applied {
                break;
            }
            assert_eq!(status.state, DiskState::Failed, "{mkfs}: {status:?}");
            assert!(status.reason.contains("signal: 9"), "{}", status.reason);
            assert!(bench.options(name).is_none());
            bench.reboot();
            kills += 1;
        }
        assert!(kills >= 6, "{mkfs} was killed {kills} times");
        fs::write(bench.at(name).join("file"), name).unwrap();
    }
    // What was there before each is there yet.
    bench.reboot();
    bench.apply(&bench.layout(&all));
    for name in ["a", "b", "c"] {
        assert_eq!(
            fs::read_to_string(bench.at(name).join("file")).unwrap(),
            name
        );
    }
}

#[test]
fn a_layout_grows_while_it_is_in_use_and_nothing_else_about_it_changes() {
    if !alone(
        module_path!(),
        "a_layout_grows_while_it_is_in_use_and_nothing_else_about_it_changes",
    ) {
        return;
    }
    let bench = Bench::with_disk(512);
    bench.apply(&bench.layout(&["a 64MiB ext4 one"]));
    fs::write(bench.at("a/file"), "dear").unwrap();
    let longer = bench.layout(&["a 64MiB ext4 one", "b 64MiB ext4"]);
    bench.apply(&longer);
    assert!(bench.options("b").is_some());
    let refused = [
        (
            vec!["a 64MiB ext4 one"],
            "partition \"b\" is on it and isn't declared",
        ),
        (
            vec!["a 32MiB ext4 one", "b 64MiB ext4"],
            "partition a: it has 64 MiB, and 32 are declared",
        ),
        (
            vec!["a 64MiB ext4 two", "b 64MiB ext4"],
            "its label is \"one\", and \"two\" is declared",
        ),
        (
            vec!["a 64MiB ext4 one", "b 400MiB ext4"],
            "partition b: it has 64 MiB",
        ),
        (
            vec!["a 64MiB ext4 one", "b 64MiB ext4", "c 400MiB ext4"],
            "partition c needs 400 MiB, and 382 MiB are left",
        ),
    ];
    for (partitions, expected) in refused {
        let status = bench.settle(&mut bench.runner(), &bench.layout(&partitions));
        assert_eq!(status.state, DiskState::Refused);
        assert!(status.reason.contains(expected), "{}", status.reason);
    }
    // What is right is mounted after a start, whatever else is refused.
    bench.reboot();
    let status = bench.settle(
        &mut bench.runner(),
        &bench.layout(&["a 64MiB ext4 one", "b 32MiB ext4"]),
    );
    assert_eq!(status.state, DiskState::Refused);
    let (mut runner, partly) = (
        bench.runner(),
        bench.layout(&["a 64MiB ext4 one", "b 32MiB ext4"]),
    );
    bench.round(&mut runner, &partly);
    assert_eq!(fs::read(bench.at("a/file")).unwrap(), b"dear");
    // A new file system by hand is somebody's, too.
    bench.reboot();
    run("mkfs.btrfs", &["-q", "-f", "-M", &bench.part(2)]);
    let status = bench.settle(&mut bench.runner(), &longer);
    assert!(
        status
            .reason
            .contains("partition b: it holds btrfs, and ext4 is declared"),
        "{}",
        status.reason
    );
}

#[test]
fn a_dry_run_tells_the_plan_and_changes_nothing() {
    if !alone(
        module_path!(),
        "a_dry_run_tells_the_plan_and_changes_nothing",
    ) {
        return;
    }
    let bench = Bench::with_disk(128);
    let mut layout = bench.layout(&["a rest ext4"]);
    layout["dry_run"] = json!(true);
    let before = bench.hash();
    let status = bench.settle(&mut bench.runner(), &layout);
    assert_eq!(status.state, DiskState::Planned);
    let words: Vec<&str> = status
        .plan
        .iter()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(words, ["claim", "make", "have", "make", "mount"]);
    assert_eq!(bench.hash(), before);
    let memory = bench.folder.path().join("memory.json");
    let told = super::describe(
        &bench.declare(&layout),
        &bench.settings(),
        &bench.look(),
        &memory,
    )
    .unwrap();
    assert_eq!(told.values().next().unwrap().plan, status.plan);
}

#[test]
fn a_look_that_fails_takes_no_mount_away_and_is_tried_again_soon() {
    if !alone(
        module_path!(),
        "a_look_that_fails_takes_no_mount_away_and_is_tried_again_soon",
    ) {
        return;
    }
    let mut bench = Bench::with_disk(128);
    let layout = bench.layout(&["a rest ext4"]);
    bench.apply(&layout);
    let (declared, mut runner) = (bench.declare(&layout), bench.runner());
    let none = BTreeSet::new();
    let all: BTreeSet<_> = declared
        .usable()
        .flat_map(|disk| disk.mounts().cloned())
        .collect();
    bench::replace("wipefs", "exit 1");
    for seconds in [10, 20, 40] {
        let round = runner.round(&declared, &none);
        assert_eq!(round.missing, none);
        assert_eq!(round.pause, Duration::from_secs(seconds));
        let reason = &round.status.values().next().unwrap().reason;
        assert!(reason.contains("; cannot be looked at now: "), "{reason}");
    }
    // What was missing before is no better for it, nor what isn't mounted.
    assert_eq!(runner.round(&declared, &all).missing, all);
    bench.reboot();
    assert_eq!(runner.round(&declared, &none).missing, all);
    fs::remove_file(bench::replaced("wipefs")).unwrap();
    bench.apply(&layout);
    let round = runner.round(&declared, &all);
    assert_eq!(
        (round.missing, round.pause),
        (none.clone(), Duration::from_secs(300))
    );
    // A disk that is gone is missing, though the kernel shows its mount still.
    let disks = std::mem::take(&mut bench.loops);
    let round = bench.runner().round(&declared, &none);
    bench.loops = disks;
    assert_eq!(round.missing, all);
}

#[test]
fn a_program_that_is_missing_is_named() {
    assert_eq!(
        tools::find("no-such-mkfs").unwrap_err(),
        "no-such-mkfs is not installed"
    );
}

fn outbox(bench: &Bench) -> Outbox {
    let settings = outbox::Settings {
        commit_interval: Duration::from_millis(1),
        ..outbox::Settings::default()
    };
    let clock = Clock::manual("b", 1_800_000_000, 0);
    Outbox::open(&bench.folder.path().join("outbox"), &settings, clock).unwrap()
}

fn deps(
    bench: &Bench,
    declared: watch::Receiver<Option<Arc<Disks>>>,
    missing: watch::Sender<Missing>,
    outbox: &Outbox,
    turn: Arc<Mutex<()>>,
) -> Deps<Loops> {
    Deps {
        settings: bench.settings(),
        look: bench.look(),
        mounter: Mounter::Direct,
        memory: bench.folder.path().join("memory.json"),
        declared,
        missing,
        outbox: outbox.clone(),
        turn,
    }
}

#[tokio::test]
async fn a_step_that_outlives_its_loop_has_the_disk_to_itself() {
    if !alone(
        module_path!(),
        "a_step_that_outlives_its_loop_has_the_disk_to_itself",
    ) {
        return;
    }
    let bench = Bench::with_disk(128);
    let [log, begun, go] = ["log", "begun", "go"].map(|name| bench.folder.path().join(name));
    run("mkfifo", &[begun.to_str().unwrap(), go.to_str().unwrap()]);
    let script = format!(
        "echo >>{0}; test $(wc -c <{0}) = 1 || exit 1\necho >{1}; read line <{2}; exec /usr/sbin/mkfs.ext4 \"$@\"\n",
        log.display(),
        begun.display(),
        go.display()
    );
    bench::replace("mkfs.ext4", &script);
    let layout = bench.declare(&bench.layout(&["a rest ext4"]));
    let (_declare, declared) = watch::channel(Some(Arc::new(layout)));
    let (outbox, turn) = (outbox(&bench), Arc::new(Mutex::new(())));
    let start = |shutdown| {
        let (missing, missed) = watch::channel(None);
        let deps = deps(&bench, declared.clone(), missing, &outbox, turn.clone());
        (tokio::spawn(super::run(deps, shutdown)), missed)
    };
    let (trigger, shutdown) = crate::shutdown::pair();
    let (first, _) = start(shutdown);
    let wait = tokio::task::spawn_blocking(|| fs::read(begun));
    wait.await.unwrap().unwrap();

    // The settings change while a file system is made.
    trigger.pull();
    first.await.unwrap();
    let is_taken = turn.try_lock().is_err();
    let (trigger, shutdown) = crate::shutdown::pair();
    let (second, mut missed) = start(shutdown);
    tokio::task::yield_now().await;
    fs::write(go, "\n").unwrap();
    assert!(is_taken);
    let all_there = |missing: &Missing| missing.as_ref().is_some_and(|missing| missing.is_empty());
    let mounted = tokio::time::timeout(Duration::from_secs(60), missed.wait_for(all_there));
    mounted.await.unwrap().unwrap();
    assert_eq!(fs::read(log).unwrap(), b"\n", "made once");
    trigger.pull();
    second.await.unwrap();
}

#[tokio::test]
async fn what_becomes_of_it_is_told_and_where_mounts_are_missing() {
    if !alone(
        module_path!(),
        "what_becomes_of_it_is_told_and_where_mounts_are_missing",
    ) {
        return;
    }
    let bench = Bench::with_disk(128);
    let outbox = outbox(&bench);
    let (declare, declared) = watch::channel(None);
    let (missing, mut missed) = watch::channel(None);
    let (trigger, shutdown) = crate::shutdown::pair();
    let deps = deps(&bench, declared, missing, &outbox, Arc::default());
    let running = tokio::spawn(super::run(deps, shutdown));
    let mut until = async |count: usize| {
        let right = |missing: &Missing| {
            missing
                .as_ref()
                .is_some_and(|missing| missing.len() == count)
        };
        let wait = missed.wait_for(right);
        tokio::time::timeout(Duration::from_secs(60), wait)
            .await
            .unwrap()
            .unwrap();
    };
    until(0).await;
    let mut layout = bench.layout(&["a rest ext4"]);
    layout["find"]["serial"] = json!("S2");
    declare.send_replace(Some(Arc::new(bench.declare(&layout))));
    until(1).await;
    layout["find"]["serial"] = json!(bench.serial("S1"));
    declare.send_replace(Some(Arc::new(bench.declare(&layout))));
    until(0).await;
    assert!(bench.options("a").is_some());
    trigger.pull();
    running.await.unwrap();
    outbox.flush().await.unwrap();
    let mut told: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    while let Some(batch) = outbox.next_batch(60_000) {
        for record in &batch.records {
            for key in ["state", "reason"] {
                told.entry(key)
                    .or_default()
                    .extend(record.values.get(&format!("disk_layout.d.{key}")).cloned());
            }
        }
        outbox.acked(batch);
    }
    assert_eq!(told["reason"][0], "no disk here has the serial number S2");
    let states: Vec<&str> = told["state"].iter().filter_map(Value::as_str).collect();
    assert_eq!(
        (states.first(), states.last()),
        (Some(&"refused"), Some(&"applied")),
        "{states:?}"
    );
}
