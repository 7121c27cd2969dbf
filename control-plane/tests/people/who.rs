//! Accounts, logins, API tokens, and what the audit log has of them.

use reqwest::Method;
use serde_json::json;

use crate::site::{PASSWORD, Site};

#[tokio::test]
async fn a_wrong_password_is_refused_and_guessing_is_slowed_down() {
    let site = Site::start().await;
    let guess =
        |account: &'static str| json!({ "account": account, "password": "wrong wrong wrong" });
    // The same answer whether there is such an account.
    for account in ["root", "nobody"] {
        let answer = site
            .call(Method::POST, "/v1/login", None, guess(account))
            .await;
        assert_eq!(
            (answer.status.as_u16(), answer.code()),
            (401, "wrong-password")
        );
    }
    for _ in 0..9 {
        assert_eq!(
            site.call(Method::POST, "/v1/login", None, guess("root"))
                .await
                .status,
            401
        );
    }
    let response = site
        .request(Method::POST, "/v1/login", None)
        .json(&guess("root"))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 429);
    assert!(
        response.headers()["retry-after"]
            .to_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            > 0
    );
    // The right one has to wait, too: else the limit would tell which is right.
    let right = json!({ "account": "root", "password": PASSWORD });
    assert_eq!(
        site.call(Method::POST, "/v1/login", None, right)
            .await
            .status,
        429
    );
}

#[tokio::test]
async fn wrong_passwords_are_in_the_audit_log() {
    let site = Site::start().await;
    let long = "n".repeat(5000);
    for account in ["root", &long] {
        let guess = json!({ "account": account, "password": "wrong wrong wrong" });
        let answer = site.call(Method::POST, "/v1/login", None, guess).await;
        assert_eq!(answer.status, 401);
    }
    let root = site.login("root").await;
    let log = site.get("/v1/audit?limit=10", &root).await;
    let lines: Vec<_> = log.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["action"] == "account.wrong-password")
        .map(|entry| {
            (
                entry["subject"].as_str().unwrap().to_owned(),
                entry["detail"]["address"].clone(),
            )
        })
        .collect();
    let subject = |name: &str| format!("account/{name}");
    assert_eq!(
        lines,
        [
            (subject(&long[..64]), json!("127.0.0.1")),
            (subject("root"), json!("127.0.0.1"))
        ]
    );
    assert!(!log.body.to_string().contains("wrong wrong"));
}

#[tokio::test]
async fn a_session_ends_with_logout_and_with_the_password() {
    let site = Site::start().await;
    let (first, second) = (site.login("root").await, site.login("root").await);
    assert_eq!(site.post("/v1/logout", &first, json!({})).await.status, 204);
    assert_eq!(
        site.get("/v1/account", &first).await.code(),
        "token-unknown"
    );
    let me = site.get("/v1/account", &second).await;
    assert_eq!(
        (me.body["account"].as_str(), me.body["role"].as_str()),
        (Some("root"), Some("admin"))
    );

    let api = site.token(&second, &["devices:read"]).await;
    let wrong = json!({ "old": "not the old one", "new": "another long password" });
    assert_eq!(
        site.call(Method::PUT, "/v1/account/password", Some(&second), wrong)
            .await
            .status,
        401
    );
    let new = json!({ "old": PASSWORD, "new": "another long password" });
    assert_eq!(
        site.call(Method::PUT, "/v1/account/password", Some(&second), new)
            .await
            .status,
        204
    );
    assert_eq!(site.get("/v1/account", &second).await.status, 401);
    assert_eq!(
        site.get("/v1/devices", &api).await.status,
        200,
        "API tokens are revoked by themselves"
    );
    let old = json!({ "account": "root", "password": PASSWORD });
    assert_eq!(
        site.call(Method::POST, "/v1/login", None, old).await.status,
        401
    );
}

#[tokio::test]
async fn a_token_never_has_more_than_its_maker() {
    let site = Site::start().await;
    let root = site.login("root").await;
    for (name, role) in [("op", "operator"), ("eve", "viewer")] {
        let new = json!({ "name": name, "role": role, "password": PASSWORD });
        assert_eq!(site.post("/v1/accounts", &root, new).await.status, 201);
    }
    let eve = site.login("eve").await;
    let wanted = json!({ "scopes": ["devices:read", "devices:write"] });
    let refused = site.post("/v1/api-tokens", &eve, wanted).await;
    assert_eq!(
        (refused.status.as_u16(), refused.code()),
        (403, "scope-missing")
    );
    assert_eq!(site.get("/v1/accounts", &eve).await.status, 403);
    assert_eq!(site.get("/v1/audit", &eve).await.status, 403);

    let op = site.login("op").await;
    let token = site.token(&op, &["releases:write"]).await;
    assert_eq!(site.get("/v1/uploads", &token).await.status, 200);
    let maker = site.token(&op, &["api-tokens:write"]).await;
    assert_eq!(
        site.post(
            "/v1/api-tokens",
            &maker,
            json!({ "scopes": ["releases:write"] })
        )
        .await
        .status,
        403
    );
    // A lower role takes effect at once, on what there is already.
    let lower = json!({ "role": "viewer" });
    assert_eq!(
        site.call(Method::PATCH, "/v1/accounts/op", Some(&root), lower)
            .await
            .status,
        200
    );
    assert_eq!(site.get("/v1/uploads", &token).await.status, 403);
    assert_eq!(
        site.call(Method::DELETE, "/v1/accounts/op", Some(&root), json!({}))
            .await
            .status,
        204
    );
    assert_eq!(site.get("/v1/uploads", &token).await.status, 401);

    let last = site
        .call(Method::DELETE, "/v1/accounts/root", Some(&root), json!({}))
        .await;
    assert_eq!((last.status.as_u16(), last.code()), (409, "last-admin"));
    let last = site
        .call(
            Method::PATCH,
            "/v1/accounts/root",
            Some(&root),
            json!({ "role": "viewer" }),
        )
        .await;
    assert_eq!(last.code(), "last-admin");
}

#[tokio::test]
async fn nobody_revokes_a_strangers_token() {
    let site = Site::start().await;
    site.add_account("eve", "viewer");
    let (root, eve) = (site.login("root").await, site.login("eve").await);
    let made = site
        .post(
            "/v1/api-tokens",
            &root,
            json!({ "scopes": ["audit:read"], "note": "ci" }),
        )
        .await;
    let path = format!("/v1/api-tokens/{}", made.body["id"].as_str().unwrap());
    assert_eq!(
        site.call(Method::DELETE, &path, Some(&eve), json!({}))
            .await
            .status,
        404
    );
    assert_eq!(
        site.get("/v1/api-tokens", &eve).await.body["items"],
        json!([])
    );
    assert_eq!(
        site.get("/v1/api-tokens", &root).await.body["items"][0]["note"],
        "ci"
    );
    assert_eq!(
        site.call(Method::DELETE, &path, Some(&root), json!({}))
            .await
            .status,
        204
    );
    assert_eq!(
        site.get("/v1/audit", made.body["token"].as_str().unwrap())
            .await
            .status,
        401
    );
}

#[tokio::test]
async fn every_change_is_in_the_audit_log_and_no_secret_is() {
    let site = Site::start().await;
    let root = site.login("root").await;
    let device = site.device(&root, "edge-1").await;
    let path = format!("/v1/devices/{device}");
    let change = json!({ "name": "Edge", "group": "lab", "add_tags": ["a"], "remove_tags": ["t"] });
    let changed = site.call(Method::PATCH, &path, Some(&root), change).await;
    assert_eq!(
        (&changed.body["group"], &changed.body["tags"]),
        (&json!("lab"), &json!(["a"]))
    );
    let attributes =
        json!({ "shared": { "key": "se-cret", "gone": null }, "server": { "note": 1 } });
    assert_eq!(
        site.call(
            Method::PATCH,
            &format!("{path}/attributes"),
            Some(&root),
            attributes
        )
        .await
        .status,
        204
    );
    let found = site.get(&format!("{path}/attributes"), &root).await;
    assert_eq!(
        (&found.body["shared"]["key"], &found.body["server"]["note"]),
        (&json!("se-cret"), &json!(1))
    );
    let offline = site
        .post(
            &format!("{path}/rpc"),
            &root,
            json!({ "method": "reboot", "params": { "pin": "se-cret" } }),
        )
        .await;
    assert_eq!(
        (offline.status.as_u16(), offline.code()),
        (409, "device-offline")
    );
    let token = site
        .post("/v1/api-tokens", &root, json!({ "scopes": ["rpc"] }))
        .await;
    assert_eq!(
        site.post(&format!("{path}/revoke"), &root, json!({}))
            .await
            .status,
        204
    );
    assert!(site.get(&path, &root).await.body["revoked"].is_i64());
    let timeline = site.get(&format!("{path}/timeline"), &root).await;
    let kinds: Vec<_> = timeline.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["enrolled", "audit", "audit", "audit", "audit"]);
    assert_eq!(
        site.call(Method::DELETE, &path, Some(&root), json!({}))
            .await
            .status,
        204
    );
    assert_eq!(site.get(&path, &root).await.status, 404);

    let log = site.audit(&root).await;
    let subject = format!("device/{device}");
    for (who, action, subject) in [
        ("cli", "account.add", "account/root"),
        ("root", "account.login", "account/root"),
        ("root", "device.change", &subject),
        ("root", "device.attributes", &subject),
        ("root", "device.rpc", &subject),
        ("root", "device.revoke", &subject),
        ("root", "device.remove", &subject),
    ] {
        let line = (who.to_owned(), action.to_owned(), subject.to_owned());
        assert_eq!(
            log.iter().filter(|found| **found == line).count(),
            1,
            "{line:?} in {log:?}"
        );
    }
    let text = site.get("/v1/audit", &root).await.body.to_string();
    for secret in [
        "se-cret",
        PASSWORD,
        &root,
        token.body["token"].as_str().unwrap(),
    ] {
        assert!(!text.contains(secret), "{secret}");
    }
    // Nor is any in the database.
    for file in std::fs::read_dir(site.data()).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            for secret in [PASSWORD, &root, token.body["token"].as_str().unwrap()] {
                assert!(
                    !bytes
                        .windows(secret.len())
                        .any(|found| found == secret.as_bytes()),
                    "{}",
                    path.display()
                );
            }
        }
    }
}

#[tokio::test]
async fn what_is_refused_leaves_no_line() {
    let site = Site::start().await;
    let root = site.login("root").await;
    let before = site.audit(&root).await.len();
    let cases = [
        (
            Method::PATCH,
            "/v1/devices/none",
            json!({ "group": "g" }),
            404,
        ),
        (
            Method::PATCH,
            "/v1/devices/none",
            json!({ "group": "../g" }),
            400,
        ),
        (
            Method::PATCH,
            "/v1/devices/none",
            json!({ "unknown": 1 }),
            422,
        ),
        (
            Method::POST,
            "/v1/accounts",
            json!({ "name": "Bad Name", "role": "viewer", "password": PASSWORD }),
            400,
        ),
        (
            Method::POST,
            "/v1/accounts",
            json!({ "name": "short", "role": "viewer", "password": "short" }),
            400,
        ),
        (
            Method::POST,
            "/v1/accounts",
            json!({ "name": "root", "role": "viewer", "password": PASSWORD }),
            409,
        ),
        (
            Method::POST,
            "/v1/enrolment-tokens",
            json!({ "uses": 0 }),
            400,
        ),
        (
            Method::POST,
            "/v1/enrolment-tokens",
            json!({ "tags": ["a b"] }),
            400,
        ),
        (Method::POST, "/v1/api-tokens", json!({ "scopes": [] }), 400),
        (
            Method::POST,
            "/v1/api-tokens",
            json!({ "scopes": ["rpc"], "lifetime": 0 }),
            400,
        ),
        (Method::DELETE, "/v1/enrolment-tokens/none", json!({}), 404),
        (Method::DELETE, "/v1/releases/stable/1.0.0", json!({}), 404),
    ];
    for (method, path, body, status) in cases {
        let answer = site
            .call(method.clone(), path, Some(&root), body.clone())
            .await;
        assert_eq!(answer.status, status, "{method} {path} {body}: {answer:?}");
        assert!(
            !answer.code().is_empty() && answer.body["message"].is_string(),
            "{method} {path}: {answer:?}"
        );
    }
    assert_eq!(site.audit(&root).await.len(), before);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let site = Site::start().await;
    let root = site.login("root").await;
    for name in ["edge-1", "edge-2", "edge-3"] {
        site.device(&root, name).await;
    }
    for (list, name) in [
        ("/v1/devices", "id"),
        ("/v1/audit", "id"),
        ("/v1/accounts", "name"),
    ] {
        let whole = site.get(&format!("{list}?limit=1000"), &root).await;
        let whole: Vec<_> = whole.body["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item[name].clone())
            .collect();
        assert!(!whole.is_empty());
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = site.get(&format!("{list}?limit=1{cursor}"), &root).await;
            assert_eq!(page.status, 200, "{page:?}");
            found.extend(
                page.body["items"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|item| item[name].clone()),
            );
            match page.body["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(found, whole, "{list}");
    }
    for bad in ["limit=0", "limit=1001", "limit=x", "cursor=!!", "cursor=eA"] {
        let answer = site.get(&format!("/v1/audit?{bad}"), &root).await;
        assert_eq!(answer.status, 400, "{bad}: {answer:?}");
    }
}

#[tokio::test]
async fn a_tokens_devices_are_its_suppliers() {
    let site = Site::start().await;
    let root = site.login("root").await;
    for (supplier, expected) in [(json!("acme"), json!("acme")), (json!(null), json!(null))] {
        let wanted = json!({ "supplier": supplier });
        let (device, _) = site.enrol_by(&root, wanted, "edge").await;
        let shown = site.get(&format!("/v1/devices/{device}"), &root).await;
        assert_eq!(shown.body["supplier"], expected);
    }
    let wrong = json!({ "supplier": "a b" });
    let refused = site.post("/v1/enrolment-tokens", &root, wrong).await;
    assert_eq!(
        (refused.status.as_u16(), refused.code()),
        (400, "bad-label")
    );
}
