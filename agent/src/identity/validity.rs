//! From when until when a certificate is valid: RFC 5280, sections 4.1 and 4.1.2.5.
//!
//! This is read before anybody has checked a signature, so it may be anything. Only what leads to the dates is looked at; the
//! rest of the certificate is for who judges it.

use rustls::pki_types::CertificateDer;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Both in seconds since 1970; none if it is no certificate.
pub fn validity(certificate: &CertificateDer<'_>) -> Option<(i64, i64)> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (signed, _) = element(certificate, SEQUENCE)?;
    let rest = element(signed, VERSION).map_or(signed, |(_, rest)| rest);
    let (_serial, rest) = element(rest, INTEGER)?;
    let (_algorithm, rest) = element(rest, SEQUENCE)?;
    let (_issuer, rest) = element(rest, SEQUENCE)?;
    let (dates, _) = element(rest, SEQUENCE)?;
    let (from, rest) = time(dates)?;
    let (until, _) = time(rest)?;
    Some((from, until))
}

/// What an element of this tag holds, and what follows it: X.690, section 8.1.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let (short, rest) = rest.split_first()?;
    let (length, rest) = match short {
        0..=0x7f => (usize::from(*short), rest),
        // No certificate has elements of 16 MiB.
        0x81..=0x83 => {
            let (length, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
            let length = length
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            (length, rest)
        }
        _ => return None,
    };
    (*first == tag).then(|| rest.split_at_checked(length))?
}

/// A time as certificates have to write it, to the second and in UTC.
fn time(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (text, rest, century) = match element(bytes, UTC_TIME) {
        Some((text, rest)) => {
            let century = if text.first()? >= &b'5' { "19" } else { "20" };
            (text, rest, century)
        }
        None => {
            let (text, rest) = element(bytes, GENERALIZED_TIME)?;
            (text, rest, "")
        }
    };
    let text = format!("{century}{}", std::str::from_utf8(text).ok()?);
    let digits = text.strip_suffix('Z')?;
    if digits.len() != 14 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize| digits.get(from..from + 2).unwrap_or_default();
    let text = format!(
        "{}{}-{}-{}T{}:{}:{}Z",
        part(0),
        part(2),
        part(4),
        part(6),
        part(8),
        part(10),
        part(12)
    );
    let time: jiff::Timestamp = text.parse().ok()?;
    Some((time.as_second(), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn certificate() -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["node".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2025, 1, 1);
        params.not_after = rcgen::date_time_ymd(2090, 1, 1);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn of(bytes: Vec<u8>) -> Option<(i64, i64)> {
        validity(&CertificateDer::from(bytes))
    }

    #[test]
    fn both_kinds_of_time_are_read() {
        // 2025 is written with two digits of the year, 2090 with four.
        assert_eq!(of(certificate()), Some((1_735_689_600, 3_786_912_000)));
        assert_eq!(
            time(b"\x17\x0d991231235959Z!"),
            Some((946_684_799, &b"!"[..]))
        );
        for wrong in [
            &b"\x17\x0d991331235959Z"[..],
            b"\x17\x0d99123123595+Z",
            b"\x18\x1399991231235959-0100",
            b"\x17\x0d9912",
            b"",
        ] {
            assert_eq!(time(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn lengths_that_lead_nowhere_are_no_certificate() {
        let huge = b"\x30\x20\x30\x1e\x02\x88\xff\xff\xff\xff\xff\xff\xff\xf6aaaaaaaaaaaaaaaaaaaa";
        assert_eq!(of(huge.to_vec()), None);
        assert_eq!(of(b"\x30\x80".to_vec()), None);
        let whole = certificate();
        for length in 0..80 {
            assert_eq!(of(whole[..length].to_vec()), None);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn nothing_panics(at in 0usize..200, bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut changed = certificate();
            let at = at.min(changed.len());
            let end = (at + bytes.len()).min(changed.len());
            changed.splice(at..end, bytes.iter().copied());
            let _ = of(changed);
            let _ = of(bytes);
        }
    }
}
