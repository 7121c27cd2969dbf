//! What was counted in five minutes.

use std::ops::AddAssign;

/// Slots in a day.
pub const DAY: i64 = 288;

/// What was counted in a slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// Bytes received.
    pub rx: u64,
    /// Bytes sent.
    pub tx: u64,
    /// How many meters reported.
    pub meters: u32,
    /// How many of these shared a longer time out evenly.
    pub estimated: u32,
}

impl AddAssign for Sum {
    fn add_assign(&mut self, more: Self) {
        self.rx = self.rx.saturating_add(more.rx);
        self.tx = self.tx.saturating_add(more.tx);
        self.meters = self.meters.saturating_add(more.meters);
        self.estimated = self.estimated.saturating_add(more.estimated);
    }
}
