//! Bytes for a place on a disk.

/// Bytes for a place on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Where, in bytes from the beginning.
    pub at: u64,
    /// What.
    pub bytes: Vec<u8>,
}
