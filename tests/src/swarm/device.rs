//! One device: its identity, and its session over TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use rumqttc::mqttbytes::v4::{Connect, ConnectReturnCode, Packet, Publish};
use rumqttc::mqttbytes::{Error as CodecError, QoS};
use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const MAX_PACKET: usize = 70_000;

/// Who a device is.
pub struct Device {
    /// Its id.
    pub id: String,
    tls: Arc<ClientConfig>,
}

impl Device {
    /// A device with this certificate and key, which trusts what `verifier` does.
    ///
    /// # Errors
    /// If the key doesn't fit the certificate.
    pub fn new(
        id: String,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        verifier: Arc<WebPkiServerVerifier>,
    ) -> Result<Self> {
        let mut tls = ClientConfig::builder()
            .with_webpki_verifier(verifier)
            .with_client_auth_cert(chain, key)?;
        // Each reconnect does the whole handshake, as after a restart of everything.
        tls.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            id,
            tls: Arc::new(tls),
        })
    }

    /// Connects, and waits for the server's yes.
    ///
    /// # Errors
    /// If the network, TLS or the server says no.
    pub async fn connect(&self, server: SocketAddr) -> Result<Session> {
        let tcp = TcpStream::connect(server).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("localhost")?;
        let stream = TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, tcp)
            .await?;
        let mut session = Session {
            stream,
            buffer: BytesMut::new(),
            next: 1,
        };
        let mut connect = Connect::new(&self.id);
        connect.keep_alive = 600;
        let mut out = BytesMut::new();
        Packet::Connect(connect).write(&mut out, MAX_PACKET)?;
        session.stream.write_all(&out).await?;
        match session.read().await? {
            Packet::ConnAck(ack) if ack.code == ConnectReturnCode::Success => Ok(session),
            other => bail!("the server answered {other:?}"),
        }
    }
}

/// A device's connection.
pub struct Session {
    stream: TlsStream<TcpStream>,
    buffer: BytesMut,
    next: u16,
}

impl Session {
    /// Publishes these at QoS 1 with at most `window` unacknowledged, and waits for every acknowledgement.
    ///
    /// # Errors
    /// If the connection ends, or something else than acknowledgements comes.
    pub async fn publish_all(
        &mut self,
        topic: &str,
        payloads: impl IntoIterator<Item = Vec<u8>>,
        window: usize,
    ) -> Result<()> {
        let mut payloads = payloads.into_iter();
        let mut waiting = 0_usize;
        let mut left = true;
        let mut out = BytesMut::new();
        while left || waiting > 0 {
            while left && waiting < window {
                let Some(payload) = payloads.next() else {
                    left = false;
                    break;
                };
                let mut publish = Publish::new(topic, QoS::AtLeastOnce, payload);
                publish.pkid = self.next;
                self.next = self.next.checked_add(1).unwrap_or(1);
                Packet::Publish(publish).write(&mut out, MAX_PACKET)?;
                waiting += 1;
            }
            if !out.is_empty() {
                self.stream.write_all(&out).await?;
                out.clear();
            }
            if waiting == 0 {
                break;
            }
            match self.read().await? {
                Packet::PubAck(_) => waiting -= 1,
                other => bail!("expected an acknowledgement, got {other:?}"),
            }
            while let Some(packet) = self.take()? {
                ensure!(
                    matches!(packet, Packet::PubAck(_)),
                    "expected an acknowledgement, got {packet:?}"
                );
                waiting -= 1;
            }
        }
        Ok(())
    }

    /// Returns when the server has closed the connection.
    pub async fn closed(&mut self) {
        while self.read().await.is_ok() {}
    }

    async fn read(&mut self) -> Result<Packet> {
        loop {
            if let Some(packet) = self.take()? {
                return Ok(packet);
            }
            let read = self.stream.read_buf(&mut self.buffer).await?;
            ensure!(read > 0, "the server closed the connection");
        }
    }

    fn take(&mut self) -> Result<Option<Packet>> {
        match Packet::read(&mut self.buffer, MAX_PACKET) {
            Ok(packet) => Ok(Some(packet)),
            Err(CodecError::InsufficientBytes(_)) => Ok(None),
            Err(error) => Err(error).context("cannot read what the server sent"),
        }
    }
}
