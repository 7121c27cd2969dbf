//! Any order of events, with kills, power cuts and damage in between.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Append(usize),
    Commit,
    Take(usize),
    Ack(usize),
    LostAck(usize),
    Return(usize),
    Kill,
    PowerCut(u64),
    Pass(u32),
    Full(bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0usize..3).prop_map(Op::Append),
        3 => Just(Op::Commit),
        4 => (100usize..3000).prop_map(Op::Take),
        3 => any::<usize>().prop_map(Op::Ack),
        1 => any::<usize>().prop_map(Op::LostAck),
        2 => any::<usize>().prop_map(Op::Return),
        1 => Just(Op::Kill),
        1 => any::<u64>().prop_map(Op::PowerCut),
        1 => (0u32..10_000).prop_map(Op::Pass),
        1 => any::<bool>().prop_map(Op::Full),
    ]
}

/// Makes of `now` what a power cut may have left: files as at the last sync, with a part of what was written since.
fn cut(synced: &Path, now: &Path, seed: u64) {
    for path in files(now, "") {
        let old = synced.join(path.file_name().unwrap());
        let (new, old) = (fs::read(&path).unwrap(), fs::read(&old).unwrap_or_default());
        if new.len() > old.len() && new.starts_with(&old) {
            let more = usize::try_from(seed % (new.len() - old.len() + 1) as u64).unwrap();
            fs::write(&path, &new[..old.len() + more]).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_stored_record_arrives_exactly_once(ops in prop::collection::vec(op(), 1..150)) {
        let folder = tempfile::tempdir().unwrap();
        let synced = tempfile::tempdir().unwrap();
        let clock = clock();
        let hook = || {
            let to = synced.path().to_owned();
            Hook(Box::new(move |from| {
                fs::remove_dir_all(&to).unwrap();
                copy(from, &to);
            }))
        };
        let open = || {
            let outbox = open(folder.path(), &clock);
            outbox.0.store.lock().unwrap().on_sync = Some(hook());
            fs::remove_dir_all(synced.path()).unwrap();
            copy(folder.path(), synced.path());
            outbox
        };
        let mut server = Server::default();
        let mut outbox = open();
        let (mut made, mut stored, mut batches) = (0, BTreeSet::new(), Vec::<Batch>::new());
        let mut fresh = BTreeSet::new();
        for op in ops {
            match op {
                Op::Append(priority) => {
                    outbox.append(Priority::ALL[priority], value(made));
                    fresh.insert(made);
                    made += 1;
                }
                Op::Commit => {
                    outbox.0.commit();
                    if outbox.stats().failing.is_none() {
                        stored.append(&mut fresh);
                    }
                }
                Op::Take(max) => batches.extend(outbox.next_batch(max)),
                Op::Ack(which) | Op::LostAck(which) | Op::Return(which) if !batches.is_empty() => {
                    let batch = batches.swap_remove(which % batches.len());
                    if !matches!(op, Op::Return(_)) {
                        server.take(&batch.records);
                    }
                    if matches!(op, Op::Ack(_)) { outbox.acked(batch) } else { outbox.returned(batch) }
                }
                Op::Kill | Op::PowerCut(_) => {
                    // Nothing in memory outlives this.
                    batches.clear();
                    drop(outbox);
                    if let Op::PowerCut(seed) = op {
                        cut(synced.path(), folder.path(), seed);
                    }
                    fresh.clear();
                    outbox = open();
                }
                Op::Pass(ms) => clock.advance(Duration::from_millis(ms.into())),
                Op::Full(full) => set_full(&outbox, full),
                Op::Ack(_) | Op::LostAck(_) | Op::Return(_) => {}
            }
        }
        batches.clear();
        set_full(&outbox, false);
        outbox.0.commit();
        stored.append(&mut fresh);
        prop_assert_eq!(outbox.stats().dropped + outbox.stats().damaged, 0);
        drain(&outbox, &mut server);
        prop_assert_eq!(outbox.stats().records, 0);
        let numbers = server.numbers();
        prop_assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "a record arrived under two ids");
        let arrived: BTreeSet<u64> = numbers.into_iter().collect();
        let missing: Vec<_> = stored.difference(&arrived).collect();
        prop_assert!(missing.is_empty(), "missing: {:?}", missing);
        server.check_times();
    }

    #[test]
    fn any_file_may_be_cut_or_damaged_anywhere(which in any::<usize>(), at in any::<usize>(), flip in any::<u8>(), records in 1u64..300) {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Server::default();
        let outbox = open(folder.path(), &clock());
        for n in 0..records {
            outbox.append(Priority::ALL[usize::try_from(n % 3).unwrap()], value(n));
        }
        outbox.0.commit();
        let batch = outbox.next_batch(3000).unwrap();
        server.take(&batch.records);
        outbox.acked(batch);
        outbox.0.commit();
        drop(outbox);
        let all = files(folder.path(), "");
        let path = &all[which % all.len()];
        let mut bytes = fs::read(path).unwrap();
        let at = at % bytes.len();
        if flip == 0 { bytes.truncate(at) } else { bytes[at] ^= flip }
        fs::write(path, bytes).unwrap();

        let outbox = open(folder.path(), &clock());
        let more = records + 1000;
        outbox.append(Priority::Event, value(more));
        outbox.0.commit();
        drain(&outbox, &mut server);
        let numbers = server.numbers();
        prop_assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "a record arrived under two ids");
        prop_assert!(numbers.contains(&more));
        let segment = path.to_str().unwrap().ends_with(".log");
        let limit = if segment && flip == 0 { records } else if segment { 1 } else { 0 };
        let missing = records + 1 - numbers.len() as u64;
        prop_assert!(missing <= limit, "{} missing after {}", missing, path.display());
        prop_assert_eq!(outbox.stats().records, 0);
    }

}

proptest! {
    // Each case syncs some hundred times.
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn drops_are_counted_exactly_even_if_the_power_goes_between(cut_at in 1usize..60) {
        let folder = tempfile::tempdir().unwrap();
        let snapshot = tempfile::tempdir().unwrap();
        let clock = clock();
        let outbox = open(folder.path(), &clock);
        let left = Arc::new(std::sync::Mutex::new(cut_at));
        let to = snapshot.path().to_owned();
        outbox.0.store.lock().unwrap().on_sync = Some(Hook(Box::new({
            let left = Arc::clone(&left);
            move |from| {
                let mut left = left.lock().unwrap();
                *left = left.saturating_sub(1);
                if *left == 1 {
                    fs::remove_dir_all(&to).unwrap();
                    copy(from, &to);
                }
            }
        })));
        for n in 0..1600 {
            outbox.append(Priority::Sample, value(n));
            if n % 40 == 39 {
                outbox.0.commit();
            }
        }
        drop(outbox);
        let outbox = open(snapshot.path(), &clock);
        let mut server = Server::default();
        drain(&outbox, &mut server);
        outbox.0.commit();
        drain(&outbox, &mut server);
        let numbers = server.numbers();
        let dropped = outbox.stats().dropped;
        // Samples are dropped oldest first, so as many are missing at the front as were counted.
        if let Some(first) = numbers.first() {
            prop_assert_eq!(*first, dropped);
            prop_assert_eq!(numbers.len() as u64, numbers.last().unwrap() + 1 - first);
        }
    }
}

/// What was true when a copy was made.
struct Moment {
    folder: tempfile::TempDir,
    /// Records whose commit had ended.
    stored: u64,
    /// Records that the server had.
    server: Server,
}

#[test]
fn the_power_may_go_at_every_sync() {
    let folder = tempfile::tempdir().unwrap();
    let clock = clock();
    let outbox = open(folder.path(), &clock);
    let known = Arc::new(std::sync::Mutex::new((0, Server::default())));
    let moments = Arc::new(std::sync::Mutex::new(Vec::new()));
    outbox.0.store.lock().unwrap().on_sync = Some(Hook(Box::new({
        let (known, moments) = (Arc::clone(&known), Arc::clone(&moments));
        move |from| {
            let known = known.lock().unwrap();
            let folder = tempfile::tempdir().unwrap();
            copy(from, folder.path());
            moments.lock().unwrap().push(Moment {
                folder,
                stored: known.0,
                server: known.1.clone(),
            });
        }
    })));
    for n in 0..120 {
        outbox.append(Priority::ALL[usize::try_from(n % 7 % 3).unwrap()], value(n));
        if n % 4 == 3 {
            outbox.0.commit();
            known.lock().unwrap().0 = n + 1;
        }
        if n % 11 == 0
            && let Some(batch) = outbox.next_batch(1500)
        {
            known.lock().unwrap().1.take(&batch.records);
            outbox.acked(batch);
        }
    }
    drop(outbox);
    let moments = std::mem::take(&mut *moments.lock().unwrap());
    assert!(moments.len() > 50, "{}", moments.len());
    for (number, moment) in moments.into_iter().enumerate() {
        for torn in [false, true] {
            let copied = tempfile::tempdir().unwrap();
            copy(moment.folder.path(), copied.path());
            if torn {
                // The disk had begun to write the next frame.
                let next = frame::seal(b"a record that never got whole, and is lost");
                for (at, path) in files(copied.path(), ".log").into_iter().enumerate() {
                    let bytes = [
                        fs::read(&path).unwrap(),
                        next[..(number + at) % next.len()].to_vec(),
                    ]
                    .concat();
                    fs::write(&path, bytes).unwrap();
                }
            }
            let mut server = moment.server.clone();
            let outbox = open(copied.path(), &clock);
            assert_eq!(outbox.stats().damaged, 0, "a torn end is no damage");
            outbox.append(Priority::Event, value(9999));
            outbox.0.commit();
            drain(&outbox, &mut server);
            server.check_times();
            let numbers = server.numbers();
            assert!(
                numbers.windows(2).all(|pair| pair[0] < pair[1]),
                "a record arrived under two ids"
            );
            assert!(
                (0..moment.stored).all(|n| numbers.binary_search(&n).is_ok()),
                "moment {number}: {numbers:?}"
            );
            assert_eq!(numbers.last(), Some(&9999));
        }
    }
}
