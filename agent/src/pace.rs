//! Keeping to a rate.

use std::time::Duration;

/// Keeps to a number of bytes per second since it began.
#[derive(Debug)]
pub struct Pace {
    bandwidth: Option<u64>,
    since_ms: u64,
    bytes: u64,
}

impl Pace {
    /// Begins; `None` for no limit.
    pub fn new(bandwidth: Option<u64>, now_ms: u64) -> Self {
        Self {
            bandwidth,
            since_ms: now_ms,
            bytes: 0,
        }
    }

    /// `bytes` went over the line: how long to wait before more do.
    pub fn after(&mut self, bytes: u64, now_ms: u64) -> Option<Duration> {
        let bandwidth = self.bandwidth.filter(|bandwidth| *bandwidth > 0)?;
        self.bytes = self.bytes.saturating_add(bytes);
        let due_ms = self.bytes.saturating_mul(1000) / bandwidth;
        let early = due_ms.saturating_sub(now_ms.saturating_sub(self.since_ms));
        // A line that stood still is no credit for a burst.
        if early == 0 {
            (self.since_ms, self.bytes) = (now_ms, 0);
        }
        (early >= 5).then(|| Duration::from_millis(early.min(10_000)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_kept_without_bursts() {
        let mut pace = Pace::new(Some(1000), 0);
        assert_eq!(pace.after(500, 0), Some(Duration::from_millis(500)));
        assert_eq!(pace.after(500, 500), Some(Duration::from_millis(500)));
        assert_eq!(pace.after(10, 60_000), None);
        assert_eq!(pace.after(1000, 60_000), Some(Duration::from_millis(1000)));
        assert_eq!(Pace::new(None, 0).after(1 << 40, 0), None);
    }
}
