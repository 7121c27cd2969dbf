//! The signature inside an EFI program: Microsoft's "Windows Authenticode Portable
//! Executable Signature Format", hashed as EDK II's DxeImageVerificationLib does.
//!
//! ```text
//! hashed = headers without the checksum and without the certificate directory
//!        + sections in the order of their place in the file
//!        + whatever follows them, up to the certificates
//! ```

use super::pkcs7::{self, OCTETS, SEQUENCE, SHA256, tlv};
use super::secure_boot::SecureBootKey;
use crate::error::{Error, Result};
use cairn_release::{Digest, digest::Hasher};

/// `1.3.6.1.4.1.311.2.1.4`, SPC_INDIRECT_DATA.
const INDIRECT_DATA: &[u8] = &[0x06, 10, 0x2b, 6, 1, 4, 1, 0x82, 0x37, 2, 1, 4];
/// `1.3.6.1.4.1.311.2.1.15`, SPC_PE_IMAGE_DATA, with no flags and an empty file name.
const PE_IMAGE_DATA: &[u8] = &[
    0x30, 23, 0x06, 10, 0x2b, 6, 1, 4, 1, 0x82, 0x37, 2, 1, 15, 0x30, 9, 0x03, 1, 0, 0xa0, 4, 0xa2,
    2, 0x80, 0,
];

/// Signs an EFI program. A signature that it has, such as a distribution's, is
/// replaced: only the owner's key is to count.
///
/// # Errors
/// If the bytes are no such program.
pub fn sign(key: &SecureBootKey, image: &[u8]) -> Result<Vec<u8>> {
    let mut image = unsigned(image)?;
    image.resize(image.len().next_multiple_of(8), 0);
    let pe = Pe::of(&image)?;
    let (checksum, directory) = (pe.checksum, pe.directory);
    let digest = pe.digest()?;

    let value = [
        PE_IMAGE_DATA.to_vec(),
        tlv(SEQUENCE, &[SHA256, &tlv(OCTETS, &[&digest.0])]),
    ]
    .concat();
    let mut signature = pkcs7::attached(key, INDIRECT_DATA, SEQUENCE, &value)?;
    // WIN_CERTIFICATE: length with header and padding, revision 2.0, type
    // PKCS_SIGNED_DATA. DER knows its own end, so the padding does no harm.
    signature.resize(signature.len().next_multiple_of(8), 0);
    let (at, length) = (image.len() as u32, (signature.len() + 8) as u32);
    image[directory..directory + 4].copy_from_slice(&at.to_le_bytes());
    image[directory + 4..directory + 8].copy_from_slice(&length.to_le_bytes());
    image.extend_from_slice(&length.to_le_bytes());
    image.extend_from_slice(&[0, 2, 2, 0]);
    image.extend_from_slice(&signature);
    let sum = checksum_of(&image, checksum).to_le_bytes();
    image[checksum..checksum + 4].copy_from_slice(&sum);
    Ok(image)
}

/// The program without its signature, which lies at the file's end.
fn unsigned(image: &[u8]) -> Result<Vec<u8>> {
    let pe = Pe::of(image)?;
    let directory = pe.directory;
    let (at, length) = (pe.u32(directory)? as usize, pe.u32(directory + 4)? as usize);
    let mut image = image.to_vec();
    if at != 0 {
        if at.checked_add(length).map(|end| end.next_multiple_of(8))
            != Some(image.len().next_multiple_of(8))
        {
            return Err(Error::input("the EFI program's signature isn't at its end"));
        }
        image.truncate(at);
        image[directory..directory + 8].fill(0);
    }
    Ok(image)
}

/// Where things lie in a PE file.
struct Pe<'a> {
    image: &'a [u8],
    checksum: usize,
    directory: usize,
    headers: usize,
    sections: Vec<(usize, usize)>,
}

impl<'a> Pe<'a> {
    fn of(image: &'a [u8]) -> Result<Self> {
        let mut pe = Self {
            image,
            checksum: 0,
            directory: 0,
            headers: 0,
            sections: Vec::new(),
        };
        let start = pe.u32(0x3c)? as usize;
        if !image.starts_with(b"MZ") || pe.get(start, 4)? != b"PE\0\0" {
            return Err(not_efi());
        }
        let optional = start + 24;
        // PE32 and PE32+ differ in where the directories begin.
        let directories = match pe.u16(optional)? {
            0x10b => optional + 96,
            0x20b => optional + 112,
            _ => return Err(not_efi()),
        };
        if pe.u32(directories - 4)? < 5 {
            return Err(Error::input("the EFI program has no place for a signature"));
        }
        pe.checksum = optional + 64;
        pe.directory = directories + 4 * 8;
        pe.headers = pe.u32(optional + 60)? as usize;
        let table = optional + pe.u16(start + 20)? as usize;
        for i in 0..pe.u16(start + 6)? as usize {
            let size = pe.u32(table + i * 40 + 16)? as usize;
            let at = pe.u32(table + i * 40 + 20)? as usize;
            if size > 0 {
                pe.get(at, size)?;
                pe.sections.push((at, size));
            }
        }
        pe.sections.sort_unstable();
        Ok(pe)
    }

    fn digest(&self) -> Result<Digest> {
        let mut hasher = Hasher::default();
        let mut take = |from: usize, to: usize| -> Result<()> {
            hasher.update(self.get(from, to.checked_sub(from).ok_or_else(not_efi)?)?);
            Ok(())
        };
        take(0, self.checksum)?;
        take(self.checksum + 4, self.directory)?;
        take(self.directory + 8, self.headers)?;
        let mut hashed = self.headers;
        for &(at, size) in &self.sections {
            take(at, at + size)?;
            hashed += size;
        }
        if hashed < self.image.len() {
            take(hashed, self.image.len())?;
        }
        Ok(hasher.finish())
    }

    fn get(&self, at: usize, len: usize) -> Result<&'a [u8]> {
        at.checked_add(len)
            .and_then(|end| self.image.get(at..end))
            .ok_or_else(not_efi)
    }

    fn u16(&self, at: usize) -> Result<u16> {
        self.get(at, 2).map(|b| u16::from_le_bytes([b[0], b[1]]))
    }

    fn u32(&self, at: usize) -> Result<u32> {
        self.get(at, 4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }
}

fn not_efi() -> Error {
    Error::input("expected an EFI program (PE), got something else or a part of one")
}

/// The PE checksum: 16-bit words with their carries, the field itself as 0, and
/// the length.
fn checksum_of(image: &[u8], field: usize) -> u32 {
    let mut sum = 0u32;
    for (i, word) in image.chunks(2).enumerate() {
        if (field..field + 4).contains(&(i * 2)) {
            continue;
        }
        sum += u32::from(word[0]) | u32::from(word.get(1).copied().unwrap_or(0)) << 8;
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum + image.len() as u32
}
