//! `/v1/rollouts`, and the engine as the server runs it.

use axum::http::StatusCode;
use cairn_release::Timestamp;
use cairn_release::order::DowngradeOrder;
use serde_json::{Value, json};

use super::server::{BOTH, Server};
use crate::people::{Scope, now};
use crate::rollouts::Rollouts;

#[tokio::test]
async fn a_rollout_is_made_and_steered_and_every_step_is_in_the_audit_log() {
    let server = Server::new(&BOTH).await;
    let body = json!({ "release": "7", "select": { "devices": ["b", "a"] }, "waves": ["50%", 2], "soak": "5m", "max_failure_rate": "5%" });
    let (status, made) = server.ask("POST", "/v1/rollouts", body).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert_eq!(
        (&made["id"], &made["status"], &made["name"]),
        (&json!(1), &json!("draft"), &json!("7"))
    );
    assert_eq!(made["plan"]["waves"], json!(["50%", "2"]));
    assert!(
        made["hints"][0]
            .as_str()
            .unwrap()
            .contains("stable has 8 already"),
        "{}",
        made["hints"]
    );
    assert_eq!(made["select"], json!({ "devices": ["a", "b"] }));
    let digest = cairn_release::Digest::of(&server.manifest.to_payload()).to_string();
    assert_eq!(
        made["release"],
        json!({ "version": "7", "sequence": 7, "digest": digest, "channel": "stable" })
    );

    for (step, status) in [
        ("start", "running"),
        ("pause", "paused"),
        ("resume", "running"),
        ("abort", "aborted"),
    ] {
        let (code, view) = server
            .ask("POST", &format!("/v1/rollouts/1/{step}"), Value::Null)
            .await;
        assert_eq!(
            (code, &view["status"]),
            (StatusCode::OK, &json!(status)),
            "{step}: {view}"
        );
    }
    let (code, error) = server
        .ask("POST", "/v1/rollouts/1/resume", Value::Null)
        .await;
    assert_eq!(
        (code, &error["code"]),
        (StatusCode::CONFLICT, &json!("bad-state"))
    );
    let audit = server.get("/v1/audit?subject=rollout/1").await;
    let actions: Vec<_> = audit["items"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|entry| entry["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        actions,
        [
            "rollout.create",
            "rollout.start",
            "rollout.pause",
            "rollout.resume",
            "rollout.abort"
        ]
    );
    let timeline = server.get("/v1/rollouts/1/timeline").await;
    assert!(
        timeline["items"][0]["text"]
            .as_str()
            .unwrap()
            .starts_with("aborted by olga/"),
        "{timeline}"
    );
    // What was refused has left no trace.
    assert_eq!(timeline["items"].as_array().unwrap().len(), 6, "{timeline}");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_the_field() {
    let server = Server::new(&BOTH).await;
    let order = |release, not_after| {
        let order = DowngradeOrder {
            format: 1,
            release,
            devices: Vec::new(),
            not_after: Timestamp::from_unix(not_after).unwrap(),
        };
        serde_json::to_value(order.to_envelope()).unwrap()
    };
    let digest = cairn_release::Digest::of(&server.manifest.to_payload());
    let cases = [
        (
            json!({ "release": "9" }),
            404,
            "no-such-release",
            "there is no release 9",
        ),
        (
            json!({ "channel": "beta" }),
            404,
            "no-such-release",
            "in channel beta",
        ),
        (
            json!({ "waves": ["50%", "10%"] }),
            400,
            "bad-plan",
            "10% can't follow 50%",
        ),
        (
            json!({ "waves": ["0%"] }),
            422,
            "bad-body",
            "a share as 10%",
        ),
        (
            json!({ "soak": "5 minutes" }),
            422,
            "bad-body",
            "a duration as 90s",
        ),
        (json!({ "window": ["2-5"] }), 422, "bad-body", "02:00-05:00"),
        (json!({ "canary": 0 }), 400, "bad-plan", "canary"),
        (
            json!({ "max_failures": 0 }),
            400,
            "bad-plan",
            "max_failures",
        ),
        (
            json!({ "deadline": "1h", "deadlines": {} }),
            400,
            "bad-plan",
            "got both",
        ),
        (
            json!({ "select": { "tags": [] } }),
            400,
            "bad-selector",
            "at least one tag",
        ),
        (
            json!({ "select": { "devices": ["a", "zz"] } }),
            400,
            "no-such-device",
            "zz",
        ),
        (json!({ "name": " " }), 400, "bad-name", "name"),
        (json!({ "wawes": ["1%"] }), 422, "bad-body", "wawes"),
        (
            json!({ "downgrade": order(cairn_release::Digest::of(b"x"), i64::from(u32::MAX)) }),
            400,
            "bad-downgrade-order",
            "not for 7",
        ),
        (
            json!({ "downgrade": order(digest, 1) }),
            400,
            "bad-downgrade-order",
            "ended at 1970",
        ),
        (
            json!({ "select": { "group": "nobody" }, "start": true }),
            409,
            "no-device",
            "no device matches",
        ),
    ];
    for (change, status, code, text) in cases {
        let mut body = json!({ "release": "7", "select": "all" });
        body.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let (got, error) = server.ask("POST", "/v1/rollouts", body).await;
        assert_eq!(
            (got.as_u16(), error["code"].as_str().unwrap()),
            (status, code),
            "{change}: {error}"
        );
        assert!(
            error["message"].as_str().unwrap().contains(text),
            "{change}: {error}"
        );
    }
    assert_eq!(
        server.get("/v1/rollouts").await["items"],
        json!([]),
        "nothing of it is left"
    );
    // A right order is passed on as it is.
    let right = order(digest, i64::from(u32::MAX));
    let body = json!({ "release": "7", "select": "all", "downgrade": right, "start": true });
    let (status, view) = server.ask("POST", "/v1/rollouts", body).await;
    assert_eq!(
        (status, &view["downgrade"]),
        (StatusCode::CREATED, &json!(true))
    );
    server
        .app
        .store
        .write(|tx| super::super::admission::arrive(tx, &["a".to_owned()], now()))
        .await
        .unwrap();
    let order = server
        .app
        .store
        .read(|connection| Rollouts::release(connection, "a"))
        .await
        .unwrap();
    assert_eq!(
        serde_json::to_value(order.unwrap().downgrade).unwrap(),
        right
    );
}

#[tokio::test]
async fn lists_come_in_pages() {
    let server = Server::new(&BOTH).await;
    for _ in 0..3 {
        server
            .ask(
                "POST",
                "/v1/rollouts",
                json!({ "release": "8", "select": "all" }),
            )
            .await;
    }
    server
        .ask("POST", "/v1/rollouts/2/start", Value::Null)
        .await;
    let page = server.get("/v1/rollouts?limit=2").await;
    let ids = |page: &Value| {
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["id"].as_i64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&page), [3, 2]);
    let next = server
        .get(&format!(
            "/v1/rollouts?limit=2&cursor={}",
            page["next"].as_str().unwrap()
        ))
        .await;
    assert_eq!((ids(&next), &next["next"]), (vec![1], &Value::Null));
    assert_eq!(ids(&server.get("/v1/rollouts?status=running").await), [2]);
    assert_eq!(
        server
            .ask("GET", "/v1/rollouts?status=odd", Value::Null)
            .await
            .0,
        StatusCode::BAD_REQUEST
    );
    let devices: Vec<String> = vec!["a".into(), "b".into()];
    server
        .app
        .store
        .write(move |tx| super::super::admission::arrive(tx, &devices, now()))
        .await
        .unwrap();
    let page = server
        .get("/v1/rollouts/2/devices?limit=1&state=offered")
        .await;
    assert_eq!(
        (&page["items"][0]["device"], &page["items"][0]["attempt"]),
        (&json!("a"), &json!(1))
    );
    let next = server
        .get(&format!(
            "/v1/rollouts/2/devices?limit=1&cursor={}",
            page["next"].as_str().unwrap()
        ))
        .await;
    assert_eq!(next["items"][0]["device"], json!("b"));
    assert_eq!(
        server.get("/v1/rollouts/2/devices?state=good").await["items"],
        json!([])
    );
    for path in [
        "/v1/rollouts/9",
        "/v1/rollouts/9/devices",
        "/v1/rollouts/9/timeline",
    ] {
        assert_eq!(
            server.ask("GET", path, Value::Null).await.0,
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
}

#[tokio::test]
async fn who_lacks_the_scope_is_refused() {
    let server = Server::new(&[Scope::RolloutsRead]).await;
    server.get("/v1/rollouts").await;
    let writes = [
        "/v1/rollouts",
        "/v1/rollouts/1/start",
        "/v1/rollouts/1/pause",
        "/v1/rollouts/1/resume",
        "/v1/rollouts/1/abort",
    ];
    for path in writes {
        let (status, error) = server
            .ask("POST", path, json!({ "release": "8", "select": "all" }))
            .await;
        assert_eq!(
            (status, &error["code"]),
            (StatusCode::FORBIDDEN, &json!("scope-missing")),
            "{path}"
        );
    }
    let server = Server::new(&[Scope::RolloutsWrite]).await;
    for path in [
        "/v1/rollouts",
        "/v1/rollouts/1",
        "/v1/rollouts/1/devices",
        "/v1/rollouts/1/timeline",
    ] {
        assert_eq!(
            server.ask("GET", path, Value::Null).await.0,
            StatusCode::FORBIDDEN,
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_release_stays_while_a_rollout_needs_it() {
    let scopes = [
        Scope::RolloutsRead,
        Scope::RolloutsWrite,
        Scope::ReleasesWrite,
    ];
    let server = Server::new(&scopes).await;
    let body = json!({ "release": "8", "select": "all", "start": true });
    server.ask("POST", "/v1/rollouts", body).await;
    let path = "/v1/releases/stable/8";
    let (status, error) = server.ask("DELETE", path, Value::Null).await;
    assert_eq!(
        (status, &error["code"]),
        (StatusCode::CONFLICT, &json!("release-in-use")),
        "{error}"
    );
    server
        .ask("POST", "/v1/rollouts/1/abort", Value::Null)
        .await;
    let (status, error) = server.ask("DELETE", path, Value::Null).await;
    assert_eq!(status, StatusCode::NO_CONTENT, "{error}");
}

#[test]
fn the_document_describes_every_route() {
    let document = serde_json::to_value(crate::api::document()).unwrap();
    let expected = [
        ("/v1/rollouts", vec!["get", "post"]),
        ("/v1/rollouts/{id}", vec!["get"]),
        ("/v1/rollouts/{id}/devices", vec!["get"]),
        ("/v1/rollouts/{id}/timeline", vec!["get"]),
        ("/v1/rollouts/{id}/start", vec!["post"]),
        ("/v1/rollouts/{id}/pause", vec!["post"]),
        ("/v1/rollouts/{id}/resume", vec!["post"]),
        ("/v1/rollouts/{id}/abort", vec!["post"]),
    ];
    for (path, methods) in expected {
        for method in methods {
            let scopes = &document["paths"][path][method]["security"][0]["token"][0];
            let expected = if method == "get" {
                "rollouts:read"
            } else {
                "rollouts:write"
            };
            assert_eq!(scopes, expected, "{method} {path}");
        }
    }
    let properties = &document["components"]["schemas"]["NewRollout"]["properties"];
    for field in ["release", "select", "waves", "window", "deadlines"] {
        assert!(properties[field].is_object(), "{field}: {properties}");
    }
}
