//! What a plan has to know of devices.

use std::collections::{BTreeMap, BTreeSet};

use cairn_placement::{Line, Node, Order, Placed, Resources};
use rusqlite::Connection;

use super::declare;
use crate::store::StoreError;
use crate::telemetry::Series as _;

/// A device that was silent for less, in seconds, is not gone: it reconnects, or the server was away itself.
const SILENT: i64 = 60;
/// Where a workload failed it isn't placed again for so long, in seconds: 6 hours.
const FAILED: i64 = 6 * 3600;
/// A figure of a line that is older than this is none, in seconds.
const STALE: i64 = 2 * 3600;
/// How keys of lines' figures begin.
const LINE: &str = "line.";
/// A share of the memory is the system's own: one of so many.
const SYSTEMS_SHARE: u64 = 8;

/// Everything that a plan needs.
pub(super) struct Look {
    pub(super) nodes: Vec<Node>,
    pub(super) orders: Vec<Order>,
    pub(super) placed: Vec<Placed>,
    pub(super) failed_lately: BTreeSet<(String, String)>,
}

/// Looks; none if there are no workloads and nothing is left of any. `started` is since when this server listens.
pub(super) fn look(
    connection: &Connection,
    now: i64,
    started: i64,
) -> Result<Option<Look>, StoreError> {
    let mut query = connection.prepare_cached("SELECT name, declared, rule FROM workload")?;
    let rows = query.query_map([], |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, String>(1)?,
            row.get::<_, String>(2)?,
        ))
    })?;
    let (mut orders, mut unreadable) = (Vec::new(), BTreeSet::new());
    for row in rows {
        let (name, declared, rule) = row?;
        match declare::kept(&name, &declared, &rule) {
            Some(declaration) => orders.push(declaration.order()),
            None => drop(unreadable.insert(name)),
        }
    }
    let mut placed = placed(connection, &orders)?;
    // What can't be read stays where it is.
    placed.retain(|placed| !unreadable.contains(&placed.workload));
    if orders.is_empty() && placed.is_empty() {
        return Ok(None);
    }
    let mut nodes = nodes(connection, now, started)?;
    if orders
        .iter()
        .any(|order| order.rule.line != cairn_placement::rule::LineNeed::default())
    {
        for node in nodes.values_mut() {
            node.lines = lines(connection, &node.id, now)?;
        }
    }
    Ok(Some(Look {
        nodes: nodes.into_values().collect(),
        orders,
        placed,
        failed_lately: failed_lately(connection, now)?,
    }))
}

fn nodes(
    connection: &Connection,
    now: i64,
    started: i64,
) -> Result<BTreeMap<String, Node>, StoreError> {
    let mut nodes = BTreeMap::new();
    let mut query = connection.prepare_cached(
        "SELECT id, grp, supplier, drained IS NOT NULL,
                CASE WHEN online THEN NULL ELSE coalesce(last_seen, created) END
         FROM device WHERE revoked IS NULL",
    )?;
    let rows = query.query_map([], |row| {
        let silent: Option<i64> = row.get(4)?;
        Ok(Node {
            id: row.get(0)?,
            group: row.get(1)?,
            supplier: row.get(2)?,
            drained: row.get(3)?,
            // In the time in which the server was away nobody could be heard of.
            gone: silent
                .map(|since| since.max(started))
                .filter(|since| now - since > SILENT),
            ..Node::default()
        })
    })?;
    for node in rows {
        let node = node?;
        nodes.insert(node.id.clone(), node);
    }
    let mut query = connection.prepare_cached("SELECT device, tag FROM device_tag")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(node) = nodes.get_mut(&row.get::<_, String>(0)?) {
            node.tags.insert(row.get(1)?);
        }
    }
    let mut query = connection.prepare_cached(
        "SELECT m.device, CAST(m.value AS INTEGER), CAST(c.value AS INTEGER)
         FROM attribute m JOIN attribute c ON c.device = m.device AND c.scope = 'client' AND c.key = 'processors'
         WHERE m.scope = 'client' AND m.key = 'memory_bytes'",
    )?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let memory = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
        let cpus = u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0);
        if let Some(node) = nodes.get_mut(&row.get::<_, String>(0)?) {
            node.has = Some(Resources {
                memory: memory - memory / SYSTEMS_SHARE,
                cpus: cpus.saturating_mul(1000),
            });
        }
    }
    Ok(nodes)
}

fn placed(connection: &Connection, orders: &[Order]) -> Result<Vec<Placed>, StoreError> {
    let movable: BTreeSet<&str> = orders
        .iter()
        .filter(|order| order.rule.copies.is_some())
        .map(|order| order.workload.as_str())
        .collect();
    let mut query = connection
        .prepare_cached("SELECT workload, device, since FROM placement WHERE ended IS NULL")?;
    let rows = query.query_map([], |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, String>(1)?,
            row.get::<_, i64>(2)?,
        ))
    })?;
    let mut placed = Vec::new();
    for row in rows {
        let (workload, node, since) = row?;
        let failed = match movable.contains(workload.as_str()) {
            true => failing_since(connection, &workload, &node, since)?,
            false => None,
        };
        placed.push(Placed {
            workload,
            node,
            failed,
        });
    }
    Ok(placed)
}

/// Since when the device says that it can't run the workload, in seconds: the first such word after it last ran.
fn failing_since(
    connection: &Connection,
    workload: &str,
    device: &str,
    since: i64,
) -> Result<Option<i64>, StoreError> {
    let key = format!("workload.{workload}.state");
    let mut failing = None;
    for sample in connection.samples(device, &key, since * 1000..i64::MAX, 1000)? {
        match sample.value.as_str() {
            Some("failed" | "refused") => failing = Some(sample.ts / 1000),
            // On its way from one failure to the next.
            Some("pulling" | "starting" | "on-trial" | "restarting") => {}
            _ => break,
        }
    }
    Ok(failing)
}

/// The newest figures of each of a device's lines.
fn lines(connection: &Connection, device: &str, now: i64) -> Result<Vec<Line>, StoreError> {
    let mut lines = BTreeMap::<String, Line>::new();
    for sample in connection.newest(device, LINE)? {
        let name = sample
            .key
            .strip_prefix(LINE)
            .and_then(|rest| rest.rsplit_once('.'));
        let Some((line, figure)) = name.filter(|_| sample.ts > (now - STALE) * 1000) else {
            continue;
        };
        let value = sample.value.as_f64();
        let line = lines.entry(line.to_owned()).or_default();
        match figure {
            "latency_ms" => line.latency_ms = value,
            "loss_percent" => line.loss_percent = value,
            "up_bps" => line.up_bps = value,
            _ => {}
        }
    }
    Ok(lines.into_values().collect())
}

fn failed_lately(
    connection: &Connection,
    now: i64,
) -> Result<BTreeSet<(String, String)>, StoreError> {
    let mut query = connection.prepare_cached(
        "SELECT workload, device FROM placement WHERE ended > ?1 AND reason = 'failed'",
    )?;
    let rows = query.query_map([now - FAILED], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
