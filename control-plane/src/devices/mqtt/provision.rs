//! A connection that provisions: it may ask for that and nothing else, and has a minute.

use bytes::Bytes;
use cairn_wire::provision::Request;
use cairn_wire::topic::{self, FromDevice};
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{
    ConnAck, ConnectReturnCode, Packet, PubAck, SubAck, SubscribeReasonCode,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::Closed;
use super::wire::Wire;
use crate::app::App;
use crate::registry::profiles;
use crate::store::StoreError;

/// Requests that are worked on at once.
static TURNS: Semaphore = Semaphore::const_new(4);
/// Requests that one connection may make.
const REQUESTS: usize = 16;

pub(super) async fn serve(app: &App, mut wire: Wire, shutdown: &CancellationToken) -> Closed {
    let closed = tokio::select! {
        closed = talk(app, &mut wire) => closed,
        () = tokio::time::sleep(app.config.provision_timeout) => Closed::Done,
        () = shutdown.cancelled() => Closed::Shutdown,
    };
    wire.close(closed).await;
    closed
}

async fn talk(app: &App, wire: &mut Wire) -> Closed {
    match conversation(app, wire).await {
        Ok(()) => Closed::Gone,
        Err(closed) => closed,
    }
}

async fn conversation(app: &App, wire: &mut Wire) -> Result<(), Closed> {
    wire.put(&Packet::ConnAck(ConnAck::new(
        ConnectReturnCode::Success,
        false,
    )))?;
    let (mut at_least_once, mut left) = (false, REQUESTS);
    loop {
        while let Some(packet) = wire.packet()? {
            match packet {
                Packet::Subscribe(subscribe) => {
                    let codes = subscribe
                        .filters
                        .iter()
                        .map(|filter| {
                            if filter.path != topic::PROVISION_RESPONSE {
                                return SubscribeReasonCode::Failure;
                            }
                            at_least_once = filter.qos != QoS::AtMostOnce;
                            SubscribeReasonCode::Success(if at_least_once {
                                QoS::AtLeastOnce
                            } else {
                                QoS::AtMostOnce
                            })
                        })
                        .collect();
                    wire.put(&Packet::SubAck(SubAck::new(subscribe.pkid, codes)))?;
                }
                Packet::Unsubscribe(unsubscribe) => {
                    wire.unsuback(unsubscribe.pkid, unsubscribe.topics.len())?
                }
                Packet::Publish(publish) => {
                    let named = std::str::from_utf8(&publish.topic)
                        .ok()
                        .and_then(|topic| FromDevice::parse(topic).ok());
                    if publish.qos == QoS::ExactlyOnce
                        || named != Some(FromDevice::Provision)
                        || left == 0
                    {
                        return Err(Closed::Malformed);
                    }
                    left -= 1;
                    let request =
                        Request::parse(&publish.payload).map_err(|_| Closed::Malformed)?;
                    let answer = provision(app, request).await.map_err(|_| Closed::Storage)?;
                    if publish.qos == QoS::AtLeastOnce {
                        wire.put(&Packet::PubAck(PubAck::new(publish.pkid)))?;
                    }
                    let payload = Bytes::from(answer.to_string());
                    // The answer goes to who asked, whether it subscribed or not: it can be meant for nobody else.
                    wire.publish(topic::PROVISION_RESPONSE.to_owned(), payload, at_least_once)?;
                }
                Packet::PingReq => wire.put(&Packet::PingResp)?,
                Packet::PubAck(_) => {}
                Packet::Disconnect => return Ok(()),
                _ => return Err(Closed::Malformed),
            }
        }
        wire.send().await?;
        wire.fill().await?;
    }
}

/// Provisions a device; the answer says whether it worked.
pub(crate) async fn provision(
    app: &App,
    request: Request,
) -> Result<serde_json::Value, StoreError> {
    let asked = request.clone();
    let known = app
        .store
        .read::<_, StoreError, _>(move |connection| profiles::group(connection, &asked))
        .await?;
    if known.is_none() {
        // Before anything is hashed: that costs as much for who knows no secret.
        return Ok(profiles::not_found());
    }
    let _turn = TURNS.acquire().await.map_err(|_| StoreError::Closed)?;
    let prepared = tokio::task::spawn_blocking(move || profiles::prepare(request))
        .await
        .map_err(|_| StoreError::Closed)?;
    app.store
        .write(move |tx| profiles::provision(tx, &prepared))
        .await
}
