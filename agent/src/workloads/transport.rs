//! The way to Docker's socket: a connection for each request, for the client library and for what is asked beside it.
//!
//! The library knows every field that Docker has, and the code that reads them all took 280 KB of the agent. So what Docker *shows* is read
//! here, by types with the few fields that matter, and the library does everything else.

use std::path::PathBuf;
use std::pin::Pin;

use bollard::errors::Error;
use bollard::{BollardRequest, ClientVersion};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use cairn_workload::Trouble;

/// The longest answer that is read, in bytes: a thousand containers are some two million.
const LIMIT: usize = 16 << 20;
/// The socket has no name; HTTP wants one.
const HOST: &str = "docker";

type Answer = Pin<Box<dyn Future<Output = Result<Response<Incoming>, Error>> + Send>>;

/// Sends a request of the library.
pub fn request(path: PathBuf, request: BollardRequest) -> Answer {
    Box::pin(send(path, request))
}

async fn send(path: PathBuf, mut request: BollardRequest) -> Result<Response<Incoming>, Error> {
    let target = request.uri().path_and_query().cloned();
    if let Some(target) = target {
        *request.uri_mut() = Uri::from(target);
    }
    let host = header::HeaderValue::from_static(HOST);
    request.headers_mut().insert(header::HOST, host);
    let stream = UnixStream::connect(path).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Until the answer is read or dropped.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender.send_request(request).await?)
}

/// Asks for what lies at `path`, and reads of it what `T` has.
pub async fn get<T: DeserializeOwned>(
    socket: PathBuf,
    version: &ClientVersion,
    path: &str,
) -> Result<T, Trouble> {
    let (status, body) = read(socket, format!("/v{version}{path}")).await?;
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(unreachable);
    }
    #[derive(Deserialize)]
    struct Refusal {
        message: String,
    }
    let refusal = serde_json::from_slice::<Refusal>(&body);
    Err(Trouble::Refused(match refusal {
        Ok(refusal) => refusal.message,
        Err(_) => format!("Docker answered {status}"),
    }))
}

async fn read(socket: PathBuf, path: String) -> Result<(StatusCode, Bytes), Trouble> {
    let request = Request::get(path)
        .body(bollard::body_full(Bytes::new()))
        .map_err(unreachable)?;
    let answer = send(socket, request).await.map_err(unreachable)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LIMIT).collect().await;
    Ok((status, body.map_err(unreachable)?.to_bytes()))
}

fn unreachable(error: impl ToString) -> Trouble {
    Trouble::Unreachable(error.to_string())
}

#[cfg(test)]
mod tests {
    use bollard::API_DEFAULT_VERSION;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    /// Asks somebody who answers this; what was asked, and what came of it.
    async fn ask(answer: String) -> (String, Result<Vec<u32>, Trouble>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut asked, mut buffer) = (String::new(), [0; 1024]);
            while !asked.ends_with("\r\n\r\n") {
                let read = stream.read(&mut buffer).await.unwrap();
                asked.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
            }
            let _ = stream.write_all(answer.as_bytes()).await;
            asked
        });
        let got = get(path, API_DEFAULT_VERSION, "/images/r/a@sha256:b/json?x=1").await;
        (asked.await.unwrap(), got)
    }

    fn answer(status: &str, body: &str) -> String {
        format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    #[tokio::test]
    async fn an_answer_is_read_and_a_refusal_is_told_from_silence() {
        let (asked, got) = ask(answer("200 OK", "[1, 2]")).await;
        assert_eq!(got.unwrap(), [1, 2]);
        let line = format!("GET /v{API_DEFAULT_VERSION}/images/r/a@sha256:b/json?x=1 HTTP/1.1\r\n");
        assert!(
            asked.starts_with(&line) && asked.contains("host: docker"),
            "{asked}"
        );

        let refused = |got: Result<_, _>| matches!(got, Err(Trouble::Refused(reason)) if reason.contains("no such"));
        let (_, got) = ask(answer("404 Not Found", r#"{"message":"no such image"}"#)).await;
        assert!(refused(got));
        let (_, got) = ask(answer("500 Oh", "")).await;
        assert!(matches!(got, Err(Trouble::Refused(reason)) if reason.contains("500")));
        for nonsense in [
            answer("200 OK", "{"),
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[".into(),
            "?".into(),
        ] {
            let (_, got) = ask(nonsense).await;
            assert!(matches!(got, Err(Trouble::Unreachable(_))));
        }
    }

    #[tokio::test]
    async fn an_answer_without_an_end_is_cut_off() {
        let long = format!("[{}1]", "1,".repeat(LIMIT / 2));
        let (_, got) = ask(answer("200 OK", &long)).await;
        assert!(matches!(got, Err(Trouble::Unreachable(_))));
    }
}
