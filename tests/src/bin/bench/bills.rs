//! The month view: what a customer, a supplier, or the fleet is billed by, asked as a user asks, of the whole process.
//!
//! Some devices are really there: each sends signed records of ten different days, which the server judges, sums and packs. The
//! rest of the month and of the fleet are copies of these packed days, made in its database.

mod ledger;
mod records;

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cairn_tests::swarm::{self, Device, Enroller};
use jiff::{ToSpan as _, civil::Date};
use rusqlite::Connection;
use serde_json::Value;
use tokio::task::JoinSet;

use super::control::rest::Rest;
use super::control::server::Server;
use ledger::What;
use records::{BUSINESSES, Chain, DAY, owner};

/// Devices that are really there.
const BASE: usize = 100;
/// Days of which they send records.
const DAYS: i64 = 10;
/// Devices of which each copy's series are all there, and of which only the device's own.
const FLEETS: [(usize, What); 3] = [
    (1_000, What::Everything),
    (10_000, What::Everything),
    (100_000, What::Interfaces),
];
const SUPPLIERS: usize = 10;
const WARM: usize = 20;
const COLD: usize = 3;
/// Messages that have no acknowledgement yet.
const WINDOW: usize = 50;

/// Whose device the `n`th is.
fn supplier(n: usize) -> String {
    format!("supplier-{}", n % SUPPLIERS)
}

/// The last month that is over.
pub struct Month {
    /// As `2026-10`.
    name: String,
    /// Its days since 1970.
    days: Range<i64>,
}

impl Month {
    fn last() -> Result<Self> {
        let today = jiff::Timestamp::now()
            .to_zoned(jiff::tz::TimeZone::UTC)
            .date();
        let end = today.first_of_month();
        let start = end.checked_sub(1.month())?;
        let number = |date: Date| {
            Ok::<_, jiff::Error>(i64::from((date - Date::constant(1970, 1, 1)).get_days()))
        };
        Ok(Self {
            name: start.strftime("%Y-%m").to_string(),
            days: number(start)?..number(end)?,
        })
    }
}

/// A question.
struct View {
    what: &'static str,
    /// Each is a request; one waits for the other.
    paths: Vec<String>,
}

/// Measures it.
pub fn run() -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(measure())
}

async fn measure() -> Result<()> {
    println!("## Bills: the month view over REST, one process\n");
    let dir = super::folder("bills")?;
    let month = Month::last()?;
    let mut server = Server::start(&dir)?;
    let file = server.data.join("cairn.db");
    send(&server, &month).await?;
    server.stop();
    server.start_again(&["--tidy-every", "1s"])?;
    let began = Instant::now();
    while !ledger::is_packed(&file)? {
        ensure!(
            began.elapsed() < Duration::from_secs(300),
            "the days aren't packed"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    server.stop();
    let db = ledger::open(&file)?;
    ledger::fill_month(&db, &month)?;
    ledger::close(db, &file)?;

    let peer = dir.join("plain.db");
    let times = FLEETS[0].0 / BASE;
    let plain = ledger::plain(&peer, &month, times)?;
    server.start_again(&[])?;
    agree(&server, &plain, &month).await?;
    server.stop();

    let mut there = 1;
    for (devices, what) in FLEETS {
        let began = Instant::now();
        let db = ledger::open(&file)?;
        let copies = i64::try_from(devices / BASE)?;
        let rows = ledger::copy_devices(&db, there..=copies - 1, what)?;
        ledger::close(db, &file)?;
        there = copies;
        println!(
            "\n{devices} devices: {rows} further days of series copied in {:.0} s, the database has {:.1} GB",
            began.elapsed().as_secs_f64(),
            file.metadata()?.len() as f64 / 1e9
        );
        views(&mut server, &file, &month).await?;
        if devices == FLEETS[0].0 {
            by_rows(&plain, &month, devices, &peer)?;
        }
    }
    // It is large.
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// The devices enrol, and each sends its days.
async fn send(server: &Server, month: &Month) -> Result<()> {
    let enroller = Enroller::new(&server.url, &server.ca, &server.token(BASE)?)?;
    let mut devices: Vec<(Device, Vec<Vec<u8>>)> = Vec::new();
    for n in 0..BASE {
        let (key, request) = swarm::key_and_request()?;
        let device = enroller.enrol(key.clone(), &request).await?;
        let group = format!("group-{}", n % 4);
        server
            .ctl()
            .args([
                "device",
                "set",
                &device.id,
                "--group",
                &group,
                "--supplier",
                &supplier(n),
            ])
            .run()?;
        let mut chain = Chain::new(n, &key)?;
        let slots = month.days.start * DAY..(month.days.start + DAYS) * DAY;
        let messages = slots.map(|slot| chain.message(slot));
        let messages: Vec<Option<Vec<u8>>> = messages.collect::<Result<_>>()?;
        devices.push((device, messages.into_iter().flatten().collect()));
    }
    let count: usize = devices.iter().map(|(_, messages)| messages.len()).sum();
    let (address, began) = (server.mqtt, Instant::now());
    let mut tasks = JoinSet::new();
    for (device, messages) in devices {
        tasks.spawn(async move {
            let mut session = device.connect(address).await?;
            session
                .publish_all("v1/devices/me/telemetry", messages, WINDOW)
                .await
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let rate = count as f64 / began.elapsed().as_secs_f64();
    println!(
        "{count} records of {BASE} devices and {DAYS} days, each signed, with 3 meters: verified, booked, durable {rate:9.0} /s"
    );
    println!(
        "  one in five minutes each comes from {:.0} devices",
        rate * 300.0
    );
    Ok(())
}

/// The server's figures of the devices that are really there are those of SQL.
async fn agree(server: &Server, plain: &Connection, month: &Month) -> Result<()> {
    let rest = Rest::new(server)?;
    let (customer, business) = owner(0, 1);
    let asked = [
        (
            "all",
            String::new(),
            "interface",
            "kind = 'interface'".to_owned(),
        ),
        (
            "all",
            String::new(),
            "container",
            "kind = 'container'".to_owned(),
        ),
        (
            "customer",
            customer.clone(),
            "container",
            format!("customer = '{customer}'"),
        ),
        (
            "business",
            format!("{customer}/{business}"),
            "container",
            format!("customer = '{customer}' AND business = '{business}'"),
        ),
        (
            "supplier",
            supplier(3),
            "interface",
            format!("supplier = '{}' AND kind = 'interface'", supplier(3)),
        ),
    ];
    for (dimension, name, kind, condition) in asked {
        let bill = rest.get(&bill(month, dimension, &name, kind)).await?;
        let bill: Value = serde_json::from_slice(&bill)?;
        let number = |value: &Value| {
            value
                .as_i64()
                .with_context(|| format!("a figure is missing in {bill}"))
        };
        let ours = (
            number(&bill["percentile"]["bps"])?,
            number(&bill["rx_bytes"])? + number(&bill["tx_bytes"])?,
        );
        let theirs = ledger::by_sql(plain, &condition, month)?;
        ensure!(
            ours == theirs,
            "{dimension} {name}: the bill says {ours:?}, SQL {theirs:?}"
        );
    }
    println!(
        "  {}'s 95th percentile and bytes of the fleet, a customer, a business and a supplier are those of plain SQL",
        month.name
    );
    Ok(())
}

async fn views(server: &mut Server, file: &Path, month: &Month) -> Result<()> {
    let (customer, business) = owner(0, 1);
    let of_copies = |word: &str, count: usize| {
        let names = (0..5).flat_map(move |copy| {
            (0..count).map(move |n| {
                (
                    n,
                    if copy == 0 {
                        String::new()
                    } else {
                        format!("~{copy}")
                    },
                )
            })
        });
        let word = word.to_owned();
        names.map(move |(n, copy)| format!("{word}-{n}{copy}"))
    };
    let suppliers =
        of_copies("supplier", SUPPLIERS).map(|name| bill(month, "supplier", &name, "interface"));
    let businesses = of_copies("customer", records::CUSTOMERS).flat_map(|customer| {
        BUSINESSES.map(|business| {
            bill(
                month,
                "business",
                &format!("{customer}/{business}"),
                "container",
            )
        })
    });
    let views = [
        View {
            what: "the whole fleet",
            paths: vec![bill(month, "all", "", "interface")],
        },
        View {
            what: "one customer",
            paths: vec![bill(month, "customer", &customer, "container")],
        },
        View {
            what: "one business",
            paths: vec![bill(
                month,
                "business",
                &format!("{customer}/{business}"),
                "container",
            )],
        },
        View {
            what: "all of 50 businesses, one after another",
            paths: businesses.collect(),
        },
        View {
            what: "all of 50 suppliers, one after another",
            paths: suppliers.collect(),
        },
        View {
            what: "the fleet's five minutes of the month, JSON",
            paths: vec![format!(
                "/v1/traffic/series?dimension=all&kind=interface&from={}&to={}",
                month.days.start * DAY * 300,
                month.days.end * DAY * 300
            )],
        },
    ];
    println!(
        "  {:<46}{:>12}{:>12}   (goal 1 s)",
        "the month of", "cold", "warm"
    );
    for view in &views {
        let mut cold = Vec::new();
        for _ in 0..COLD {
            server.stop();
            ledger::forget(file)?;
            server.start_again(&[])?;
            // The connection is there, as a browser's is.
            let rest = Rest::new(server)?;
            rest.get("/v1/account").await?;
            cold.push(time(&rest, view).await?);
        }
        let rest = Rest::new(server)?;
        let mut warm = Vec::new();
        for _ in 0..WARM {
            warm.push(time(&rest, view).await?);
        }
        println!(
            "  {:<46}{:9.2} ms{:9.2} ms",
            view.what,
            1000.0 * super::median(&mut cold),
            1000.0 * super::median(&mut warm)
        );
    }
    server.stop();
    let db = Connection::open(file)?;
    let mut alone = Vec::new();
    let mut size = 0;
    for _ in 0..WARM {
        let began = Instant::now();
        size = ledger::read_bytes(&db, "all", "", "interface")?;
        alone.push(began.elapsed().as_secs_f64());
    }
    println!(
        "  {:<46}{:>12}{:9.2} ms   {size} bytes",
        "the fleet's packed days, read by SQLite alone",
        "",
        1000.0 * super::median(&mut alone)
    );
    Ok(())
}

/// The fleet's figure from a row for each device and slot.
fn by_rows(plain: &Connection, month: &Month, devices: usize, file: &Path) -> Result<()> {
    let mut took = Vec::new();
    for _ in 0..COLD {
        let began = Instant::now();
        ledger::of_fleet(plain, month)?;
        took.push(began.elapsed().as_secs_f64());
    }
    println!(
        "  {:<46}{:>12}{:9.1} ms   {:.2} GB",
        format!("the whole fleet by SQL, a row for each of {devices} devices and slot"),
        "",
        1000.0 * super::median(&mut took),
        file.metadata()?.len() as f64 / 1e9
    );
    Ok(())
}

async fn time(rest: &Rest, view: &View) -> Result<f64> {
    let began = Instant::now();
    for path in &view.paths {
        rest.get(path).await?;
    }
    Ok(began.elapsed().as_secs_f64())
}

fn bill(month: &Month, dimension: &str, name: &str, kind: &str) -> String {
    let name = name.replace('/', "%2F");
    format!(
        "/v1/traffic/bill?dimension={dimension}&name={name}&kind={kind}&month={}",
        month.name
    )
}
