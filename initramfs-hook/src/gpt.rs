//! Reading a GUID partition table (UEFI specification, section 5.3).
//!
//! ```text
//! sector 0        protective MBR, not looked at
//! sector 1        header: signature, CRC-32, place and CRC-32 of the entries
//! sector 2…       entries: type, unique id, first and last sector, name
//! last sector     the backup's header, its entries before it
//! ```

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::str::FromStr;

/// Type of an EFI system partition.
pub const ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";

/// More entries than any real table has; a damaged header must not make us
/// allocate gigabytes.
const MOST_ENTRY_BYTES: u64 = 1 << 20;

/// An id, in the byte order that it has on disk: three little-endian numbers, then bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Guid([u8; 16]);

/// The text is no partition id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a partition id of 36 lower-case characters, got {0:?}")]
pub struct NotAGuid(String);

/// Which byte on disk each pair of digits is.
const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

impl FromStr for Guid {
    type Err = NotAGuid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || NotAGuid(text.chars().take(80).collect());
        let shaped = text.len() == 36
            && text.bytes().enumerate().all(|(i, byte)| match i {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            });
        if !shaped {
            return Err(bad());
        }
        let digits = text.replace('-', "");
        let mut guid = [0; 16];
        for (pair, place) in ORDER.into_iter().enumerate() {
            guid[place] =
                u8::from_str_radix(&digits[2 * pair..2 * pair + 2], 16).map_err(|_| bad())?;
        }
        Ok(Self(guid))
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (pair, place) in ORDER.into_iter().enumerate() {
            if matches!(pair, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{:02x}", self.0[place])?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guid({self})")
    }
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1.
    pub number: u32,
    /// What it is for.
    pub kind: Guid,
    /// Which one it is.
    pub id: Guid,
    /// First byte on the disk.
    pub start: u64,
    /// Size in bytes.
    pub size: u64,
}

/// A disk's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The partitions in use.
    pub partitions: Vec<Partition>,
    /// Whether the first copy was damaged.
    pub from_backup: bool,
}

/// What a table can be read from.
pub trait Disk {
    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// If there are too few bytes, or they can't be read.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Size in bytes.
    fn size(&self) -> u64;
}

/// A block device with its size.
pub struct BlockDevice {
    /// The open device.
    pub file: File,
    /// Size in bytes.
    pub size: u64,
}

impl Disk for BlockDevice {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn size(&self) -> u64 {
        self.size
    }
}

/// Reads a disk's table, from its end if the one at its beginning is damaged.
/// `sector` is the disk's logical sector, in which the table counts.
pub fn read(disk: &impl Disk, sector: u64) -> Option<Table> {
    let last = disk.size().checked_div(sector)?.checked_sub(1)?;
    let table = |at, from_backup| {
        Some(Table {
            partitions: copy(disk, sector, at)?,
            from_backup,
        })
    };
    table(1, false).or_else(|| table(last, true))
}

/// One of the two copies, if its checksums hold.
fn copy(disk: &impl Disk, sector: u64, at: u64) -> Option<Vec<Partition>> {
    let mut header = vec![0; usize::try_from(sector).ok()?];
    disk.read(at.checked_mul(sector)?, &mut header).ok()?;
    let length = u32_at(&header, 12)? as usize;
    if header.get(..8)? != b"EFI PART" || !(92..=header.len()).contains(&length) {
        return None;
    }
    let sum = u32_at(&header, 16)?;
    header.get_mut(16..20)?.fill(0);
    if crc32fast::hash(header.get(..length)?) != sum || u64_at(&header, 24)? != at {
        return None;
    }

    let (count, size) = (
        u64::from(u32_at(&header, 80)?),
        u64::from(u32_at(&header, 84)?),
    );
    let bytes = count
        .checked_mul(size)
        .filter(|bytes| *bytes <= MOST_ENTRY_BYTES)?;
    if size < 128 {
        return None;
    }
    let mut entries = vec![0; usize::try_from(bytes).ok()?];
    let place = u64_at(&header, 72)?.checked_mul(sector)?;
    disk.read(place, &mut entries).ok()?;
    if crc32fast::hash(&entries) != u32_at(&header, 88)? {
        return None;
    }
    let size = usize::try_from(size).ok()?;
    let used = entries
        .chunks_exact(size)
        .zip(1..)
        .filter_map(|(entry, number)| partition(entry, number, sector));
    Some(used.collect())
}

fn partition(entry: &[u8], number: u32, sector: u64) -> Option<Partition> {
    let kind = guid_at(entry, 0)?;
    let (first, last) = (u64_at(entry, 32)?, u64_at(entry, 40)?);
    if kind.0 == [0; 16] || last < first {
        return None;
    }
    Some(Partition {
        number,
        kind,
        id: guid_at(entry, 16)?,
        start: first.checked_mul(sector)?,
        size: (last - first).checked_add(1)?.checked_mul(sector)?,
    })
}

fn guid_at(bytes: &[u8], at: usize) -> Option<Guid> {
    Some(Guid(bytes.get(at..at + 16)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Image(Vec<u8>);

    impl Disk for Image {
        fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            let at = offset as usize;
            let bytes = self.0.get(at..at + buffer.len());
            buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }

        fn size(&self) -> u64 {
            self.0.len() as u64
        }
    }

    const DATA: &str = "01234567-89ab-cdef-0123-456789abcdef";

    /// A disk of 64 sectors with an ESP and a data partition, both copies whole.
    fn image(sector: usize) -> Image {
        let mut entries = vec![0; 4 * 128];
        let mut entry = |n: usize, kind: &str, id: &str, first: u64, last: u64| {
            let at = n * 128;
            entries[at..at + 16].copy_from_slice(&kind.parse::<Guid>().unwrap().0);
            entries[at + 16..at + 32].copy_from_slice(&id.parse::<Guid>().unwrap().0);
            entries[at + 32..at + 40].copy_from_slice(&first.to_le_bytes());
            entries[at + 40..at + 48].copy_from_slice(&last.to_le_bytes());
        };
        entry(0, ESP, "00000000-0000-0000-0000-000000000001", 10, 19);
        entry(2, "0fc63daf-8483-4772-8e79-3d69d8477de4", DATA, 20, 20);

        let mut disk = vec![0; 64 * sector];
        for (at, place) in [(1usize, 2usize), (63, 60)] {
            let mut header = vec![0; 92];
            header[..8].copy_from_slice(b"EFI PART");
            header[12..16].copy_from_slice(&92u32.to_le_bytes());
            header[24..32].copy_from_slice(&(at as u64).to_le_bytes());
            header[72..80].copy_from_slice(&(place as u64).to_le_bytes());
            header[80..84].copy_from_slice(&4u32.to_le_bytes());
            header[84..88].copy_from_slice(&128u32.to_le_bytes());
            header[88..92].copy_from_slice(&crc32fast::hash(&entries).to_le_bytes());
            let sum = crc32fast::hash(&header);
            header[16..20].copy_from_slice(&sum.to_le_bytes());
            disk[at * sector..at * sector + 92].copy_from_slice(&header);
            disk[place * sector..place * sector + entries.len()].copy_from_slice(&entries);
        }
        Image(disk)
    }

    #[test]
    fn reads_both_sector_sizes() {
        for sector in [512, 4096] {
            let table = read(&image(sector), sector as u64).unwrap();
            assert!(!table.from_backup);
            let [esp, data] = &table.partitions[..] else {
                panic!("{table:?}")
            };
            assert_eq!((esp.number, esp.kind), (1, ESP.parse().unwrap()));
            assert_eq!((data.number, data.id), (3, DATA.parse().unwrap()));
            let sector = sector as u64;
            assert_eq!((esp.start, esp.size), (10 * sector, 10 * sector));
            assert_eq!((data.start, data.size), (20 * sector, sector));
        }
    }

    #[test]
    fn a_damaged_first_copy_is_read_from_the_end() {
        for sector in [512, 4096] {
            let whole = read(&image(sector), sector as u64).unwrap();
            // Signature, header, entries.
            for byte in [sector, sector + 40, 2 * sector + 5] {
                let mut disk = image(sector);
                disk.0[byte] ^= 1;
                let table = read(&disk, sector as u64).unwrap();
                assert!(table.from_backup, "{byte}");
                assert_eq!(table.partitions, whole.partitions);
                disk.0[63 * sector + 50] ^= 1;
                assert_eq!(read(&disk, sector as u64), None, "{byte}");
            }
        }
    }

    #[test]
    fn nonsense_is_no_table() {
        assert_eq!(read(&Image(vec![]), 512), None);
        assert_eq!(read(&image(512), 0), None);
        assert_eq!(read(&Image(vec![0; 512]), 512), None);
        assert_eq!(read(&Image(vec![0xff; 64 * 512]), 512), None);
        // A valid checksum over an absurd number of entries.
        let mut disk = image(512);
        disk.0.truncate(32 * 512);
        disk.0[512 + 80..512 + 84].copy_from_slice(&u32::MAX.to_le_bytes());
        disk.0[512 + 16..512 + 20].fill(0);
        let sum = crc32fast::hash(&disk.0[512..512 + 92]);
        disk.0[512 + 16..512 + 20].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(read(&disk, 512), None);
    }

    #[test]
    fn an_id_reads_back_and_only_in_lower_case() {
        assert_eq!(DATA.parse::<Guid>().unwrap().to_string(), DATA);
        assert_eq!(DATA.parse::<Guid>().unwrap().0[..4], [0x67, 0x45, 0x23, 1]);
        let upper = DATA.to_uppercase();
        for bad in ["", &DATA[1..], &upper, &DATA.replace('-', "0")] {
            assert!(bad.parse::<Guid>().is_err(), "{bad}");
        }
    }
}
