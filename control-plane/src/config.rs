//! What the server is told at its start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What a device may have and give in a day for measuring its line, in bytes.
pub const SPEED_A_DAY: u64 = 4 << 30;

/// How long telemetry is kept, in days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ages {
    /// The samples themselves.
    pub raw_days: u32,
    /// Windows of five minutes.
    pub five_minute_days: u32,
    /// Windows of an hour.
    pub hour_days: u32,
}

/// How much of the stream is kept for those who read it later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Not longer than so many days.
    pub days: u32,
    /// Not more than so many bytes, as they lie on the disk.
    pub bytes: u64,
}

/// The server's settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where everything is kept.
    pub data: PathBuf,
    /// The HTTPS listener.
    pub https: SocketAddr,
    /// The MQTT listener, TLS.
    pub mqtt: SocketAddr,
    /// The plain HTTP listener for health and metrics.
    pub admin: SocketAddr,
    /// Further names and addresses in the server's certificate.
    pub names: Vec<String>,
    /// `https://host:port` as devices and people reach it.
    pub public_url: Option<String>,
    /// `host:port` of MQTT as devices reach it.
    pub public_mqtt: Option<String>,
    /// Life of a device's certificate.
    pub certificate_days: u32,
    /// How long telemetry is kept.
    pub ages: Ages,
    /// How much of the stream is kept.
    pub stream: Keep,
    /// How often telemetry and traffic are packed, and what is too old is forgotten.
    pub tidy_every: Duration,
    /// Bytes of telemetry that a device may store in a day.
    pub telemetry_quota: u64,
    /// Open connections, MQTT and HTTPS each.
    pub max_connections: usize,
    /// From a connection's start to the end of its TLS handshake, and from there to the MQTT CONNECT.
    pub handshake_timeout: Duration,
    /// How long a provisioning connection may stay.
    pub provision_timeout: Duration,
    /// How long a shutdown waits for what is under way.
    pub drain: Duration,
}

impl Config {
    /// The defaults over a data folder: every listener on the loopback, ports free to choose.
    pub fn new(data: PathBuf) -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            data,
            https: loopback,
            mqtt: loopback,
            admin: loopback,
            names: Vec::new(),
            public_url: None,
            public_mqtt: None,
            certificate_days: 90,
            ages: Ages {
                raw_days: 90,
                five_minute_days: 180,
                hour_days: 730,
            },
            stream: Keep {
                days: 7,
                bytes: 8 << 30,
            },
            tidy_every: Duration::from_secs(600),
            telemetry_quota: 1 << 30,
            max_connections: 200_000,
            handshake_timeout: Duration::from_secs(20),
            provision_timeout: Duration::from_secs(60),
            drain: Duration::from_secs(5),
        }
    }
}
