//! Five minutes of UTC.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// How long a slot is, in milliseconds.
pub const LENGTH_MS: i64 = 300_000;

/// Five minutes that begin at a multiple of five minutes since 1970, UTC; written as the second at which they begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Slot(i64);

/// The second isn't one at which a slot begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a multiple of 300 seconds since 1970, got {0}")]
pub struct NotASlot(i64);

impl Slot {
    /// The slot of a moment in milliseconds since 1970.
    pub fn of(ms: i64) -> Self {
        Self(ms.div_euclid(LENGTH_MS))
    }

    /// When it begins, in seconds since 1970.
    pub fn start(self) -> i64 {
        self.0 * (LENGTH_MS / 1000)
    }

    fn start_ms(self) -> i64 {
        self.0.saturating_mul(LENGTH_MS)
    }
}

impl TryFrom<i64> for Slot {
    type Error = NotASlot;

    fn try_from(seconds: i64) -> Result<Self, NotASlot> {
        let length = LENGTH_MS / 1000;
        match seconds.rem_euclid(length) {
            0 => Ok(Self(seconds / length)),
            _ => Err(NotASlot(seconds)),
        }
    }
}

impl From<Slot> for i64 {
    fn from(slot: Slot) -> Self {
        slot.start()
    }
}

/// No more slots are filled by one span: 400 days.
pub const MOST: i64 = 400 * 288;

/// Shares `bytes` that went by evenly during `span` (milliseconds since 1970) out among its slots, to the last byte. A span
/// without length belongs to the slot of its end; of a longer one than [`MOST`] slots only the end counts.
pub fn share(bytes: u64, span: Range<i64>) -> Vec<(Slot, u64)> {
    let last = Slot::of(span.end.saturating_sub(1).max(span.start));
    let earliest = Slot(last.0.saturating_sub(MOST - 1));
    let start = span.start.max(earliest.start_ms());
    let length = u128::try_from(span.end.saturating_sub(start)).unwrap_or(0);
    if length == 0 {
        return vec![(Slot::of(span.end), bytes)];
    }
    // What went by until a moment, rounded down: neighbours share the rounding.
    let until = |ms: i64| {
        let passed = u128::try_from(ms.min(span.end).saturating_sub(start)).unwrap_or(0);
        u64::try_from(u128::from(bytes) * passed / length).unwrap_or(bytes)
    };
    let slots = (Slot::of(start).0..=last.0).map(Slot);
    let parts = slots.map(|slot| {
        let end = slot.start_ms().saturating_add(LENGTH_MS);
        (slot, until(end) - until(slot.start_ms().max(start)))
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_crosses_a_boundary_is_shared_by_time() {
        let at = |slot: i64, ms: i64| slot * LENGTH_MS + ms;
        assert_eq!(share(7, at(3, 0)..at(3, 1)), [(Slot(3), 7)]);
        assert_eq!(share(7, at(3, 5)..at(4, 0)), [(Slot(3), 7)]);
        assert_eq!(share(7, at(3, 5)..at(3, 5)), [(Slot(3), 7)]);
        assert_eq!(
            share(100, at(3, LENGTH_MS - 25)..at(4, 75)),
            [(Slot(3), 25), (Slot(4), 75)]
        );
        // A clock that went back.
        assert_eq!(share(7, at(9, 0)..at(3, 5)), [(Slot(3), 7)]);
    }

    #[test]
    fn a_slot_is_written_as_its_first_second() {
        let slot: Slot = serde_json::from_str("1700000100").unwrap();
        assert_eq!(
            (slot, slot.start()),
            (Slot::of(1_700_000_399_999), 1_700_000_100)
        );
        assert!(serde_json::from_str::<Slot>("1700000101").is_err());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_made(bytes in any::<u64>(), from in -1_000_000i64..10_000_000, length in -1_000_000i64..40_000_000) {
            let shared = share(bytes, from..from + length);
            prop_assert_eq!(shared.iter().map(|(_, bytes)| u128::from(*bytes)).sum::<u128>(), u128::from(bytes));
            prop_assert!(shared.windows(2).all(|two| two[0].0.0 + 1 == two[1].0.0));
        }

        #[test]
        fn no_span_is_too_long(bytes in any::<u64>(), from in any::<i64>(), to in any::<i64>()) {
            let shared = share(bytes, from..to);
            prop_assert!(i64::try_from(shared.len()).unwrap() <= MOST);
            prop_assert_eq!(shared.iter().map(|(_, bytes)| u128::from(*bytes)).sum::<u128>(), u128::from(bytes));
        }
    }
}
