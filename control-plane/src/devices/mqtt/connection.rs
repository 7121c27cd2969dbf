//! A device's connection, from CONNACK to its end.

use std::time::Duration;

use cairn_wire::Record;
use cairn_wire::attributes::parse_set;
use cairn_wire::topic::{self, FromDevice, Package};
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{
    ConnAck, ConnectReturnCode, Packet, PubAck, Publish, SubAck, Subscribe, SubscribeReasonCode,
};
use serde_json::json;
use std::sync::Arc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Closed;
use super::answer::{self, Asked};
use super::ingest::{self, BATCH, Item, Job, Message, Outcome};
use super::wire::Wire;
use crate::app::App;
use crate::devices::{left, now_ms};
use crate::registry::{self, DeviceId};
use crate::sessions::{End, Outlet, Push, Wants};
use crate::store::StoreError;
use crate::stream::{self, Kind};
use crate::telemetry::quota;

/// Jobs of one connection that may be under way; then its socket isn't read.
const UNDER_WAY: usize = 8;
/// Without a keep-alive a device may be silent for so long.
const SILENCE: Duration = Duration::from_secs(600);
/// How often `last_seen` is written at most.
const SEEN: Duration = Duration::from_secs(60);

struct Connection<'a> {
    app: &'a App,
    wire: Wire,
    device: DeviceId,
    outlet: Arc<Outlet>,
    jobs: FuturesOrdered<Job>,
    batch: Vec<Message>,
    batch_bytes: usize,
    /// What of it counts against the device's quota.
    batch_cost: usize,
    seen: Instant,
    heard: Instant,
    /// When its certificate ends.
    ends: Option<i64>,
    /// It has used up its quota: nothing is read before.
    owing: Option<Instant>,
}

pub(super) async fn serve(
    app: &App,
    wire: Wire,
    device: DeviceId,
    ends: Option<i64>,
    keep_alive: u16,
    shutdown: &CancellationToken,
) -> Closed {
    // In the list first, then looked up: a revocation either finds it in the list or is found.
    let outlet = app.sessions.connect(&device);
    let (id, now) = (device.clone(), Instant::now());
    let known = app
        .store
        .write::<_, StoreError, _>(move |tx| {
            registry::seen(tx, &id, true)?;
            let known = registry::get(tx, &id)?.is_some_and(|device| device.revoked.is_none());
            if known {
                stream::one(
                    tx,
                    Kind::Connection,
                    &id,
                    now_ms(),
                    &json!({ "online": true }),
                )?;
            }
            Ok(known)
        })
        .await;
    let closed = match known {
        Ok(true) => {
            let silence = match keep_alive {
                0 => SILENCE,
                seconds => Duration::from_millis(u64::from(seconds) * 1500),
            };
            let connection = Connection {
                app,
                wire,
                device: device.clone(),
                outlet: Arc::clone(&outlet),
                jobs: FuturesOrdered::new(),
                batch: Vec::new(),
                batch_bytes: 0,
                batch_cost: 0,
                seen: now,
                heard: now,
                ends,
                owing: None,
            };
            // On the heap, so that the task of an idle connection isn't larger than it must be.
            Box::pin(connection.run(silence, shutdown)).await
        }
        Ok(false) => {
            wire.refuse(ConnectReturnCode::NotAuthorized, Closed::Refused)
                .await
        }
        Err(_) => {
            wire.refuse(ConnectReturnCode::ServiceUnavailable, Closed::Storage)
                .await
        }
    };
    tracing::debug!(device = %device, reason = closed.word(), "disconnected");
    if app.sessions.disconnect(&device, &outlet) {
        let gone = device.clone();
        let written = app
            .store
            .write::<_, StoreError, _>(move |tx| {
                registry::seen(tx, &gone, false)?;
                stream::one(
                    tx,
                    Kind::Connection,
                    &gone,
                    now_ms(),
                    &json!({ "online": false }),
                )
            })
            .await;
        if let Err(error) = written {
            tracing::warn!(device = %device, %error, "can't note that a device has gone");
        }
    }
    closed
}

impl Connection<'_> {
    async fn run(mut self, silence: Duration, shutdown: &CancellationToken) -> Closed {
        let closed = match self.talk(silence, shutdown).await {
            Ok(never) => match never {},
            Err(closed) => closed,
        };
        if closed != Closed::Gone {
            self.finish().await;
        }
        self.wire.close(closed).await;
        closed
    }

    async fn talk(
        &mut self,
        silence: Duration,
        shutdown: &CancellationToken,
    ) -> Result<std::convert::Infallible, Closed> {
        self.wire.put(&Packet::ConnAck(ConnAck::new(
            ConnectReturnCode::Success,
            false,
        )))?;
        self.wire.send().await?;
        tracing::debug!(device = %self.device, "connected");
        self.app.rollouts.on_connect(&self.device);
        self.charge(0);
        if self.owing.is_none() {
            // A client needn't wait for CONNACK: what it sent behind its CONNECT is here already.
            self.read().await?;
        }
        let alarm = tokio::time::sleep_until(self.look_again(silence));
        tokio::pin!(alarm);
        loop {
            if let Some(until) = self.owing.filter(|until| *until < alarm.deadline()) {
                alarm.as_mut().reset(until);
            }
            let busy = self.jobs.len() >= UNDER_WAY || self.wire.is_full() || self.owing.is_some();
            tokio::select! {
                Some(outcome) = self.jobs.next(), if !self.jobs.is_empty() => self.done(outcome)?,
                () = self.outlet.woken() => self.push()?,
                filled = self.wire.fill(), if !busy => {
                    filled?;
                    self.heard = Instant::now();
                    self.read().await?;
                }
                () = &mut alarm => {
                    if self.ends.is_some_and(|ends| left(ends).is_none()) {
                        return Err(Closed::Expired);
                    }
                    if self.owing.is_some_and(|until| until <= Instant::now()) {
                        self.owing = None;
                        self.heard = Instant::now();
                        self.read().await?;
                    }
                    // While it waits for us its silence is ours.
                    if self.heard.elapsed() >= silence && !busy {
                        return Err(Closed::Silent);
                    }
                    alarm.as_mut().reset(self.look_again(silence));
                }
                () = shutdown.cancelled() => return Err(Closed::Shutdown),
            }
            self.wire.send().await?;
        }
    }

    /// When its silence or its certificate may be over.
    fn look_again(&self, silence: Duration) -> Instant {
        let now = Instant::now();
        let soonest = now + Duration::from_secs(1);
        let silent = (self.heard + silence).max(soonest);
        match self.ends.map(|ends| left(ends).unwrap_or_default()) {
            Some(left) if now + left < silent => (now + left).max(soonest),
            _ => silent,
        }
    }

    /// Counts what the device sent against its quota.
    fn charge(&mut self, bytes: usize) {
        let now = Instant::now();
        let wait = self.app.quota.charge(&self.device, bytes, now.into_std());
        if !wait.is_zero() {
            if self.owing.is_none() {
                self.app.metrics.slowed.inc();
                tracing::debug!(device = %self.device, ?wait, "its quota is used up");
            }
            self.owing = Some(now + wait);
        }
    }

    /// What is under way is awaited and acknowledged before the connection ends.
    async fn finish(&mut self) {
        while let Some(outcome) = self.jobs.next().await {
            if self.done(outcome).is_err() {
                break;
            }
        }
    }

    fn done(&mut self, outcome: Result<Outcome, tokio::task::JoinError>) -> Result<(), Closed> {
        let outcome = outcome.map_err(|_| Closed::Storage)?;
        for packet in outcome.acknowledge {
            self.wire.put(&Packet::PubAck(PubAck::new(packet)))?;
        }
        for (wants, topic, payload) in outcome.send {
            if self.outlet.wants(wants) {
                let at_least_once = self.outlet.at_least_once(wants);
                self.wire.publish(topic, payload, at_least_once)?;
            }
        }
        match outcome.closed {
            Some(closed) => Err(closed),
            None => Ok(()),
        }
    }

    fn push(&mut self) -> Result<(), Closed> {
        match self.outlet.ended() {
            Some(End::Superseded) => return Err(Closed::Superseded),
            Some(End::Revoked) => return Err(Closed::Revoked),
            Some(End::Slow) => return Err(Closed::Slow),
            None => {}
        }
        while let Some(push) = self.outlet.next() {
            let (topic, payload, wants) = match push {
                Push::Attributes(payload) => {
                    (topic::ATTRIBUTES.to_owned(), payload, Wants::ATTRIBUTES)
                }
                Push::Call { id, payload } => (topic::rpc_request(id), payload, Wants::CALLS),
            };
            let at_least_once = self.outlet.at_least_once(wants);
            self.wire.publish(topic, payload, at_least_once)?;
        }
        Ok(())
    }

    /// Takes every whole packet of what was read.
    async fn read(&mut self) -> Result<(), Closed> {
        let result = loop {
            match self.wire.packet() {
                Ok(Some(packet)) => {
                    if let Err(closed) = self.take(packet).await {
                        break Err(closed);
                    }
                }
                Ok(None) => break Ok(()),
                Err(closed) => break Err(closed),
            }
        };
        // What came before a bad packet counts.
        self.submit().await;
        result
    }

    async fn take(&mut self, packet: Packet) -> Result<(), Closed> {
        match packet {
            Packet::Publish(publish) => self.published(publish).await,
            // Messages are sent once; there is nothing to strike off.
            Packet::PubAck(_) => Ok(()),
            Packet::Subscribe(subscribe) => self.subscribe(&subscribe),
            Packet::Unsubscribe(unsubscribe) => {
                for filter in &unsubscribe.topics {
                    if let Some(wants) = wants(filter) {
                        self.outlet.unsubscribe(wants);
                    }
                }
                self.wire
                    .unsuback(unsubscribe.pkid, unsubscribe.topics.len())
            }
            Packet::PingReq => self.wire.put(&Packet::PingResp),
            Packet::Disconnect => {
                self.submit().await;
                Err(Closed::Gone)
            }
            _ => Err(Closed::Malformed),
        }
    }

    fn subscribe(&mut self, subscribe: &Subscribe) -> Result<(), Closed> {
        let codes = subscribe
            .filters
            .iter()
            .map(|filter| match wants(&filter.path) {
                Some(wants) if topic::may_subscribe(&filter.path) => {
                    let at_least_once = filter.qos != QoS::AtMostOnce;
                    self.outlet.subscribe(wants, at_least_once);
                    SubscribeReasonCode::Success(if at_least_once {
                        QoS::AtLeastOnce
                    } else {
                        QoS::AtMostOnce
                    })
                }
                _ => {
                    // Cut, and not for everybody: one packet can name thousands of filters.
                    let filter: String = filter.path.chars().take(128).collect();
                    tracing::debug!(device = %self.device, filter, "a subscription was refused");
                    SubscribeReasonCode::Failure
                }
            })
            .collect();
        self.wire
            .put(&Packet::SubAck(SubAck::new(subscribe.pkid, codes)))
    }

    async fn published(&mut self, publish: Publish) -> Result<(), Closed> {
        self.app.metrics.messages.inc();
        let device = self.device.clone();
        let malformed = move |error: &dyn std::fmt::Display| {
            tracing::info!(device = %device, %error, "a message was refused");
            Closed::Malformed
        };
        let packet = match publish.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(publish.pkid),
            QoS::ExactlyOnce => return Err(malformed(&"QoS 2 isn't served")),
        };
        let name = std::str::from_utf8(&publish.topic).map_err(|error| malformed(&error))?;
        let topic = FromDevice::parse(name).map_err(|error| malformed(&error))?;
        let item = match topic {
            FromDevice::Telemetry => {
                let records =
                    Record::parse_all(&publish.payload).map_err(|error| malformed(&error))?;
                crate::telemetry::check(&records).map_err(|error| malformed(&error))?;
                self.batch_cost += quota::cost(publish.payload.len(), &records);
                Item::Telemetry(records)
            }
            FromDevice::Attributes => {
                let values = parse_set(&publish.payload).map_err(|error| malformed(&error))?;
                self.batch_cost += quota::of_values(publish.payload.len(), values.len());
                Item::Attributes(values)
            }
            topic => {
                // In the order in which they came.
                self.submit().await;
                self.room().await?;
                let asked = Asked {
                    packet,
                    topic,
                    payload: publish.payload,
                };
                self.jobs
                    .push_back(answer::answer(self.app, &self.device, asked));
                return Ok(());
            }
        };
        // A record of eight bytes on the wire is a thousand in memory.
        let parsed = match &item {
            Item::Telemetry(records) => records.len() * 1024,
            Item::Attributes(values) => values.len() * 128,
        };
        self.batch_bytes += publish.payload.len() + parsed;
        self.batch.push(Message { packet, item });
        if self.batch.len() >= BATCH {
            self.submit().await;
        }
        Ok(())
    }

    /// A read can hold more requests than may be under way.
    async fn room(&mut self) -> Result<(), Closed> {
        while self.jobs.len() >= 2 * UNDER_WAY {
            if let Some(outcome) = self.jobs.next().await {
                self.done(outcome)?;
                self.wire.send().await?;
            }
        }
        Ok(())
    }

    /// Starts to store what was collected.
    async fn submit(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let cost = std::mem::take(&mut self.batch_cost);
        self.charge(cost);
        let bytes = std::mem::take(&mut self.batch_bytes);
        let Some(permit) = ingest::share(bytes).await else {
            return;
        };
        let seen = self.seen.elapsed() >= SEEN;
        if seen {
            self.seen = Instant::now();
        }
        let batch = std::mem::take(&mut self.batch);
        let job = ingest::store(self.app, &self.device, batch, seen, permit).await;
        self.jobs.push_back(job);
    }
}

/// What a filter is for; `None` if it is for nothing of ours.
fn wants(filter: &str) -> Option<Wants> {
    let is = |prefix: &str| filter.starts_with(prefix);
    Some(match filter {
        topic::ATTRIBUTES => Wants::ATTRIBUTES,
        _ if is("v1/devices/me/attributes/response/") => Wants::ATTRIBUTE_ANSWERS,
        _ if is("v1/devices/me/rpc/request/") => Wants::CALLS,
        _ if is("v1/devices/me/rpc/response/") => Wants::CALL_ANSWERS,
        _ if is("v2/fw/") => answer::wants(Package::Firmware),
        _ if is("v2/sw/") => answer::wants(Package::Software),
        _ => return None,
    })
}
