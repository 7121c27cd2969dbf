//! Packed telemetry gives the same answers, wherever packing was cut off.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rusqlite::Connection;
use serde_json::{Value, json};

use super::*;
use crate::telemetry::windows;

const START: i64 = 20_000 * DAY;
const AGES: Ages = Ages {
    raw_days: 30,
    five_minute_days: 60,
    hour_days: 90,
};

/// Everything that can be asked about some keys.
#[derive(Debug, PartialEq)]
struct Answers {
    newest: Vec<Sample>,
    samples: Vec<Vec<Sample>>,
    windows: Vec<Vec<Window>>,
}

const KEYS: [&str; 4] = ["whole", "mixed", "text", "rare"];

fn ask(connection: &Connection) -> Answers {
    let mut answers = Answers {
        newest: connection.newest("x", "").unwrap(),
        samples: Vec::new(),
        windows: Vec::new(),
    };
    for key in KEYS {
        let span = START + DAY / 3..START + 3 * DAY + 12_345;
        for (time, limit) in [
            (i64::MIN..i64::MAX, 100_000),
            (i64::MIN..i64::MAX, 37),
            (span.clone(), 100_000),
            (span.clone(), 3),
        ] {
            answers
                .samples
                .push(connection.samples("x", key, time, limit).unwrap());
        }
        for step in [7_000, 60_000, 300_000, 900_000, 3_600_000, DAY, 7 * DAY] {
            for time in [0..i64::MAX, span.clone()] {
                answers
                    .windows
                    .push(connection.windows("x", key, time, step).unwrap());
            }
        }
    }
    answers
}

/// Records of about a day, some of them late and some again. Sums of these numbers are exact.
fn records(random: &mut StdRng, day: i64) -> Vec<Record> {
    let mut records = Vec::new();
    for n in 0..random.gen_range(50..400) {
        let late = match random.gen_range(0..20) {
            0 => random.gen_range(1..4) * DAY,
            _ => 0,
        };
        let ts = (START + day * DAY - late + random.gen_range(0..DAY) / 1000 * 1000).max(START);
        let text = ["a", "b"][random.gen_range(0..2)];
        let mut values = json!({
            "whole": random.gen_range(0..1000),
            "mixed": f64::from(random.gen_range(-40..40)) / 4.0,
            "text": text,
        });
        if random.gen_bool(0.3) {
            values["mixed"] = random.gen_range(-5..5).into();
        }
        if n % 97 == 0 {
            values["rare"] = Value::from(n);
        }
        let Value::Object(values) = values else {
            continue;
        };
        records.push(Record {
            ts: Some(ts),
            values,
            id: None,
        });
    }
    records
}

async fn take(store: &Store, records: Vec<Record>, received: i64) {
    store
        .write::<_, StoreError, _>(move |tx| {
            let mut intake = Intake::new(tx, "x", received)?;
            intake.records(records)?;
            intake.finish()
        })
        .await
        .unwrap();
}

/// A turn that is cut off after so many transactions.
async fn cut(store: &Store, now: i64, after: u32) {
    let mut changes = store.changes();
    let ended = async {
        for _ in 0..after {
            let _ = changes.changed().await;
        }
    };
    tokio::select! {
        biased;
        () = ended => {}
        done = tidy(store, &AGES, now) => { done.unwrap(); }
    }
}

async fn count(store: &Store, sql: &'static str) -> i64 {
    store
        .read::<_, StoreError, _>(move |c| Ok(c.query_row(sql, [], |row| row.get(0))?))
        .await
        .unwrap()
}

#[tokio::test]
async fn packing_changes_no_answer_wherever_it_is_cut_off() {
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        let ((_plain_dir, plain), (dir, mut packed)) = (open(), open());
        for day in 0..5 {
            let records = records(&mut random, day);
            let now = START + (day + 1) * DAY + random.gen_range(0..DAY / 2);
            take(&plain, records.clone(), now).await;
            take(&packed, records, now).await;
            cut(&packed, now, random.gen_range(0..4)).await;
            // Another process over the same file.
            packed = Store::open(&dir.path().join("cairn.db")).unwrap();
            let is = packed
                .read::<_, StoreError, _>(|c| Ok(ask(c)))
                .await
                .unwrap();
            let expected = plain
                .read::<_, StoreError, _>(|c| Ok(ask(c)))
                .await
                .unwrap();
            assert_eq!(is, expected, "seed {seed}, day {day}");
        }
        let now = START + 7 * DAY;
        tidy(&packed, &AGES, now).await.unwrap();
        let is = packed
            .read::<_, StoreError, _>(|c| Ok(ask(c)))
            .await
            .unwrap();
        let expected = plain
            .read::<_, StoreError, _>(|c| Ok(ask(c)))
            .await
            .unwrap();
        assert_eq!(is, expected, "seed {seed}");
        assert_eq!(
            count(&packed, "SELECT count(*) FROM sample").await,
            KEYS.len() as i64,
            "all but the newest of each key are packed"
        );
        assert_eq!(tidy(&packed, &AGES, now).await.unwrap(), Default::default());
    }
}

#[tokio::test]
async fn windows_outlive_samples_and_take_late_ones() {
    let (_dir, store) = open();
    let mut random = StdRng::seed_from_u64(1);
    let records = records(&mut random, 0);
    let mut numbers: Vec<(i64, f64)> = Vec::new();
    for record in &records {
        numbers.retain(|(ts, _)| Some(*ts) != record.ts);
        numbers.extend(record.ts.zip(record.values["whole"].as_f64()));
    }
    numbers.sort_by_key(|(ts, _)| *ts);
    let windows = |width| {
        let store = store.clone();
        async move {
            let read = move |c: &Connection| c.windows("x", "whole", 0..i64::MAX, width);
            store.read::<_, StoreError, _>(read).await.unwrap()
        }
    };
    take(&store, records, START + DAY).await;
    for days in [2, 29, 31] {
        tidy(&store, &AGES, START + days * DAY).await.unwrap();
        for width in windows::WIDTHS {
            let expected = windows::of(numbers.clone(), width);
            assert_eq!(windows(width).await, expected, "after {days} days");
        }
    }
    assert_eq!(count(&store, "SELECT count(*) FROM sample").await, 0);
    assert_eq!(count(&store, "SELECT count(*) FROM piece").await, 0);
    assert_eq!(windows(60_000).await, [], "finer than what is left");
    // A device that was away for a month; its record comes twice.
    let late = r#"{"ts":1728000000001,"values":{"whole":5000},"cairn":{"log":"ab","seq":1}}"#;
    let ts = 1_728_000_000_001;
    assert_eq!(START, ts - 1);
    for day in [32, 33] {
        assert_eq!(
            put(&store, "x", late, START + day * DAY).await.stored,
            u64::from(day == 32)
        );
        for _ in 0..2 {
            let hours = windows(windows::WIDTHS[1]).await;
            let first = numbers.iter().filter(|(ts, _)| *ts < START + 3_600_000);
            let (count, sum) = first.fold((1, 5000.0), |(n, sum), (_, it)| (n + 1, sum + it));
            assert_eq!(
                (hours[0].count, hours[0].sum, hours[0].max),
                (count, sum, 5000.0)
            );
            tidy(&store, &AGES, START + day * DAY).await.unwrap();
        }
    }
    tidy(&store, &AGES, START + 61 * DAY).await.unwrap();
    assert_eq!(windows(300_000).await, []);
    assert_eq!(windows(3_600_000).await.len(), 24);
    tidy(&store, &AGES, START + 91 * DAY).await.unwrap();
    assert_eq!(windows(3_600_000).await, []);
    assert_eq!(count(&store, "SELECT count(*) FROM window_day").await, 0);
}

#[tokio::test]
async fn a_sample_that_comes_while_its_day_is_packed_is_kept() {
    let (_dir, store) = open();
    let mut random = StdRng::seed_from_u64(2);
    take(&store, records(&mut random, 0), START + DAY).await;
    let writes = store.clone();
    let meanwhile = tokio::spawn(async move {
        for n in 0..200 {
            let ts = START + 40_000_000 + n;
            let change = move |tx: &rusqlite::Transaction<'_>| tx.put("x", "whole", ts, &n.into());
            writes.write::<_, StoreError, _>(change).await.unwrap();
        }
    });
    while !meanwhile.is_finished() {
        tidy(&store, &AGES, START + 2 * DAY).await.unwrap();
    }
    meanwhile.await.unwrap();
    let span = START + 40_000_000..START + 40_000_200;
    let read = move |c: &Connection| c.samples("x", "whole", span, 1000);
    let found = store.read::<_, StoreError, _>(read).await.unwrap();
    let values: Vec<_> = found
        .iter()
        .rev()
        .map(|sample| sample.value.clone())
        .collect();
    assert_eq!(values, (0..200).map(Value::from).collect::<Vec<_>>());
}

#[tokio::test]
async fn one_damaged_day_holds_up_no_other() {
    let (_dir, store) = open();
    let mut random = StdRng::seed_from_u64(3);
    take(&store, records(&mut random, 0), START + DAY).await;
    tidy(&store, &AGES, START + 2 * DAY).await.unwrap();
    store
        .write::<_, StoreError, _>(|tx| {
            tx.execute("UPDATE piece SET packed = x'01' WHERE key = 'mixed'", [])?;
            tx.put("x", "mixed", START + 5, &1.into())?;
            tx.put("x", "whole", START + 5, &1.into())
        })
        .await
        .unwrap();
    let done = tidy(&store, &AGES, START + 2 * DAY).await.unwrap();
    assert_eq!(done.packed, 1);
    let read = |c: &Connection| c.samples("x", "mixed", START..START + DAY, 10_000);
    let error = store.read::<_, StoreError, _>(read).await.unwrap_err();
    assert!(error.to_string().contains("packed telemetry"), "{error}");
}

#[tokio::test]
async fn more_than_a_piece_can_hold_stays_in_rows_and_holds_up_no_other_key() {
    let (_dir, store) = open();
    store
        .write::<_, StoreError, _>(|tx| {
            let long = Value::from("x".repeat(1 << 20));
            for n in 0..80 {
                tx.put("x", "long", START + n, &long)?;
                tx.put("x", "short", START + n, &n.into())?;
            }
            Ok(())
        })
        .await
        .unwrap();
    let rows = |key: &'static str| {
        let store = store.clone();
        let read = move |c: &Connection| {
            let sql = "SELECT count(*) FROM sample WHERE key = ?1";
            Ok(c.query_row(sql, [key], |row| row.get::<_, i64>(0))?)
        };
        async move { store.read::<_, StoreError, _>(read).await.unwrap() }
    };
    tidy(&store, &AGES, START + 2 * DAY).await.unwrap();
    assert_eq!(rows("short").await, 1);
    let left = rows("long").await;
    assert!((16..80).contains(&left), "{left}");
    let read = |c: &Connection| c.samples("x", "long", START + 40..START + 42, 10);
    let found = store.read::<_, StoreError, _>(read).await.unwrap();
    assert_eq!(found.len(), 2);
    // They go when they are too old, some in each turn.
    for _ in 0..8 {
        tidy(&store, &AGES, START + 91 * DAY).await.unwrap();
    }
    assert_eq!((rows("long").await, rows("short").await), (0, 0));
    assert_eq!(count(&store, "SELECT count(*) FROM piece").await, 0);
}
