//! Answers the neighbours. What they may ask for is in [`cairn_wire::neighbour`].

use std::convert::Infallible;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cairn_release::Digest;
use cairn_wire::neighbour::{BYTES, PATH};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{Offer, Shelf};
use crate::clock::Clock;
use crate::identity::Identity;
use crate::link::tls;
use crate::pace::Pace;
use crate::requests::{self, Head, Requests};

/// Connections at a time.
const MANY: usize = 64;
/// For proving who one is: nobody else holds a place for longer.
const PROOF: Duration = Duration::from_secs(3);
/// For taking a piece, and between two requests.
const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes that are read and sent at once.
const PIECE: u64 = 64 << 10;

struct Server {
    tls: TlsAcceptor,
    clock: Clock,
    device: String,
    shelf: Arc<dyn Shelf>,
    pace: Mutex<Pace>,
}

/// Answers whoever shows a device's certificate of the same CA, until it is dropped.
///
/// # Errors
/// If the identity can't be used.
pub async fn run(
    listener: TcpListener,
    identity: &Identity,
    clock: Clock,
    shelf: Arc<dyn Shelf>,
    rate: u64,
) -> io::Result<Infallible> {
    let config = tls::server_config(identity, clock.clone()).map_err(io::Error::other)?;
    let server = Arc::new(Server {
        tls: TlsAcceptor::from(Arc::new(config)),
        pace: Mutex::new(Pace::new(Some(rate), clock.now().mono_ms)),
        clock,
        device: identity.device.clone(),
        shelf,
    });
    let ended = requests::accept(listener, MANY, |stream| {
        let server = server.clone();
        async move {
            // One that breaks off is the neighbour's trouble.
            let _ = server.connection(stream).await;
        }
    });
    Ok(ended.await)
}

/// What is said to be wrong with a request.
type Refusal = (&'static str, &'static str);

enum Asked {
    Holding(Arc<Offer>),
    Bytes(Arc<Offer>, Range<u64>),
}

impl Server {
    async fn connection(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let proven = tokio::time::timeout(PROOF, self.tls.accept(stream)).await??;
        let mut requests = Requests::new(proven);
        while let Some(head) = soon(requests.next()).await? {
            self.answer(&head, &mut requests.stream).await?;
        }
        Ok(())
    }

    async fn answer(&self, head: &Head, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        match self.asked(head).await {
            Err((status, reason)) => send(stream, status, "", reason.as_bytes()).await,
            Ok(Asked::Holding(offer)) => {
                let holding = serde_json::to_vec(&offer.holding(&self.device))?;
                send(
                    stream,
                    "200 OK",
                    "Content-Type: application/json\r\n",
                    &holding,
                )
                .await
            }
            Ok(Asked::Bytes(offer, range)) => self.give(offer.image, range, stream).await,
        }
    }

    async fn asked(&self, head: &Head) -> Result<Asked, Refusal> {
        const NONE: Refusal = ("404 Not Found", "nothing of such an image is here\n");
        if head.method != "GET" {
            return Err(("405 Method Not Allowed", "only GET\n"));
        }
        let rest = head.target.strip_prefix(PATH).ok_or(NONE)?;
        let (image, bytes) = match rest.strip_suffix(BYTES) {
            Some(image) => (image, true),
            None => (rest, false),
        };
        let image: Digest = image.parse().map_err(|_| NONE)?;
        let shelf = self.shelf.clone();
        let found = tokio::task::spawn_blocking(move || shelf.find(&image)).await;
        let offer = found.ok().flatten().ok_or(NONE)?;
        if !bytes {
            return Ok(Asked::Holding(offer));
        }
        match head.range.clone() {
            Some(range) if offer.holds(&range) => Ok(Asked::Bytes(offer, range)),
            _ => Err(("416 Range Not Satisfiable", "these bytes aren't here\n")),
        }
    }

    async fn give(
        &self,
        image: Digest,
        range: Range<u64>,
        stream: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        let (start, last, length) = (range.start, range.end - 1, range.end - range.start);
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{last}/*\r\nContent-Length: {length}\r\n\r\n"
        );
        soon(stream.write_all(head.as_bytes())).await?;
        let mut at = start;
        while at < range.end {
            let piece = at..range.end.min(at + PIECE);
            let (shelf, wanted) = (self.shelf.clone(), piece.clone());
            let read = tokio::task::spawn_blocking(move || shelf.read(&image, wanted));
            let bytes = read.await.map_err(io::Error::other)??;
            if bytes.len() as u64 != piece.end - piece.start {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            soon(stream.write_all(&bytes)).await?;
            at = piece.end;
            let wait = {
                let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
                pace.after(bytes.len() as u64, self.clock.now().mono_ms)
            };
            if let Some(wait) = wait {
                tokio::time::sleep(wait).await;
            }
        }
        soon(stream.flush()).await
    }
}

async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    status: &str,
    headers: &str,
    body: &[u8],
) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    soon(stream.write_all(&[head.as_bytes(), body].concat())).await?;
    soon(stream.flush()).await
}

/// Who is slow gets nothing.
async fn soon<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(PATIENCE, work).await?
}
