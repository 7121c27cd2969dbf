//! A server with two releases, two devices and a caller, without listeners.

use std::path::Path;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use cairn_release::manifest::example;
use cairn_release::{Manifest, Version, name};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use crate::app::App;
use crate::config::Config;
use crate::people::tokens::{self, Kind};
use crate::people::{Role, Scope, Scopes, accounts, now};
use crate::store::StoreError;

/// What an operator needs here.
pub(super) const BOTH: [Scope; 3] = [Scope::RolloutsRead, Scope::RolloutsWrite, Scope::AuditRead];

/// Publishes a release by putting it where the store finds it at its start.
fn publish(data: &Path, version: &str, sequence: u64) -> Manifest {
    let version: Version = version.parse().unwrap();
    let manifest = example::manifest(&version, sequence);
    let folder = data.join("releases/stable").join(version.as_str());
    std::fs::create_dir_all(&folder).unwrap();
    for (file, size) in [
        (name::KERNEL, manifest.kernel.image.size),
        (name::ROOT, manifest.root.size),
    ] {
        std::fs::File::create(folder.join(file))
            .unwrap()
            .set_len(size)
            .unwrap();
    }
    for file in [
        name::KERNEL_INDEX,
        name::ROOT_INDEX,
        name::SBOM,
        name::CONTENTS,
    ] {
        std::fs::write(folder.join(file), b"").unwrap();
    }
    std::fs::write(
        folder.join(name::MANIFEST),
        manifest.to_envelope().to_json(),
    )
    .unwrap();
    manifest
}

pub(super) struct Server {
    _folder: tempfile::TempDir,
    pub(super) app: App,
    token: String,
    pub(super) manifest: Manifest,
}

impl Server {
    /// With release 7 and 8 and two devices.
    pub(super) async fn new(scopes: &[Scope]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let manifest = publish(folder.path(), "7", 7);
        publish(folder.path(), "8", 8);
        let app = App::open(Config::new(folder.path().to_owned())).unwrap();
        let scopes: Scopes = scopes.iter().copied().collect();
        let token = app
            .store
            .write(move |tx| {
                for device in ["a", "b"] {
                    tx.execute(
                        "INSERT INTO device (id, name, created) VALUES (?1, ?1, 0)",
                        [device],
                    )?;
                }
                accounts::add(tx, "test", "olga", Role::Operator, None, "no password").unwrap();
                let new = tokens::New {
                    kind: Kind::Api,
                    account: "olga",
                    note: "",
                    scopes,
                    expires: now() + 600,
                };
                Ok::<_, StoreError>(tokens::create(tx, "test", &new)?.unwrap().1)
            })
            .await
            .unwrap();
        Self {
            _folder: folder,
            app,
            token,
            manifest,
        }
    }

    pub(super) async fn ask(&self, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(if body.is_null() {
                Body::empty()
            } else {
                Body::from(body.to_string())
            })
            .unwrap();
        let router = crate::api::router().with_state(self.app.clone());
        let response = router.oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    pub(super) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path, Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }
}
