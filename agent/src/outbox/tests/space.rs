//! Little room: the budget, and a full disk.

use super::*;

#[test]
fn over_the_budget_samples_go_first_then_facts_and_the_loss_is_counted_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let clock = clock();
    let outbox = open(folder.path(), &clock);
    for n in 0..100 {
        outbox.append(Priority::Event, value(n));
        outbox.append(Priority::Fact, value(1000 + n));
    }
    for n in 2000..4000 {
        outbox.append(Priority::Sample, value(n));
        outbox.0.commit();
    }
    let stats = outbox.stats();
    assert!(stats.bytes <= small().budget, "{stats:?}");
    assert_eq!(stats.records + stats.dropped, 2200);
    assert_eq!(outbox.0.state().ledger.dropped, [0, 0, stats.dropped]);
    drop(outbox);

    let outbox = open(folder.path(), &clock);
    assert_eq!(outbox.stats().dropped, stats.dropped);
    let mut server = Server::default();
    drain(&outbox, &mut server);
    outbox.0.commit();
    drain(&outbox, &mut server);
    let numbers = server.numbers();
    assert_eq!(numbers.len() as u64, stats.records);
    assert!(
        numbers.iter().filter(|n| **n < 2000).count() == 200
            && numbers.contains(&3999)
            && !numbers.contains(&2000)
    );
    let told: Vec<_> = server
        .0
        .values()
        .filter_map(|record| record.values.get("outbox_dropped")?.as_u64())
        .collect();
    assert_eq!(told, [stats.dropped]);

    // Events alone: the oldest go, and neither fact nor sample gets in any more.
    for n in 10_000..13_000 {
        outbox.append(Priority::Event, value(n));
    }
    outbox.append(Priority::Sample, value(1));
    outbox.0.commit();
    let before = outbox.0.state().ledger.dropped;
    outbox.append(Priority::Sample, value(2));
    outbox.append(Priority::Event, value(13_000));
    outbox.0.commit();
    assert!(outbox.stats().bytes <= small().budget);
    assert!(before[0] > 0 && before[1] == 0, "{before:?}");
    let mut server = Server::default();
    drain(&outbox, &mut server);
    assert!(server.numbers().contains(&13_000));
}

#[test]
fn a_full_disk_loses_nothing_that_is_stored_and_new_records_are_sent_from_memory() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = open(folder.path(), &clock());
    (0..50).for_each(|n| outbox.append(Priority::Fact, value(n)));
    outbox.0.commit();
    set_full(&outbox, true);
    (50..60).for_each(|n| outbox.append(Priority::Fact, value(n)));
    outbox.0.commit();
    assert!(outbox.stats().failing.is_some());
    let mut server = Server::default();
    let batch = outbox.next_batch(60_000).unwrap();
    assert!(batch.records.iter().any(|record| record.values["n"] == 59));
    server.take(&batch.records);
    outbox.returned(batch);
    drain(&outbox, &mut server);
    assert_eq!(server.numbers(), (0..60).collect::<Vec<_>>());

    // Far more than memory takes: the oldest samples go, counted.
    outbox.append(Priority::Event, value(99));
    (100..6000).for_each(|n| outbox.append(Priority::Sample, value(n)));
    outbox.0.commit();
    let stats = outbox.stats();
    assert!(outbox.0.state().unstored <= state::UNSTORED && stats.dropped > 0);
    assert_eq!(stats.records + stats.dropped, 5901);
    set_full(&outbox, false);
    outbox.0.commit();
    assert_eq!(outbox.stats().failing, None);
    assert_eq!(outbox.0.state().unstored, 0);
    drain(&outbox, &mut server);
    outbox.0.commit();
    drain(&outbox, &mut server);
    assert!(server.numbers().contains(&99) && server.numbers().contains(&5999));
}

#[test]
fn a_disk_that_is_full_from_the_start_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    // Nothing can be made at these names.
    fs::create_dir_all(folder.path().join("ledger.new/x")).unwrap();
    let outbox = open(folder.path(), &clock());
    assert!(outbox.stats().failing.is_some());
    outbox.append(Priority::Event, value(7));
    outbox.0.commit();
    let mut server = Server::default();
    drain(&outbox, &mut server);
    assert_eq!(server.numbers(), [7]);
}
