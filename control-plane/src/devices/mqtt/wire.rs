//! Packets over a socket. The read buffer grows with what comes and is small while nothing does.

use std::time::Duration;

use bytes::BytesMut;
use rumqttc::mqttbytes::Error;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{ConnAck, ConnectReturnCode, Packet, Publish, UnsubAck};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::{Closed, MAX_PACKET, five};

/// The buffer of a connection on which nothing happens.
const IDLE: usize = 256;
/// The most that is read at once.
const BUSY: usize = 32 * 1024;
/// How long a device may take to read what it asked for.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest packet that is sent: a whole package in one chunk, and its topic.
const MAX_SENT: usize = super::answer::MAX_WHOLE + 4096;

pub(super) struct Wire {
    io: TlsStream<TcpStream>,
    read: BytesMut,
    out: BytesMut,
    want: usize,
    next_packet: u16,
    version: Version,
    /// The client id that was given to a client of MQTT 5 which brought none.
    assigned: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    /// Nothing was read yet.
    Unknown,
    /// 3.1.1.
    Four,
    /// 5.
    Five,
}

impl Wire {
    pub(super) fn new(io: TlsStream<TcpStream>) -> Self {
        Self {
            io,
            read: BytesMut::new(),
            out: BytesMut::new(),
            want: IDLE,
            next_packet: 0,
            version: Version::Unknown,
            assigned: None,
        }
    }

    /// Answers a CONNECT with `code`, and closes.
    pub(super) async fn refuse(mut self, code: ConnectReturnCode, closed: Closed) -> Closed {
        let refused = Packet::ConnAck(ConnAck::new(code, false));
        if self.put(&refused).is_ok() {
            // CONNACK has said why.
            self.close(Closed::Gone).await;
        }
        closed
    }

    /// Reads what there is. Dropping the future loses nothing.
    pub(super) async fn fill(&mut self) -> Result<(), Closed> {
        if self.read.is_empty() && self.read.capacity() > self.want {
            self.read = BytesMut::new();
        }
        if self.read.capacity() - self.read.len() < self.want {
            self.read.reserve(self.want);
        }
        let room = self.read.capacity() - self.read.len();
        match self.io.read_buf(&mut self.read).await {
            Ok(0) | Err(_) => Err(Closed::Gone),
            Ok(count) => {
                self.want = if count >= room {
                    (self.want * 4).min(BUSY)
                } else {
                    count.clamp(IDLE, BUSY)
                };
                Ok(())
            }
        }
    }

    /// The next packet of what was read.
    pub(super) fn packet(&mut self) -> Result<Option<Packet>, Closed> {
        if self.version == Version::Unknown {
            match five::is_five(&self.read) {
                Some(five) => self.version = if five { Version::Five } else { Version::Four },
                // The smallest CONNECT is longer than what is needed to see it.
                None if self.read.len() < 16 => return Ok(None),
                None => return Err(Closed::Malformed),
            }
        }
        let packet = match self.version {
            Version::Five => five::read(&mut self.read, MAX_PACKET),
            _ => Packet::read(&mut self.read, MAX_PACKET),
        };
        match packet {
            Ok(Packet::Connect(connect)) => {
                if self.version == Version::Five && connect.client_id.is_empty() {
                    let id: [u8; 8] = rand::random();
                    self.assigned = Some(hex::encode(id));
                }
                Ok(Some(Packet::Connect(connect)))
            }
            Ok(packet) => Ok(Some(packet)),
            Err(Error::InsufficientBytes(missing)) => {
                // The codec has checked the packet's length against MAX_PACKET.
                self.want = self.want.max(missing.min(MAX_PACKET + 8));
                Ok(None)
            }
            Err(error) => {
                tracing::debug!(%error, "not a packet");
                Err(Closed::Malformed)
            }
        }
    }

    /// Puts a packet behind those that wait to be sent.
    pub(super) fn put(&mut self, packet: &Packet) -> Result<(), Closed> {
        if self.version == Version::Five {
            five::write(packet, &mut self.out, self.assigned.as_deref());
            return Ok(());
        }
        packet
            .write(&mut self.out, MAX_SENT)
            .map(|_| ())
            .map_err(|error| {
                tracing::warn!(%error, "a packet can't be written");
                Closed::Gone
            })
    }

    /// Acknowledges the end of so many subscriptions.
    pub(super) fn unsuback(&mut self, packet: u16, filters: usize) -> Result<(), Closed> {
        if self.version == Version::Five {
            five::unsuback(&mut self.out, packet, filters);
            return Ok(());
        }
        self.put(&Packet::UnsubAck(UnsubAck::new(packet)))
    }

    /// Puts a message behind those that wait to be sent.
    pub(super) fn publish(
        &mut self,
        topic: String,
        payload: bytes::Bytes,
        at_least_once: bool,
    ) -> Result<(), Closed> {
        let mut publish = Publish::from_bytes(topic, QoS::AtMostOnce, payload);
        if at_least_once {
            // Numbers 1 to 65535. No message is sent twice, so an acknowledgement is only read over.
            self.next_packet = self.next_packet.checked_add(1).unwrap_or(1);
            publish.qos = QoS::AtLeastOnce;
            publish.pkid = self.next_packet;
        }
        self.put(&Packet::Publish(publish))
    }

    /// Whether so much waits to be sent that nothing more should be asked for.
    pub(super) fn is_full(&self) -> bool {
        self.out.len() > BUSY
    }

    /// Sends what waits.
    pub(super) async fn send(&mut self) -> Result<(), Closed> {
        if self.out.is_empty() {
            return Ok(());
        }
        let sent = tokio::time::timeout(WRITE_TIMEOUT, async {
            self.io.write_all(&self.out).await?;
            self.io.flush().await
        })
        .await;
        self.out = BytesMut::new();
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Closed::Gone),
            Err(_) => Err(Closed::Slow),
        }
    }

    /// Sends what waits and says goodbye: in MQTT 5 with the reason, and in TLS.
    pub(super) async fn close(mut self, why: Closed) {
        if self.version == Version::Five {
            five::goodbye(&mut self.out, why);
        }
        let _ = self.send().await;
        let _ = tokio::time::timeout(Duration::from_secs(2), self.io.shutdown()).await;
    }
}
