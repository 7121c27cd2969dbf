//! Who sees whose traffic.

use reqwest::Method;
use serde_json::json;

use crate::site::{PASSWORD, Site};

#[tokio::test]
async fn a_supplier_sees_a_devices_interfaces_since_it_is_theirs() {
    let site = Site::start().await;
    let root = site.login("root").await;
    let (device, _) = site.enrol(&root, "edge").await;
    let now = cairn_control_plane::people::now() / 300;
    let database = rusqlite::Connection::open(site.data().join("cairn.db")).unwrap();
    for (id, kind) in [(1, "interface"), (2, "container")] {
        let series =
            "INSERT INTO traffic_series (id, dimension, name, kind) VALUES (?1, 'device', ?2, ?3)";
        database.execute(series, (id, &device, kind)).unwrap();
        for slot in [now - 2, now - 1, now] {
            let sum = "INSERT INTO traffic_slot (series, slot, rx, tx, meters, estimated) VALUES (?1, ?2, 7, 9, 1, 0)";
            database.execute(sum, (id, slot)).unwrap();
        }
    }
    // An hour ago it was somebody else's.
    let made = "UPDATE device SET created = ?1 WHERE id = ?2";
    database.execute(made, ((now - 12) * 300, &device)).unwrap();
    for supplier in ["north", "south"] {
        let set = json!({ "supplier": supplier });
        let path = format!("/v1/devices/{device}");
        let set = site.call(Method::PATCH, &path, Some(&root), set).await;
        assert_eq!(set.status, 200);
        let account = json!({ "name": format!("of-{supplier}"), "role": "viewer", "supplier": supplier, "password": PASSWORD });
        assert_eq!(site.post("/v1/accounts", &root, account).await.status, 201);
    }
    let of = |kind| {
        format!(
            "/v1/traffic/series?dimension=device&name={device}&kind={kind}&from={}&to={}",
            (now - 2) * 300,
            (now + 1) * 300
        )
    };
    let received = |answer: &serde_json::Value| {
        let slots = answer["slots"].as_array().unwrap().iter();
        slots
            .map(|slot| slot["rx_bytes"].as_i64())
            .collect::<Vec<_>>()
    };
    let all = site.get(&of("interface"), &root).await;
    assert_eq!(received(&all.body), [Some(7); 3]);
    let south = site.login("of-south").await;
    let own = site.get(&of("interface"), &south).await;
    let own = received(&own.body);
    // The slot may have ended meanwhile.
    assert_eq!(own[..2], [None, None], "what it carried for others");
    let north = site.login("of-north").await;
    for (kind, token) in [("interface", &north), ("container", &south)] {
        assert_eq!(site.get(&of(kind), token).await.status, 404);
    }
    let earlier = "UPDATE device SET supplier_since = ?1 WHERE id = ?2";
    database
        .execute(earlier, ((now - 1) * 300 + 299, &device))
        .unwrap();
    let own = site.get(&of("interface"), &south).await;
    assert_eq!(received(&own.body), [None, Some(7), Some(7)]);
}
