//! Sessions against a small MQTT server that does as it is told.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use cairn_wire::rpc::Reply;
use cairn_wire::topic;
use cairn_wire::{Object, Record};
use rumqttc::{
    ConnAck, ConnectReturnCode, Packet, PubAck, Publish, QoS, SubAck, SubscribeReasonCode,
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};

use super::calls::{self, AT_A_TIME, Caller, FromServer};
use super::desired::Orders;
use super::health::Health;
use super::http::Target;
use super::memory::Memory;
use super::pump::Pump;
use super::runner;
use super::session::{End, Parts};
use super::settings::{Input, ServerInput, Settings, Transport};
use super::{Http, State};
use crate::clock::Clock;
use crate::identity::keeper::Standing;
use crate::shutdown::{self, Trigger};

/// What a server has seen, and how it behaves.
#[derive(Default)]
struct Seen {
    connects: u32,
    subscribes: u32,
    records: BTreeSet<u64>,
    replies: Vec<(u32, Reply)>,
    facts: Option<Object>,
    /// The connection is closed on these.
    poison: BTreeSet<u64>,
    /// So many connections are closed after they were taken, on the first record.
    drop_first: u32,
    refuse: Option<ConnectReturnCode>,
}

struct Server {
    port: u16,
    seen: Arc<Mutex<Seen>>,
    /// Sent to whoever is connected.
    push: mpsc::Sender<Publish>,
}

impl Server {
    async fn start(seen: Seen) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (push, mut pushed) = mpsc::channel(8);
        let seen = Arc::new(Mutex::new(seen));
        let state = seen.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                serve(stream, &state, &mut pushed).await;
            }
        });
        Self { port, seen, push }
    }
}

async fn serve(mut stream: TcpStream, seen: &Mutex<Seen>, pushed: &mut mpsc::Receiver<Publish>) {
    let mut buffer = BytesMut::new();
    let mut dropping = false;
    loop {
        let mut out = BytesMut::new();
        while let Ok(packet) = Packet::read(&mut buffer, 1 << 20) {
            match packet {
                Packet::Connect(_) => {
                    let mut seen = seen.lock().unwrap();
                    seen.connects += 1;
                    dropping = seen.drop_first > 0;
                    seen.drop_first = seen.drop_first.saturating_sub(1);
                    let code = seen.refuse.unwrap_or(ConnectReturnCode::Success);
                    Packet::ConnAck(ConnAck::new(code, false))
                        .write(&mut out, 1 << 20)
                        .unwrap();
                }
                Packet::Subscribe(subscribe) => {
                    seen.lock().unwrap().subscribes += 1;
                    let codes = subscribe
                        .filters
                        .iter()
                        .map(|_| SubscribeReasonCode::Success(QoS::AtLeastOnce))
                        .collect();
                    Packet::SubAck(SubAck::new(subscribe.pkid, codes))
                        .write(&mut out, 1 << 20)
                        .unwrap();
                }
                Packet::Publish(publish) => {
                    if !published(&publish, &mut seen.lock().unwrap(), dropping) {
                        return;
                    }
                    Packet::PubAck(PubAck::new(publish.pkid))
                        .write(&mut out, 1 << 20)
                        .unwrap();
                }
                Packet::Disconnect => return,
                _ => {}
            }
        }
        if stream.write_all(&out).await.is_err() {
            return;
        }
        tokio::select! {
            read = stream.read_buf(&mut buffer) => if !matches!(read, Ok(1..)) { return },
            Some(publish) = pushed.recv() => {
                let mut out = BytesMut::new();
                Packet::Publish(publish).write(&mut out, 1 << 20).unwrap();
                if stream.write_all(&out).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// `false`: the connection is to be closed.
fn published(publish: &Publish, seen: &mut Seen, dropping: bool) -> bool {
    let name = std::str::from_utf8(&publish.topic).unwrap();
    if name == topic::TELEMETRY {
        let seqs: Vec<u64> = Record::parse_all(&publish.payload)
            .unwrap()
            .iter()
            .map(|record| record.id.as_ref().unwrap().seq)
            .collect();
        if dropping || seqs.iter().any(|seq| seen.poison.contains(seq)) {
            return false;
        }
        seen.records.extend(seqs);
    } else if name == topic::ATTRIBUTES {
        seen.facts = Some(serde_json::from_slice(&publish.payload).unwrap());
    } else if name.starts_with("v1/devices/me/rpc/response/") {
        let reply = serde_json::from_slice(&publish.payload).unwrap();
        seen.replies
            .push((topic::trailing_id(name).unwrap(), reply));
    }
    true
}

struct Node {
    queue: Memory,
    health: Health,
    refused: Arc<Notify>,
    calls: mpsc::Receiver<FromServer>,
    caller: Caller,
    orders: Orders,
    _standing: watch::Sender<Standing>,
    _folder: tempfile::TempDir,
    trigger: Trigger,
    task: tokio::task::JoinHandle<Parts<Memory>>,
}

fn node(port: u16, records: u64) -> Node {
    let server = ServerInput {
        mqtt: Some(format!("mqtt://127.0.0.1:{port}")),
        ..ServerInput::default()
    };
    node_of(&server, Transport::Mqtt, records)
}

fn node_of(server: &ServerInput, transport: Transport, records: u64) -> Node {
    let folder = tempfile::tempdir().unwrap();
    let quick = Input {
        transport: Some(transport),
        reconnect_min: Some("100ms".into()),
        reconnect_max: Some("200ms".into()),
        ..Input::default()
    };
    let clock = Clock::manual("b", 0, 0);
    let (standing, standing_now) = watch::channel(Standing::default());
    let (from_server, calls) = mpsc::channel(AT_A_TIME);
    let (caller, to_server) = calls::caller();
    let (queue, health, refused) = (
        Memory::with(records),
        Health::default(),
        Arc::new(Notify::new()),
    );
    let orders = Orders::open(folder.path());
    let parts = Parts {
        settings: Settings::check(server, &quick).unwrap(),
        pump: Pump::new(queue.clone()),
        http: Http::fixed(clock.clone(), Target::default()),
        standing: standing_now,
        reload: watch::channel(()).0,
        refused: refused.clone(),
        from_server,
        to_server,
        orders: orders.clone(),
        health: health.clone(),
        facts: Arc::new(|| json!({ "release": "1.0" }).as_object().unwrap().clone()),
        clock,
    };
    let (trigger, shutdown) = shutdown::pair();
    let task = tokio::spawn(runner::run(parts, shutdown));
    Node {
        queue,
        health,
        refused,
        calls,
        caller,
        orders,
        _standing: standing,
        _folder: folder,
        trigger,
        task,
    }
}

impl Node {
    async fn end(self) {
        self.trigger.pull();
        tokio::time::timeout(Duration::from_secs(20), self.task)
            .await
            .unwrap()
            .unwrap();
    }
}

/// Waits until it is so.
async fn until(what: &str, so: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !so() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn records_arrive_and_every_connection_subscribes_anew() {
    let server = Server::start(Seen {
        drop_first: 2,
        ..Seen::default()
    })
    .await;
    let node = node(server.port, 300);
    until("all records", || {
        server.seen.lock().unwrap().records.len() == 300
    })
    .await;
    until("all acknowledged", || node.queue.acked_seqs().len() == 300).await;
    assert!(node.queue.aside_seqs().is_empty());
    {
        let seen = server.seen.lock().unwrap();
        assert!(seen.connects >= 3);
        assert_eq!(seen.subscribes, seen.connects);
        assert_eq!(seen.facts.as_ref().unwrap()["release"], "1.0");
    }
    assert_eq!(*node.health.watch().borrow(), State::Up);
    node.queue.push(301, json!(1));
    until("a new record", || {
        server.seen.lock().unwrap().records.contains(&301)
    })
    .await;
    node.end().await;
}

#[tokio::test]
async fn a_message_that_the_server_closes_on_is_set_aside_alone() {
    let server = Server::start(Seen {
        poison: [40].into(),
        ..Seen::default()
    })
    .await;
    let node = node(server.port, 100);
    until("all but one", || {
        server.seen.lock().unwrap().records.len() == 99
    })
    .await;
    until("one aside", || node.queue.aside_seqs() == [40]).await;
    node.end().await;
}

#[tokio::test]
async fn a_server_that_refuses_is_told_apart_from_a_dead_link() {
    let server = Server::start(Seen {
        refuse: Some(ConnectReturnCode::NotAuthorized),
        ..Seen::default()
    })
    .await;
    let node = node(server.port, 1);
    tokio::time::timeout(Duration::from_secs(30), node.refused.notified())
        .await
        .unwrap();
    until("the state", || {
        matches!(*node.health.watch().borrow(), State::ServerFailing(_))
    })
    .await;
    server.seen.lock().unwrap().refuse = Some(ConnectReturnCode::ServiceUnavailable);
    until("the reason", || matches!(&*node.health.watch().borrow(), State::ServerFailing(reason) if reason.contains("ServiceUnavailable"))).await;
    server.seen.lock().unwrap().refuse = None;
    until("the record", || {
        server.seen.lock().unwrap().records.len() == 1
    })
    .await;
    node.end().await;
}

#[tokio::test]
async fn no_server_is_a_dead_link() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let node = node(port, 1);
    until("the state", || {
        matches!(*node.health.watch().borrow(), State::Down(_))
    })
    .await;
    assert!(
        node.caller
            .call(cairn_wire::rpc::Call {
                method: "x".into(),
                params: json!(null)
            })
            .now_or_never_none()
    );
    node.end().await;
}

#[tokio::test]
async fn a_node_that_knows_no_server_blames_none() {
    for transport in [Transport::Mqtt, Transport::Http] {
        let node = node_of(&ServerInput::default(), transport, 1);
        node.trigger.pull();
        let mut parts = node.task.await.unwrap();
        let (_trigger, mut shutdown) = shutdown::pair();
        let end = runner::connect(&mut parts, &mut shutdown).await;
        assert_eq!(end, End::NoServer, "{transport:?}");
        node.health.session(end.state().unwrap());
        // Then it enrols, and HTTP is the first to reach the server.
        node.health.http(State::Up);
        assert_eq!(*node.health.watch().borrow(), State::Connecting);
    }
}

/// A call without a link has no answer yet.
trait NowOrNever {
    fn now_or_never_none(self) -> bool;
}

impl<F: Future> NowOrNever for F {
    fn now_or_never_none(self) -> bool {
        futures_util::FutureExt::now_or_never(self).is_none()
    }
}

#[tokio::test]
async fn calls_go_both_ways_and_rubbish_does_no_harm() {
    let server = Server::start(Seen::default()).await;
    let mut node = node(server.port, 1);
    until("the record", || {
        server.seen.lock().unwrap().records.len() == 1
    })
    .await;
    let push = |topic: String, payload: &[u8]| {
        server
            .push
            .try_send(Publish::new(topic, QoS::AtMostOnce, payload.to_vec()))
            .unwrap()
    };
    push(topic::rpc_request(5), b"{nonsense");
    push("v1/devices/me/rpc/request/x".into(), b"{}");
    push(topic::ATTRIBUTES.into(), b"[1]");
    push(topic::rpc_request(6), br#"{"method":"status"}"#);
    let call = tokio::time::timeout(Duration::from_secs(30), node.calls.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(call.call.method, "status");
    call.reply
        .send(Reply::done(json!({ "x": "y".repeat(100_000) })))
        .unwrap();
    until("a reply", || {
        !server.seen.lock().unwrap().replies.is_empty()
    })
    .await;
    {
        let seen = server.seen.lock().unwrap();
        assert_eq!(seen.replies[0].0, 6);
        assert!(
            seen.replies[0]
                .1
                .error
                .as_ref()
                .unwrap()
                .contains("more than a message holds")
        );
        assert_eq!(seen.connects, 1);
    }

    let caller = node.caller.clone();
    let asked = tokio::spawn(async move {
        caller
            .call(cairn_wire::rpc::Call {
                method: "time".into(),
                params: json!({}),
            })
            .await
    });
    // Ours are counted from 2.
    until("an answer", || {
        let _ = server.push.try_send(Publish::new(
            format!("v1/devices/me/rpc/response/{}", 2),
            QoS::AtMostOnce,
            b"42".to_vec(),
        ));
        asked.is_finished()
    })
    .await;
    assert_eq!(asked.await.unwrap(), Some(json!(42)));
    node.end().await;
}

#[tokio::test]
async fn a_stock_servers_firmware_is_an_order() {
    let server = Server::start(Seen::default()).await;
    let node = node(server.port, 1);
    let (_trigger, shutdown) = shutdown::pair();
    let http = Http::fixed(Clock::manual("b", 0, 0), Target::default());
    let backoff = super::backoff::Backoff::new(Duration::from_secs(1), Duration::from_secs(1));
    tokio::spawn(node.orders.clone().run(
        http,
        node.health.clone(),
        Duration::from_secs(1),
        backoff,
        node.refused.clone(),
        shutdown,
    ));
    until("the record", || {
        server.seen.lock().unwrap().records.len() == 1
    })
    .await;
    let firmware = json!({
        "fw_title": "os", "fw_version": "2.0", "fw_tag": "2", "fw_url": "https://cp/releases/stable/2.0",
        "fw_checksum": "ab".repeat(32), "fw_checksum_algorithm": "SHA256",
    });
    server
        .push
        .try_send(Publish::new(
            topic::ATTRIBUTES,
            QoS::AtMostOnce,
            firmware.to_string(),
        ))
        .unwrap();
    until("the order", || {
        node.orders
            .watch()
            .borrow()
            .as_ref()
            .is_some_and(|order| order.version.as_str() == "2.0")
    })
    .await;
    node.end().await;
}
