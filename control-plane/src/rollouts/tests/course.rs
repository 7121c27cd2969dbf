//! Waves, halt, pause, abort, deadlines and crashes, over the database.

use cairn_rollout::DeviceState;
use cairn_wire::UpdateState;
use cairn_wire::report::FailureKind;
use serde_json::json;

use super::super::steer::Command;
use super::Site;

#[tokio::test]
async fn a_rollout_goes_through_its_waves_and_finishes() {
    let mut site = Site::new();
    site.devices(10, true).await;
    let id = site
        .create(
            "2",
            json!({ "canary": 1, "waves": ["50%"], "soak": "5m", "when": "now", "forgive": true }),
        )
        .await;
    site.wait(0).await;
    let shown = site.show(id).await;
    assert_eq!(
        (shown.status, shown.admitted, shown.wave, shown.targets),
        ("running", 1, 1, vec![1, 5, 10])
    );
    let order = site.desired("d0").await.release.unwrap();
    assert_eq!(
        (order.version.as_str(), order.url.as_str(), order.forgive),
        ("2", "/releases/stable/2/", true)
    );
    assert_eq!(order.when, cairn_wire::When::Now);
    site.report("d0", UpdateState::Fetching, "1", None).await;
    site.good("d0").await;
    site.wait(1).await;
    site.wait(299).await;
    assert_eq!(site.show(id).await.admitted, 1);
    site.wait(1).await;
    assert_eq!(site.show(id).await.admitted, 5);
    for n in 1..5 {
        site.good(&format!("d{n}")).await;
    }
    site.wait(1).await;
    site.wait(300).await;
    for n in 5..10 {
        site.good(&format!("d{n}")).await;
    }
    site.wait(1).await;
    let shown = site.show(id).await;
    assert_eq!(
        (shown.status, shown.good, shown.failed, shown.open),
        ("finished", 10, 0, 0)
    );
    let states: Vec<_> = site
        .timeline("d0")
        .await
        .into_iter()
        .filter_map(|event| event.state)
        .collect();
    assert_eq!(states, ["offered", "fetching", "good"]);
}

#[tokio::test]
async fn a_device_gets_its_order_when_it_connects_and_one_that_is_away_doesnt() {
    let mut site = Site::new();
    site.devices(3, false).await;
    let id = site.create("2", json!({})).await;
    site.wait(1).await;
    assert_eq!(site.show(id).await.admitted, 0);
    assert_eq!(site.desired("d1").await, cairn_wire::Desired::default());
    assert_eq!(site.arrive(&["d1", "d1"]).await, 1);
    let first = site.desired("d1").await;
    assert!(first.release.is_some() && first.revision >= u64::try_from(site.now).unwrap());
    assert_eq!(
        site.arrive(&["d1", "nobody"]).await,
        0,
        "it has its slot, and the other one isn't known"
    );
    assert_eq!(site.desired("d1").await, first);
    // A device that enrols later isn't one of those that the waves were made for.
    site.now += 10;
    site.sql(
        "INSERT INTO device (id, name, created, online) VALUES ('late', 'late', 1760000005, 1)",
    )
    .await;
    site.sql("UPDATE device SET revoked = 1 WHERE id = 'd2'")
        .await;
    assert_eq!(site.arrive(&["late", "d2"]).await, 0);
    site.wait(60).await;
    assert_eq!(site.show(id).await.admitted, 1);
    // Its attribute says the same as its document.
    let told: String = site
        .store
        .read::<_, crate::store::StoreError, _>(|c| {
            Ok(c.query_row(
                "SELECT value FROM attribute WHERE device = 'd1' AND key = 'cairn_desired'",
                [],
                |row| row.get(0),
            )?)
        })
        .await
        .unwrap();
    assert_eq!(told, first.revision.to_string());
}

#[tokio::test]
async fn selectors_find_their_devices() {
    let mut site = Site::new();
    site.devices(6, true).await;
    site.sql("UPDATE device SET grp = 'lab' WHERE id IN ('d1', 'd2')")
        .await;
    site.sql("INSERT INTO device_tag VALUES ('d3', 'arm'), ('d3', 'new'), ('d4', 'arm')")
        .await;
    let cases = [
        (json!({ "group": "lab" }), vec!["d1", "d2"]),
        (json!({ "tags": ["arm", "new"] }), vec!["d3"]),
        (json!({ "devices": ["d0", "d5"] }), vec!["d0", "d5"]),
    ];
    for (select, expected) in cases {
        let id = site.create("2", json!({ "select": select })).await;
        site.wait(1).await;
        let shown = site.show(id).await;
        assert_eq!(
            (shown.matched, shown.admitted),
            (expected.len() as u64, expected.len() as u64),
            "{select}"
        );
        for device in expected {
            assert_eq!(site.device(id, device).await.state, "offered");
        }
    }
    let error = site
        .try_create("2", 2, json!({ "select": { "devices": ["d0", "dx"] } }))
        .await
        .unwrap_err();
    assert!(error.message.contains("\"dx\""), "{error}");
    let error = site
        .try_create("2", 2, json!({ "select": { "group": "nowhere" } }))
        .await
        .unwrap_err();
    assert_eq!((error.code, error.status.as_u16()), ("no-device", 409));
}

#[tokio::test]
async fn too_many_failures_halt_it_with_the_reason_in_front() {
    let mut site = Site::new();
    site.devices(5, true).await;
    let id = site.create("3", json!({ "max_failures": 2 })).await;
    site.wait(1).await;
    site.report("d2", UpdateState::Fetching, "1", None).await;
    site.report("d3", UpdateState::Armed, "1", None).await;
    let before = site.desired("d2").await.revision;
    site.fail("d0", FailureKind::FellBack, false).await;
    site.fail("d1", FailureKind::FellBack, false).await;
    let shown = site.show(id).await;
    assert_eq!(
        (shown.status, shown.reason.as_deref()),
        ("halted", Some("2 failed, the limit is 2"))
    );
    let failed = site.device(id, "d0").await;
    let reason = failed.reason.unwrap();
    assert_eq!(
        (reason.code.as_str(), reason.text.as_str()),
        ("fell-back", "the kernel panicked")
    );
    assert_eq!(
        (reason.evidence.as_deref(), failed.running.as_deref()),
        (Some("panic.txt"), Some("1"))
    );
    // Who hasn't armed has no order any more, and a higher revision says so; who has keeps it.
    let after = site.desired("d2").await;
    assert!(after.release.is_none() && after.revision > before);
    assert!(site.desired("d3").await.release.is_some());
    assert!(
        site.desired("d0").await.release.is_none(),
        "who has failed isn't asked again"
    );
    assert_eq!(site.device(id, "d2").await.state, "held");
    assert_eq!(
        site.timeline("d2").await.last().unwrap().text,
        "the rollout halted; the order was taken back"
    );
    site.wait(86_400).await;
    assert_eq!(site.arrive(&["d2"]).await, 0);
    // An operator resumes it: the same device gets an order of a new number.
    site.steer(id, Command::Resume).await.unwrap();
    site.wait(1).await;
    let order = site.desired("d2").await.release.unwrap();
    assert!(order.id.ends_with(".2"), "{}", order.id);
    assert_eq!(site.show(id).await.status, "running");
}

#[tokio::test]
async fn a_pause_and_an_abort() {
    let mut site = Site::new();
    site.devices(4, false).await;
    let id = site.create("2", json!({})).await;
    site.arrive(&["d0", "d1"]).await;
    site.steer(id, Command::Pause).await.unwrap();
    assert_eq!(site.arrive(&["d2"]).await, 0);
    assert!(
        site.desired("d0").await.release.is_some(),
        "who has begun goes on"
    );
    let error = site.steer(id, Command::Pause).await.unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        ("bad-state", "a rollout that is paused can't be paused")
    );
    site.steer(id, Command::Resume).await.unwrap();
    assert_eq!(site.arrive(&["d2"]).await, 1);
    site.report("d0", UpdateState::Armed, "1", None).await;
    let order = site.desired("d1").await.release.unwrap();
    site.steer(id, Command::Abort).await.unwrap();
    assert!(
        site.desired("d0").await.release.is_some(),
        "too late for this one"
    );
    assert!(
        site.desired("d1").await.release.is_none() && site.desired("d2").await.release.is_none()
    );
    assert_eq!(site.arrive(&["d3"]).await, 0);
    // A report that was on its way counts.
    let late = cairn_wire::UpdateReport {
        order: order.id,
        version: order.version,
        digest: order.digest,
        state: UpdateState::Good,
        running: Some("2".parse().unwrap()),
        failure: None,
        note: None,
    };
    site.send("d1", late.clone()).await;
    assert_eq!(site.device(id, "d1").await.state, "good");
    // But not for a device that it isn't from, and not twice.
    site.send("d3", late.clone()).await;
    site.send("d1", late).await;
    let shown = site.show(id).await;
    assert_eq!(
        (shown.status, shown.admitted, shown.good),
        ("aborted", 3, 1)
    );
    // The armed one never speaks again.
    site.wait(3 * 86_400).await;
    assert_eq!(site.device(id, "d0").await.state, "expired");
    assert_eq!(
        site.steer(99, Command::Abort)
            .await
            .unwrap_err()
            .status
            .as_u16(),
        404
    );
}

#[tokio::test]
async fn silent_devices_expire_and_the_rollout_ends() {
    let mut site = Site::new();
    site.devices(3, true).await;
    let id = site
        .create("2", json!({ "deadline": "10m", "fill": "1d" }))
        .await;
    site.wait(1).await;
    site.report("d1", UpdateState::Fetching, "1", None).await;
    site.good("d2").await;
    site.wait(599).await;
    assert_eq!(site.show(id).await.open, 2);
    site.wait(1).await;
    let shown = site.show(id).await;
    assert_eq!((shown.status, shown.failed, shown.good), ("finished", 2, 1));
    let reason = site.device(id, "d1").await.reason.unwrap();
    assert_eq!(
        (reason.code.as_str(), reason.text.as_str()),
        ("deadline", "fetching for 10m without going on")
    );
    assert_eq!(
        site.device(id, "d0").await.reason.unwrap().text,
        "no word from the device for 10m"
    );
    // Its order is still there, and its own word still counts.
    site.good("d0").await;
    let shown = site.show(id).await;
    assert_eq!((shown.failed, shown.good), (1, 2));
}

#[tokio::test]
async fn a_failure_that_may_pass_is_tried_again_under_a_new_order() {
    let mut site = Site::new();
    site.devices(1, true).await;
    let id = site
        .create(
            "2",
            json!({ "retries": 1, "retry_delay": 60, "max_failures": 1 }),
        )
        .await;
    site.wait(1).await;
    site.fail("d0", FailureKind::Fetch, true).await;
    assert_eq!(site.device(id, "d0").await.state, "retrying");
    let before = site.desired("d0").await;
    site.wait(60).await;
    let after = site.desired("d0").await;
    assert!(after.revision > before.revision);
    assert!(after.release.unwrap().id.ends_with(".2"));
    site.fail("d0", FailureKind::Fetch, true).await;
    assert_eq!(site.show(id).await.status, "halted");
    let states: Vec<_> = site
        .timeline("d0")
        .await
        .into_iter()
        .map(|event| (event.attempt, event.state))
        .collect();
    let expected = [
        (1, "offered"),
        (1, "retrying"),
        (2, "offered"),
        (2, "failed"),
    ];
    assert_eq!(
        states,
        expected.map(|(attempt, state)| (Some(attempt), Some(state.to_owned())))
    );
}

#[tokio::test]
async fn old_events_are_forgotten() {
    let mut site = Site::new();
    site.devices(1, true).await;
    site.create("2", json!({})).await;
    site.wait(1).await;
    site.good("d0").await;
    site.wait(1).await;
    assert_eq!(site.timeline("d0").await.len(), 2);
    site.wait(399 * 86_400).await;
    assert_eq!(site.timeline("d0").await.len(), 2);
    site.wait(2 * 86_400).await;
    assert_eq!(site.timeline("d0").await.len(), 0);
}

#[tokio::test]
async fn a_fleet_is_brought_through_with_a_crash_at_every_step() {
    const DEVICES: usize = 40;
    let mut site = Site::new();
    site.devices(DEVICES, true).await;
    let id = site
        .create(
            "2",
            json!({ "waves": ["5", "50%"], "soak": "1m", "retries": 1, "retry_delay": "1m" }),
        )
        .await;
    let mut revisions = vec![0; DEVICES];
    for round in 0.. {
        assert!(round < 400, "it doesn't end: {:?}", site.show(id).await);
        site = site.after_a_crash();
        site.wait(30).await;
        if site.show(id).await.status == "finished" {
            break;
        }
        for (n, revision) in revisions.iter_mut().enumerate() {
            let device = format!("d{n}");
            let desired = site.desired(&device).await;
            assert!(desired.revision >= *revision, "a revision never goes back");
            *revision = desired.revision;
            let Some(order) = desired.release else {
                continue;
            };
            let found = site.device(id, &device).await;
            match DeviceState::from_name(found.state).unwrap() {
                DeviceState::Offered => {
                    site.report(&device, UpdateState::Fetching, "1", None).await
                }
                // One in five loses its link once; one in ten panics.
                DeviceState::Fetching if n % 5 == 0 && order.id.ends_with(".1") => {
                    site.fail(&device, FailureKind::Fetch, true).await
                }
                DeviceState::Fetching => site.report(&device, UpdateState::Armed, "1", None).await,
                DeviceState::Armed if n % 10 == 3 => {
                    site.fail(&device, FailureKind::FellBack, false).await
                }
                DeviceState::Armed => site.report(&device, UpdateState::OnTrial, "2", None).await,
                DeviceState::OnTrial => site.good(&device).await,
                _ => {}
            }
        }
    }
    let shown = site.show(id).await;
    assert_eq!(
        (shown.admitted, shown.good, shown.failed, shown.open),
        (40, 36, 4, 0)
    );
    assert_eq!(site.device(id, "d5").await.attempt, 2);
}
