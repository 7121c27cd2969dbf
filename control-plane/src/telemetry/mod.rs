//! Telemetry: taking each record once, reading it back, and forgetting what is old.
//!
//! A record with an id counts once, however often it comes. One without is known by device, key and time: the same again is one.
//! Values without a time get the server's, moved by a millisecond if the key has one there already, so that none is lost. So do values
//! whose time is too far ahead: their sender's clock is wrong, and they would be the newest for ever.
//!
//! Fresh samples are rows; `tidy` packs them by day, makes windows of five minutes and an hour of them, and forgets each when it is too
//! old. Whoever reads sees no difference.
//!
//! | Module | Owns |
//! |---|---|
//! | [`intake`] | one transaction's taking of what a device sent |
//! | `runs` | which records were taken, by their numbers |
//! | [`series`] | samples over time: keeping and reading |
//! | `pieces` | where a key's samples lie |
//! | [`pack`] | a day of samples as bytes |
//! | [`windows`] | down-sampling, and a day of windows as bytes |
//! | [`numbers`] | columns of numbers as bytes |
//! | [`tidy`](mod@tidy) | packing, and what is too old |
//! | [`quota`] | how much a device may store in a day |

pub mod intake;
pub mod numbers;
pub mod pack;
mod pieces;
pub mod quota;
mod runs;
pub mod series;
pub mod tidy;
pub mod windows;

use cairn_wire::Record;

use crate::registry::attributes::MAX_KEY;

pub use intake::Intake;
use series::MAX_TS;
pub use series::{Sample, Series};
pub use tidy::tidy;
pub use windows::Window;

/// Values that one record may have.
pub const MAX_VALUES: usize = 1024;
/// How far a time may be ahead of the server's, in milliseconds.
const AHEAD: i64 = 10 * 60 * 1000;

/// What became of records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Stored.
    pub stored: u64,
    /// There before.
    pub duplicates: u64,
    /// Of those stored: by the server's time, as their own was too far ahead.
    pub ahead: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.stored += more.stored;
        self.duplicates += more.duplicates;
        self.ahead += more.ahead;
    }
}

/// Why records can't be stored, whatever the database says.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// A key.
    #[error("a telemetry key is empty or longer than {MAX_KEY} bytes")]
    Key,
    /// Too many values.
    #[error("a telemetry record has more than {MAX_VALUES} values")]
    Values,
    /// A time.
    #[error("{0} is no time in milliseconds since 1970")]
    Time(i64),
    /// A record's number.
    #[error("the record number {0} is too large")]
    Number(u64),
}

/// Checks what the database would choke on.
///
/// # Errors
/// If a record can't be stored.
pub fn check(records: &[Record]) -> Result<(), Unusable> {
    for record in records {
        if record.values.len() > MAX_VALUES {
            return Err(Unusable::Values);
        }
        if record
            .values
            .keys()
            .any(|key| key.is_empty() || key.len() > MAX_KEY)
        {
            return Err(Unusable::Key);
        }
        if let Some(ts) = record.ts
            && !(0..=MAX_TS).contains(&ts)
        {
            return Err(Unusable::Time(ts));
        }
        if let Some(id) = &record.id
            && i64::try_from(id.seq).is_err()
        {
            return Err(Unusable::Number(id.seq));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
