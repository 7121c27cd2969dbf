//! The little of an HTTP server that the agent needs: connections, as many as there is room for, and the heads of requests.

use std::convert::Infallible;
use std::io;
use std::ops::Range;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::shutdown::boxed;

/// Bytes of a request's head, at most.
pub const HEAD: usize = 8 * 1024;
/// Headers, at most.
const HEADERS: usize = 32;

/// Gives each connection to `answer`, at most `room` at a time. It ends by being dropped, and so do they.
pub async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    room: usize,
    answer: impl Fn(TcpStream) -> F,
) -> Infallible {
    let mut open = JoinSet::new();
    loop {
        while open.len() >= room {
            open.join_next().await;
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(open.spawn(boxed(answer(stream)))),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = open.join_next() => {}
        }
    }
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// `GET`, for one.
    pub method: String,
    /// The path, with the query if there is one.
    pub target: String,
    /// The bytes that are asked for, if it is one range with a beginning and an end.
    pub range: Option<Range<u64>>,
}

/// The requests of a connection, one after the other; none may have a body.
#[derive(Debug)]
pub struct Requests<S> {
    /// The connection.
    pub stream: S,
    read: Vec<u8>,
}

impl<S: AsyncRead + Unpin> Requests<S> {
    /// Those that come over `stream`.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            read: Vec::new(),
        }
    }

    /// The next one; `None` at the end.
    ///
    /// # Errors
    /// If the connection breaks, or what comes isn't HTTP.
    pub async fn next(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some((head, length)) = parse(&self.read)? {
                self.read.drain(..length);
                return Ok(Some(head));
            }
            let mut piece = [0; 1024];
            let got = self.stream.read(&mut piece).await?;
            if got == 0 {
                return Ok(None);
            }
            if self.read.len() + got > HEAD {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.read
                .extend_from_slice(piece.get(..got).unwrap_or_default());
        }
    }
}

/// A head and its length, once all of it is there.
fn parse(bytes: &[u8]) -> io::Result<Option<(Head, usize)>> {
    let wrong = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = request.parse(bytes).map_err(wrong)? else {
        return Ok(None);
    };
    let head = Head {
        method: request.method.unwrap_or_default().to_owned(),
        target: request.path.unwrap_or_default().to_owned(),
        range: request
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case("range"))
            .and_then(|header| range(std::str::from_utf8(header.value).ok()?)),
    };
    Ok(Some((head, length)))
}

/// `bytes=5-9` are five.
fn range(text: &str) -> Option<Range<u64>> {
    let (from, to) = text.trim().strip_prefix("bytes=")?.split_once('-')?;
    let (from, to): (u64, u64) = (from.parse().ok()?, to.parse().ok()?);
    let end = to.checked_add(1)?;
    (from < end).then_some(from..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_come_one_after_the_other() {
        let text = b"GET /a?b HTTP/1.1\r\nRANGE: bytes=5-9\r\n\r\nPOST /c HTTP/1.1\r\n\r\nGE";
        let mut requests = Requests::new(&text[..]);
        let first = requests.next().await.unwrap().unwrap();
        assert_eq!(
            (first.method.as_str(), first.target.as_str()),
            ("GET", "/a?b")
        );
        assert_eq!(first.range, Some(5..10));
        let second = requests.next().await.unwrap().unwrap();
        assert_eq!((second.method.as_str(), second.range), ("POST", None));
        assert_eq!(requests.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_no_request_is_an_error() {
        let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(HEAD));
        let many = "a: b\r\n".repeat(HEADERS + 1);
        let many = format!("GET / HTTP/1.1\r\n{many}\r\n");
        for text in ["\u{16}\u{3}", long.as_str(), many.as_str()] {
            assert!(Requests::new(text.as_bytes()).next().await.is_err());
        }
    }

    #[test]
    fn only_whole_ranges_count() {
        assert_eq!(range("bytes=0-0"), Some(0..1));
        for other in [
            "bytes=5-",
            "bytes=-5",
            "bytes=9-5",
            "5-9",
            "bytes=0-18446744073709551615",
        ] {
            assert_eq!(range(other), None, "{other}");
        }
    }
}
