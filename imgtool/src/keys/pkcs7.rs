//! PKCS#7 SignedData (RFC 2315) with one RSA signer and SHA-256, as firmware reads
//! it. It carries no signing time, so the same input gives the same bytes; sbsign
//! and sign-efi-sig-list would put the clock's time in.

use super::secure_boot::SecureBootKey;
use crate::error::Result;
use cairn_release::Digest;

/// `1.2.840.113549.1.7.1`, data.
pub const DATA: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
/// `1.2.840.113549.1.7.2`, signedData.
const SIGNED_DATA: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
/// `1.2.840.113549.1.9.3`, contentType.
const CONTENT_TYPE: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 3];
/// `1.2.840.113549.1.9.4`, messageDigest.
const MESSAGE_DIGEST: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 4];
/// `2.16.840.1.101.3.4.2.1`, SHA-256, with its NULL parameter.
pub const SHA256: &[u8] = &[
    0x30, 13, 0x06, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 0x05, 0,
];
/// `1.2.840.113549.1.1.1`, rsaEncryption, with its NULL parameter.
const RSA: &[u8] = &[
    0x30, 13, 0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 0x05, 0,
];

/// SEQUENCE's tag.
pub const SEQUENCE: u8 = 0x30;
/// SET's tag.
pub const SET: u8 = 0x31;
/// OCTET STRING's tag.
pub const OCTETS: u8 = 0x04;

/// One DER value.
pub fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = vec![tag];
    if len < 0x80 {
        out.push(len as u8);
    } else {
        let bytes = len.to_be_bytes();
        let from = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len());
        out.push(0x80 | (bytes.len() - from) as u8);
        out.extend_from_slice(&bytes[from..]);
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// A ContentInfo around the content `value` of type `kind`, both in DER; signed
/// with authenticated attributes. `value` is without tag and length what is hashed
/// (RFC 2315, 9.3).
pub fn attached(key: &SecureBootKey, kind: &[u8], tag: u8, value: &[u8]) -> Result<Vec<u8>> {
    let digest = tlv(OCTETS, &[&Digest::of(value).0]);
    let attributes = [
        tlv(SEQUENCE, &[CONTENT_TYPE, &tlv(SET, &[kind])]),
        tlv(SEQUENCE, &[MESSAGE_DIGEST, &tlv(SET, &[&digest])]),
    ]
    .concat();
    // Signed as a SET, carried under an implicit tag (RFC 2315, 9.3).
    let signature = key.sign(&tlv(SET, &[&attributes]))?;
    let content = tlv(SEQUENCE, &[kind, &tlv(0xa0, &[&tlv(tag, &[value])])]);
    let signed = signed_data(key, &content, &tlv(0xa0, &[&attributes]), &signature)?;
    Ok(content_info(&signed))
}

/// A SignedData over `message`, which it doesn't carry, without attributes and
/// without a ContentInfo around it.
pub fn detached(key: &SecureBootKey, message: &[u8]) -> Result<Vec<u8>> {
    signed_data(key, &tlv(SEQUENCE, &[DATA]), &[], &key.sign(message)?)
}

fn content_info(signed: &[u8]) -> Vec<u8> {
    tlv(SEQUENCE, &[SIGNED_DATA, &tlv(0xa0, &[signed])])
}

fn signed_data(
    key: &SecureBootKey,
    content: &[u8],
    attributes: &[u8],
    signature: &[u8],
) -> Result<Vec<u8>> {
    let one = [0x02, 1, 1];
    let (issuer, serial) = key.issuer_and_serial()?;
    let signer = tlv(
        SEQUENCE,
        &[
            &one,
            &tlv(SEQUENCE, &[&issuer, &serial]),
            SHA256,
            attributes,
            RSA,
            &tlv(OCTETS, &[signature]),
        ],
    );
    let parts: [&[u8]; 5] = [
        &one,
        &tlv(SET, &[SHA256]),
        content,
        &tlv(0xa0, &[key.certificate_der()]),
        &tlv(SET, &[&signer]),
    ];
    Ok(tlv(SEQUENCE, &parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_as_der_wants_them() {
        assert_eq!(tlv(4, &[]), [4, 0]);
        assert_eq!(tlv(4, &[&[0; 127]])[..2], [4, 127]);
        assert_eq!(tlv(4, &[&[0; 128]])[..3], [4, 0x81, 128]);
        assert_eq!(tlv(4, &[&[0; 200], &[0; 200]])[..4], [4, 0x82, 1, 144]);
    }
}
