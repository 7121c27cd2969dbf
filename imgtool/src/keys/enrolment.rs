//! What firmware takes to enrol keys (UEFI specification, 8.2 and 32.4): signature
//! lists (`.esl`) and signed variables (`.auth`).

use super::pkcs7;
use super::secure_boot::SecureBootKey;
use crate::error::{Error, Result};
use cairn_release::{Digest, Timestamp};

/// A variable that holds keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variable {
    /// The platform key: who may change KEK.
    Pk,
    /// The key exchange key: who may change db.
    Kek,
    /// Whose programs may run.
    Db,
}

/// EFI_CERT_X509_GUID, a5c059a1-94e4-4aa7-87b5-ab155c2bf072.
const X509: [u8; 16] = guid(0xa5c059a1, 0x94e4, 0x4aa7, 0x87b5_ab15_5c2b_f072);
/// EFI_CERT_TYPE_PKCS7_GUID, 4aafd29d-68df-49ee-8aa9-347d375665a7.
const PKCS7: [u8; 16] = guid(0x4aafd29d, 0x68df, 0x49ee, 0x8aa9_347d_3756_65a7);
/// EFI_GLOBAL_VARIABLE, 8be4df61-93ca-11d2-aa0d-00e098032b8c.
const GLOBAL: [u8; 16] = guid(0x8be4df61, 0x93ca, 0x11d2, 0xaa0d_00e0_9803_2b8c);
/// EFI_IMAGE_SECURITY_DATABASE_GUID, d719b2cb-3d3a-4596-a3bc-dad00e67656f.
const DATABASE: [u8; 16] = guid(0xd719b2cb, 0x3d3a, 0x4596, 0xa3bc_dad0_0e67_656f);
/// Non-volatile, for boot services and runtime, written by time-based authentication.
const ATTRIBUTES: u32 = 0x27;

/// EFI writes the first three fields with the low byte first.
const fn guid(a: u32, b: u16, c: u16, d: u64) -> [u8; 16] {
    let (a, b, c, d) = (
        a.to_le_bytes(),
        b.to_le_bytes(),
        c.to_le_bytes(),
        d.to_be_bytes(),
    );
    [
        a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6],
        d[7],
    ]
}

impl Variable {
    /// The variable's name, and the name of the files for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pk => "PK",
            Self::Kek => "KEK",
            Self::Db => "db",
        }
    }

    fn vendor(self) -> [u8; 16] {
        match self {
            Self::Pk | Self::Kek => GLOBAL,
            Self::Db => DATABASE,
        }
    }
}

/// Names the owner of the keys: made from the platform key, so that it needs no
/// file of its own.
pub fn owner(platform_key: &SecureBootKey) -> [u8; 16] {
    let mut owner = [0; 16];
    owner.copy_from_slice(&Digest::of(platform_key.certificate_der()).0[..16]);
    // A GUID of version 4 and RFC 9562's variant, in EFI's order of bytes.
    owner[7] = owner[7] & 0x0f | 0x40;
    owner[8] = owner[8] & 0x3f | 0x80;
    owner
}

/// A signature list with one certificate.
pub fn signature_list(certificate: &[u8], owner: [u8; 16]) -> Vec<u8> {
    let entry = certificate.len() as u32 + 16;
    let mut list = X509.to_vec();
    for field in [entry + 28, 0, entry] {
        list.extend_from_slice(&field.to_le_bytes());
    }
    list.extend_from_slice(&owner);
    list.extend_from_slice(certificate);
    list
}

/// `list` as a signed update of `variable`.
///
/// # Errors
/// If the key fails.
pub fn signed_variable(
    signer: &SecureBootKey,
    variable: Variable,
    list: &[u8],
    at: Timestamp,
) -> Result<Vec<u8>> {
    let time = efi_time(at)?;
    let mut message: Vec<u8> = variable
        .name()
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    message.extend_from_slice(&variable.vendor());
    message.extend_from_slice(&ATTRIBUTES.to_le_bytes());
    message.extend_from_slice(&time);
    message.extend_from_slice(list);
    let signature = pkcs7::detached(signer, &message)?;

    // EFI_VARIABLE_AUTHENTICATION_2: the time, then WIN_CERTIFICATE_UEFI_GUID.
    let mut out = time.to_vec();
    out.extend_from_slice(&(signature.len() as u32 + 24).to_le_bytes());
    out.extend_from_slice(&[0x00, 0x02, 0xf1, 0x0e]);
    out.extend_from_slice(&PKCS7);
    out.extend_from_slice(&signature);
    out.extend_from_slice(list);
    Ok(out)
}

/// EFI_TIME in UTC, with everything below the second 0, as time-based
/// authentication demands.
fn efi_time(at: Timestamp) -> Result<[u8; 16]> {
    let bad = || Error::input(format!("expected a moment from 1970 to 9999, got {at}"));
    let at = jiff::Timestamp::from_second(at.unix()).map_err(|_| bad())?;
    let at = jiff::tz::Offset::UTC.to_datetime(at);
    let mut time = [0; 16];
    time[..2].copy_from_slice(&u16::try_from(at.year()).map_err(|_| bad())?.to_le_bytes());
    for (slot, part) in
        time[2..]
            .iter_mut()
            .zip([at.month(), at.day(), at.hour(), at.minute(), at.second()])
    {
        *slot = part.unsigned_abs();
    }
    Ok(time)
}
