//! The database of a month: some devices' days as the server stored and packed them, copied over days and devices; and the same days in plain rows.

use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, OpenFlags, params};

use super::records::{DAY, bytes, meters, owner};
use super::{BASE, DAYS, Month, supplier};

/// Copies of the devices up to this one have suppliers, groups, customers and businesses of their own.
const SUBJECTS: i64 = 5;

/// A database that no server has open, for writing much.
pub fn open(file: &Path) -> Result<Connection> {
    let db = Connection::open(file)?;
    db.execute_batch(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -500000;",
    )?;
    Ok(db)
}

/// As the server wants it; on the disk, and nowhere else.
pub fn close(db: Connection, file: &Path) -> Result<()> {
    db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")?;
    drop(db);
    forget(file)
}

/// Takes a file out of the kernel's memory.
pub fn forget(file: &Path) -> Result<()> {
    let file = std::fs::File::open(file)?;
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}

/// Whether the server has packed all of it.
pub fn is_packed(file: &Path) -> Result<bool> {
    let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let waits: i64 = db.query_row("SELECT count(*) FROM traffic_slot", [], |row| row.get(0))?;
    let there: i64 = db.query_row("SELECT count(*) FROM traffic_day", [], |row| row.get(0))?;
    Ok(waits == 0 && there > 0)
}

/// Repeats the days until the month is full.
pub fn fill_month(db: &Connection, month: &Month) -> Result<()> {
    for day in month.days.start + DAYS..month.days.end {
        let source = month.days.start + (day - month.days.start) % DAYS;
        db.execute(
            "INSERT INTO traffic_day SELECT series, ?1, slots FROM traffic_day WHERE day = ?2",
            params![day, source],
        )?;
    }
    Ok(())
}

/// What of each device is copied.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// All that the server made.
    Everything,
    /// The device's own series of its interfaces.
    Interfaces,
}

/// Copies the devices that are really there; copy 0 is these. Gives the rows that were written.
pub fn copy_devices(db: &Connection, copies: RangeInclusive<i64>, what: What) -> Result<usize> {
    let last: i64 = db.query_row(
        "SELECT max(id) FROM traffic_series WHERE name NOT LIKE '%~%'",
        [],
        |row| row.get(0),
    )?;
    let mut rows = 0;
    for copy in copies {
        let which = match what {
            What::Interfaces => "dimension = 'device' AND kind = 'interface'",
            What::Everything if copy < SUBJECTS => "dimension <> 'all'",
            What::Everything => "dimension IN ('device', 'meter')",
        };
        let shift = copy * (last + 1);
        db.execute_batch("BEGIN")?;
        db.execute(
            &format!(
                "INSERT INTO traffic_series (id, dimension, name, kind)
                 SELECT id + ?1, dimension, CASE WHEN instr(name, '/') THEN replace(name, '/', ?2 || '/') ELSE name || ?2 END, kind
                 FROM traffic_series WHERE id <= ?3 AND {which}"
            ),
            params![shift, format!("~{copy}"), last],
        )?;
        rows += db.execute(
            &format!(
                "INSERT INTO traffic_day SELECT series + ?1, day, slots FROM traffic_day
                 WHERE series IN (SELECT id FROM traffic_series WHERE id <= ?2 AND {which}) ORDER BY series, day"
            ),
            params![shift, last],
        )?;
        db.execute(
            "INSERT INTO device (id, name, grp, supplier, created)
             SELECT id || ?1, name || ?1, grp, supplier, created FROM device WHERE id NOT LIKE '%~%'",
            [format!("~{copy}")],
        )?;
        db.execute_batch("COMMIT")?;
    }
    Ok(rows)
}

/// The same days in rows, without the server: each meter of the devices that are really there, and the interfaces of `times` as many.
pub fn plain(file: &Path, month: &Month, times: usize) -> Result<Connection> {
    let db = open(file)?;
    db.execute_batch(
        "CREATE TABLE meter (id INTEGER PRIMARY KEY, kind TEXT, customer TEXT, business TEXT, supplier TEXT);
         CREATE TABLE sample (slot INTEGER, meter INTEGER, rx INTEGER, tx INTEGER, PRIMARY KEY (slot, meter)) WITHOUT ROWID;
         CREATE TABLE fleet (slot INTEGER, device INTEGER, rx INTEGER, tx INTEGER, PRIMARY KEY (slot, device)) WITHOUT ROWID;
         BEGIN;",
    )?;
    let mut meter = db.prepare("INSERT INTO meter VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for device in 0..BASE {
        for which in 0..meters(device).len() {
            let owner = (which > 0).then(|| owner(device, which));
            let (customer, business) = owner.unzip();
            let kind = if which == 0 { "interface" } else { "container" };
            let id = i64::try_from(device * 10 + which)?;
            meter.execute(params![id, kind, customer, business, supplier(device)])?;
        }
    }
    let mut sample = db.prepare("INSERT INTO sample VALUES (?1, ?2, ?3, ?4)")?;
    let mut fleet = db.prepare("INSERT INTO fleet VALUES (?1, ?2, ?3, ?4)")?;
    for slot in month.days.start * DAY..month.days.end * DAY {
        let first = month.days.start * DAY;
        let source = first + (slot - first) % (DAYS * DAY);
        for device in 0..BASE {
            for which in 0..3 {
                if let Some((rx, tx)) = bytes(device, which, source) {
                    let id = i64::try_from(device)? * 10 + i64::try_from(which)?;
                    sample.execute(params![slot, id, i64::try_from(rx)?, i64::try_from(tx)?])?;
                }
            }
        }
        for copy in 0..times {
            for device in 0..BASE {
                if let Some((rx, tx)) = bytes(device, 0, source) {
                    let id = i64::try_from(copy * BASE + device)?;
                    fleet.execute(params![slot, id, i64::try_from(rx)?, i64::try_from(tx)?])?;
                }
            }
        }
    }
    drop((meter, sample, fleet));
    db.execute_batch("COMMIT")?;
    Ok(db)
}

/// The month's 95th percentile in bits per second, and all bytes, of what a condition on `meter` chooses, by SQL.
pub fn by_sql(db: &Connection, condition: &str, month: &Month) -> Result<(i64, i64)> {
    let sums = format!(
        "SELECT slot, sum(rx) AS rx, sum(tx) AS tx FROM sample JOIN meter ON meter.id = sample.meter WHERE {condition} GROUP BY slot"
    );
    figures(db, &sums, month)
}

/// The same of the interfaces of all devices of `fleet`.
pub fn of_fleet(db: &Connection, month: &Month) -> Result<(i64, i64)> {
    let sums = "SELECT slot, sum(rx) AS rx, sum(tx) AS tx FROM fleet GROUP BY slot";
    figures(db, sums, month)
}

fn figures(db: &Connection, sums: &str, month: &Month) -> Result<(i64, i64)> {
    let slots = (month.days.end - month.days.start) * DAY;
    let sql = format!(
        "WITH sums AS MATERIALIZED ({sums})
         SELECT (SELECT max(rx, tx) * 8 / 300 FROM sums ORDER BY max(rx, tx) DESC LIMIT 1 OFFSET ?1), (SELECT sum(rx) + sum(tx) FROM sums)"
    );
    let found = db.query_row(&sql, [slots * 5 / 100], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })?;
    Ok(found)
}

/// What SQLite alone needs for a series' month: its bytes, and how many they are.
pub fn read_bytes(db: &Connection, dimension: &str, name: &str, kind: &str) -> Result<usize> {
    let mut found = db.prepare_cached(
        "SELECT slots FROM traffic_day WHERE series = (SELECT id FROM traffic_series WHERE dimension = ?1 AND name = ?2 AND kind = ?3)",
    )?;
    let mut rows = found.query(params![dimension, name, kind])?;
    let mut read = 0;
    while let Some(row) = rows.next()? {
        read += row.get_ref(0)?.as_blob().context("a day is no blob")?.len();
    }
    ensure!(read > 0, "no days of the {dimension} {name:?}");
    Ok(read)
}
