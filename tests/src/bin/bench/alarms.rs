//! From the sample that crosses to the webhook, while ten thousand devices report.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cairn_tests::swarm::{self, Device};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::control::enrol;
use super::control::server::Server;

const DEVICES: usize = 10_000;
/// In how long all of them connect.
const CONNECT: Duration = Duration::from_secs(30);
/// How often each of them reports.
const EVERY: Duration = Duration::from_secs(10);
/// Rounds in which all are well, then rounds in which some are not, then rounds in which all are again.
const ROUNDS: [usize; 3] = [2, 3, 2];
/// One of so many goes wrong.
const ONE_OF: usize = 25;

/// When each message came, by `event` and device.
type Arrivals = Arc<Mutex<BTreeMap<(String, String), Vec<Instant>>>>;

/// Measures it.
pub fn run() -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    swarm::raise_open_files()?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(measure())
}

async fn measure() -> Result<()> {
    println!(
        "## Alarms: {DEVICES} devices report ten values each {EVERY:?}, the load on the same processors\n"
    );
    let dir = super::folder("alarms")?;
    let server = Server::start(&dir)?;
    let (address, arrivals) = listen().await?;
    server.set_alarm(
        "template",
        "storage-use",
        &json!({ "resource": "storage-use", "key": "disk.*.used_percent", "severity": "warning",
                 "when": { "above": { "limit": 90, "clear": 85 } } }),
    )?;
    server.set_alarm(
        "channel",
        "bench",
        &json!({ "per_minute": 6000, "to": { "webhook": { "url": format!("http://{address}/") } } }),
    )?;
    let devices = enrol(&server, DEVICES).await?;
    let crossed = report(&devices, server.mqtt).await?;
    let expected = 2 * crossed.len();
    let end = Instant::now() + Duration::from_secs(60);
    let count = || {
        let arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.values().map(Vec::len).sum::<usize>()
    };
    while count() < expected {
        ensure!(
            Instant::now() < end,
            "{} of {expected} messages came",
            count()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
    let mut took = Vec::new();
    for (device, [fired, resolved]) in &crossed {
        for (event, sent) in [("fired", fired), ("resolved", resolved)] {
            match arrivals
                .get(&(event.to_owned(), device.clone()))
                .map(Vec::as_slice)
            {
                Some([at]) => took.push(at.duration_since(*sent).as_secs_f64()),
                other => bail!("{device} {event}: expected one message, got {other:?}"),
            }
        }
    }
    ensure!(
        count_all(&arrivals) == expected,
        "somebody else was told of, too"
    );
    took.sort_by(f64::total_cmp);
    let at = |share: usize| {
        took.get((took.len() - 1) * share / 100)
            .copied()
            .unwrap_or(f64::NAN)
    };
    println!(
        "from the sample to the webhook, {} alarms fired and resolved: median {:.2} s, 95th percentile {:.2} s, longest {:.2} s (goal 5)",
        crossed.len(),
        at(50),
        at(95),
        at(100)
    );
    println!("  each came once");
    Ok(())
}

fn count_all(arrivals: &BTreeMap<(String, String), Vec<Instant>>) -> usize {
    arrivals.values().map(Vec::len).sum()
}

/// All devices report; gives when those that went wrong said so, and when they said that they are well.
async fn report(
    devices: &[Arc<Device>],
    server: SocketAddr,
) -> Result<Vec<(String, [Instant; 2])>> {
    let begin = Instant::now();
    let start = begin + CONNECT + EVERY;
    let mut tasks = JoinSet::new();
    for (n, device) in devices.iter().cloned().enumerate() {
        let share = n as f64 / devices.len() as f64;
        tasks.spawn(async move {
            tokio::time::sleep_until((begin + CONNECT.mul_f64(share)).into()).await;
            let mut session = device.connect(server).await?;
            let [before, wrong, after] = ROUNDS;
            let (mut fired, mut resolved) = (None, None);
            for round in 0..before + wrong + after {
                let moment = start + EVERY.mul_f64(round as f64 + share);
                tokio::time::sleep_until(moment.into()).await;
                let full = n % ONE_OF == 0 && (before..before + wrong).contains(&round);
                let sent = Instant::now();
                match (full, fired) {
                    (true, None) => fired = Some(sent),
                    (false, Some(_)) if resolved.is_none() => resolved = Some(sent),
                    _ => {}
                }
                let payload = vec![values(if full { 95 } else { 50 })];
                session
                    .publish_all("v1/devices/me/telemetry", payload, 1)
                    .await?;
            }
            // It stays, as a device would.
            Ok::<_, anyhow::Error>((device.id.clone(), fired.zip(resolved), session))
        });
    }
    let (mut crossed, mut open) = (Vec::new(), Vec::new());
    while let Some(done) = tasks.join_next().await {
        let (device, moments, session) = done??;
        crossed.extend(moments.map(|(fired, resolved)| (device, [fired, resolved])));
        open.push(session);
    }
    Ok(crossed)
}

fn values(percent: u32) -> Vec<u8> {
    json!({
        "disk./.used_percent": percent, "disk./var.used_percent": 40, "load_1m": 0.5, "load_5m": 0.4, "cpu_percent": 12.5,
        "memory.available_bytes": 1_000_000_000_u64, "line.wan.latency_ms": 12, "line.wan.loss_percent": 0,
        "net.eth0.rx_bytes": 123_456, "net.eth0.tx_bytes": 654_321,
    })
    .to_string()
    .into_bytes()
}

/// A receiver that says yes.
async fn listen() -> Result<(SocketAddr, Arrivals)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (address, arrivals) = (listener.local_addr()?, Arrivals::default());
    let kept = arrivals.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let kept = kept.clone();
            tokio::spawn(async move {
                if let Err(error) = take(stream, &kept).await {
                    println!("a message can't be read: {error:#}");
                }
            });
        }
    });
    Ok((address, arrivals))
}

/// The messages of one connection.
async fn take(stream: TcpStream, arrivals: &Arrivals) -> Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut line, mut length) = (String::new(), 0);
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        while line.trim() != "" {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            line.clear();
            stream.read_line(&mut line).await?;
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let at = Instant::now();
        let body: Value = serde_json::from_slice(&body)?;
        let text = |name: &str| {
            body[name]
                .as_str()
                .map(str::to_owned)
                .context("a field is missing")
        };
        let key = (text("event")?, text("device")?);
        keep(arrivals, key, at);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await?;
    }
}

fn keep(arrivals: &Arrivals, key: (String, String), at: Instant) {
    let mut kept = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
    kept.entry(key).or_default().push(at);
}
