//! Numbers of varying length, as LEB128 writes them: seven bits a byte, the lowest first.

/// Appends a number.
pub fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Takes a number off the front; `None` if there is none, or more than 64 bits.
pub fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(first & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        number |= bits << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// A signed number as an unsigned one, small if it is near zero (zigzag).
pub fn unsigned(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

/// What [`unsigned`] made of it.
pub fn signed(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_number_is_none() {
        assert_eq!(take(&mut &[][..]), None);
        assert_eq!(take(&mut &[0x80][..]), None);
        assert_eq!(take(&mut &[0xff; 10][..]), None);
    }

    #[test]
    fn numbers_near_zero_are_small() {
        let small: Vec<u64> = (-2..=2).map(unsigned).collect();
        assert_eq!(small, [3, 1, 0, 2, 4]);
    }

    proptest! {
        #[test]
        fn a_signed_number_comes_back(number: i64) {
            prop_assert_eq!(signed(unsigned(number)), number);
        }

        #[test]
        fn a_number_comes_back(number: u64, rest: u8) {
            let mut bytes = Vec::new();
            put(&mut bytes, number);
            bytes.push(rest);
            let mut left = &bytes[..];
            prop_assert_eq!(take(&mut left), Some(number));
            prop_assert_eq!(left, [rest]);
        }
    }
}
