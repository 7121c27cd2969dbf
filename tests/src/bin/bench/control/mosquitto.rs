//! mosquitto as the peer: the same certificates, nothing stored.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cairn_tests::tools;

/// A running broker; it ends with this.
pub struct Mosquitto {
    child: Child,
    /// Its TLS listener.
    pub address: SocketAddr,
}

impl Mosquitto {
    /// Starts one with the certificates of the control plane in `data`.
    pub fn start(dir: &Path, data: &Path) -> Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = dir.join("mosquitto.conf");
        fs::write(
            &config,
            format!(
                "user root\nlistener {} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n\
                 use_identity_as_username true\npersistence false\nmax_inflight_messages 0\nmax_queued_messages 0\nlog_type error\n",
                address.port(),
                data.join("ca/ca.pem").display(),
                data.join("tls/server.pem").display(),
                data.join("tls/server.key").display(),
            ),
        )?;
        let child = Command::new(tools::require("mosquitto")?)
            .arg("-c")
            .arg(&config)
            .stderr(fs::File::create(dir.join("mosquitto.log"))?)
            .spawn()
            .context("cannot start mosquitto")?;
        let mut broker = Self { child, address };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            if let Some(status) = broker.child.try_wait()? {
                bail!("mosquitto ended: {status}");
            }
            anyhow::ensure!(Instant::now() < deadline, "mosquitto doesn't listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(broker)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
