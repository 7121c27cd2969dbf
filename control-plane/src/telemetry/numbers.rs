//! Columns of numbers as bytes, each compressed by `pco` behind its length.

use pco::ChunkConfig;
use pco::data_types::Number;

/// Compression in pco's terms: its usual one.
const LEVEL: usize = 8;

/// The bytes aren't what was packed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Damaged(pub String);

/// Appends a column.
///
/// # Errors
/// If it can't be packed.
pub fn put<T: Number>(bytes: &mut Vec<u8>, numbers: &[T]) -> Result<(), Damaged> {
    let config = ChunkConfig::default().with_compression_level(LEVEL);
    let packed = pco::standalone::simple_compress(numbers, &config)
        .map_err(|error| Damaged(error.to_string()))?;
    bytes.extend(
        u32::try_from(packed.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    bytes.extend(packed);
    Ok(())
}

/// Takes a column of so many numbers from the front.
///
/// # Errors
/// If it isn't there.
pub fn take<T: Number>(bytes: &mut &[u8], count: usize) -> Result<Vec<T>, Damaged> {
    let short = || Damaged(format!("expected a column of {count} numbers"));
    let (length, rest) = bytes.split_first_chunk().ok_or_else(short)?;
    let length = u32::from_le_bytes(*length) as usize;
    let (packed, rest) = rest.split_at_checked(length).ok_or_else(short)?;
    let mut numbers = vec![T::default(); count];
    let progress = pco::standalone::simple_decompress_into(packed, &mut numbers)
        .map_err(|error| Damaged(error.to_string()))?;
    if progress.n_processed != count || !progress.finished {
        return Err(short());
    }
    *bytes = rest;
    Ok(numbers)
}
