//! GRUB for machines without UEFI: `boot.img` in the first sector, and the core
//! in the BIOS-boot partition, which has two places for it. A new core goes to the
//! place that isn't used; then the first sector, written at once, points to it.
//!
//! ```text
//! boot.img   0x5c u64: sector of the core    0x64 u8: drive, 0xff = the one booted from
//!            0x66: a jump that floppies need; two NOPs for disks
//!            0x03..0x5a and 0x1b8..0x200 belong to the disk, not to GRUB
//! core.img   last 12 bytes of its first sector: u64 sector of the rest, u16 count, u16 segment 0x820
//! ```
//! Source: GRUB's `grub-core/boot/i386/pc/boot.S`, `diskboot.S`, `include/grub/i386/pc/boot.h`.

use super::layout::{MIB, Range};
use std::io;
use std::os::unix::fs::FileExt;

const SECTOR: usize = 512;
const KERNEL_SECTOR: usize = 0x5c;
const DRIVE: usize = 0x64;
const DRIVE_CHECK: usize = 0x66;
const BLOCK_LIST: usize = SECTOR - 12;

/// GRUB's two files for BIOS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bios {
    /// `boot.img`, one sector.
    pub boot: Vec<u8>,
    /// `core.img`.
    pub core: Vec<u8>,
}

impl Bios {
    /// Checks that these are GRUB's files.
    ///
    /// # Errors
    /// If they aren't, or the core is larger than its place.
    pub fn check(&self) -> Result<(), String> {
        if self.boot.len() != SECTOR || !self.boot.ends_with(&[0x55, 0xaa]) {
            return Err(format!(
                "expected a boot.img of 512 bytes, got {}",
                self.boot.len()
            ));
        }
        if self.core.len() < 2 * SECTOR || self.core.len() as u64 > MIB {
            return Err(format!(
                "expected a core.img of 1 KiB to 1 MiB, got {} bytes",
                self.core.len()
            ));
        }
        if self.core[SECTOR - 2..SECTOR] != [0x20, 0x08] {
            return Err("core.img doesn't begin with GRUB's disk loader".into());
        }
        Ok(())
    }

    /// The core as it lies at byte `place`.
    fn core_at(&self, place: u64) -> Vec<u8> {
        let mut core = self.core.clone();
        core.resize(core.len().next_multiple_of(SECTOR), 0);
        let rest = place / SECTOR as u64 + 1;
        core[BLOCK_LIST..BLOCK_LIST + 8].copy_from_slice(&rest.to_le_bytes());
        core
    }

    /// The first sector of a disk that holds `old`, for a core at byte `place`.
    fn boot_for(&self, old: &[u8], place: u64) -> Vec<u8> {
        let mut boot = self.boot.clone();
        boot[KERNEL_SECTOR..KERNEL_SECTOR + 8]
            .copy_from_slice(&(place / SECTOR as u64).to_le_bytes());
        boot[DRIVE] = 0xff;
        boot[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
        for range in [0x03..0x5a, 0x1b8..SECTOR] {
            boot[range.clone()].copy_from_slice(&old[range]);
        }
        boot
    }

    /// Puts GRUB onto the disk: the core into the place that the first sector
    /// doesn't name, and only then the first sector. `flush` sees to it that what
    /// was written before is on the disk.
    ///
    /// # Errors
    /// If the disk can't be written, or reads back differently.
    pub fn install(
        &self,
        disk: &impl FileExt,
        partition: Range,
        flush: impl Fn() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut old = [0; SECTOR];
        disk.read_exact_at(&mut old, 0)?;
        let places = [partition.start, partition.start + MIB];
        let used = places.iter().position(|place| *place == core_place(&old));
        let place = places[used.map_or(0, |used| 1 - used)];
        write_and_read_back(disk, &self.core_at(place), place)?;
        flush()?;
        write_and_read_back(disk, &self.boot_for(&old, place), 0)?;
        flush()
    }

    /// Whether the disk's first sector and the core that it names are these.
    ///
    /// # Errors
    /// If the disk can't be read.
    pub fn is_installed(&self, disk: &impl FileExt) -> io::Result<bool> {
        let mut first = [0; SECTOR];
        disk.read_exact_at(&mut first, 0)?;
        let place = core_place(&first);
        let expected = self.core_at(place);
        let mut core = vec![0; expected.len()];
        disk.read_exact_at(&mut core, place)?;
        Ok(core == expected && self.boot_for(&first, place) == first)
    }
}

/// The byte at which a first sector expects the core.
fn core_place(first: &[u8; SECTOR]) -> u64 {
    let mut sector = [0; 8];
    sector.copy_from_slice(&first[KERNEL_SECTOR..KERNEL_SECTOR + 8]);
    u64::from_le_bytes(sector).saturating_mul(SECTOR as u64)
}

fn write_and_read_back(disk: &impl FileExt, bytes: &[u8], at: u64) -> io::Result<()> {
    disk.write_all_at(bytes, at)?;
    let mut back = vec![0; bytes.len()];
    disk.read_exact_at(&mut back, at)?;
    if back == bytes {
        Ok(())
    } else {
        Err(io::Error::other("the disk read back differently"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grub(fill: u8) -> Bios {
        let mut boot = vec![fill; SECTOR];
        boot[SECTOR - 2..].copy_from_slice(&[0x55, 0xaa]);
        let mut core = vec![fill; 5000];
        core[SECTOR - 2..SECTOR].copy_from_slice(&[0x20, 0x08]);
        Bios { boot, core }
    }

    #[test]
    fn a_new_core_never_touches_the_one_in_use() {
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(4 * MIB).unwrap();
        disk.write_all_at(&[0xcc; 64], 0x1be).unwrap();
        let partition = Range {
            start: MIB,
            size: 2 * MIB,
        };
        let (one, two) = (grub(1), grub(2));
        one.check().unwrap();
        one.install(&disk, partition, || Ok(())).unwrap();
        assert!(one.is_installed(&disk).unwrap());
        // Power goes before the first sector is written: still the first one.
        let cut = two.install(&disk, partition, || Err(io::Error::other("power")));
        assert!(cut.is_err() && one.is_installed(&disk).unwrap());
        two.install(&disk, partition, || Ok(())).unwrap();
        assert!(two.is_installed(&disk).unwrap() && !one.is_installed(&disk).unwrap());
        one.install(&disk, partition, || Ok(())).unwrap();
        assert!(one.is_installed(&disk).unwrap());
        // The partition table is the disk's.
        let mut table = [0; 64];
        disk.read_exact_at(&mut table, 0x1be).unwrap();
        assert_eq!(table, [0xcc; 64]);
    }

    #[test]
    fn other_files_are_refused() {
        assert!(
            Bios {
                boot: vec![0; 512],
                core: vec![0; 5000]
            }
            .check()
            .is_err()
        );
        assert!(
            Bios {
                core: vec![0; 5000],
                ..grub(1)
            }
            .check()
            .is_err()
        );
        assert!(
            Bios {
                core: vec![0; 2 << 20],
                ..grub(1)
            }
            .check()
            .is_err()
        );
    }
}
