//! The nodes' way to the control plane: a port that stays the same whatever the server
//! behind it does, and that a test can close, or let answer with an error instead.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What speaks behind a gate: it decides how a failing server says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Status 503.
    Http,
    /// A CONNACK of "server unavailable".
    Mqtt,
}

/// Where connections go.
#[derive(Debug, Clone)]
pub enum Way {
    /// Nowhere: they are closed.
    Closed,
    /// To this server.
    Open(SocketAddr),
    /// To nobody but this certificate, and each request is answered with an error.
    Failing(Arc<ServerConfig>),
}

struct State {
    way: Way,
    /// Both ends of what runs through; cut when the way changes.
    running: Vec<TcpStream>,
    /// How many connections were made while the way was [`Way::Failing`].
    failed: usize,
    /// Bytes that servers sent.
    sent: u64,
    ended: bool,
}

type Shared = Arc<Mutex<State>>;

/// A port of the loopback interface.
pub struct Gate {
    port: u16,
    state: Shared,
    listening: Option<JoinHandle<()>>,
}

impl Gate {
    /// A gate that is closed.
    ///
    /// # Errors
    /// If there is no port.
    pub fn new(protocol: Protocol) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port for a gate")?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(Mutex::new(State {
            way: Way::Closed,
            running: Vec::new(),
            failed: 0,
            sent: 0,
            ended: false,
        }));
        let shared = Arc::clone(&state);
        let listening = thread::spawn(move || {
            for connection in listener.incoming() {
                if lock(&shared).ended {
                    return;
                }
                let Ok(connection) = connection else { continue };
                let shared = Arc::clone(&shared);
                // A connection that fails is the client's business.
                thread::spawn(move || drop(serve(protocol, connection, &shared)));
            }
        });
        Ok(Self {
            port,
            state,
            listening: Some(listening),
        })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sends connections another way; those that run are cut.
    pub fn lead(&self, way: Way) {
        let mut state = lock(&self.state);
        state.way = way;
        for stream in state.running.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// How many bytes servers have sent through it, as they went over the wire.
    pub fn sent(&self) -> u64 {
        lock(&self.state).sent
    }

    /// How many connections were answered with an error.
    pub fn failed(&self) -> usize {
        lock(&self.state).failed
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        lock(&self.state).ended = true;
        self.lead(Way::Closed);
        // Wakes the listener.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(thread) = self.listening.take() {
            let _ = thread.join();
        }
    }
}

/// A server of this certificate and key (both PEM), for [`Way::Failing`].
///
/// # Errors
/// If they aren't what they should be.
pub fn failing(certificates: &[u8], key: &[u8]) -> Result<Way> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificates)
        .collect::<Result<_, _>>()
        .context("no certificate")?;
    let key = PrivateKeyDer::from_pem_slice(key).context("no key")?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(Way::Failing(Arc::new(config)))
}

fn lock(state: &Shared) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(protocol: Protocol, client: TcpStream, state: &Shared) -> Result<()> {
    let way = {
        let mut state = lock(state);
        state.running.push(client.try_clone()?);
        if matches!(state.way, Way::Failing(_)) {
            state.failed += 1;
        }
        state.way.clone()
    };
    match way {
        Way::Closed => Ok(client.shutdown(Shutdown::Both)?),
        Way::Open(server) => {
            let server = match TcpStream::connect(server) {
                Ok(server) => server,
                Err(error) => {
                    client.shutdown(Shutdown::Both)?;
                    return Err(error.into());
                }
            };
            lock(state).running.push(server.try_clone()?);
            let (from, to) = (client.try_clone()?, server.try_clone()?);
            let there = thread::spawn(move || pass(from, to, |_| {}));
            pass(server, client, |bytes| lock(state).sent += bytes);
            let _ = there.join();
            Ok(())
        }
        Way::Failing(config) => {
            client.set_read_timeout(Some(Duration::from_secs(20)))?;
            let mut stream = StreamOwned::new(ServerConnection::new(config)?, client);
            answer(protocol, &mut stream)?;
            stream.conn.send_close_notify();
            stream.flush()?;
            Ok(stream.sock.shutdown(Shutdown::Write)?)
        }
    }
}

/// Passes on what comes, and tells how much, until either end has enough.
fn pass(mut from: TcpStream, mut to: TcpStream, passed: impl Fn(u64)) {
    let mut piece = [0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        passed(length as u64);
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

/// Reads what there is of a request, and answers as a server in trouble.
fn answer(protocol: Protocol, stream: &mut (impl Read + Write)) -> io::Result<()> {
    let mut request: Vec<u8> = Vec::new();
    let mut piece = [0; 2048];
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            length => request.extend(&piece[..length]),
        }
        let whole = match protocol {
            Protocol::Http => request.windows(4).any(|end| end == b"\r\n\r\n"),
            Protocol::Mqtt => request.len() > 2,
        };
        if whole {
            break;
        }
        if request.len() > 1 << 16 {
            return Ok(());
        }
    }
    match protocol {
        Protocol::Http => {
            let body = r#"{"code":"unavailable","message":"the test says so"}"#;
            write!(
                stream,
                "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            )?;
        }
        Protocol::Mqtt => stream.write_all(&[0x20, 2, 0, 3])?,
    }
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo() -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut piece = [0; 4];
            while stream.read_exact(&mut piece).is_ok() {
                stream.write_all(&piece).unwrap();
            }
        });
        (address, thread)
    }

    #[test]
    fn a_gate_passes_on_and_cuts() {
        let (server, thread) = echo();
        let gate = Gate::new(Protocol::Http).unwrap();
        let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, gate.port())).unwrap();
        assert_eq!(connect().read(&mut [0; 4]).unwrap_or(0), 0, "it is closed");
        gate.lead(Way::Open(server));
        let mut client = connect();
        client.write_all(b"ping").unwrap();
        let mut piece = [0; 4];
        client.read_exact(&mut piece).unwrap();
        assert_eq!(&piece, b"ping");
        gate.lead(Way::Closed);
        assert_eq!(client.read(&mut piece).unwrap_or(0), 0, "it was cut");
        thread.join().unwrap();
    }
}
