//! One rollout owns a device at a time.

use cairn_wire::UpdateState;
use cairn_wire::report::FailureKind;
use serde_json::json;

use super::super::steer::Command;
use super::Site;

#[tokio::test]
async fn a_newer_rollout_waits_until_the_older_one_is_done_with_the_device() {
    let mut site = Site::new();
    site.devices(2, true).await;
    let older = site.create("2", json!({})).await;
    site.wait(1).await;
    let newer = site.create("3", json!({})).await;
    site.wait(1).await;
    assert_eq!(
        site.show(newer).await.admitted,
        0,
        "both devices are the older one's"
    );
    // No need to wait for a round: its last word to the one opens it for the other.
    site.good("d0").await;
    assert_eq!(site.device(newer, "d0").await.state, "offered");
    assert_eq!(
        site.desired("d0").await.release.unwrap().version.as_str(),
        "3"
    );
    assert_eq!(
        site.desired("d1").await.release.unwrap().version.as_str(),
        "2"
    );
    // The older one is called off: its orders go, not the newer one's.
    site.steer(older, Command::Abort).await.unwrap();
    assert_eq!(
        site.desired("d0").await.release.unwrap().version.as_str(),
        "3"
    );
    site.wait(10).await;
    assert_eq!(
        site.desired("d1").await.release.unwrap().version.as_str(),
        "3"
    );
}

#[tokio::test]
async fn an_older_rollout_never_takes_a_device_back() {
    let mut site = Site::new();
    site.devices(3, false).await;
    let older = site.create("2", json!({})).await;
    site.arrive(&["d0"]).await;
    let newer = site.create("3", json!({})).await;
    // Both would have it: the newest release wins, and the older rollout says why it hasn't it.
    site.arrive(&["d1"]).await;
    assert_eq!(
        site.desired("d1").await.release.unwrap().version.as_str(),
        "3"
    );
    assert_eq!(site.device(older, "d1").await.state, "superseded");
    site.good("d1").await;
    site.arrive(&["d1"]).await;
    assert_eq!(
        site.desired("d1").await.release.unwrap().version.as_str(),
        "3"
    );
    // It isn't waited for: with the last one it ends.
    site.good("d0").await;
    site.arrive(&["d2"]).await;
    site.wait(1).await;
    let shown = site.show(older).await;
    assert_eq!(
        (shown.status, shown.good, shown.counts["superseded"]),
        ("finished", 1, 2)
    );
    assert_eq!(site.show(newer).await.admitted, 3);
}

#[tokio::test]
async fn a_newer_rollout_takes_what_a_halted_one_holds() {
    let mut site = Site::new();
    site.devices(3, true).await;
    let broken = site.create("3", json!({ "max_failures": 1 })).await;
    site.wait(1).await;
    site.report("d1", UpdateState::Armed, "1", None).await;
    site.fail("d0", FailureKind::FellBack, false).await;
    assert_eq!(site.show(broken).await.status, "halted");
    let mended = site.create("4", json!({})).await;
    site.wait(1).await;
    assert_eq!(site.device(broken, "d2").await.state, "superseded");
    assert_eq!(site.device(mended, "d2").await.state, "offered");
    assert_eq!(site.device(mended, "d0").await.state, "offered");
    assert_eq!(
        site.show(mended).await.admitted,
        2,
        "the armed one is still the other's"
    );
    // Going on with the old one gives the device no second owner.
    site.steer(broken, Command::Resume).await.unwrap();
    site.wait(20).await;
    assert_eq!(
        site.desired("d2").await.release.unwrap().version.as_str(),
        "4"
    );
    let open: i64 = site
        .store
        .read::<_, crate::store::StoreError, _>(|c| {
            Ok(c.query_row("SELECT max(n) FROM (SELECT count(*) AS n FROM assignment WHERE open GROUP BY device)", [], |row| row.get(0))?)
        })
        .await
        .unwrap();
    assert_eq!(open, 1);
}

#[tokio::test]
async fn a_late_word_to_an_older_rollout_does_not_reopen_it() {
    let mut site = Site::new();
    site.devices(1, true).await;
    let older = site
        .create("2", json!({ "deadline": "1m", "canary": 1, "soak": "1d" }))
        .await;
    site.wait(1).await;
    let order = site.desired("d0").await.release.unwrap();
    site.wait(60).await;
    assert_eq!(site.device(older, "d0").await.state, "expired");
    let newer = site.create("3", json!({})).await;
    site.wait(1).await;
    assert_eq!(site.device(newer, "d0").await.state, "offered");
    let late = cairn_wire::UpdateReport {
        order: order.id,
        version: order.version,
        digest: order.digest,
        state: UpdateState::Fetching,
        running: None,
        failure: None,
        note: None,
    };
    site.send("d0", late).await;
    assert_eq!(site.device(older, "d0").await.state, "expired");
    assert_eq!(
        site.desired("d0").await.release.unwrap().version.as_str(),
        "3"
    );
}

#[tokio::test]
async fn what_an_aborted_newer_rollout_gives_back_an_older_one_may_have() {
    let mut site = Site::new();
    site.devices(1, false).await;
    site.create("2", json!({ "window": ["00:00-00:01"] })).await;
    let newer = site.create("3", json!({})).await;
    site.arrive(&["d0"]).await;
    site.steer(newer, Command::Abort).await.unwrap();
    site.now = site.now / 86_400 * 86_400 + 86_400;
    site.arrive(&["d0"]).await;
    let order = site.desired("d0").await.release.unwrap();
    assert_eq!(order.version.as_str(), "2");
    site.wait(1).await;
}
