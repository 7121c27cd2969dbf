//! A day of one key's samples as bytes, and back.
//!
//! ```text
//! 1 byte    1, the format
//! 4 bytes   how many samples, little-endian
//! column    their times in milliseconds since 1970
//! 1 byte    what the values are
//! 0: column of integers
//! 1: column of floating-point numbers
//! 2: a column that says which are integers, and all as floating-point numbers
//! 3: an array of JSON, by zstd behind its length without it (4 bytes)
//! ```
//!
//! What comes back is what was packed, to the last bit: 1 stays another value than 1.0.

use serde_json::Value;

use super::numbers::{self, Damaged};

/// A value and its time in milliseconds since 1970.
pub type Point = (i64, Value);

const FORMAT: u8 = 1;
/// Samples of a piece at most, one each 82 ms, so that neither a device nor damaged bytes can ask for any amount of memory.
const MOST: usize = 1 << 20;
/// Bytes of JSON of a piece at most, for the same reason.
const MOST_TEXT: usize = 64 << 20;
/// Integers up to this are the same as floating-point numbers.
const EXACT: i64 = 1 << 53;

/// How values are packed.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Integers = 0,
    Floats = 1,
    Mixed = 2,
    Json = 3,
}

impl Shape {
    fn of(points: &[Point]) -> Self {
        let (mut integers, mut exact, mut floats) = (0, 0, 0);
        for (_, value) in points {
            match (value.as_i64(), value) {
                (Some(integer), _) => {
                    integers += 1;
                    exact += usize::from((-EXACT..=EXACT).contains(&integer));
                }
                (None, Value::Number(number)) if number.is_f64() => floats += 1,
                _ => {}
            }
        }
        match points.len() {
            all if integers == all => Self::Integers,
            all if floats == all => Self::Floats,
            all if exact + floats == all => Self::Mixed,
            _ => Self::Json,
        }
    }

    fn read(byte: u8) -> Option<Self> {
        let all = [Self::Integers, Self::Floats, Self::Mixed, Self::Json];
        all.into_iter().find(|shape| *shape as u8 == byte)
    }
}

/// Packs samples, which are sorted by time.
///
/// # Errors
/// If they are too many, or a column can't be packed.
pub fn pack(points: &[Point]) -> Result<Vec<u8>, Damaged> {
    if points.len() > MOST {
        return Err(Damaged(format!("{} samples are too many", points.len())));
    }
    let mut bytes = vec![FORMAT];
    bytes.extend(
        u32::try_from(points.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    let times: Vec<i64> = points.iter().map(|(ts, _)| *ts).collect();
    numbers::put(&mut bytes, &times)?;
    let shape = Shape::of(points);
    bytes.push(shape as u8);
    let floats = || -> Vec<f64> {
        let values = points.iter().map(|(_, value)| value.as_f64());
        values.map(Option::unwrap_or_default).collect()
    };
    match shape {
        Shape::Integers => {
            let values = points.iter().map(|(_, value)| value.as_i64());
            let values: Vec<i64> = values.map(Option::unwrap_or_default).collect();
            numbers::put(&mut bytes, &values)?;
        }
        Shape::Floats => numbers::put(&mut bytes, &floats())?,
        Shape::Mixed => {
            let whole = points.iter().map(|(_, value)| u16::from(value.is_i64()));
            numbers::put(&mut bytes, &whole.collect::<Vec<_>>())?;
            numbers::put(&mut bytes, &floats())?;
        }
        Shape::Json => {
            let values: Vec<&Value> = points.iter().map(|(_, value)| value).collect();
            let json = serde_json::to_vec(&values).map_err(|error| Damaged(error.to_string()))?;
            if json.len() > MOST_TEXT {
                return Err(Damaged(format!(
                    "{} bytes of JSON are too many",
                    json.len()
                )));
            }
            bytes.extend(u32::try_from(json.len()).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend(
                zstd::bulk::compress(&json, 3).map_err(|error| Damaged(error.to_string()))?,
            );
        }
    }
    Ok(bytes)
}

/// What was packed.
///
/// # Errors
/// If the bytes are damaged.
pub fn unpack(bytes: &[u8]) -> Result<Vec<Point>, Damaged> {
    let short = || Damaged("too short".into());
    let (format, bytes) = bytes.split_first().ok_or_else(short)?;
    if *format != FORMAT {
        return Err(Damaged(format!("expected format {FORMAT}, got {format}")));
    }
    let (count, mut bytes) = bytes.split_first_chunk().ok_or_else(short)?;
    let count = u32::from_le_bytes(*count) as usize;
    if count > MOST {
        return Err(Damaged(format!("{count} samples are too many")));
    }
    let times: Vec<i64> = numbers::take(&mut bytes, count)?;
    let (shape, mut bytes) = bytes.split_first().ok_or_else(short)?;
    let shape = Shape::read(*shape)
        .ok_or_else(|| Damaged(format!("expected a shape of 0 to 3, got {shape}")))?;
    let values: Vec<Value> = match shape {
        Shape::Integers => {
            let values: Vec<i64> = numbers::take(&mut bytes, count)?;
            values.into_iter().map(Value::from).collect()
        }
        Shape::Floats => {
            let values: Vec<f64> = numbers::take(&mut bytes, count)?;
            values.into_iter().map(Value::from).collect()
        }
        Shape::Mixed => {
            let whole: Vec<u16> = numbers::take(&mut bytes, count)?;
            let values: Vec<f64> = numbers::take(&mut bytes, count)?;
            let values = whole.into_iter().zip(values);
            // It came from an integer that is exact as a floating-point number.
            let read = |(whole, value): (u16, f64)| match whole {
                1 => Value::from(value as i64),
                _ => Value::from(value),
            };
            values.map(read).collect()
        }
        Shape::Json => {
            let (length, bytes) = bytes.split_first_chunk().ok_or_else(short)?;
            let length = u32::from_le_bytes(*length) as usize;
            if length > MOST_TEXT {
                return Err(Damaged(format!("{length} bytes of JSON are too many")));
            }
            let json = zstd::bulk::decompress(bytes, length)
                .map_err(|error| Damaged(error.to_string()))?;
            serde_json::from_slice(&json).map_err(|error| Damaged(error.to_string()))?
        }
    };
    if values.len() != count {
        return Err(short());
    }
    Ok(times.into_iter().zip(values).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-5_i64..5).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            (-40_i32..40).prop_map(|n| Value::from(f64::from(n) / 4.0)),
            any::<bool>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
            Just(Value::Null),
            Just(json!({ "a": [1, "x", null] })),
        ]
    }

    /// Mostly of one kind, as keys are.
    fn values() -> impl Strategy<Value = Vec<Value>> {
        prop_oneof![
            prop::collection::vec(value(), 0..40),
            prop::collection::vec(any::<i64>().prop_map(Value::from), 0..400),
            prop::collection::vec(any::<f64>().prop_map(Value::from), 0..400),
            prop::collection::vec(
                prop_oneof![
                    (-3_i64..3).prop_map(Value::from),
                    (-3_i32..3).prop_map(|n| Value::from(f64::from(n)))
                ],
                0..400
            ),
        ]
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_back(values in values(), start in 0_i64..4_000_000_000_000, steps in prop::collection::vec(1_i64..100_000, 400)) {
            let times = steps.iter().scan(start, |at, step| { *at += step; Some(*at) });
            let points: Vec<Point> = times.zip(values).collect();
            let packed = pack(&points).unwrap();
            let back = unpack(&packed).unwrap();
            prop_assert_eq!(serde_json::to_string(&back).unwrap(), serde_json::to_string(&points).unwrap());
            prop_assert_eq!(back, points);
        }

        #[test]
        fn damaged_bytes_are_an_error_or_other_samples_and_never_more(cut in 0_usize..200, flip in any::<u8>(), at in 0_usize..200) {
            let points: Vec<Point> = (0..50).map(|n| (n * 1000, Value::from(n))).collect();
            let mut packed = pack(&points).unwrap();
            let at = at % packed.len();
            packed[at] ^= flip;
            packed.truncate(packed.len().saturating_sub(cut));
            let _ = unpack(&packed);
        }
    }

    #[test]
    fn a_day_of_a_steady_key_takes_little() {
        let points: Vec<Point> = (0..1440)
            .map(|n| (n * 60_000, Value::from(n % 7)))
            .collect();
        let bytes = pack(&points).unwrap().len();
        assert!(bytes < 900, "{bytes}");
    }
}
