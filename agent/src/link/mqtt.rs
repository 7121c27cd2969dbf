//! One connection over MQTT, from CONNECT to its end.
//!
//! Nothing is kept from one connection to the next: the outbox is the agent's own, and every subscription is made anew, whatever
//! the server says of a session.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cairn_wire::attributes::{Change, Request, Response};
use cairn_wire::rpc::{Call, Reply};
use cairn_wire::topic;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, MqttOptions, Packet, Publish,
    PublishOptions, QoS, StateError, SubscribeFilter, TlsConfiguration, Transport,
};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::calls::{self, AT_A_TIME, ToServer};
use super::http::Target;
use super::pump::Queue;
use super::session::{End, Parts};
use super::settings::Broker;
use super::{State, tls};
use crate::shutdown::Shutdown;

/// How long a server may take to acknowledge subscriptions and attributes, and an end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long an end in good order may take.
const FAREWELL: Duration = Duration::from_secs(3);
/// Room for messages that aren't from the outbox.
const CHANNEL: usize = 64;
/// The number of our request for attributes.
const ATTRIBUTES: u32 = 1;

/// What a publish was, when its acknowledgement comes.
enum Sent {
    Batch(u64),
    Attributes,
}

struct Session<'a, Q: Queue> {
    parts: &'a mut Parts<Q>,
    client: AsyncClient,
    acks: FuturesUnordered<BoxFuture<'static, (Sent, bool)>>,
    replies: FuturesUnordered<BoxFuture<'static, (u32, Option<Reply>)>>,
    waiting: HashMap<u32, oneshot::Sender<Value>>,
    next_call: u32,
    /// The server has taken a message on this connection.
    proven: bool,
}

/// Connects and works until the connection ends, or is to end.
pub async fn session<Q: Queue>(
    parts: &mut Parts<Q>,
    broker: &Broker,
    client_id: &str,
    target: &Target,
    shutdown: &mut Shutdown,
) -> End {
    let options = match options(parts, broker, client_id, target) {
        Ok(options) => options,
        Err(error) => return End::lost(error.to_string()),
    };
    let (client, mut events) = match AsyncClient::builder(options).capacity(CHANNEL).try_build() {
        Ok(made) => made,
        Err(error) => return End::lost(error.to_string()),
    };
    events
        .network_options
        .set_connection_timeout(PATIENCE.as_secs());
    let (packets, mut incoming) = mpsc::channel::<Packet>(16);
    let mut driver = std::pin::pin!(async move {
        loop {
            match events.poll().await {
                Ok(Event::Incoming(
                    packet @ (Packet::ConnAck(_) | Packet::Publish(_) | Packet::SubAck(_)),
                )) => {
                    // The other end outlives this future.
                    let _ = packets.send(packet).await;
                }
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    });
    let mut session = Session {
        parts,
        client,
        acks: FuturesUnordered::new(),
        replies: FuturesUnordered::new(),
        waiting: HashMap::new(),
        next_call: ATTRIBUTES + 1,
        proven: false,
    };
    let mut standing = session.parts.standing.clone();
    let mut changed = session.parts.reload.subscribe();
    let greeting = tokio::time::Instant::now() + PATIENCE;
    let mut subscribed = false;

    let end = loop {
        let overdue = session
            .parts
            .pump
            .overdue_at()
            .map(tokio::time::Instant::from_std);
        let room = session.proven && session.parts.pump.has_room();
        let queue = session.parts.pump.queue().clone();
        tokio::select! {
            biased;
            () = shutdown.requested() => break End::Shutdown,
            error = &mut driver => {
                // What came before the end still counts.
                while let Ok(packet) = incoming.try_recv() {
                    session.packet(packet, &mut subscribed);
                }
                break judge(error);
            }
            Some(packet) = incoming.recv() => session.packet(packet, &mut subscribed),
            Some((sent, taken)) = session.acks.next() => if taken { session.acknowledged(sent).await },
            Some((id, reply)) = session.replies.next() => session.answer(id, reply),
            Some(call) = session.parts.to_server.recv(), if session.proven => session.call(call),
            Ok(()) = standing.changed() => break End::Reload,
            Ok(()) = changed.changed() => break End::Reload,
            () = tokio::time::sleep_until(greeting), if !session.proven => {
                break End::Failing { reason: "the server doesn't acknowledge what the node says first".to_owned(), blamed: false };
            }
            () = sleep_until(overdue), if overdue.is_some() => {
                break End::Failing { reason: "the server doesn't acknowledge a message".to_owned(), blamed: true };
            }
            () = queue.ready(), if room => session.send().await,
        }
    };
    if matches!(end, End::Shutdown | End::Reload)
        && session.client.try_disconnect_with_timeout(FAREWELL).is_ok()
    {
        let deadline = tokio::time::sleep(FAREWELL + Duration::from_secs(1));
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                biased;
                Some((sent, true)) = session.acks.next() => session.acknowledged(sent).await,
                _ = &mut driver => break,
                Some(_) = incoming.recv() => {}
                () = &mut deadline => break,
            }
        }
    }
    let proven = session.proven;
    let blamed = proven
        && matches!(
            end,
            End::Lost { blamed: true, .. } | End::Failing { blamed: true, .. }
        );
    drop(session.acks);
    parts.pump.ended(blamed).await;
    end.with_proof(proven)
}

async fn sleep_until(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn options<Q: Queue>(
    parts: &Parts<Q>,
    broker: &Broker,
    client_id: &str,
    target: &Target,
) -> Result<MqttOptions, super::LinkError> {
    let mut options = MqttOptions::new(client_id, (broker.host.as_str(), broker.port));
    options.set_clean_session(true);
    options.set_keep_alive(u16::try_from(parts.settings.keep_alive.as_secs()).unwrap_or(60));
    options.set_max_packet_size(
        cairn_wire::MAX_PAYLOAD + 1024,
        cairn_wire::MAX_PAYLOAD + 1024,
    );
    if let Some(token) = &target.token {
        options.set_username(token.clone());
    }
    if broker.tls {
        let config = tls::client_config(
            tls::Peer::Server,
            target.ca.as_deref(),
            target.identity.as_deref(),
            parts.clock.clone(),
        )?;
        options.set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::new(config))));
    }
    Ok(options)
}

impl<Q: Queue> Session<'_, Q> {
    fn packet(&mut self, packet: Packet, subscribed: &mut bool) {
        match packet {
            Packet::ConnAck(_) => self.subscribe(),
            Packet::SubAck(_) if !*subscribed => {
                *subscribed = true;
                self.greet();
            }
            Packet::Publish(publish) => self.message(&publish),
            _ => {}
        }
    }

    fn subscribe(&self) {
        let filters = [
            topic::ATTRIBUTES,
            topic::ATTRIBUTES_RESPONSES,
            topic::RPC_REQUESTS,
            topic::RPC_RESPONSES,
        ]
        .map(|filter| SubscribeFilter::new(filter.to_owned(), QoS::AtLeastOnce));
        if let Err(error) = self.client.try_subscribe_many(filters) {
            tracing::warn!(%error, "cannot subscribe");
        }
    }

    /// The server listens: tells it what the node is, and asks what it wants.
    fn greet(&mut self) {
        let request = Request {
            client_keys: None,
            shared_keys: Some(super::desired::KEYS.join(",")),
        };
        let request = serde_json::to_vec(&request).unwrap_or_default();
        self.publish(&topic::attributes_request(ATTRIBUTES), request);
        let facts = Value::Object((self.parts.facts)()).to_string().into_bytes();
        match self.client.try_publish_tracked(
            topic::ATTRIBUTES,
            facts,
            PublishOptions::at_least_once(),
        ) {
            Ok(notice) => self.acks.push(Box::pin(async move {
                (
                    Sent::Attributes,
                    notice.wait_completion_async().await.is_ok(),
                )
            })),
            Err(error) => tracing::warn!(%error, "cannot tell the node's attributes"),
        }
    }

    fn publish(&self, topic: &str, payload: Vec<u8>) {
        if let Err(error) = self
            .client
            .try_publish(topic, payload, PublishOptions::at_least_once())
        {
            tracing::warn!(topic, %error, "cannot publish");
        }
    }

    fn message(&mut self, publish: &Publish) {
        let Ok(name) = std::str::from_utf8(&publish.topic) else {
            return;
        };
        let told = if name == topic::ATTRIBUTES {
            Change::parse(&publish.payload).map(|change| self.parts.orders.change(change))
        } else if name.starts_with("v1/devices/me/attributes/response/") {
            Response::parse(&publish.payload)
                .map(|response| self.parts.orders.attributes(response.shared))
        } else if let (true, Some(id)) = (
            name.starts_with("v1/devices/me/rpc/request/"),
            topic::trailing_id(name),
        ) {
            Call::parse(&publish.payload).map(|call| self.called(id, call))
        } else if let (true, Some(id)) = (
            name.starts_with("v1/devices/me/rpc/response/"),
            topic::trailing_id(name),
        ) {
            if let Some(answer) = self.waiting.remove(&id) {
                let _ =
                    answer.send(serde_json::from_slice(&publish.payload).unwrap_or(Value::Null));
            }
            Ok(())
        } else {
            Ok(())
        };
        if let Err(error) = told {
            tracing::warn!(topic = name, %error, "the server said something that cannot be read");
        }
    }

    fn called(&mut self, id: u32, call: Call) {
        if self.replies.len() >= AT_A_TIME {
            let busy = Reply::refused("the node is busy with other calls");
            self.publish(&topic::rpc_response(id), calls::to_payload(&busy));
            return;
        }
        tracing::info!(id, method = %call.method.chars().take(64).collect::<String>(), "called");
        let wait = calls::hand_over(&self.parts.from_server, call);
        self.replies
            .push(Box::pin(async move { (id, wait.await.ok()) }));
    }

    fn answer(&self, id: u32, reply: Option<Reply>) {
        let reply = reply.unwrap_or_else(|| Reply::refused("the node gave up on it"));
        self.publish(&topic::rpc_response(id), calls::to_payload(&reply));
    }

    fn call(&mut self, call: ToServer) {
        self.waiting.retain(|_, answer| !answer.is_closed());
        if self.waiting.len() >= AT_A_TIME {
            return;
        }
        let Ok(payload) = serde_json::to_vec(&call.call) else {
            return;
        };
        let id = self.next_call;
        self.next_call = self.next_call.wrapping_add(1);
        self.waiting.insert(id, call.answer);
        self.publish(&topic::rpc_request(id), payload);
    }

    async fn send(&mut self) {
        let Some(message) = self.parts.pump.next().await else {
            return;
        };
        match self.client.try_publish_tracked(
            topic::TELEMETRY,
            message.payload,
            PublishOptions::at_least_once(),
        ) {
            Ok(notice) => {
                let ticket = message.ticket;
                self.acks.push(Box::pin(async move {
                    (
                        Sent::Batch(ticket),
                        notice.wait_completion_async().await.is_ok(),
                    )
                }));
            }
            // The batch goes back when the connection ends, which a full channel means.
            Err(error) => tracing::warn!(%error, "cannot publish telemetry"),
        }
    }

    async fn acknowledged(&mut self, sent: Sent) {
        match sent {
            Sent::Batch(ticket) => self.parts.pump.acked(ticket).await,
            Sent::Attributes => {
                self.proven = true;
                self.parts.health.session(State::Up);
                self.parts.orders.look();
            }
        }
    }
}

fn judge(error: ConnectionError) -> End {
    let mut reason = error.to_string();
    // rustls points to its manual.
    if let Some(link) = reason.find(": https://") {
        reason.truncate(link);
    }
    if super::refusing_alert(&reason) {
        return End::Refused(reason);
    }
    match error {
        ConnectionError::ConnectionRefused(code) => match code {
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => {
                End::Refused("not authorized: the node is revoked or removed, or its certificate or token isn't the one on record".to_owned())
            }
            _ => End::Failing {
                reason,
                blamed: false,
            },
        },
        ConnectionError::MqttState(StateError::AwaitPingResp)
        | ConnectionError::NetworkTimeout
        | ConnectionError::FlushTimeout => End::lost(reason),
        ConnectionError::NotConnAck(_) => End::Failing {
            reason,
            blamed: false,
        },
        ConnectionError::MqttState(_) => End::Lost {
            reason,
            blamed: true,
        },
        _ => End::lost(reason),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_refused_certificate_is_told_from_a_lost_connection() {
        let state = |text: &'static str| {
            judge(ConnectionError::MqttState(StateError::Io(
                io::Error::other(text),
            )))
        };
        let refused = state("received fatal alert: CertificateExpired");
        assert!(matches!(refused, End::Refused(_)), "{refused:?}");
        let lost = state("connection reset: https://example.org/manual");
        assert!(
            matches!(&lost, End::Lost { reason, blamed: true } if reason.ends_with("connection reset")),
            "{lost:?}"
        );
    }
}
