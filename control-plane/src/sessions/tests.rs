//! A call is answered by the device that was asked, once; a device that is shut out is so at once.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;

const SOON: Duration = Duration::from_secs(20);

fn id(text: &str) -> DeviceId {
    text.parse().unwrap()
}

fn call() -> Call {
    Call {
        method: "status".into(),
        params: Value::Null,
    }
}

async fn pushed(outlet: &Outlet) -> Push {
    loop {
        if let Some(push) = outlet.next() {
            return push;
        }
        outlet.woken().await;
    }
}

#[tokio::test]
async fn only_the_device_itself_answers() {
    let sessions = Sessions::new();
    assert_eq!(
        sessions.rpc("a", call(), SOON).await,
        Err(RpcError::Offline)
    );
    let outlet = sessions.connect(&id("a"));
    assert_eq!(
        sessions.rpc("a", call(), SOON).await,
        Err(RpcError::NotListening)
    );
    outlet.subscribe(Wants::CALLS, true);
    let device = async {
        let Push::Call { id: number, .. } = pushed(&outlet).await else {
            panic!()
        };
        assert!(!sessions.answered(&id("b"), number, json!("forged")));
        assert!(sessions.answered(&id("a"), number, json!("mine")));
        assert!(!sessions.answered(&id("a"), number, json!("twice")));
    };
    let (answer, ()) = tokio::join!(sessions.rpc("a", call(), SOON), device);
    assert_eq!(answer, Ok(json!("mine")));
    // Delivered is not answered.
    assert_eq!(
        sessions.rpc("a", call(), Duration::from_millis(1)).await,
        Err(RpcError::Timeout)
    );
    assert!(sessions.calls().is_empty());
}

#[tokio::test]
async fn whoever_waits_is_told_when_the_device_goes() {
    let sessions = Sessions::new();
    let outlet = sessions.connect(&id("a"));
    outlet.subscribe(Wants::CALLS, true);
    let goes = async {
        pushed(&outlet).await;
        assert!(sessions.disconnect(&id("a"), &outlet));
    };
    let (answer, ()) = tokio::join!(sessions.rpc("a", call(), SOON), goes);
    assert_eq!(answer, Err(RpcError::Offline));
}

#[tokio::test]
async fn the_newer_connection_wins_and_the_older_takes_nothing_with_it() {
    let sessions = Sessions::new();
    let older = sessions.connect(&id("a"));
    let newer = sessions.connect(&id("a"));
    assert_eq!(
        (older.ended(), newer.ended()),
        (Some(End::Superseded), None)
    );
    assert!(!sessions.disconnect(&id("a"), &older));
    assert!(sessions.online("a") && sessions.count() == 1);
    assert!(sessions.disconnect(&id("a"), &newer));
    assert!(!sessions.online("a"));
}

#[tokio::test]
async fn who_does_not_read_is_cut_off_and_the_queue_is_bounded() {
    let sessions = Sessions::new();
    let outlet = sessions.connect(&id("a"));
    // Without a subscription nothing is queued.
    sessions.desired_changed("a", 1);
    assert!(outlet.next().is_none());
    outlet.subscribe(Wants::ATTRIBUTES, false);
    for revision in 0..1000 {
        sessions.desired_changed("a", revision);
    }
    assert_eq!(outlet.ended(), Some(End::Slow));
    assert_eq!(std::iter::from_fn(|| outlet.next()).count(), 64);
}

#[tokio::test]
async fn closing_ends_every_connection_of_the_device_and_of_no_other() {
    let sessions = Sessions::new();
    let outlet = sessions.connect(&id("a"));
    let (one, two, other) = (
        sessions.admit(&id("a")),
        sessions.admit(&id("a")),
        sessions.admit(&id("b")),
    );
    sessions.close("a");
    assert_eq!(outlet.ended(), Some(End::Revoked));
    assert!(one.is_closed() && two.is_closed() && !other.is_closed());
    // A later life of the id has a gate of its own.
    let later = sessions.admit(&id("a"));
    drop(one);
    assert!(!later.is_closed());
    sessions.close("a");
    assert!(later.is_closed());
}

#[tokio::test]
async fn a_call_waits_for_the_next_poll() {
    let sessions = Sessions::new();
    drop(sessions.poll_call(&id("a")).unwrap());
    assert!(sessions.online("a"));
    let device = async {
        let polled = sessions.poll_call(&id("a")).unwrap().await.unwrap();
        assert!(sessions.answered(&id("a"), polled.id, json!(1)));
    };
    let (answer, ()) = tokio::join!(sessions.rpc("a", call(), SOON), device);
    assert_eq!(answer, Ok(json!(1)));
    let open: Vec<_> = (0..4)
        .map(|_| sessions.poll_call(&id("a")).unwrap())
        .collect();
    assert!(
        sessions.poll_call(&id("a")).is_none(),
        "requests that are open at once are bounded"
    );
    drop(open);
}
