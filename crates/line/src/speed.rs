//! The course of a speed test in one direction: pieces over one connection, each a request and its answer.
//!
//! The first byte opens the connection, the second shows what a request costs by itself (a round trip, the server's time). Then the
//! pieces grow, so that a slow line is measured by few bytes and a fast one by many, and each warms the connection up for the
//! next: the figure is that of the largest piece alone, less what a request costs. TCP's slow start (RFC 5681) lies in the
//! pieces before it; RFC 6349 asks for a measurement behind it, too.

use std::time::Duration;

/// The first piece that counts.
const FIRST: u64 = 64 << 10;
/// A piece is at most so many times as large as the one before.
const GROWTH: u64 = 4;
/// A piece that took so long is enough.
const ENOUGH: Duration = Duration::from_secs(2);
/// What takes no longer is over before it can be measured.
const SHORTEST: Duration = Duration::from_millis(10);
/// Bytes on the line for opening a connection, and for the requests of a whole course.
const AROUND: u64 = 32 << 10;

/// What a course may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes, without what protocols add.
    pub bytes: u64,
    /// Time.
    pub time: Duration,
}

/// Bytes on the line, both directions together, that a course with so many bytes takes at most: headers and acknowledgements are
/// under 7 % of full packets, and the rest of an eighth is for what is sent again.
pub fn on_the_line(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 8).saturating_add(AROUND)
}

/// The bytes of the largest course that takes no more than that on the line; none if it isn't worth it.
pub fn affordable(on_the_line: u64) -> Option<u64> {
    let bytes = on_the_line.checked_sub(AROUND)? / 9 * 8;
    (bytes >= FIRST).then_some(bytes)
}

/// A course under way.
#[derive(Debug, Clone)]
pub struct Course {
    limits: Limits,
    /// Bytes and time so far.
    bytes: u64,
    time: Duration,
    /// Pieces so far.
    pieces: u32,
    /// What a request costs by itself.
    request: Duration,
    largest: Option<(u64, Duration)>,
    /// A piece didn't come as it was asked for.
    ends: bool,
}

impl Course {
    /// Nothing is done yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            bytes: 0,
            time: Duration::ZERO,
            pieces: 0,
            request: Duration::ZERO,
            largest: None,
            ends: false,
        }
    }

    /// The time that is left for the next piece.
    pub fn time_left(&self) -> Duration {
        self.limits.time.saturating_sub(self.time)
    }

    /// Bytes of all pieces so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What the limit leaves of bytes.
    pub fn left(&self) -> u64 {
        self.limits.bytes.saturating_sub(self.bytes)
    }

    /// How large the next piece is; none at the end.
    pub fn next(&self) -> Option<u64> {
        let (left, time) = (self.left(), self.time_left());
        if self.ends || left == 0 || time.is_zero() {
            return None;
        }
        if self.pieces < 2 {
            return Some(1);
        }
        let Some((bytes, took)) = self.largest else {
            return Some(FIRST.min(left));
        };
        // What is sure to be done in time, as it went so far.
        let rate = bytes as f64 / took.max(SHORTEST).as_secs_f64();
        let in_time = (rate * time.as_secs_f64() * 0.8) as u64;
        let size = bytes.saturating_mul(GROWTH).min(in_time).min(left);
        (took < ENOUGH && size > bytes).then_some(size)
    }

    /// A piece of [`next`](Self::next) is done: its bytes, and how long it took from the request to the end of the answer.
    pub fn done(&mut self, bytes: u64, took: Duration) {
        let asked = self.next();
        self.bytes = self.bytes.saturating_add(bytes);
        self.time = self.time.saturating_add(took);
        self.pieces = self.pieces.saturating_add(1);
        self.ends |= asked.is_none_or(|asked| bytes < asked);
        match self.pieces {
            1 => {}
            2 => self.request = took,
            _ if self.largest.is_none_or(|(largest, _)| bytes > largest) => {
                self.largest = Some((bytes, took));
            }
            _ => {}
        }
    }

    /// Bits per second that reached the other side; none if there was too little to tell.
    pub fn bits_per_second(&self) -> Option<u64> {
        let (bytes, took) = self.largest?;
        let took = took.saturating_sub(self.request);
        (took >= SHORTEST).then(|| (bytes as f64 * 8.0 / took.as_secs_f64()) as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROUND_TRIP: f64 = 0.04;

    /// A whole course over a line of so many bits per second.
    fn course(rate: f64, limits: Limits) -> Course {
        let mut course = Course::new(limits);
        for _ in 0..100 {
            let Some(bytes) = course.next() else {
                return course;
            };
            let took = Duration::from_secs_f64(ROUND_TRIP + bytes as f64 * 8.0 / rate);
            if took > course.time_left() {
                return course;
            }
            course.done(bytes, took);
        }
        panic!("it never ends");
    }

    fn limits(bytes: u64) -> Limits {
        Limits {
            bytes,
            time: Duration::from_secs(10),
        }
    }

    #[test]
    fn slow_lines_are_measured_by_few_bytes_and_fast_ones_by_many() {
        let slow = course(1e6, limits(64 << 20));
        assert!(slow.bytes() < 1 << 20, "{}", slow.bytes());
        let fast = course(1e9, limits(64 << 20));
        assert_eq!(fast.bytes(), 64 << 20);
        for (course, rate) in [(slow, 1e6), (fast, 1e9)] {
            let found = course.bits_per_second().unwrap() as f64;
            assert!((found / rate - 1.0).abs() < 0.01, "{found}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_not_told() {
        assert_eq!(Course::new(limits(1 << 20)).bits_per_second(), None);
        // 64 KiB in 10 s would be more than 52 kbit/s.
        assert_eq!(course(40e3, limits(1 << 20)).bits_per_second(), None);
        assert_eq!(course(1e12, limits(1 << 20)).bits_per_second(), None);
    }

    #[test]
    fn a_piece_that_comes_short_is_the_last() {
        let mut course = Course::new(limits(1 << 20));
        for _ in 0..2 {
            course.done(1, Duration::from_millis(1));
        }
        course.done(1000, Duration::from_millis(1));
        assert_eq!(course.next(), None);
    }

    proptest! {
        #[test]
        fn limits_are_kept_and_the_rate_is_found(rate in 2e5f64..1e9, bytes in 0u64..1 << 28) {
            let done = course(rate, limits(bytes));
            prop_assert!(done.bytes() <= bytes);
            prop_assert!(done.time <= Duration::from_secs(10));
            if let Some(found) = done.bits_per_second() {
                prop_assert!((found as f64 / rate - 1.0).abs() < 0.01, "{}", found);
            }
        }

        #[test]
        fn what_is_affordable_fits(left in 0u64..1 << 40) {
            match affordable(left) {
                Some(bytes) => prop_assert!(on_the_line(bytes) <= left),
                None => prop_assert!(left < on_the_line(2 * FIRST)),
            }
        }
    }
}
