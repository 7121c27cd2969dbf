//! Each record counts once; what has no time is not lost; what is old goes.

mod tidy;

use cairn_wire::Record;

use super::windows::DAY;
use super::*;
use crate::config::Ages;
use crate::store::{Store, StoreError};

fn open() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("cairn.db")).unwrap();
    (dir, store)
}

async fn put(store: &Store, device: &'static str, payload: &'static str, received: i64) -> Counts {
    let records = Record::parse_all(payload.as_bytes()).unwrap();
    check(&records).unwrap();
    store
        .write::<_, StoreError, _>(move |tx| {
            let mut intake = Intake::new(tx, device, received)?;
            let counts = intake.records(records)?;
            intake.finish()?;
            Ok(counts)
        })
        .await
        .unwrap()
}

#[tokio::test]
async fn a_record_with_an_id_counts_once_and_for_its_own_device() {
    let (_dir, store) = open();
    let one = r#"{"ts":5,"values":{"a":1},"cairn":{"log":"ab","seq":1}}"#;
    let counts = |stored, duplicates| Counts {
        stored,
        duplicates,
        ahead: 0,
    };
    assert_eq!(put(&store, "x", one, 9).await, counts(1, 0));
    // The clock was set meanwhile; it is the same record.
    let later = r#"{"ts":7,"values":{"a":1},"cairn":{"log":"ab","seq":1}}"#;
    assert_eq!(put(&store, "x", later, 9).await, counts(0, 1));
    assert_eq!(put(&store, "y", one, 9).await, counts(1, 0));
    let other = r#"{"ts":7,"values":{"a":1},"cairn":{"log":"cd","seq":1}}"#;
    assert_eq!(put(&store, "x", other, 9).await, counts(1, 0));
    let found = store
        .read::<_, StoreError, _>(|c| c.samples("x", "a", 0..i64::MAX, 10))
        .await
        .unwrap();
    assert_eq!(
        found.iter().map(|sample| sample.ts).collect::<Vec<_>>(),
        [7, 5]
    );
}

#[tokio::test]
async fn values_without_a_time_keep_their_order_and_their_number() {
    let (_dir, store) = open();
    put(&store, "x", r#"[{"a":1},{"a":2},{"a":3,"b":1}]"#, 100).await;
    // The clock of the server went back.
    put(&store, "x", r#"{"a":4}"#, 100).await;
    let found = store
        .read::<_, StoreError, _>(|c| c.samples("x", "a", 0..i64::MAX, 10))
        .await
        .unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|sample| (sample.ts, sample.value.clone()))
        .collect();
    assert_eq!(
        found,
        [
            (103, 4.into()),
            (102, 3.into()),
            (101, 2.into()),
            (100, 1.into())
        ]
    );
    let newest = store
        .read::<_, StoreError, _>(|c| c.newest("x", ""))
        .await
        .unwrap();
    let newest: Vec<_> = newest
        .iter()
        .map(|sample| (sample.key.as_str(), sample.ts))
        .collect();
    assert_eq!(newest, [("a", 103), ("b", 100)]);
}

#[tokio::test]
async fn the_same_key_and_time_is_one_sample() {
    let (_dir, store) = open();
    put(&store, "x", r#"{"ts":5,"values":{"a":1}}"#, 9).await;
    put(&store, "x", r#"{"ts":5,"values":{"a":2}}"#, 9).await;
    let found = store
        .read::<_, StoreError, _>(|c| c.samples("x", "a", 0..i64::MAX, 10))
        .await
        .unwrap();
    assert_eq!(
        found,
        [Sample {
            key: "a".into(),
            ts: 5,
            value: 2.into()
        }]
    );
}

async fn times(store: &Store, key: &'static str) -> Vec<(i64, serde_json::Value)> {
    let found = store
        .read::<_, StoreError, _>(move |c| c.samples("x", key, 0..i64::MAX, 10))
        .await
        .unwrap();
    found.into_iter().map(|s| (s.ts, s.value)).collect()
}

#[tokio::test]
async fn a_time_far_ahead_is_the_servers_and_a_record_still_counts_once() {
    let (_dir, store) = open();
    let counts = |stored, duplicates, ahead| Counts {
        stored,
        duplicates,
        ahead,
    };
    // A little ahead is what clocks are.
    let near = r#"{"ts":600100,"values":{"near":1}}"#;
    assert_eq!(put(&store, "x", near, 100).await, counts(1, 0, 0));
    assert_eq!(times(&store, "near").await, [(600_100, 1.into())]);
    // One with an id, and the same again once the clock was set.
    let far = r#"{"ts":600101,"values":{"a":1},"cairn":{"log":"ab","seq":1}}"#;
    assert_eq!(put(&store, "x", far, 100).await, counts(1, 0, 1));
    assert_eq!(put(&store, "x", far, 200).await, counts(0, 1, 0));
    assert_eq!(put(&store, "x", far, 900_000).await, counts(0, 1, 0));
    assert_eq!(times(&store, "a").await, [(100, 1.into())]);
    // Without an id it is known by its key and its own time.
    let far = r#"[{"ts":9000000001,"values":{"b":1}},{"ts":9000000002,"values":{"b":2}}]"#;
    assert_eq!(put(&store, "x", far, 100).await, counts(2, 0, 2));
    assert_eq!(put(&store, "x", far, 200).await, counts(0, 2, 0));
    let more = r#"{"ts":9000000002,"values":{"b":2,"c":3}}"#;
    assert_eq!(put(&store, "x", more, 300).await, counts(1, 0, 1));
    assert_eq!(times(&store, "b").await, [(101, 2.into()), (100, 1.into())]);
    assert_eq!(times(&store, "c").await, [(300, 3.into())]);
    // A right clock's value is the newest, and all of them grow old.
    put(&store, "x", r#"{"ts":500,"values":{"b":4}}"#, 500).await;
    assert_eq!(times(&store, "b").await[0], (500, 4.into()));
    let ages = Ages {
        raw_days: 1,
        five_minute_days: 1,
        hour_days: 1,
    };
    tidy(&store, &ages, 3 * DAY).await.unwrap();
    for key in ["near", "a", "b", "c"] {
        assert_eq!(times(&store, key).await, [], "{key}");
    }
}

#[test]
fn what_the_database_would_choke_on_is_refused() {
    let record = |payload: &str| Record::parse_all(payload.as_bytes()).unwrap();
    assert!(check(&record(r#"{"ts":-1,"values":{"a":1}}"#)).is_err());
    assert!(check(&record(r#"{"ts":9223372036854775807,"values":{"a":1}}"#)).is_err());
    assert!(check(&record(r#"{"":1}"#)).is_err());
    assert!(
        check(&record(
            r#"{"values":{},"cairn":{"log":"a","seq":18446744073709551615}}"#
        ))
        .is_err()
    );
}
