//! Sizes for people.

/// Bytes in the largest binary unit that leaves a whole number before the point.
pub fn bytes(count: u64) -> String {
    let mut size = count as f64;
    for unit in ["B", "KiB", "MiB"] {
        if size < 1024.0 {
            return if unit == "B" {
                format!("{count} B")
            } else {
                format!("{size:.1} {unit}")
            };
        }
        size /= 1024.0;
    }
    format!("{size:.1} GiB")
}

/// Reads a size such as `8G`, `512M` or `4096`.
///
/// # Errors
/// If it is none.
pub fn parse(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 1 << 10),
        Some((at, 'M' | 'm')) => (&text[..at], 1 << 20),
        Some((at, 'G' | 'g')) => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|count| count.checked_mul(unit))
        .ok_or_else(|| "expected a size such as 8G or 512M".into())
}

#[cfg(test)]
mod tests {
    #[test]
    fn takes_the_unit_that_fits() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (40 << 20, "40.0 MiB"),
            (3 << 40, "3072.0 GiB"),
        ];
        for (count, text) in cases {
            assert_eq!(super::bytes(count), text);
        }
    }
}
