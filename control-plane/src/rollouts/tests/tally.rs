//! What metrics say of rollouts.

use serde_json::json;

use super::super::tally::{Tally, tally};
use super::{Command, Site};

/// Those that are there at all.
fn some(counts: &[(&'static str, i64)]) -> Vec<(&'static str, i64)> {
    let there = counts.iter().filter(|(_, count)| *count > 0);
    there.copied().collect()
}

#[tokio::test]
async fn rollouts_are_counted_by_status_and_devices_of_running_ones_by_state() {
    let site = Site::new();
    site.devices(5, true).await;
    let count = async || -> Tally { site.store.read(tally).await.unwrap() };
    let empty = count().await;
    assert_eq!((empty.rollouts.len(), empty.devices.len()), (6, 15));
    assert_eq!(some(&empty.rollouts), []);

    site.create("2", json!({ "start": false })).await;
    let id = site.create("3", json!({})).await;
    site.arrive(&["d0", "d1", "d2"]).await;
    site.good("d0").await;
    let busy = count().await;
    assert_eq!(some(&busy.rollouts), [("draft", 1), ("running", 1)]);
    assert_eq!(some(&busy.devices), [("offered", 2), ("good", 1)]);

    site.steer(id, Command::Abort).await.unwrap();
    let over = count().await;
    assert_eq!(some(&over.rollouts), [("draft", 1), ("aborted", 1)]);
    assert_eq!(some(&over.devices), []);
}
