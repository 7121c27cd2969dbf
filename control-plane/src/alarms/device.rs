//! A device, as far as alarms know it.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension};

use crate::store::StoreError;

/// What alarms know of a device.
#[derive(Debug, Clone)]
pub(super) struct Device {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) group: String,
    pub(super) tags: BTreeSet<String>,
    pub(super) supplier: Option<String>,
    /// It is shut out: that it doesn't come is no news.
    pub(super) revoked: bool,
}

impl Device {
    /// Reads one; nothing, if there is none of this id.
    pub(super) fn read(connection: &Connection, id: &str) -> Result<Option<Self>, StoreError> {
        let mut query = connection.prepare_cached(
            "SELECT name, grp, supplier, revoked IS NOT NULL FROM device WHERE id = ?1",
        )?;
        let device = query
            .query_row([id], |row| {
                Ok(Self {
                    id: id.to_owned(),
                    name: row.get(0)?,
                    group: row.get(1)?,
                    supplier: row.get(2)?,
                    revoked: row.get(3)?,
                    tags: BTreeSet::new(),
                })
            })
            .optional()?;
        let Some(mut device) = device else {
            return Ok(None);
        };
        let mut query =
            connection.prepare_cached("SELECT tag FROM device_tag WHERE device = ?1")?;
        for tag in query.query_map([id], |row| row.get(0))? {
            device.tags.insert(tag?);
        }
        Ok(Some(device))
    }
}
