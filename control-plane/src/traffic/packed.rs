//! A day as bytes: a column for each number of its 288 slots, each compressed by `pco`, which knows numbers.

use super::sum::{DAY, Sum};
use crate::store::StoreError;

/// Slots of a day.
const SLOTS: usize = 288;
/// Compression in pco's terms: its usual one.
const LEVEL: usize = 8;

/// Packs a day. Four columns, each behind its length: bytes received and sent, meters, those estimated. No meters: nothing came.
///
/// # Errors
/// If they can't be packed.
pub fn pack(sums: &[Option<Sum>]) -> Result<Vec<u8>, StoreError> {
    let config = pco::ChunkConfig::default().with_compression_level(LEVEL);
    let columns: [fn(&Sum) -> u64; 4] = [
        |sum| sum.rx,
        |sum| sum.tx,
        |sum| sum.meters.into(),
        |sum| sum.estimated.into(),
    ];
    let mut packed = Vec::new();
    for column in columns {
        let numbers: Vec<u64> = sums
            .iter()
            .map(|sum| sum.as_ref().map_or(0, column))
            .collect();
        let bytes = pco::standalone::simple_compress(&numbers, &config).map_err(damaged)?;
        packed.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        packed.extend(bytes);
    }
    Ok(packed)
}

/// The slots of a packed day for which something came, with their numbers.
///
/// # Errors
/// If they are damaged.
pub fn unpack(day: i64, mut packed: &[u8]) -> Result<Vec<(i64, Sum)>, StoreError> {
    let mut column = || -> Result<Vec<u64>, StoreError> {
        let short = || damaged("too short");
        let (length, rest) = packed.split_first_chunk().ok_or_else(short)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (bytes, rest) = rest.split_at_checked(length).ok_or_else(short)?;
        packed = rest;
        let numbers = pco::standalone::simple_decompress(bytes).map_err(damaged)?;
        if numbers.len() == SLOTS {
            Ok(numbers)
        } else {
            Err(short())
        }
    };
    let (rx, tx, meters, estimated) = (column()?, column()?, column()?, column()?);
    let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let sums = rx
        .into_iter()
        .zip(tx)
        .zip(meters.into_iter().zip(estimated));
    let sums = (day * DAY..)
        .zip(sums)
        .map(|(slot, ((rx, tx), (meters, estimated)))| {
            let sum = Sum {
                rx,
                tx,
                meters: count(meters),
                estimated: count(estimated),
            };
            (slot, sum)
        });
    Ok(sums.filter(|(_, sum)| sum.meters > 0).collect())
}

fn damaged(reason: impl ToString) -> StoreError {
    StoreError::Damaged {
        what: "a packed day of traffic",
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_day_is_the_day() {
        let sums: Vec<Option<Sum>> = (0..288u32)
            .map(|n| {
                (n % 5 != 0).then(|| Sum {
                    rx: u64::from(n) * 1_000_003,
                    tx: u64::MAX - u64::from(n),
                    meters: n + 1,
                    estimated: n % 2,
                })
            })
            .collect();
        let packed = pack(&sums).unwrap();
        let mut expected = Vec::new();
        for (slot, sum) in (20_000 * DAY..).zip(&sums) {
            expected.extend(sum.map(|sum| (slot, sum)));
        }
        assert_eq!(unpack(20_000, &packed).unwrap(), expected);
        for cut in [0, 3, 4, 20, packed.len() - 1] {
            assert!(unpack(20_000, &packed[..cut]).is_err(), "{cut}");
        }
    }
}
