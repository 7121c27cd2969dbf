//! Customers: the program that they run on nodes, and their clients, who count each byte.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cairn_system::Command;
use serde_json::{Value, json};

use crate::tools;

/// The port that the program listens on, in its own network.
const PORT: u16 = 9000;
/// What IPv4 and UDP put before each datagram's payload, in bytes.
const HEADERS: u64 = 20 + 8;
/// How long an answer may take, beside machines under emulation.
const PATIENCE: Duration = Duration::from_secs(30);

/// Compiles the customers' program, which needs no other file, and says where it is.
///
/// # Errors
/// If it doesn't compile.
pub fn program() -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/customer/echo.rs");
    let program = tools::cache_dir()?.join("customer");
    Command::new(Path::new(env!("CARGO")).with_file_name("rustc"))
        .args([
            "--edition",
            "2024",
            "-O",
            "-C",
            "target-feature=+crt-static",
        ])
        .arg("-o")
        .arg(&program)
        .arg(source)
        .timeout(Duration::from_secs(300))
        .run()
        .context("cannot compile the customers' program")?;
    Ok(program)
}

/// A workload of a customer's: its image on any node that this selects, at this port of the node.
pub fn workload(place: &Value, customer: &str, business: &str, image: &str, port: u16) -> Value {
    json!({
        "place": place,
        "owner": { "customer": customer, "business": business },
        "image": image,
        "limits": { "memory": 64 << 20, "pids": 16 },
        "ports": [{ "host": port, "container": PORT, "protocol": "udp" }],
        "update": { "healthy_seconds": 300 },
        "stop": { "grace_seconds": 0 },
    })
}

/// Bytes of IP that a client has sent and received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bytes {
    /// To the customer's workload.
    pub sent: u64,
    /// From it.
    pub received: u64,
}

/// A client of a customer's.
pub struct Client {
    socket: UdpSocket,
    /// What it has counted.
    pub bytes: Bytes,
}

impl Client {
    /// One that speaks to a port of this machine, which leads to the node's.
    ///
    /// # Errors
    /// If there is no socket.
    pub fn new(port: u16) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            bytes: Bytes::default(),
        })
    }

    /// Sends datagrams with so many bytes of payload, each when the one before has come back.
    ///
    /// # Errors
    /// If one doesn't come back, or comes back as another.
    pub fn exchange(&mut self, datagrams: u32, payload: usize) -> Result<()> {
        let mut answer = vec![0; payload + 1];
        for number in 0..datagrams {
            let sent: Vec<u8> = (0..payload).map(|at| (at as u32 ^ number) as u8).collect();
            self.socket.send(&sent)?;
            self.bytes.sent += payload as u64 + HEADERS;
            let length = self
                .socket
                .recv(&mut answer)
                .with_context(|| format!("datagram {number} of {datagrams} was not answered"))?;
            self.bytes.received += length as u64 + HEADERS;
            ensure!(
                answer[..length] == sent,
                "datagram {number} came back as another"
            );
        }
        Ok(())
    }

    /// Asks until there is an answer, as one does whose server was away.
    ///
    /// # Errors
    /// If there is none in that time.
    pub fn until_answered(&self, within: Duration) -> Result<()> {
        let end = Instant::now() + within;
        self.socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        while self
            .socket
            .send(b"?")
            .and_then(|_| self.socket.recv(&mut [0]))
            .is_err()
        {
            ensure!(
                Instant::now() < end,
                "no answer within {} s",
                within.as_secs()
            );
        }
        // What was answered late shall not be taken for the next answer.
        while self.socket.recv(&mut [0]).is_ok() {}
        Ok(self.socket.set_read_timeout(Some(PATIENCE))?)
    }
}

/// A port for datagrams that is free now.
///
/// # Errors
/// If there is none.
pub fn free_port() -> Result<u16> {
    Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}
