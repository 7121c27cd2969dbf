//! Where alarms are told to: a server for webhooks, which keeps what came and when.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The largest message.
const MOST: usize = 1 << 20;

/// A message that came.
#[derive(Debug, Clone)]
pub struct Message {
    /// When.
    pub at: Instant,
    /// Its body.
    pub body: Value,
}

/// A server on a port of the loopback interface, until the process ends.
pub struct Webhook {
    port: u16,
    messages: Receiver<Message>,
}

impl Webhook {
    /// Starts one that takes every message.
    ///
    /// # Errors
    /// If there is no port.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let (sender, messages) = channel();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let sender = sender.clone();
                // A connection that breaks is the sender's business: it sends again.
                thread::spawn(move || drop(take(connection, &sender)));
            }
        });
        Ok(Self { port, messages })
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// The next message.
    ///
    /// # Errors
    /// If none comes in that time.
    pub fn next(&self, within: Duration) -> Result<Message> {
        self.messages
            .recv_timeout(within)
            .with_context(|| format!("no message came within {} s", within.as_secs()))
    }

    /// A message that has come and that nobody has looked at.
    pub fn unread(&self) -> Option<Message> {
        self.messages.try_recv().ok()
    }
}

fn take(connection: TcpStream, to: &Sender<Message>) -> Result<()> {
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut connection = connection;
    loop {
        let mut length = 0;
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse()?;
            }
            line.clear();
        }
        ensure!((1..=MOST).contains(&length), "a message of {length} bytes");
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let at = Instant::now();
        to.send(Message {
            at,
            body: serde_json::from_slice(&body)?,
        })?;
        connection.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
    }
}
