//! Who may see which event. Whose a device is, and in which group, is asked when it is read.

use std::collections::{BTreeSet, HashMap};

use rusqlite::{Connection, OptionalExtension as _};

use super::blocks::Head;
use super::engine::Filter;
use super::event::Kind;
use crate::store::StoreError;

/// What a supplier's people see of their devices elsewhere too: no telemetry, which tells of customers.
const SUPPLIERS: [Kind; 2] = [Kind::Connection, Kind::Alarm];

/// Who reads, and what he wants.
pub struct Audience<'a> {
    connection: &'a Connection,
    supplier: Option<&'a str>,
    filter: &'a Filter,
    /// Of devices that were asked for: since when their events may be seen, in milliseconds since 1970.
    devices: HashMap<String, Option<i64>>,
}

impl<'a> Audience<'a> {
    pub fn new(connection: &'a Connection, supplier: Option<&'a str>, filter: &'a Filter) -> Self {
        Self {
            connection,
            supplier,
            filter,
            devices: HashMap::new(),
        }
    }

    /// Whether a block is for this reader.
    pub fn sees(&mut self, head: &Head) -> Result<bool, StoreError> {
        if !self.filter.kinds.contains(&head.kind)
            || (self.supplier.is_some() && !SUPPLIERS.contains(&head.kind))
        {
            return Ok(false);
        }
        let since = match self.devices.get(&head.device) {
            Some(since) => *since,
            None => {
                let since = self.since(&head.device)?;
                self.devices.insert(head.device.clone(), since);
                since
            }
        };
        // One that was removed is gone for everybody, also if another has its id by now.
        Ok(since.is_some_and(|since| head.time >= since))
    }

    fn since(&self, device: &str) -> Result<Option<i64>, StoreError> {
        let mut query = self
            .connection
            .prepare_cached("SELECT grp, supplier, created FROM device WHERE id = ?1")?;
        let found: Option<(String, Option<String>, i64)> = query
            .query_row([device], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let Some((group, supplier, created)) = found else {
            return Ok(None);
        };
        if self.supplier.is_some() && supplier.as_deref() != self.supplier {
            return Ok(None);
        }
        let mut tags = self
            .connection
            .prepare_cached("SELECT tag FROM device_tag WHERE device = ?1")?;
        let tags = tags.query_map([device], |row| row.get(0))?;
        let tags: BTreeSet<String> = tags.collect::<Result<_, _>>()?;
        let meant = self.filter.select.matches(device, &group, &tags);
        Ok(meant.then_some(created.saturating_mul(1000)))
    }
}
