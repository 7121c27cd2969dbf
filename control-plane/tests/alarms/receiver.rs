//! What channels send to: an HTTP server and a small server for mail, which keep what they get.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::support::PATIENCE;

/// A request that came.
#[derive(Debug, Clone)]
pub struct Got {
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Got {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn key(&self) -> &str {
        &self.headers["idempotency-key"]
    }
}

struct Inner {
    got: Mutex<Vec<Got>>,
    answers: Mutex<VecDeque<(u16, &'static str)>>,
    /// Answers are given as long as there is room.
    gate: Semaphore,
}

#[derive(Clone)]
pub struct Receiver {
    inner: Arc<Inner>,
    pub url: String,
}

impl Receiver {
    /// Answers with these, then with 200 and `{}`.
    pub async fn start(answers: &[(u16, &'static str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook?key=hush", listener.local_addr().unwrap());
        let inner = Arc::new(Inner {
            got: Mutex::default(),
            answers: Mutex::new(answers.iter().copied().collect()),
            gate: Semaphore::new(1_000_000),
        });
        let router = Router::new().fallback(take).with_state(inner.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { inner, url }
    }

    /// From now on nothing is answered, until [`Receiver::open`].
    pub fn shut(&self) {
        self.inner.gate.forget_permits(usize::MAX >> 4);
    }

    pub fn open(&self) {
        self.inner.gate.add_permits(1_000_000);
    }

    pub fn got(&self) -> Vec<Got> {
        self.inner.got.lock().unwrap().clone()
    }

    /// `event` of all that came, in order.
    pub fn events(&self) -> Vec<String> {
        let text = |got: Got| got.json()["event"].as_str().unwrap().to_owned();
        self.got().into_iter().map(text).collect()
    }

    /// Waits until so many have come.
    pub async fn until(&self, count: usize) -> Vec<Got> {
        let end = Instant::now() + PATIENCE;
        loop {
            let got = self.got();
            if got.len() >= count {
                return got;
            }
            assert!(
                Instant::now() < end,
                "{count} messages were expected: {got:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn take(
    State(inner): State<Arc<Inner>>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, &'static str) {
    let headers = headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    inner.got.lock().unwrap().push(Got {
        headers,
        body: body.to_vec(),
    });
    let _turn = inner.gate.acquire().await.unwrap();
    let answer = inner.answers.lock().unwrap().pop_front();
    let (status, body) = answer.unwrap_or((200, "{}"));
    (StatusCode::from_u16(status).unwrap(), body)
}

/// A server for mail that says yes to everything; gives its port and what it got, as lines.
pub async fn post_office() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let got = Arc::new(Mutex::new(Vec::new()));
    let lines = got.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let lines = lines.clone();
            tokio::spawn(async move { converse(stream, &lines).await });
        }
    });
    (port, got)
}

async fn converse(stream: tokio::net::TcpStream, got: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 here\r\n").await?;
    let (mut line, mut inside) = (String::new(), false);
    while stream.read_line(&mut line).await? > 0 {
        let text = std::mem::take(&mut line).trim_end().to_owned();
        got.lock().unwrap().push(text.clone());
        let word = text.split(' ').next().unwrap_or("").to_ascii_uppercase();
        let answer: &[u8] = match word.as_str() {
            "." if inside => {
                inside = false;
                b"250 taken\r\n"
            }
            _ if inside => continue,
            "EHLO" => b"250 here\r\n",
            "DATA" => {
                inside = true;
                b"354 go on\r\n"
            }
            "QUIT" => b"221 bye\r\n",
            _ => b"250 yes\r\n",
        };
        stream.write_all(answer).await?;
    }
    Ok(())
}
