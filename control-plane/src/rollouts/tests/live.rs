//! The engine as the server runs it.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::server::{BOTH, Server};
use crate::store::StoreError;

#[tokio::test]
async fn the_running_engine_gives_orders_to_who_connects() {
    let server = Server::new(&BOTH).await;
    let shutdown = CancellationToken::new();
    let engine = tokio::spawn(
        server
            .app
            .rollouts
            .clone()
            .run(server.app.sessions.clone(), shutdown.clone()),
    );
    server
        .ask(
            "POST",
            "/v1/rollouts",
            json!({ "release": "8", "select": "all", "start": true }),
        )
        .await;
    server.app.rollouts.on_connect("a");
    let deadline = Instant::now() + Duration::from_secs(20);
    let told = loop {
        assert!(Instant::now() < deadline, "no order came");
        let found: Option<(i64, i64)> = server
            .app
            .store
            .read::<_, StoreError, _>(|c| {
                let mut query =
                    c.prepare("SELECT revision, told FROM desired WHERE device = 'a'")?;
                Ok(query
                    .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                    .next()
                    .transpose()?)
            })
            .await
            .unwrap();
        match found {
            Some((revision, told)) if revision == told => break told,
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    assert!(told > 0);
    assert_eq!(
        server.get("/v1/rollouts/1").await["admitted"],
        json!(1),
        "b isn't there"
    );
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(20), engine)
        .await
        .unwrap()
        .unwrap();
}
