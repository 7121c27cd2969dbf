//! What a FAT driver doesn't do for us: exchanging two files of one folder by a
//! single sector write, and folders that begin as the specification says.
//!
//! A directory entry says where a file's content begins and how long it is. If two
//! entries lie in one sector, writing that sector with the two exchanged is what a
//! disk does wholly or not at all, so that firmware finds the old loader or the
//! new one whenever power is cut; and the file system is whole in both cases.
//!
//! ```text
//! entry, 32 bytes: 0 name (8.3) | 11 attributes | 20 first cluster, high | 26 …, low | 28 size
//! ```
//! Source: Microsoft's "FAT32 File System Specification", version 1.03.

use std::io;
use std::os::unix::fs::FileExt;

const ENTRY: usize = 32;
/// The folder of the loaders, by its 8.3 names.
pub const LOADERS: [&str; 2] = ["EFI        ", "BOOT       "];
/// The folder of the boot state.
pub const STATE: [&str; 1] = ["CAIRN      "];

/// Exchanges the contents of the files `a` and `b` (8.3 names, as `BOOTX64 EFI`)
/// in `folder` (likewise, from the root). `offset` is where the FAT begins.
///
/// # Errors
/// If the FAT can't be read, a name isn't there, or the two entries don't lie in one sector.
pub fn exchange(
    disk: &impl FileExt,
    offset: u64,
    folder: &[&str],
    a: &str,
    b: &str,
) -> io::Result<()> {
    let fat = Fat::open(disk, offset)?;
    let mut cluster = fat.root;
    for name in folder {
        cluster = first_cluster(&fat.find(cluster, name)?.1);
    }
    let ((at_a, mut entry_a), (at_b, mut entry_b)) = (fat.find(cluster, a)?, fat.find(cluster, b)?);
    let start = at_a / fat.sector * fat.sector;
    if at_b / fat.sector * fat.sector != start {
        return Err(io::Error::other(format!(
            "{a} and {b} don't lie in one sector of their folder"
        )));
    }
    for range in [20..22, 26..32] {
        entry_a[range.clone()].swap_with_slice(&mut entry_b[range]);
    }
    let mut sector = vec![0; fat.sector as usize];
    disk.read_exact_at(&mut sector, start)?;
    for (at, entry) in [(at_a, entry_a), (at_b, entry_b)] {
        let at = (at - start) as usize;
        sector[at..at + ENTRY].copy_from_slice(&entry);
    }
    disk.write_all_at(&sector, start)
}

/// Mends the first entries of a new folder: the `fatfs` crate (0.3.6) gives `.` and
/// `..` long names, and lets the latter name the root's cluster, where the
/// specification wants neither; `fsck.vfat` says so.
///
/// # Errors
/// If the folder isn't there, or doesn't begin as that crate writes it.
pub fn mend(disk: &impl FileExt, offset: u64, folder: &[&str]) -> io::Result<()> {
    let fat = Fat::open(disk, offset)?;
    let mut cluster = fat.root;
    for name in folder {
        cluster = first_cluster(&fat.find(cluster, name)?.1);
    }
    let start = fat.place(cluster);
    let mut entries = [0; 4 * ENTRY];
    disk.read_exact_at(&mut entries, start)?;
    let name_at = |number: usize| &entries[number * ENTRY..][..11];
    if name_at(1) != b".          " || name_at(3) != b"..         " {
        return Err(io::Error::other("a new folder doesn't begin as expected"));
    }
    entries.copy_within(ENTRY..2 * ENTRY, 0);
    entries.copy_within(3 * ENTRY..4 * ENTRY, ENTRY);
    if folder.len() == 1 {
        for range in [20..22, 26..28] {
            entries[ENTRY..2 * ENTRY][range].fill(0);
        }
    }
    for number in [2, 3] {
        // 0xe5 marks a free entry.
        entries[number * ENTRY] = 0xe5;
    }
    disk.write_all_at(&entries, start)
}

struct Fat<'d, D> {
    disk: &'d D,
    sector: u64,
    cluster: u64,
    table: u64,
    data: u64,
    root: u32,
}

impl<'d, D: FileExt> Fat<'d, D> {
    fn open(disk: &'d D, offset: u64) -> io::Result<Self> {
        let mut boot = [0; 512];
        disk.read_exact_at(&mut boot, offset)?;
        let u16_at = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
        let u32_at =
            |at: usize| u32::from_le_bytes([boot[at], boot[at + 1], boot[at + 2], boot[at + 3]]);
        let (sector, per_cluster) = (u16_at(11), u64::from(boot[13]));
        let is_fat32 = &boot[82..87] == b"FAT32" && boot[510..] == [0x55, 0xaa];
        if !is_fat32 || !(512..=4096).contains(&sector) || per_cluster == 0 {
            return Err(io::Error::other("the ESP is no FAT32"));
        }
        let table = offset + u16_at(14) * sector;
        let data = table + u64::from(boot[16]) * u64::from(u32_at(36)) * sector;
        Ok(Self {
            disk,
            sector,
            cluster: per_cluster * sector,
            table,
            data,
            root: u32_at(44),
        })
    }

    /// Where a cluster lies on the disk.
    fn place(&self, cluster: u32) -> u64 {
        self.data + u64::from(cluster.saturating_sub(2)) * self.cluster
    }

    /// Where an entry lies on the disk, and its bytes.
    fn find(&self, folder: u32, name: &str) -> io::Result<(u64, [u8; ENTRY])> {
        let mut cluster = folder;
        // A loop in a damaged FAT must end.
        for _ in 0..4096 {
            if !(2..0x0fff_fff8).contains(&cluster) {
                break;
            }
            let start = self.place(cluster);
            let mut bytes = vec![0; self.cluster as usize];
            self.disk.read_exact_at(&mut bytes, start)?;
            for (number, entry) in bytes.chunks_exact(ENTRY).enumerate() {
                // Bit 3 of the attributes is a label's or a long name's part.
                if &entry[..11] == name.as_bytes() && entry[11] & 0x08 == 0 {
                    let mut found = [0; ENTRY];
                    found.copy_from_slice(entry);
                    return Ok((start + (number * ENTRY) as u64, found));
                }
            }
            let mut next = [0; 4];
            self.disk
                .read_exact_at(&mut next, self.table + u64::from(cluster) * 4)?;
            cluster = u32::from_le_bytes(next) & 0x0fff_ffff;
        }
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("there is no {name} on the ESP"),
        ))
    }
}

fn first_cluster(entry: &[u8; ENTRY]) -> u32 {
    u32::from_le_bytes([entry[26], entry[27], entry[20], entry[21]])
}

#[cfg(test)]
mod tests {
    use super::super::esp::{Esp, LOADER, OLD_LOADER};
    use super::super::layout::{MIB, Range};
    use super::*;
    use std::cell::RefCell;
    use std::path::Path;

    /// Counts writes, as a disk sees them.
    struct Counting<'f>(&'f std::fs::File, RefCell<Vec<(u64, usize)>>);

    impl FileExt for Counting<'_> {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            self.0.read_at(buf, offset)
        }
        fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
            self.1.borrow_mut().push((offset, buf.len()));
            self.0.write_at(buf, offset)
        }
    }

    #[test]
    fn two_files_change_places_by_one_sector_write() {
        let disk = tempfile::tempfile().unwrap();
        let range = Range {
            start: 3 * MIB,
            size: 128 * MIB,
        };
        disk.set_len(range.start + range.size).unwrap();
        let path = Path::new("disk");
        Esp::format(&disk, path, range, 512, 1).unwrap();
        let esp = Esp::open(&disk, path, range).unwrap();
        esp.write(LOADER, &vec![b'1'; 70_000]).unwrap();
        esp.write(OLD_LOADER, &vec![b'2'; 90_000]).unwrap();
        esp.close().unwrap();

        let counting = Counting(&disk, RefCell::default());
        let folder = ["EFI        ", "BOOT       "];
        exchange(
            &counting,
            range.start,
            &folder,
            "BOOTX64 EFI",
            "BOOTX64 OLD",
        )
        .unwrap();
        let writes = counting.1.into_inner();
        assert_eq!(writes.len(), 1);
        assert_eq!((writes[0].0 % 512, writes[0].1), (0, 512));

        let folder = tempfile::tempdir().unwrap();
        let mut part = vec![0; range.size as usize];
        disk.read_exact_at(&mut part, range.start).unwrap();
        std::fs::write(folder.path().join("esp"), part).unwrap();
        cairn_system::Command::new("/usr/sbin/fsck.vfat")
            .arg("-n")
            .arg(folder.path().join("esp"))
            .run()
            .unwrap();

        let esp = Esp::open(&disk, path, range).unwrap();
        assert_eq!(esp.read(LOADER).unwrap().unwrap(), vec![b'2'; 90_000]);
        assert_eq!(esp.read(OLD_LOADER).unwrap().unwrap(), vec![b'1'; 70_000]);
    }

    #[test]
    fn noise_instead_of_a_fat_is_an_error() {
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(MIB).unwrap();
        assert!(exchange(&disk, 0, &[], "A", "B").is_err());
    }
}
