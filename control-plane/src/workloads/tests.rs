//! Plans over a database, with devices that only say what they say; time is the test's.

use cairn_wire::workload::Declared;
use serde_json::{Value, json};

use super::declare::Declaration;
use super::*;
use crate::desired;

const START: i64 = 1_800_000_000;

struct Site {
    _folder: tempfile::TempDir,
    store: Store,
    now: i64,
    /// Since when the server listens.
    started: i64,
}

fn declaration(name: &str, more: Value) -> Declaration {
    let mut body = json!({
        "owner": { "customer": "acme", "business": "vod" },
        "image": format!("x.y/app@sha256:{}", "a".repeat(64)),
        "place": { "on": "all" },
    });
    for (field, value) in more.as_object().unwrap() {
        body[field] = value.clone();
    }
    Declaration::read(name, &body).unwrap()
}

impl Site {
    /// With these devices, each of them `(id, group)` and connected.
    async fn new(devices: &'static [(&'static str, &'static str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cairn.db")).unwrap();
        let site = Self {
            _folder: folder,
            store,
            now: START,
            started: START,
        };
        site.change(move |tx| {
            for (id, group) in devices {
                tx.execute(
                    "INSERT INTO device (id, name, grp, created, online) VALUES (?1, ?1, ?2, 0, 1)",
                    [id, group],
                )?;
                for (key, value) in [("memory_bytes", 8_000_000_000_i64), ("processors", 4)] {
                    tx.execute(
                        "INSERT INTO attribute VALUES (?1, 'client', ?2, ?3, 0)",
                        (id, key, value.to_string()),
                    )?;
                }
            }
            Ok(())
        })
        .await;
        site
    }

    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> T {
        self.store.write(change).await.unwrap()
    }

    async fn set(&self, name: &str, more: Value) {
        let (declaration, now) = (declaration(name, more), self.now);
        let set = move |tx: &rusqlite::Transaction<'_>| declare::set(tx, &declaration, "olga", now);
        assert!(self.change(set).await.is_some());
    }

    /// Time passes, and a plan is carried out.
    async fn wait(&mut self, seconds: i64) {
        self.now += seconds;
        scheduler::round(&self.store, self.now, self.started)
            .await
            .unwrap();
    }

    /// The revision of a device's document, and the names in it.
    async fn document(&self, device: &'static str) -> (u64, Option<Vec<String>>) {
        let read = move |connection: &Connection| {
            let (declared, _) = Workloads::declared(connection, device)?;
            let name = |item: &Declared| match item {
                Declared::Usable(workload) => workload.name.to_string(),
                Declared::Unusable { reason, .. } => panic!("{reason}"),
            };
            let names = declared.map(|all| all.iter().map(name).collect());
            Ok::<_, StoreError>((desired::revision(connection, device)?, names))
        };
        self.store.read(read).await.unwrap()
    }

    async fn has(&self, device: &'static str) -> Vec<String> {
        self.document(device).await.1.unwrap_or_default()
    }

    async fn places(&self, workload: &'static str) -> Vec<view::PlaceView> {
        let read = move |connection: &Connection| view::places(connection, workload, "", 100);
        self.store.read(read).await.unwrap()
    }

    async fn missing(&self, workload: &'static str) -> Value {
        let read = move |connection: &Connection| view::show(connection, workload);
        self.store.read(read).await.unwrap().unwrap().missing
    }

    async fn offline(&self, device: &'static str) {
        let now = self.now;
        self.change(move |tx| {
            tx.execute(
                "UPDATE device SET online = 0, last_seen = ?2 WHERE id = ?1",
                (device, now),
            )
            .map_err(StoreError::from)
        })
        .await;
    }

    async fn sample(&self, device: &'static str, key: &'static str, value: Value) {
        let now = self.now;
        self.change(move |tx| {
            tx.execute(
                "INSERT INTO sample VALUES (?1, ?2, ?3, ?4)",
                (device, key, now * 1000, value.to_string()),
            )
            .map_err(StoreError::from)
        })
        .await;
    }
}

#[tokio::test]
async fn documents_change_for_those_they_mean_and_for_nobody_else() {
    let mut site = Site::new(&[("a", "fra"), ("b", "fra"), ("c", "ber")]).await;
    site.wait(1).await;
    assert_eq!(
        site.document("a").await,
        (0, None),
        "nobody has said a word of workloads"
    );

    site.set("web", json!({ "place": { "on": { "group": "fra" } } }))
        .await;
    site.wait(1).await;
    let (first, names) = site.document("a").await;
    assert_eq!((first > 0, names), (true, Some(vec!["web".to_owned()])));
    assert_eq!(site.has("b").await, ["web"]);
    assert_eq!(site.document("c").await, (0, None));

    // Another image: another revision for those that have it; the same again: none.
    let other = format!("x.y/app@sha256:{}", "b".repeat(64));
    let more = json!({ "place": { "on": { "group": "fra" } }, "image": other });
    site.set("web", more.clone()).await;
    let (second, _) = site.document("a").await;
    assert!(second > first);
    site.set("web", more).await;
    site.wait(10).await;
    assert_eq!(site.document("a").await.0, second);

    // It changes groups.
    site.change(|tx| Ok(tx.execute("UPDATE device SET grp = 'ber' WHERE id = 'a'", [])?))
        .await;
    site.wait(1).await;
    let (third, names) = site.document("a").await;
    assert!(third > second);
    assert_eq!(names, Some(vec![]), "an empty list: all of them go");
    assert_eq!(
        site.places("web").await[0].ended_because.as_deref(),
        Some("not-meant")
    );

    // Removed and declared anew before anybody has planned: it is another one.
    let before = site.document("b").await.0;
    assert!(site.change(|tx| declare::remove(tx, "web")).await);
    site.set("web", json!({ "place": { "on": { "group": "fra" } } }))
        .await;
    site.wait(1).await;
    assert!(site.document("b").await.0 > before);
    assert_eq!(site.has("b").await, ["web"]);

    assert!(site.change(|tx| declare::remove(tx, "web")).await);
    site.wait(1).await;
    assert_eq!(site.document("b").await.1, Some(vec![]));
    // What it was is forgotten in the end, that there was something isn't.
    site.wait(31 * 86_400).await;
    assert_eq!(site.places("web").await, []);
    assert_eq!(site.document("b").await.1, Some(vec![]));
}

#[tokio::test]
async fn a_copy_moves_when_its_device_is_gone_and_not_because_the_server_was_away() {
    let mut site = Site::new(&[("a", "g"), ("b", "g")]).await;
    site.set(
        "web",
        json!({ "place": { "on": "all", "copies": 1, "move_after": "10m" } }),
    )
    .await;
    site.wait(1).await;
    let first = site.places("web").await[0].device.clone();
    let (first, second) = if first == "a" { ("a", "b") } else { ("b", "a") };
    assert_eq!(site.document(second).await, (0, None));

    site.offline(first).await;
    site.wait(599).await;
    assert_eq!(site.has(first).await, ["web"]);
    // The server was away for an hour: it is as if the device had gone just now.
    site.now += 3600;
    site.started = site.now;
    site.wait(30).await;
    assert_eq!(site.has(first).await, ["web"]);
    site.wait(569).await;
    assert_eq!(site.has(first).await, ["web"]);
    site.wait(1).await;
    assert_eq!(
        (site.has(first).await, site.has(second).await),
        (vec![], vec!["web".to_owned()])
    );
    let left: Vec<_> = site
        .places("web")
        .await
        .into_iter()
        .filter_map(|place| Some((place.device, place.ended_because?)))
        .collect();
    assert_eq!(left, [(first.to_owned(), "gone".to_owned())]);

    // Nobody is left to take it: it stays, and is said to be missing.
    site.offline(second).await;
    site.wait(100_000).await;
    assert_eq!(site.has(second).await, ["web"]);
    assert_eq!(
        site.missing("web").await,
        json!({ "copies": 1, "because": { "gone": 1 } })
    );
}

#[tokio::test]
async fn a_copy_moves_from_where_it_fails_and_does_not_come_back_at_once() {
    let mut site = Site::new(&[("a", "g")]).await;
    let place = json!({ "on": "all", "copies": 1, "move_after": "10m" });
    site.set("web", json!({ "place": place })).await;
    site.wait(1).await;
    for state in ["pulling", "failed", "starting", "failed"] {
        site.wait(250).await;
        site.sample("a", "workload.web.state", json!(state)).await;
    }
    site.wait(200).await;
    assert_eq!(site.has("a").await, ["web"], "there is no other");
    assert_eq!(site.places("web").await[0].state.as_deref(), Some("failed"));
    site.change(|tx| {
        tx.execute(
            "INSERT INTO device (id, name, created, online) VALUES ('b', 'b', 0, 1)",
            [],
        )
        .map_err(StoreError::from)
    })
    .await;
    site.wait(1).await;
    assert_eq!(
        (site.has("a").await, site.has("b").await),
        (vec![], vec!["web".to_owned()])
    );

    // It fails there too: it doesn't go back to where it failed, unless it is another one.
    site.sample("b", "workload.web.state", json!("refused"))
        .await;
    site.wait(700).await;
    assert_eq!(site.has("b").await, ["web"]);
    let because = json!({ "copies": 1, "because": { "failed": 1 } });
    assert_eq!(site.missing("web").await, because);
    site.set("web", json!({ "place": place, "command": ["/other"] }))
        .await;
    site.wait(1).await;
    assert_eq!(
        (site.has("a").await, site.has("b").await),
        (vec!["web".to_owned()], vec![])
    );
}

#[tokio::test]
async fn a_drained_device_runs_nothing_and_room_and_lines_count() {
    let mut site = Site::new(&[("a", "g"), ("b", "g")]).await;
    site.set("each", json!({})).await;
    site.set(
        "big",
        json!({ "place": { "on": "all", "copies": 2 }, "limits": { "memory": 6_000_000_000_u64 } }),
    )
    .await;
    site.set(
        "bigger",
        json!({ "place": { "on": "all", "copies": 1 }, "limits": { "memory": 2_000_000_000_u64 } }),
    )
    .await;
    site.wait(1).await;
    assert_eq!(site.has("a").await, ["big", "each"]);
    // An eighth of the memory is the system's.
    assert_eq!(
        site.missing("bigger").await,
        json!({ "copies": 1, "because": { "room": 2 } })
    );
    let drained = crate::registry::Change {
        drained: Some(true),
        ..Default::default()
    };
    site.change(move |tx| crate::registry::set(tx, "a", &drained))
        .await;
    site.wait(1).await;
    assert_eq!(site.has("a").await, [""; 0]);
    assert_eq!(site.missing("each").await, Value::Null, "it was meant so");
    assert_eq!(
        site.missing("big").await["because"],
        json!({ "drained": 1 })
    );
    let back = crate::registry::Change {
        drained: Some(false),
        ..Default::default()
    };
    site.change(move |tx| crate::registry::set(tx, "a", &back))
        .await;
    site.wait(1).await;
    assert_eq!(site.has("a").await, ["big", "each"]);

    site.set("near", json!({ "place": { "on": "all", "copies": 1, "line": { "latency_ms": 20, "up_bps": 1e8 } } })).await;
    site.wait(1).await;
    assert_eq!(site.missing("near").await["because"], json!({ "line": 2 }));
    site.sample("b", "line.dsl.latency_ms", json!(5)).await;
    site.sample("b", "line.fibre.latency_ms", json!(12.5)).await;
    site.sample("b", "line.fibre.latency_ms.old", json!(1))
        .await;
    site.sample("b", "line.fibre.up_bps", json!(2e8)).await;
    site.wait(1).await;
    assert!(site.has("b").await.contains(&"near".to_owned()));
    // A line that gets worse drives nothing away.
    site.now += 60;
    site.sample("b", "line.fibre.latency_ms", json!(500)).await;
    site.wait(1).await;
    assert!(site.has("b").await.contains(&"near".to_owned()));
}

#[test]
fn what_cannot_be_declared_is_named() {
    let good = declaration("web", json!({}));
    assert_eq!(Declaration::read("web", &good.to_json()), Ok(good.clone()));
    let wrong = |field: &str, value: Value| {
        let mut body = good.to_json();
        body[field] = value;
        Declaration::read("web", &body).unwrap_err()
    };
    assert!(wrong("image", json!("nginx:latest")).contains("an image as"));
    assert!(wrong("name", json!("other")).starts_with("name: "));
    assert!(wrong("place", json!({})).starts_with("place: missing field `on`"));
    assert!(wrong("place", json!({ "on": "all", "copies": 0 })).starts_with("place.copies: "));
    assert!(wrong("imagee", json!(1)).contains("unknown field `imagee`"));
    assert!(wrong("limits", json!({ "memory": 1 })).starts_with("limits.memory: "));
    assert!(
        Declaration::read("Web", &good.to_json())
            .unwrap_err()
            .starts_with("name: ")
    );
    assert!(Declaration::read("web", &json!([])).is_err());
}
