//! Declaring and removing a workload.

use cairn_placement::{Order, Port, Resources, Rule};
use cairn_wire::workload::{Name, Protocol, Workload};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde_json::{Map, Value};

use crate::desired::{self, NEXT};
use crate::store::StoreError;
use crate::web::read;

/// The most workloads of a fleet.
pub const MAX: i64 = 10_000;
/// The longest workload, as JSON in bytes: a device reads all of its workloads in one document.
const LARGEST: usize = 16 * 1024;
/// The field of a declaration that says where; all others are the workload's own.
const PLACE: &str = "place";

/// A workload and where it shall run.
#[derive(Debug, Clone, PartialEq)]
pub struct Declaration {
    /// What runs.
    pub workload: Workload,
    /// Where.
    pub rule: Rule,
}

impl Declaration {
    /// Reads `{"place": …, …}`: a rule, and beside it the workload's fields. Its name may be left out.
    ///
    /// # Errors
    /// Names the field and what was expected.
    pub fn read(name: &str, body: &Value) -> Result<Self, String> {
        let name: Name = name.parse().map_err(|error| format!("name: {error}"))?;
        let mut fields: Map<String, Value> = body
            .as_object()
            .ok_or("expected an object, as in docs/workloads.md")?
            .clone();
        let named = fields.insert("name".into(), name.as_str().into());
        if named.is_some_and(|named| named != name.as_str()) {
            return Err("name: expected the one in the address, or none".into());
        }
        let place = fields.remove(PLACE);
        let place = place.ok_or("place: expected where it shall run, as {\"on\": \"all\"}")?;
        let rule: Rule = read(place).map_err(|error| format!("place: {error}"))?;
        rule.check().map_err(|error| format!("place.{error}"))?;
        let workload: Workload = read(Value::Object(fields))?;
        workload.check()?;
        let size = serde_json::to_vec(&workload).map_or(0, |bytes| bytes.len());
        if size > LARGEST {
            return Err(format!("expected at most {LARGEST} bytes, got {size}"));
        }
        Ok(Self { workload, rule })
    }

    /// As [`Declaration::read`] reads it.
    pub fn to_json(&self) -> Value {
        // Texts, numbers and lists always have a JSON form.
        let mut value = serde_json::to_value(&self.workload).unwrap_or_default();
        value[PLACE] = serde_json::to_value(&self.rule).unwrap_or_default();
        value
    }

    /// What a plan has to know of it.
    pub(super) fn order(&self) -> Order {
        let Workload { limits, ports, .. } = &self.workload;
        let port = |port: &cairn_wire::workload::Port| Port {
            udp: port.protocol == Protocol::Udp,
            number: port.host,
        };
        Order {
            workload: self.workload.name.to_string(),
            rule: self.rule.clone(),
            takes: Resources {
                memory: limits.memory.unwrap_or(0),
                cpus: limits.cpus.map_or(0, |cpus| cpus.nano() / 1_000_000),
            },
            ports: ports.iter().map(port).collect(),
        }
    }
}

/// Keeps a declaration; devices that have the workload get another revision if it has changed. Whether it was there before;
/// `None` if there are too many.
///
/// # Errors
/// The database's.
pub fn set(
    tx: &Transaction<'_>,
    declaration: &Declaration,
    who: &str,
    now: i64,
) -> Result<Option<bool>, StoreError> {
    let name = declaration.workload.name.as_str();
    let before = get(tx, name)?;
    let count: i64 = tx.query_row("SELECT count(*) FROM workload", [], |row| row.get(0))?;
    if before.is_none() && count >= MAX {
        return Ok(None);
    }
    let (declared, rule) = (&declaration.workload, &declaration.rule);
    let json = |result: Result<String, serde_json::Error>| result.unwrap_or_default();
    tx.execute(
        "INSERT INTO workload (name, declared, rule, changed, changed_by) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (name) DO UPDATE SET declared = excluded.declared, rule = excluded.rule,
             changed = excluded.changed, changed_by = excluded.changed_by",
        params![name, json(serde_json::to_string(declared)), json(serde_json::to_string(rule)), now, who],
    )?;
    // One that was removed may still be placed, until the next plan.
    if before
        .as_ref()
        .is_none_or(|before| before.workload != *declared)
    {
        // What failed was another one.
        tx.execute(
            "DELETE FROM placement WHERE workload = ?1 AND ended IS NOT NULL",
            [name],
        )?;
        tx.execute(
            &format!(
                "UPDATE desired SET revision = {NEXT} WHERE device IN
                     (SELECT device FROM placement WHERE workload = ?1 AND ended IS NULL)"
            ),
            params![name, now],
        )?;
        desired::publish_untold(tx, now)?;
    }
    Ok(Some(before.is_some()))
}

/// Removes a workload; the next plan takes it from the devices. Whether there was one.
///
/// # Errors
/// The database's.
pub fn remove(tx: &Transaction<'_>, name: &str) -> Result<bool, StoreError> {
    Ok(tx.execute("DELETE FROM workload WHERE name = ?1", [name])? > 0)
}

/// A declaration.
///
/// # Errors
/// The database's.
pub fn get(connection: &Connection, name: &str) -> Result<Option<Declaration>, StoreError> {
    let mut query =
        connection.prepare_cached("SELECT declared, rule FROM workload WHERE name = ?1")?;
    let row: Option<(String, String)> = query
        .query_row([name], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(row.and_then(|(declared, rule)| kept(name, &declared, &rule)))
}

/// Reads what [`set`] kept. What was written by another version and can't be read is left alone.
pub(super) fn kept(name: &str, declared: &str, rule: &str) -> Option<Declaration> {
    let workload = serde_json::from_str(declared);
    let rule = serde_json::from_str(rule);
    match (workload, rule) {
        (Ok(workload), Ok(rule)) => Some(Declaration { workload, rule }),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(workload = name, %error, "a workload in the database cannot be read; it is left as it is");
            None
        }
    }
}
