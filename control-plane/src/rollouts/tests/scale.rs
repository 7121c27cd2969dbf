//! Starting touches no device, however many there are.

use std::time::Instant;

use serde_json::json;

use super::super::create::NewRollout;
use super::super::steer::Command;
use super::super::{create, steer};
use super::{Site, release};
use crate::web::ApiError;

const DEVICES: usize = 100_000;

/// Rows that a change writes.
async fn rows(
    site: &Site,
    change: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<i64, ApiError> + Send + 'static,
) -> (i64, u64) {
    site.store
        .write(move |tx| {
            let before = tx.total_changes();
            let id = change(tx)?;
            Ok::<_, ApiError>((id, tx.total_changes() - before))
        })
        .await
        .unwrap()
}

#[tokio::test]
async fn a_hundred_thousand_devices_start_with_a_handful_of_rows() {
    let mut site = Site::new();
    site.devices(DEVICES, true).await;
    let body = json!({ "release": "2", "select": "all", "canary": 10, "waves": ["10%"], "max_failures": 10 });
    let new: NewRollout = serde_json::from_value(body).unwrap();
    let now = site.now;
    let begun = Instant::now();
    let (id, made) = rows(&site, move |tx| {
        create::create(tx, &new, &release("2", 2), "tester", now)
    })
    .await;
    let (_, started) = rows(&site, move |tx| {
        steer::steer(tx, id, Command::Start, "tester", now).map(|()| id)
    })
    .await;
    println!(
        "create and start over {DEVICES} devices: {:?}",
        begun.elapsed()
    );
    assert!(made <= 4 && started <= 5, "{made} and {started} rows");
    let shown = site.show(id).await;
    assert_eq!(
        (shown.matched, shown.admitted, shown.targets),
        (100_000, 0, vec![10, 10_000, 100_000])
    );

    // The canary: its ten and no more.
    site.wait(1).await;
    assert_eq!(site.show(id).await.admitted, 10);
    for n in 0..DEVICES {
        let device = format!("d{n}");
        if site.show(id).await.good == 10 {
            break;
        }
        if site.desired(&device).await.release.is_some() {
            site.good(&device).await;
        }
    }
    // The next wave, in chunks; then one who aborts it, in a few statements.
    let begun = Instant::now();
    site.wait(1).await;
    assert_eq!(site.show(id).await.admitted, 10_000);
    println!("a wave of 9,990 devices: {:?}", begun.elapsed());
    let begun = Instant::now();
    site.steer(id, Command::Abort).await.unwrap();
    println!("abort of 9,990 devices: {:?}", begun.elapsed());
    let shown = site.show(id).await;
    assert_eq!((shown.counts["withdrawn"], shown.open), (9_990, 0));
    assert_eq!(
        site.sql("UPDATE desired SET told = told WHERE rollout IS NOT NULL")
            .await,
        10,
        "the good ones keep their order"
    );
}
