//! A node's partition table.
//!
//! ```text
//! 0        MBR: GRUB's boot.img, the protective partition
//! 1 MiB    1 cairn-bios  2 MiB: two places for GRUB's BIOS core
//! 3 MiB    2 cairn-esp   FAT32: the EFI loader, the boot state
//!          3 cairn-data  ext4: releases, trust, state; the rest of the disk
//! end      backup GPT
//! ```
//! Types are those of the UEFI and the Discoverable Partitions specifications.

use crate::error::{Error, Result};
use crate::files::cannot;
use gptman::{GPT, GPTPartitionEntry};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Bytes in a mebibyte.
pub const MIB: u64 = 1 << 20;
/// Number of the BIOS-boot partition.
pub const BIOS: u32 = 1;
/// Number of the EFI system partition.
pub const ESP: u32 = 2;
/// Number of the data partition.
pub const DATA: u32 = 3;

/// 21686148-6449-6E6F-744E-656564454649, as it lies on disk.
const BIOS_TYPE: [u8; 16] = *b"Hah!IdontNeedEFI";
/// C12A7328-F81F-11D2-BA4B-00A0C93EC93B
const ESP_TYPE: [u8; 16] = [
    0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
];
/// 0FC63DAF-8483-4772-8E79-3D69D8477DE4
const DATA_TYPE: [u8; 16] = [
    0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4,
];

/// A range of bytes on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// Number of bytes.
    pub size: u64,
}

/// Where the three partitions lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// BIOS-boot.
    pub bios: Range,
    /// EFI system partition.
    pub esp: Range,
    /// Data.
    pub data: Range,
    /// Bytes in a sector.
    pub sector: u64,
}

impl Layout {
    /// The layout for a disk of `disk` bytes. The ESP is as small as FAT32 allows with room to spare.
    ///
    /// # Errors
    /// If the data partition would be smaller than `data` bytes.
    pub fn plan(disk: u64, sector: u64, data: u64) -> Result<Self, TooSmall> {
        let esp_size = if sector > 512 { 320 * MIB } else { 128 * MIB };
        let bios = Range {
            start: MIB,
            size: 2 * MIB,
        };
        let esp = Range {
            start: bios.start + bios.size,
            size: esp_size,
        };
        let start = esp.start + esp.size;
        // The last mebibyte is the backup GPT's.
        let needed = start + data.next_multiple_of(MIB) + MIB;
        if disk < needed {
            return Err(TooSmall { needed, disk });
        }
        let data = Range {
            start,
            size: (disk - MIB - start) / MIB * MIB,
        };
        Ok(Self {
            bios,
            esp,
            data,
            sector,
        })
    }

    /// Writes protective MBR and both GPTs.
    ///
    /// # Errors
    /// If the disk doesn't take them.
    pub fn write(
        &self,
        disk: &mut (impl Read + Write + Seek),
        ids: &Ids,
        path: &Path,
    ) -> Result<()> {
        let gpt_error = |e: gptman::Error| {
            Error::failed(format!(
                "cannot write the partition table of {}",
                path.display()
            ))
            .because(e)
        };
        let mut gpt = GPT::new_from(disk, self.sector, ids.disk).map_err(gpt_error)?;
        let parts = [
            (BIOS, "cairn-bios", BIOS_TYPE, ids.bios, self.bios),
            (ESP, "cairn-esp", ESP_TYPE, ids.esp, self.esp),
            (DATA, "cairn-data", DATA_TYPE, ids.data, self.data),
        ];
        for (number, name, type_guid, unique_guid, range) in parts {
            gpt[number] = GPTPartitionEntry {
                partition_type_guid: type_guid,
                unique_partition_guid: unique_guid,
                starting_lba: range.start / self.sector,
                ending_lba: (range.start + range.size) / self.sector - 1,
                attribute_bits: 0,
                partition_name: name.into(),
            };
        }
        gpt.write_into(disk).map_err(gpt_error)?;
        GPT::write_protective_mbr_into(disk, self.sector).map_err(gpt_error)
    }

    /// Reads the table of a disk that was flashed.
    ///
    /// # Errors
    /// If it has none, or another one.
    pub fn read(disk: &mut (impl Read + Seek), path: &Path) -> Result<Self> {
        let wrong = || {
            Error::input(format!(
                "{} is no disk that imgtool flashed",
                path.display()
            ))
        };
        disk.seek(SeekFrom::Start(0))
            .map_err(|e| cannot("read", path, e))?;
        let gpt = GPT::find_from(disk).map_err(|e| wrong().because(e))?;
        let range = |number: u32, type_guid: [u8; 16]| {
            let entry = gpt
                .iter()
                .find(|(n, _)| *n == number)
                .map(|(_, entry)| entry);
            entry
                .filter(|entry| {
                    entry.partition_type_guid == type_guid && entry.starting_lba <= entry.ending_lba
                })
                .map(|entry| Range {
                    start: entry.starting_lba * gpt.sector_size,
                    size: (entry.ending_lba - entry.starting_lba + 1) * gpt.sector_size,
                })
        };
        match (
            range(BIOS, BIOS_TYPE),
            range(ESP, ESP_TYPE),
            range(DATA, DATA_TYPE),
        ) {
            (Some(bios), Some(esp), Some(data)) => Ok(Self {
                bios,
                esp,
                data,
                sector: gpt.sector_size,
            }),
            _ => Err(wrong().because(
                "expected the partitions cairn-bios, cairn-esp and cairn-data".to_owned(),
            )),
        }
    }
}

/// The disk can't hold it.
#[derive(Debug, PartialEq, Eq)]
pub struct TooSmall {
    /// Bytes that it takes.
    pub needed: u64,
    /// Bytes that there are.
    pub disk: u64,
}

/// Random ids (UUID version 4) of a disk and its partitions.
pub struct Ids {
    disk: [u8; 16],
    bios: [u8; 16],
    esp: [u8; 16],
    data: [u8; 16],
    /// Serial number of the FAT.
    pub volume: u32,
}

impl Ids {
    /// New ids from the kernel's random numbers.
    ///
    /// # Errors
    /// If there are none.
    pub fn random() -> Result<Self> {
        let mut bytes = [0; 68];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| Error::failed("the kernel gave no random numbers").because(e))?;
        let id = |n: usize| {
            let mut id = [0; 16];
            id.copy_from_slice(&bytes[n * 16..][..16]);
            // On disk the third field lies with its low byte first.
            id[7] = id[7] & 0x0f | 0x40;
            id[8] = id[8] & 0x3f | 0x80;
            id
        };
        let volume = u32::from_le_bytes([bytes[64], bytes[65], bytes[66], bytes[67]]);
        Ok(Self {
            disk: id(0),
            bios: id(1),
            esp: id(2),
            data: id(3),
            volume,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn a_disk_is_filled_to_its_end_and_never_beyond() {
        let layout = Layout::plan(1024 * MIB + 5, 512, 10).unwrap();
        assert_eq!(layout.data.start, 131 * MIB);
        assert_eq!(layout.data.start + layout.data.size, 1023 * MIB);
        let small = Layout::plan(200 * MIB, 512, 100 * MIB).unwrap_err();
        assert_eq!(
            small,
            TooSmall {
                needed: 232 * MIB,
                disk: 200 * MIB
            }
        );
    }

    #[test]
    fn the_table_reads_back_for_both_sector_sizes() {
        for sector in [512, 4096] {
            let mut disk = Cursor::new(vec![0; 400 * MIB as usize]);
            let layout = Layout::plan(400 * MIB, sector, MIB).unwrap();
            layout
                .write(&mut disk, &Ids::random().unwrap(), Path::new("d"))
                .unwrap();
            assert_eq!(Layout::read(&mut disk, Path::new("d")).unwrap(), layout);
        }
        let mut empty = Cursor::new(vec![0; MIB as usize]);
        let error = Layout::read(&mut empty, Path::new("d")).unwrap_err();
        assert_eq!(error.to_string(), "d is no disk that imgtool flashed");
    }
}
