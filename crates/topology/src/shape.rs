//! A disk's size, and where on it what may lie.

use std::ops::Range;

/// 1 MiB: what partitions are aligned to.
pub const MEBIBYTE: u64 = 1 << 20;
/// How many bytes at each end of a disk belong to no partition of ours, at least.
pub const MARGIN: u64 = MEBIBYTE;
/// No smaller disk is laid out.
const LEAST: u64 = 32 * MEBIBYTE;

/// A disk's size in bytes, and its logical sector's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    size: u64,
    sector: u32,
}

impl Shape {
    /// Of a disk of `size` bytes in sectors of `sector` bytes. None if it is too small, or its sectors are like no disk's.
    pub fn new(size: u64, sector: u32) -> Option<Self> {
        let known = (512..=4096).contains(&sector) && sector.is_power_of_two();
        let whole = known && size.is_multiple_of(sector.into());
        (whole && (LEAST..1 << 62).contains(&size)).then_some(Self { size, sector })
    }

    /// Bytes.
    pub fn size(self) -> u64 {
        self.size
    }

    /// Bytes of a logical sector.
    pub fn sector(self) -> u64 {
        self.sector.into()
    }

    /// The number of the last sector.
    pub fn last(self) -> u64 {
        self.size / self.sector() - 1
    }

    /// Where the margin at the end begins.
    pub fn tail(self) -> u64 {
        self.size - MARGIN
    }

    /// The bytes where partitions may lie; both ends are whole MiB.
    pub fn room(self) -> Range<u64> {
        MARGIN..(self.size / MEBIBYTE - 1) * MEBIBYTE
    }
}
