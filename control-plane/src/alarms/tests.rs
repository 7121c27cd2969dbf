//! Alarms over the database, with a clock that the tests move.

use cairn_wire::Record;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{manage, rules, timer, view};
use crate::registry;
use crate::store::{Store, StoreError};
use crate::telemetry::Intake;
use crate::web::ApiError;

/// A moment that is after everything that the database's own clock could say.
const START: i64 = 4_000_000_000_000;

struct World {
    _folder: tempfile::TempDir,
    store: Store,
    now: i64,
}

impl World {
    async fn new(templates: &[Value]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cairn.db")).unwrap();
        let world = Self {
            _folder: folder,
            store,
            now: START,
        };
        let templates = templates.to_vec();
        world
            .write(move |tx| {
                tx.execute_batch(
                    "INSERT INTO device (id, name, grp, created) VALUES ('a', 'Ada', 'g', 1), ('b', 'Bob', 'h', 1)",
                )?;
                for (name, supplier, severity) in [
                    ("ops", None, "info"),
                    ("acme", Some("acme"), "info"),
                    ("pager", None, "critical"),
                ] {
                    let channel = json!({ "name": name, "supplier": supplier, "severity": severity,
                                          "to": { "webhook": { "url": "http://127.0.0.1:9/" } } });
                    manage::put_channel(tx, "ada", name, channel)?;
                }
                for template in templates {
                    let template = serde_json::from_value(template).unwrap();
                    manage::put_template(tx, "ada", &template)?;
                }
                Ok(())
            })
            .await;
        world
    }

    async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T, ApiError> + Send + 'static,
    ) -> T {
        self.store.write(change).await.unwrap()
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> T {
        self.store
            .read::<_, StoreError, _>(move |connection| Ok(query(connection)?))
            .await
            .unwrap()
    }

    /// A device sends this.
    async fn send(&self, device: &'static str, payload: Value) {
        let (now, records) = (
            self.now,
            Record::parse_all(payload.to_string().as_bytes()).unwrap(),
        );
        self.write(move |tx| {
            let mut intake = Intake::new(tx, device, now)?;
            intake.records(records)?;
            Ok(intake.finish()?)
        })
        .await;
    }

    /// Time passes, and does what it does.
    async fn wait(&mut self, seconds: i64) {
        self.now += seconds * 1000;
        timer::round(&self.store, self.now, START).await.unwrap();
    }

    /// `instance life status`, and `channel notice` of each delivery, by alarm.
    async fn alarms(&self) -> Vec<(String, Vec<String>)> {
        self.read(|connection| {
            let mut alarms = connection.prepare(
                "SELECT id, device || ' ' || instance || ' ' || status FROM alarm ORDER BY id",
            )?;
            let mut told = connection.prepare(
                "SELECT channel || ' ' || notice FROM alarm_delivery WHERE alarm = ?1 ORDER BY id",
            )?;
            let rows = alarms.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)))?;
            rows.map(|row| {
                let (id, text) = row?;
                let told = told.query_map([id], |row| row.get(0))?;
                Ok((text, told.collect::<rusqlite::Result<_>>()?))
            })
            .collect()
        })
        .await
    }

    async fn is(&self, expected: &[(&str, &[&str])]) {
        let expected: Vec<(String, Vec<String>)> = expected
            .iter()
            .map(|(text, told)| {
                let told = told.iter().map(|text| (*text).to_owned()).collect();
                ((*text).to_owned(), told)
            })
            .collect();
        assert_eq!(self.alarms().await, expected);
    }
}

fn storage() -> Value {
    json!({ "name": "storage", "resource": "storage-use", "key": "disk.*.used_percent", "severity": "warning",
            "when": { "above": { "limit": 90, "clear": 85 } }, "for": "60s" })
}

#[tokio::test]
async fn a_sample_that_crosses_fires_in_time_and_each_notice_comes_once() {
    let mut world = World::new(&[storage()]).await;
    world
        .send(
            "a",
            json!({ "disk./.used_percent": 95, "disk./var.used_percent": 50 }),
        )
        .await;
    world.is(&[("a / pending", &[])]).await;
    world.wait(59).await;
    world.is(&[("a / pending", &[])]).await;
    world.wait(1).await;
    world.is(&[("a / firing", &["ops fired"])]).await;
    world.send("a", json!({ "disk./.used_percent": 88 })).await;
    world.send("a", json!({ "disk./.used_percent": 85 })).await;
    world
        .is(&[("a / resolved", &["ops fired", "ops resolved"])])
        .await;
    world.send("a", json!({ "disk./.used_percent": 80 })).await;
    world.wait(1000).await;
    world
        .is(&[("a / resolved", &["ops fired", "ops resolved"])])
        .await;
    world.send("a", json!({ "disk./.used_percent": 99 })).await;
    world
        .is(&[
            ("a / resolved", &["ops fired", "ops resolved"]),
            ("a / pending", &[]),
        ])
        .await;
    world.send("a", json!({ "disk./.used_percent": 10 })).await;
    world
        .is(&[("a / resolved", &["ops fired", "ops resolved"])])
        .await;
}

#[tokio::test]
async fn late_and_double_samples_change_nothing() {
    let mut template = storage();
    template["for"] = json!("0s");
    let mut world = World::new(&[template]).await;
    let at = |ts: i64, value: i64| json!({ "ts": START + ts, "values": { "disk./.used_percent": value } });
    world.send("a", at(5000, 50)).await;
    world.send("a", at(3000, 95)).await;
    world.is(&[]).await;
    // A backlog in one message is judged in its order.
    world.now += 20_000;
    world
        .send("a", json!([at(6000, 95), at(7000, 50), at(8000, 96)]))
        .await;
    let both: [(&str, &[&str]); 2] = [
        ("a / resolved", &["ops fired", "ops resolved"]),
        ("a / firing", &["ops fired"]),
    ];
    world.is(&both).await;
    world
        .send("a", json!([at(6000, 95), at(7000, 50), at(8000, 96)]))
        .await;
    world.send("a", at(4000, 50)).await;
    world.is(&both).await;
    world.wait(3600).await;
    world.is(&both).await;
}

#[tokio::test]
async fn a_device_that_does_not_come_is_offline_and_the_servers_own_absence_does_not_count() {
    let offline = json!({ "name": "off", "resource": "device-state", "when": "offline", "for": "5m", "severity": "warning" });
    let mut world = World::new(&[offline]).await;
    let online = |tx: &rusqlite::Transaction<'_>| -> Result<(), ApiError> {
        tx.execute("UPDATE device SET online = 1 WHERE id = 'a'", [])?;
        Ok(())
    };
    world.write(online).await;
    world.wait(299).await;
    world.is(&[]).await;
    world.wait(1).await;
    world.is(&[("b  firing", &["ops fired"])]).await;
    world.wait(4000).await;
    world.is(&[("b  firing", &["ops fired"])]).await;
    world.write(|tx| Ok(registry::seen(tx, "b", true)?)).await;
    world
        .is(&[("b  resolved", &["ops fired", "ops resolved"])])
        .await;
    // One that is made later is watched too.
    world
        .write(|tx| {
            tx.execute(
                "INSERT INTO device (id, name, created) VALUES ('c', 'C', 1)",
                [],
            )?;
            Ok(())
        })
        .await;
    // One that was shut out isn't missed.
    world
        .write(|tx| {
            tx.execute("UPDATE device SET online = 0 WHERE id = 'b'", [])?;
            Ok(())
        })
        .await;
    world.wait(700).await;
    world.write(|tx| Ok(registry::revoke(tx, "b")?)).await;
    world.wait(700).await;
    let b: Vec<_> = world
        .alarms()
        .await
        .into_iter()
        .filter(|(text, _)| text.starts_with("b  resolved"))
        .collect();
    assert_eq!(b.len(), 2, "{b:?}");
    let watched = world
        .read(|c| {
            c.query_row(
                "SELECT count(*) FROM alarm_track WHERE device = 'c'",
                [],
                |row| row.get::<_, i64>(0),
            )
        })
        .await;
    assert_eq!(watched, 1);
}

#[tokio::test]
async fn absence_of_data_is_a_condition() {
    let absent = json!({ "name": "dumb", "resource": "other", "key": "load_1m", "when": "absent", "for": "60s", "severity": "info" });
    let mut world = World::new(&[absent]).await;
    world.send("a", json!({ "load_1m": 1 })).await;
    world.wait(30).await;
    world.send("a", json!({ "load_1m": 1 })).await;
    world.wait(30).await;
    world.is(&[]).await;
    world.wait(30).await;
    world.is(&[("a  firing", &["ops fired"])]).await;
    world.send("a", json!({ "load_1m": 1 })).await;
    world
        .is(&[("a  resolved", &["ops fired", "ops resolved"])])
        .await;
    world.wait(61).await;
    assert_eq!(world.alarms().await.len(), 2, "it waits again");
}

#[tokio::test]
async fn suppliers_hear_of_their_devices_and_an_escalation_of_what_nobody_looks_at() {
    let mut template = storage();
    template["for"] = json!("0s");
    template["escalate"] = json!([{ "after": "10m", "severity": "critical" }]);
    let mut world = World::new(&[template]).await;
    let give = registry::Change {
        supplier: Some(Some("acme".into())),
        ..registry::Change::default()
    };
    world
        .write(move |tx| Ok(registry::set(tx, "a", &give)?))
        .await;
    world.send("a", json!({ "disk./.used_percent": 95 })).await;
    world.send("b", json!({ "disk./.used_percent": 95 })).await;
    world
        .is(&[
            ("a / firing", &["acme fired", "ops fired"]),
            ("b / firing", &["ops fired"]),
        ])
        .await;
    // The supplier's people see theirs, and nothing else.
    let seen = world
        .store
        .read(|c| {
            let wanted = view::Wanted {
                supplier: Some("acme".into()),
                limit: 10,
                ..Default::default()
            };
            let own = view::list(c, &wanted)?;
            let other = view::show(c, own[0].id + 1, Some("acme"))?;
            let details = view::show(c, own[0].id, Some("acme"))?.unwrap();
            Ok::<_, StoreError>((own.len(), other.is_none(), details.deliveries.len()))
        })
        .await
        .unwrap();
    assert_eq!(seen, (1, true, 1));
    let refused = world
        .store
        .write(|tx| manage::acknowledge(tx, "eve", 2, Some("acme")))
        .await;
    assert_eq!(refused.unwrap_err().status, 404);
    world
        .write(|tx| manage::acknowledge(tx, "eve", 1, Some("acme")))
        .await;
    world.now = super::now_ms().max(world.now);
    world.wait(600).await;
    world
        .is(&[
            ("a / acknowledged", &["acme fired", "ops fired"]),
            (
                "b / firing",
                &["ops fired", "ops escalated-1", "pager escalated-1"],
            ),
        ])
        .await;
    world.send("b", json!({ "disk./.used_percent": 5 })).await;
    let told = world.alarms().await.remove(1).1;
    assert_eq!(
        told[3..],
        ["ops resolved", "pager resolved"],
        "who was told that it fires"
    );
}

#[tokio::test]
async fn a_silence_holds_back_the_notice_and_a_changed_template_withdraws() {
    let mut template = storage();
    template["for"] = json!("0s");
    let mut world = World::new(&[template.clone()]).await;
    let silence = serde_json::from_value(
        json!({ "select": { "group": "g" }, "from": 0, "until": START / 1000 + 100 }),
    )
    .unwrap();
    world
        .write(move |tx| manage::add_silence(tx, "ada", &silence, "work"))
        .await;
    world.send("a", json!({ "disk./.used_percent": 95 })).await;
    world.send("b", json!({ "disk./.used_percent": 95 })).await;
    world
        .is(&[("a / firing", &[]), ("b / firing", &["ops fired"])])
        .await;
    world.wait(100).await;
    world
        .is(&[
            ("a / firing", &["ops fired"]),
            ("b / firing", &["ops fired"]),
        ])
        .await;
    template["when"] = json!({ "above": { "limit": 99 } });
    let changed = serde_json::from_value(template).unwrap();
    world
        .write(move |tx| manage::put_template(tx, "ada", &changed))
        .await;
    world
        .is(&[
            ("a / resolved", &["ops fired"]),
            ("b / resolved", &["ops fired"]),
        ])
        .await;
    world.send("a", json!({ "disk./.used_percent": 100 })).await;
    assert_eq!(world.alarms().await.len(), 3);
}

#[tokio::test]
async fn who_reads_the_stream_hears_that_a_template_was_withdrawn() {
    let mut template = storage();
    template["for"] = json!("0s");
    let world = World::new(&[template]).await;
    for device in ["a", "b"] {
        world
            .send(device, json!({ "disk./.used_percent": 95 }))
            .await;
    }
    world
        .write(|tx| Ok(manage::remove_template(tx, "ada", "storage")?))
        .await;
    let told = world
        .read(|c| {
            let sql =
                "SELECT device FROM stream_block WHERE kind = 'alarm' ORDER BY first DESC LIMIT 2";
            let mut query = c.prepare(sql)?;
            let devices = query.query_map([], |row| row.get(0))?;
            devices.collect::<rusqlite::Result<Vec<String>>>()
        })
        .await;
    assert_eq!(told, ["b", "a"]);
    let withdrawn = "SELECT count(*) FROM alarm_event WHERE kind = 'withdrawn'";
    let withdrawn = world.read(move |c| c.query_row(withdrawn, [], |row| row.get::<_, i64>(0)));
    assert_eq!(withdrawn.await, 2);
    let states = "SELECT group_concat(state || ' ' || reason) FROM alarm_delivery";
    let states = world.read(move |c| c.query_row(states, [], |row| row.get::<_, String>(0)));
    assert_eq!(
        states.await,
        "failed the alarm was withdrawn,failed the alarm was withdrawn"
    );
}

#[tokio::test]
async fn a_channel_that_a_template_names_is_there_and_stays() {
    let world = World::new(&[]).await;
    let naming = |channel: &str| {
        let mut template = storage();
        template["escalate"] = json!([{ "after": "5m", "channels": [channel] }]);
        serde_json::from_value(template).unwrap()
    };
    // A supplier's channel hears of all of the supplier's alarms, and isn't the operator's to name.
    for unknown in ["opps", "acme"] {
        let template = naming(unknown);
        let refused = world
            .store
            .write::<_, ApiError, _>(move |tx| manage::put_template(tx, "ada", &template));
        let error = refused.await.unwrap_err().to_string();
        assert!(error.contains(&format!("{unknown:?}")), "{error}");
    }
    let template = naming("pager");
    world
        .write(move |tx| manage::put_template(tx, "ada", &template))
        .await;
    let remove = || {
        world
            .store
            .write::<_, ApiError, _>(|tx| manage::remove_channel(tx, "ada", "pager"))
    };
    let error = remove().await.unwrap_err().to_string();
    assert!(error.ends_with(": storage"), "{error}");
    world
        .write(|tx| Ok(manage::remove_template(tx, "ada", "storage")?))
        .await;
    assert!(remove().await.unwrap());
}

#[tokio::test]
async fn a_template_that_changes_is_looked_at_anew() {
    let mut offline = json!({ "name": "off", "resource": "device-state", "when": "offline", "for": "30d", "severity": "warning" });
    let mut world = World::new(std::slice::from_ref(&offline)).await;
    world.wait(600).await;
    world.is(&[]).await;
    // A shorter time is over already.
    offline["for"] = json!("5m");
    let changed = serde_json::from_value(offline.clone()).unwrap();
    world
        .write(move |tx| manage::put_template(tx, "ada", &changed))
        .await;
    world.wait(1).await;
    let both: [(&str, &[&str]); 2] = [("a  firing", &["ops fired"]), ("b  firing", &["ops fired"])];
    world.is(&both).await;
    // A device that is no longer meant.
    offline["select"] = json!({ "group": "g" });
    let narrowed = serde_json::from_value(offline).unwrap();
    world
        .write(move |tx| manage::put_template(tx, "ada", &narrowed))
        .await;
    world.wait(1).await;
    world
        .is(&[
            ("a  firing", &["ops fired"]),
            ("b  resolved", &["ops fired"]),
        ])
        .await;
}

#[tokio::test]
async fn rules_that_were_undone_are_not_remembered() {
    let world = World::new(&[storage()]).await;
    let undone = world
        .store
        .write::<(), ApiError, _>(|tx| {
            assert!(manage::remove_template(tx, "ada", "storage")?);
            assert!(rules::rules(tx)?.template("storage").is_none());
            Err(ApiError::bad("x", "x"))
        })
        .await;
    assert!(undone.is_err());
    let there = world
        .write(|tx| Ok(rules::rules(tx)?.template("storage").is_some()))
        .await;
    assert!(there);
}

#[tokio::test]
async fn a_device_cannot_make_up_any_number_of_alarms() {
    let mut template = storage();
    template["for"] = json!("0s");
    let world = World::new(&[template]).await;
    let mut many = serde_json::Map::new();
    for n in 0..500 {
        many.insert(format!("disk.{n}.used_percent"), json!(99));
    }
    world.send("a", Value::Object(many)).await;
    assert_eq!(world.alarms().await.len(), 256);
}

#[tokio::test]
async fn built_in_templates_are_put_there_once() {
    let world = World::new(&[]).await;
    world.write(|tx| Ok(manage::seed(tx)?)).await;
    let count = || world.store.read(|c| view::templates(c, "", 100));
    assert_eq!(count().await.unwrap().len(), 6);
    world
        .write(|tx| Ok(manage::remove_template(tx, "ada", "line-loss")?))
        .await;
    world.write(|tx| Ok(manage::seed(tx)?)).await;
    assert_eq!(count().await.unwrap().len(), 5);
}

#[tokio::test]
async fn what_cannot_be_read_holds_nothing_up() {
    let mut template = storage();
    template["for"] = json!("0s");
    let mut world = World::new(&[template]).await;
    world
        .write(|tx| {
            tx.execute_batch(
                "INSERT INTO alarm_template VALUES ('a-later-one', '{\"when\": \"purple\"}', NULL, 1);
                 INSERT INTO alarm_track VALUES ('a', 'storage', '/old', '{\"phase\": 7}', 0, 1);",
            )?;
            Ok(rules::changed(tx)?)
        })
        .await;
    world.send("a", json!({ "disk./.used_percent": 95 })).await;
    world.wait(1).await;
    world.is(&[("a / firing", &["ops fired"])]).await;
}
