//! No route without its scope: the table is the OpenAPI document itself.

use std::collections::{BTreeMap, BTreeSet};

use cairn_control_plane::people::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use crate::site::Site;

/// Routes that nobody has to log in for.
const OPEN: [&str; 1] = ["/v1/login"];

struct Operation {
    method: Method,
    path: String,
    /// None: nobody has to log in. Empty: any login will do.
    scopes: Option<Vec<String>>,
}

fn operations(document: &Value) -> Vec<Operation> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Ok(method) = Method::from_bytes(method.to_ascii_uppercase().as_bytes()) else {
                continue;
            };
            if !operation["responses"].is_object() {
                continue;
            }
            let scopes = operation["security"].as_array().map(|all| {
                let scopes = all[0]["token"].as_array().unwrap();
                scopes
                    .iter()
                    .map(|scope| scope.as_str().unwrap().to_owned())
                    .collect()
            });
            // Names that nothing has.
            let path = path
                .replace("{id}", "1")
                .replace("{channel}", "c")
                .replace("{version}", "9")
                .replace("{name}", "n");
            found.push(Operation {
                method,
                path: path.replace("{file}", "root.erofs"),
                scopes,
            });
        }
    }
    found
}

#[tokio::test]
async fn every_route_refuses_who_lacks_its_scope() {
    let site = Site::start().await;
    let root = site.login("root").await;
    let document = site
        .send(site.request(Method::GET, "/openapi.json", None))
        .await
        .body;
    let operations = operations(&document);
    assert!(operations.len() > 40, "{}", operations.len());
    // An account has only so many tokens.
    let mut tokens = BTreeMap::new();
    for scope in Scope::ALL.map(Scope::as_str) {
        let others: Vec<_> = Scope::ALL
            .iter()
            .map(|scope| scope.as_str())
            .filter(|other| *other != scope)
            .collect();
        let (lacking, only) = (
            site.token(&root, &others).await,
            site.token(&root, &[scope]).await,
        );
        tokens.insert(scope, (lacking, only));
    }
    for Operation {
        method,
        path,
        scopes,
    } in operations
    {
        let what = format!("{method} {path}");
        let none = site.call(method.clone(), &path, None, json!({})).await;
        let Some(scopes) = scopes else {
            assert!(OPEN.contains(&path.as_str()), "{what} wants no login");
            continue;
        };
        assert_eq!(none.status, 401, "{what}: {none:?}");
        let wrong = site
            .call(method.clone(), &path, Some("cairn_p_nonsense"), json!({}))
            .await;
        assert_eq!(wrong.status, 401, "{what}: {wrong:?}");
        if let [scope] = scopes.as_slice() {
            let (others, only) = &tokens[scope.as_str()];
            let lacking = site
                .call(method.clone(), &path, Some(others), json!({}))
                .await;
            assert_eq!(
                (lacking.status.as_u16(), lacking.code()),
                (403, "scope-missing"),
                "{what}: {lacking:?}"
            );
            let enough = site.call(method, &path, Some(only), json!({})).await;
            assert!(
                ![401, 403].contains(&enough.status.as_u16()),
                "{what} with {scope}: {enough:?}"
            );
        } else {
            assert!(scopes.is_empty(), "{what}: {scopes:?}");
        }
    }
}

#[test]
fn the_document_has_every_route_that_the_code_declares() {
    fn declared(folder: &std::path::Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                declared(&path, found);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for part in text.split("#[utoipa::path(").skip(1) {
                    let method = part.split(',').next().unwrap().trim();
                    let route = part
                        .split("path = \"")
                        .nth(1)
                        .unwrap()
                        .split('"')
                        .next()
                        .unwrap();
                    found.insert(format!("{method} {route}"));
                }
            }
        }
    }
    let mut code = BTreeSet::new();
    declared(
        &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut code,
    );
    let document = cairn_control_plane::api::document();
    let mut told = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        told.extend(
            item.as_object()
                .unwrap()
                .keys()
                .map(|method| format!("{method} {path}")),
        );
    }
    assert_eq!(told, code);
    let mut names = BTreeSet::new();
    for operation in document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|item| item.as_object().unwrap().values())
    {
        let responses = operation["responses"].as_object().unwrap();
        assert!(
            responses
                .values()
                .all(|response| response["description"].is_string()),
            "{operation}"
        );
        assert!(operation["summary"].is_string(), "{operation}");
        names.insert(operation["operationId"].as_str().unwrap().to_owned());
    }
    assert_eq!(
        names.len(),
        told.len(),
        "operations have names of their own: {names:?}"
    );
    for scope in Scope::ALL {
        let used = document.to_string().contains(&format!("[\"{scope}\"]"));
        assert!(used, "no route needs {scope}");
    }
}

#[tokio::test]
async fn release_files_need_a_device_or_a_scope() {
    let site = Site::start().await;
    let root = site.login("root").await;
    let (reader, other) = (
        site.token(&root, &["releases:read"]).await,
        site.token(&root, &["releases:write"]).await,
    );
    for path in [
        "/releases/stable/1/root.erofs",
        "/releases/stable/latest.dsse.json",
        "/releases/stable/trust/1.dsse.json",
        &format!("/releases/stable/1/patches/{}.patch", "0".repeat(64)),
    ] {
        assert_eq!(
            site.send(site.request(Method::GET, path, None))
                .await
                .status,
            401,
            "{path}"
        );
        assert_eq!(site.get(path, &other).await.status, 403, "{path}");
        assert_eq!(site.get(path, &reader).await.status, 404, "{path}");
    }
}
