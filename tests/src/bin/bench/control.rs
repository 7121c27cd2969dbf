//! The control plane under load: enrolments, connections at rest, everybody back at once, telemetry against mosquitto.

mod mosquitto;
pub mod rest;
pub mod server;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cairn_tests::swarm::{self, Device, Enroller, Session};
use tokio::task::JoinSet;

use mosquitto::Mosquitto;
use server::Server;

const DEVICES: usize = 5_000;
/// Connections that publish in the comparison.
const PUBLISHERS: usize = 50;
/// What each of them publishes in one round.
const MESSAGES: usize = 2_000;
const WINDOW: usize = 100;
const ROUNDS: usize = 3;
/// Enrolments under way at once.
const HANDS: usize = 32;
const BACK_WITHIN: Duration = Duration::from_secs(60);

/// Measures all of it.
pub fn run() -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    swarm::raise_open_files()?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(measure())
}

async fn measure() -> Result<()> {
    println!("## Control plane: one process, the load on the same processors\n");
    let dir = super::folder("control")?;
    let mut server = Server::start(&dir)?;
    let devices = enrol(&server, DEVICES).await?;
    let before = server.resident()?;
    let (sessions, took) = connect_all(&devices, server.mqtt).await?;
    let each = server.resident()?.saturating_sub(before) / sessions.len() as u64;
    println!(
        "{} devices connect at once, mutual TLS          {:7.1} s",
        sessions.len(),
        took.as_secs_f64()
    );
    println!(
        "resident memory for each idle TLS connection    {:7.1} KiB",
        each as f64 / 1024.0
    );
    back(&devices, sessions, &mut server).await?;
    telemetry(&devices, &server, &dir).await
}

/// Enrols so many devices.
pub async fn enrol(server: &Server, count: usize) -> Result<Vec<Arc<Device>>> {
    let keys: Vec<_> = (0..count)
        .map(|_| swarm::key_and_request())
        .collect::<Result<_>>()?;
    let enroller = Arc::new(Enroller::new(
        &server.url,
        &server.ca,
        &server.token(count)?,
    )?);
    let waiting = Arc::new(std::sync::Mutex::new(keys));
    let began = Instant::now();
    let mut hands = JoinSet::new();
    for _ in 0..HANDS {
        let (enroller, waiting) = (Arc::clone(&enroller), Arc::clone(&waiting));
        hands.spawn(async move {
            let mut made = Vec::new();
            loop {
                let next = waiting.lock().ok().and_then(|mut list| list.pop());
                let Some((key, request)) = next else {
                    return Ok::<_, anyhow::Error>(made);
                };
                made.push(Arc::new(enroller.enrol(key, &request).await?));
            }
        });
    }
    let mut devices = Vec::new();
    while let Some(made) = hands.join_next().await {
        devices.extend(made??);
    }
    ensure!(
        devices.len() == count,
        "{} of {count} were enrolled",
        devices.len()
    );
    let rate = count as f64 / began.elapsed().as_secs_f64();
    println!("enrolments, each durable                         {rate:7.0} /s");
    Ok(devices)
}

/// Everybody at once; a refused connection is tried again until the deadline, as a device would.
async fn connect_all(
    devices: &[Arc<Device>],
    server: SocketAddr,
) -> Result<(Vec<Session>, Duration)> {
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for device in devices {
        let device = Arc::clone(device);
        tasks.spawn(async move { device.connect(server).await });
    }
    let mut sessions = Vec::new();
    while let Some(session) = tasks.join_next().await {
        sessions.push(session??);
    }
    Ok((sessions, began.elapsed()))
}

/// The server dies by `kill -9` and starts again on its ports; each device comes back by itself and says one thing.
async fn back(devices: &[Arc<Device>], sessions: Vec<Session>, server: &mut Server) -> Result<()> {
    let errors = Arc::new(AtomicUsize::new(0));
    let ready = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for (device, mut session) in devices.iter().cloned().zip(sessions) {
        let (errors, ready, address) = (Arc::clone(&errors), Arc::clone(&ready), server.mqtt);
        tasks.spawn(async move {
            session.closed().await;
            let deadline = Instant::now() + 2 * BACK_WITHIN;
            loop {
                // Before that nobody listens, or somebody who is dying.
                let counts = ready.load(Ordering::Acquire);
                let refused = match device.connect(address).await {
                    Ok(mut session) => {
                        let said = vec![br#"{"back":true}"#.to_vec()];
                        session
                            .publish_all("v1/devices/me/telemetry", said, 1)
                            .await?;
                        return Ok::<_, anyhow::Error>(session);
                    }
                    Err(error) => error,
                };
                if counts {
                    errors.fetch_add(1, Ordering::Relaxed);
                }
                if Instant::now() > deadline {
                    bail!("{} is not back: {refused:#}", device.id);
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
    }
    server.kill_and_restart()?;
    ready.store(true, Ordering::Release);
    let up = Instant::now();
    let mut sessions = Vec::new();
    while let Some(session) = tasks.join_next().await {
        sessions.push(session??);
    }
    println!(
        "all {} back after kill -9 and a restart          {:7.1} s   (goal 60), {} errors (goal 0)",
        sessions.len(),
        up.elapsed().as_secs_f64(),
        errors.load(Ordering::Relaxed)
    );
    Ok(())
}

async fn telemetry(devices: &[Arc<Device>], server: &Server, dir: &std::path::Path) -> Result<()> {
    let peer = Mosquitto::start(dir, &server.data)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        ours.push(publish(devices, server.mqtt, round).await?);
        theirs.push(publish(devices, peer.address, round).await?);
    }
    let (ours, theirs) = (super::median(&mut ours), super::median(&mut theirs));
    println!(
        "telemetry at QoS 1 over TLS, {PUBLISHERS} connections, {WINDOW} in flight each; {ROUNDS} rounds of {}, in turn; medians",
        PUBLISHERS * MESSAGES
    );
    println!(
        "  cairn-control, acknowledged when durable      {ours:7.0} /s   ratio {:.2} (goal 0.50)",
        ours / theirs
    );
    println!("  mosquitto, which stores nothing               {theirs:7.0} /s");
    let stored = server.samples()?;
    let sent = (ROUNDS * PUBLISHERS * MESSAGES) as u64;
    ensure!(
        stored == sent,
        "{sent} records were acknowledged, {stored} are stored"
    );
    println!("  each of the {sent} acknowledged records is in the database once");
    Ok(())
}

/// Messages a second.
async fn publish(devices: &[Arc<Device>], server: SocketAddr, round: usize) -> Result<f64> {
    let mut sessions = Vec::new();
    for device in devices.iter().take(PUBLISHERS) {
        sessions.push(
            device
                .connect(server)
                .await
                .context("a publisher can't connect")?,
        );
    }
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for mut session in sessions {
        tasks.spawn(async move {
            let first = 1_790_000_000_000_u64 + (round * MESSAGES) as u64;
            let payloads = (0..MESSAGES as u64).map(move |n| {
                format!(r#"{{"ts":{},"values":{{"bench":{n}.5}}}}"#, first + n).into_bytes()
            });
            session
                .publish_all("v1/devices/me/telemetry", payloads, WINDOW)
                .await
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok((PUBLISHERS * MESSAGES) as f64 / began.elapsed().as_secs_f64())
}
