//! The far end of a line: it answers datagrams, as late as it is told to.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Answers on a port of the loopback interface until the process ends.
pub struct FarEnd {
    port: u16,
    delay: Arc<AtomicU64>,
}

impl FarEnd {
    /// One that answers at once.
    ///
    /// # Errors
    /// If there is no port.
    pub fn start() -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = socket.local_addr()?.port();
        let delay = Arc::new(AtomicU64::new(0));
        let current = Arc::clone(&delay);
        thread::spawn(move || {
            let mut datagram = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut datagram) {
                let due = Instant::now() + Duration::from_millis(current.load(Ordering::Relaxed));
                // The line's delay itself. Probes come seconds apart, so that one doesn't wait for another.
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let _ = socket.send_to(&datagram[..length], from);
            }
        });
        Ok(Self { port, delay })
    }

    /// Its UDP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on answers are so late.
    pub fn delay(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.delay.store(millis, Ordering::Relaxed);
    }
}
