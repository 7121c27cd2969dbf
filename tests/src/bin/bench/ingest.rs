//! Telemetry of a month: how fast it is taken durably, how small it becomes, and how fast it is read.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use cairn_tests::swarm::{self, Device};
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use super::control::enrol;
use super::control::server::Server;

const DEVICES: usize = 5;
const DAYS: u64 = 30;
/// Between two records of a device, in milliseconds, and by how much it differs: what an agent has if nobody says otherwise.
const EVERY: u64 = 60_000;
const JITTER: u64 = 6_000;
/// Records of a message: an outbox that is emptied.
const RECORDS: usize = 50;
/// Messages of a connection that aren't acknowledged yet.
const WINDOW: usize = 20;
/// Reads of each kind, of which the median counts.
const READS: usize = 9;
/// A day's samples of one key.
const DAY: usize = (86_400_000 / EVERY) as usize;

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
        "## Ingest: {DEVICES} devices, {DAYS} days, a record each {} s, the load on the same processors\n",
        EVERY / 1000
    );
    let dir = super::folder("ingest")?;
    let mut server = Server::start_with(&dir, &["--tidy-every", "1d"])?;
    let devices = enrol(&server, DEVICES).await?;
    let end = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64 - 3 * 3_600_000;
    let start = end - DAYS * 86_400_000;
    let nodes: Vec<Node> = (0..DEVICES as u64)
        .map(|seed| Node::new(seed, start))
        .collect();
    let keys = nodes[0].keys() as u64;
    let records: Vec<Vec<(u64, Map<String, Value>)>> = nodes
        .into_iter()
        .map(|mut node| (0..DAYS as usize * DAY).map(|_| node.record()).collect())
        .collect();
    let samples = records.iter().map(|all| all.len() as u64).sum::<u64>() * keys;

    let took = publish(&devices, &records, &server).await?;
    println!(
        "{samples} samples taken durably, in records of {keys}  {:9.0} /s",
        samples as f64 / took.as_secs_f64()
    );
    let stored = server.number("SELECT count(*) FROM sample")?;
    ensure!(
        stored == samples,
        "{samples} were acknowledged, {stored} are there"
    );
    let streamed =
        server.number("SELECT sum(events) FROM stream_block WHERE kind = 'telemetry'")?;
    ensure!(
        streamed == samples / keys,
        "{streamed} records are in the stream"
    );
    println!("  each is in the store once, and each record in the stream");
    let size = |server: &Server, tables: &str| {
        server.number(&format!(
            "SELECT sum(pgsize) FROM dbstat WHERE name IN ({tables})"
        ))
    };
    let rows = size(&server, "'sample'")?;
    let stream = size(&server, "'stream_block'")?;
    reads("as rows", &devices[0], &server)?;

    server.stop();
    server.start_again(&["--tidy-every", "1s"])?;
    let begun = Instant::now();
    let left = DEVICES as u64 * keys;
    while server.number("SELECT count(*) FROM sample")? > left {
        ensure!(
            begun.elapsed() < Duration::from_secs(900),
            "it isn't packed"
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    println!(
        "packed, with windows, in                         {:9.1} s   ({:.0} samples/s)",
        begun.elapsed().as_secs_f64(),
        samples as f64 / begun.elapsed().as_secs_f64()
    );
    let packed = size(&server, "'piece', 'sqlite_autoindex_piece_1', 'piece_day'")?;
    let windows = size(
        &server,
        "'window_day', 'sqlite_autoindex_window_day_1', 'window_day_day'",
    )?;
    let blobs = server.number("SELECT sum(length(packed)) FROM piece")?;
    let alone = alone(&records)?;
    let each = |bytes: u64| bytes as f64 / samples as f64;
    println!("bytes for each sample");
    println!(
        "  as rows                                        {:9.2}",
        each(rows)
    );
    println!(
        "  packed, with table and indexes                 {:9.2}   ratio {:.3}",
        each(packed),
        packed as f64 / rows as f64
    );
    println!(
        "  packed, the pieces alone                       {:9.2}",
        each(blobs)
    );
    println!(
        "  pco alone over the same days, values           {:9.2}",
        each(alone.values)
    );
    println!(
        "  pco alone over the same days, times            {:9.2}",
        each(alone.times)
    );
    println!(
        "  its windows of 5 minutes and an hour           {:9.2}",
        each(windows)
    );
    println!(
        "  in the stream                                  {:9.2}",
        each(stream)
    );
    reads("packed", &devices[0], &server)
}

/// All devices at once, each over its own connection.
async fn publish(
    devices: &[Arc<Device>],
    records: &[Vec<(u64, Map<String, Value>)>],
    server: &Server,
) -> Result<Duration> {
    let mut ready = Vec::new();
    for (device, records) in devices.iter().zip(records) {
        let messages = records.chunks(RECORDS).enumerate().map(|(n, chunk)| {
            let records = chunk.iter().enumerate().map(|(at, (ts, values))| {
                let seq = n * RECORDS + at + 1;
                json!({ "ts": ts, "values": values, "cairn": { "log": "ab", "seq": seq } })
            });
            Value::from(records.collect::<Vec<_>>())
                .to_string()
                .into_bytes()
        });
        let messages: Vec<Vec<u8>> = messages.collect();
        ready.push((device.connect(server.mqtt).await?, messages));
    }
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for (mut session, messages) in ready {
        tasks.spawn(async move {
            session
                .publish_all("v1/devices/me/telemetry", messages, WINDOW)
                .await
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(begun.elapsed())
}

/// A month of one key, by `cairnctl`, and what that takes if nothing is asked.
fn reads(how: &str, device: &Device, server: &Server) -> Result<()> {
    let time = |arguments: &[&str], expected: usize| -> Result<f64> {
        let mut times = Vec::new();
        for _ in 0..READS {
            let begun = Instant::now();
            let answer = server.ask(arguments)?;
            times.push(begun.elapsed().as_secs_f64() * 1000.0);
            let count = answer.as_array().context("a list")?.len();
            ensure!(count >= expected, "{arguments:?}: {count} of {expected}");
        }
        Ok(super::median(&mut times))
    };
    let id = device.id.as_str();
    let telemetry = ["device", "telemetry", id, "cpu_percent"];
    let with = |more: &[&'static str]| [&telemetry[..], more].concat();
    println!("a key of one device, {how}, by cairnctl, in ms");
    for (what, arguments, expected) in [
        ("the newest value", with(&["--last", "1"]), 1),
        (
            "10,000 values, about a week",
            with(&["--last", "10000"]),
            10_000,
        ),
        (
            "30 days by an hour",
            with(&["--step", "1h", "--last", "720"]),
            700,
        ),
        (
            "30 days by 5 minutes",
            with(&["--step", "5m", "--last", "8640"]),
            8_500,
        ),
        (
            "30 days by 7 minutes, of the samples themselves",
            with(&["--step", "7m", "--last", "6170"]),
            6_000,
        ),
    ] {
        println!("  {what:46} {:9.1}", time(&arguments, expected)?);
    }
    Ok(())
}

/// Bytes of pco alone.
struct Alone {
    values: u64,
    times: u64,
}

/// Each day's times and values of each key as columns, and nothing else.
fn alone(records: &[Vec<(u64, Map<String, Value>)>]) -> Result<Alone> {
    let config = pco::ChunkConfig::default();
    let mut alone = Alone {
        values: 0,
        times: 0,
    };
    for day in records.iter().flat_map(|all| all.chunks(DAY)) {
        let times: Vec<i64> = day.iter().map(|(ts, _)| *ts as i64).collect();
        let keys = day.first().context("an empty day")?.1.keys();
        for key in keys {
            let values: Vec<&Value> = day.iter().map(|(_, values)| &values[key]).collect();
            let packed = if values.iter().all(|value| value.is_i64()) {
                let values: Vec<i64> = values.iter().filter_map(|it| it.as_i64()).collect();
                pco::standalone::simple_compress(&values, &config)?
            } else {
                let values: Vec<f64> = values.iter().filter_map(|it| it.as_f64()).collect();
                pco::standalone::simple_compress(&values, &config)?
            };
            alone.values += packed.len() as u64;
            alone.times += pco::standalone::simple_compress(&times, &config)?.len() as u64;
        }
    }
    Ok(alone)
}

/// What a node measures, made up: some keys hardly change, some walk, some grow, some are noise.
struct Node {
    random: u64,
    ts: u64,
    cpu: f64,
    memory: i64,
    disk: i64,
    rx: i64,
    tx: i64,
    latency: f64,
    uptime: i64,
}

impl Node {
    fn new(seed: u64, start: u64) -> Self {
        Self {
            random: seed * 7_919 + 1,
            ts: start,
            cpu: 20.0,
            memory: 3_000_000_000,
            disk: 40,
            rx: 0,
            tx: 0,
            latency: 12.0,
            uptime: 0,
        }
    }

    fn keys(&self) -> usize {
        12
    }

    /// A number below `most` (xorshift: the same in each run).
    fn random(&mut self, most: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % most
    }

    fn record(&mut self) -> (u64, Map<String, Value>) {
        let ts = self.ts + self.random(JITTER);
        self.ts += EVERY;
        self.uptime += 60;
        let hour = self.ts as f64 / 86_400_000.0 * std::f64::consts::TAU;
        let load = 1.2 + hour.sin();
        self.cpu = (self.cpu + self.random(80) as f64 / 10.0 - 4.0).clamp(1.0, 99.0);
        self.memory += (self.random(2048) as i64 - 1024) * 4096;
        if self.random(600) == 0 {
            self.disk = 40 + (self.disk - 39) % 50;
        }
        self.rx += (load * 4e8) as i64 + self.random(90_000_000) as i64;
        self.tx += (load * 9e9) as i64 + self.random(900_000_000) as i64;
        self.latency = (self.latency + self.random(41) as f64 / 10.0 - 2.0).clamp(8.0, 60.0);
        let loss = if self.random(50) == 0 { 10.0 } else { 0.0 };
        let values = json!({
            "cpu_percent": (self.cpu * 10.0).round() / 10.0,
            "load_1m": (load * 100.0 + self.random(40) as f64).round() / 100.0,
            "memory.available_bytes": self.memory,
            "memory.total_bytes": 16_597_540_864_i64,
            "disk./.used_percent": self.disk,
            "disk./data.used_percent": self.disk + 7,
            "net.eth0.rx_bytes": self.rx,
            "net.eth0.tx_bytes": self.tx,
            "line.wan.latency_ms": (self.latency * 1000.0 + self.random(1000) as f64).round() / 1000.0,
            "line.wan.loss_percent": loss,
            "temperature_celsius": 45 + self.random(4),
            "uptime_seconds": self.uptime,
        });
        match values {
            Value::Object(values) => (ts, values),
            _ => (ts, Map::new()),
        }
    }
}
