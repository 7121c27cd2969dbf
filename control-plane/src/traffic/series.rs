//! Sums by five minutes, for everybody who asks about them. They are kept up as records come, so that a month of ten
//! thousand devices is read as fast as one device's.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use cairn_traffic::Kind;
use cairn_traffic::Slot;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use serde::{Deserialize, Serialize};

use super::packed;
use super::sum::{DAY, Sum};
use crate::store::StoreError;

/// By what traffic is summed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Dimension {
    /// Everything; its name is empty.
    All,
    /// A device, by its id.
    Device,
    /// An interface or a workload of a device: `device/name`.
    Meter,
    /// A customer.
    Customer,
    /// One of a customer's businesses: `customer/business`.
    Business,
    /// The devices of a supplier.
    Supplier,
    /// The devices of a group.
    Group,
    /// The devices with a tag.
    Tag,
}

impl Dimension {
    const ALL: [Self; 8] = [
        Self::All,
        Self::Device,
        Self::Meter,
        Self::Customer,
        Self::Business,
        Self::Supplier,
        Self::Group,
        Self::Tag,
    ];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Device => "device",
            Self::Meter => "meter",
            Self::Customer => "customer",
            Self::Business => "business",
            Self::Supplier => "supplier",
            Self::Group => "group",
            Self::Tag => "tag",
        }
    }
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Dimension {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|it| it.as_str() == text);
        found.ok_or_else(|| {
            let all: Vec<_> = Self::ALL.map(Self::as_str).into();
            format!("expected one of {}", all.join(", "))
        })
    }
}

/// `interface` or `container`.
pub fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Interface => "interface",
        Kind::Container => "container",
    }
}

/// A slot as the database numbers it.
pub fn number(slot: Slot) -> i64 {
    slot.start() / 300
}

/// The series of a subject, if anything was ever counted for it.
///
/// # Errors
/// The database's.
pub fn id(
    connection: &Connection,
    dimension: Dimension,
    name: &str,
    of: Kind,
) -> Result<Option<i64>, StoreError> {
    let found = connection
        .prepare_cached(
            "SELECT id FROM traffic_series WHERE dimension = ?1 AND name = ?2 AND kind = ?3",
        )?
        .query_row(params![dimension.as_str(), name, kind(of)], |row| {
            row.get(0)
        })
        .optional()?;
    Ok(found)
}

/// The same; made if there is none.
///
/// # Errors
/// The database's.
pub fn id_or_new(
    tx: &Transaction<'_>,
    dimension: Dimension,
    name: &str,
    of: Kind,
) -> Result<i64, StoreError> {
    if let Some(id) = id(tx, dimension, name, of)? {
        return Ok(id);
    }
    tx.prepare_cached("INSERT INTO traffic_series (dimension, name, kind) VALUES (?1, ?2, ?3)")?
        .execute(params![dimension.as_str(), name, kind(of)])?;
    Ok(tx.last_insert_rowid())
}

/// Adds to a slot. Its bytes stop at 2⁶³ - 1: what devices invent in great numbers may spoil a sum, but not keep others'
/// records out.
///
/// # Errors
/// The database's.
pub fn add(tx: &Transaction<'_>, series: i64, slot: Slot, sum: Sum) -> Result<(), StoreError> {
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    tx.prepare_cached(
        "INSERT INTO traffic_slot (series, slot, rx, tx, meters, estimated) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO UPDATE SET
             rx = rx + min(excluded.rx, 9223372036854775807 - rx),
             tx = tx + min(excluded.tx, 9223372036854775807 - tx),
             meters = min(meters + excluded.meters, 4294967295), estimated = min(estimated + excluded.estimated, 4294967295)",
    )?
    .execute(params![series, number(slot), bytes(sum.rx), bytes(sum.tx), sum.meters, sum.estimated])?;
    Ok(())
}

/// All slots of a range, numbered as the database does; `None` where nothing came.
///
/// # Errors
/// The database's, and what is packed may be damaged.
pub fn read(
    connection: &Connection,
    series: i64,
    slots: Range<i64>,
) -> Result<Vec<Option<Sum>>, StoreError> {
    let length = usize::try_from(slots.end.saturating_sub(slots.start)).unwrap_or(0);
    let mut sums = vec![None; length];
    let mut put = |slot: i64, sum: Sum| {
        let place = usize::try_from(slot.saturating_sub(slots.start)).ok();
        if let Some(place) = place.and_then(|place| sums.get_mut(place)) {
            *place.get_or_insert_with(Sum::default) += sum;
        }
    };
    let mut days = connection.prepare_cached(
        "SELECT day, slots FROM traffic_day WHERE series = ?1 AND day >= ?2 AND day < ?3",
    )?;
    let (first, end) = (slots.start.div_euclid(DAY), slots.end.div_euclid(DAY) + 1);
    let mut rows = days.query(params![series, first, end])?;
    while let Some(row) = rows.next()? {
        let (day, packed): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        for (slot, sum) in packed::unpack(day, &packed)? {
            put(slot, sum);
        }
    }
    let mut fresh = connection.prepare_cached(
        "SELECT slot, rx, tx, meters, estimated FROM traffic_slot WHERE series = ?1 AND slot >= ?2 AND slot < ?3",
    )?;
    let mut rows = fresh.query(params![series, slots.start, slots.end])?;
    while let Some(row) = rows.next()? {
        put(row.get(0)?, sum(row)?);
    }
    Ok(sums)
}

/// The four columns of a row of `traffic_slot`, from the second.
pub(super) fn sum(row: &rusqlite::Row<'_>) -> rusqlite::Result<Sum> {
    let bytes = |at| {
        row.get::<_, i64>(at)
            .map(|bytes| u64::try_from(bytes).unwrap_or(0))
    };
    Ok(Sum {
        rx: bytes(1)?,
        tx: bytes(2)?,
        meters: row.get(3)?,
        estimated: row.get(4)?,
    })
}
