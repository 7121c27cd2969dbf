//! The superblock of ext4, torn by a power cut.
//!
//! ext4 writes it in place: 1024 bytes with a checksum at their end, which are two sectors of 512 bytes. If only one
//! of them reached the disk, each is whole, but the sum is of neither, and the kernel refuses to mount. What differs
//! between the two are counters and times, which the journal's replay and the kernel count anew. So the sum is
//! made to fit, once, and the kernel judges the rest. A disk that was changed by somebody gains nothing by that: nothing
//! on it is trusted anyhow.
//!
//! Layout: `fs/ext4/ext4.h`, `struct ext4_super_block`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where it begins on the device, in bytes.
pub const AT: u64 = 1024;
/// Its length in bytes.
pub const LEN: usize = 1024;
/// Where in it the sum lies: it ends it.
const SUM: usize = LEN - 4;
/// `s_magic`, little endian.
const MAGIC: (usize, [u8; 2]) = (56, [0x53, 0xef]);
/// `s_feature_ro_compat` has this bit (`metadata_csum`) if there is a sum at all.
const HAS_SUM: (usize, u8) = (101, 0x04);

/// Makes the sum fit, if it is a superblock with a sum that doesn't. Says whether it did.
///
/// # Errors
/// If the device can't be read or written.
pub fn mend(device: &Path) -> io::Result<bool> {
    let device = File::options().read(true).write(true).open(device)?;
    let mut block = [0; LEN];
    device.read_exact_at(&mut block, AT)?;
    if !refit(&mut block) {
        return Ok(false);
    }
    device.write_all_at(&block, AT)?;
    device.sync_all()?;
    Ok(true)
}

/// Makes the sum of a superblock fit, if there is one and it doesn't. Says whether it did.
pub fn refit(block: &mut [u8; LEN]) -> bool {
    let superblock = block[MAGIC.0..].starts_with(&MAGIC.1) && block[HAS_SUM.0] & HAS_SUM.1 != 0;
    let sum = crc32c(&block[..SUM]).to_le_bytes();
    let wrong = block[SUM..] != sum;
    if superblock && wrong {
        block[SUM..].copy_from_slice(&sum);
    }
    superblock && wrong
}

/// CRC-32C as ext4 takes it: all ones at the beginning, not inverted at the end.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock(sum: bool) -> [u8; LEN] {
        let mut block = [0; LEN];
        block[MAGIC.0..MAGIC.0 + 2].copy_from_slice(&MAGIC.1);
        block[HAS_SUM.0] = if sum { HAS_SUM.1 } else { 0 };
        block
    }

    #[test]
    fn the_sum_is_that_of_ext4() {
        // The check value of CRC-32C, before its last inversion.
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn only_a_superblock_whose_sum_is_wrong_is_changed() {
        let mut torn = superblock(true);
        assert!(refit(&mut torn));
        let mended = torn;
        assert!(!refit(&mut torn), "it fits now");
        assert_eq!(torn, mended);
        assert_eq!(torn[SUM..], crc32c(&torn[..SUM]).to_le_bytes());
        for mut other in [superblock(false), [0; LEN], [0xff; LEN]] {
            let before = other;
            assert!(!refit(&mut other));
            assert_eq!(other, before);
        }
    }

    #[test]
    fn the_rest_of_the_device_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device");
        let mut bytes = vec![7; 4096];
        bytes[1024..2048].copy_from_slice(&superblock(true));
        std::fs::write(&path, &bytes).unwrap();
        assert!(mend(&path).unwrap());
        assert!(!mend(&path).unwrap());
        let after = std::fs::read(&path).unwrap();
        assert_eq!(
            (&after[..2044], &after[2048..]),
            (&bytes[..2044], &bytes[2048..])
        );
    }
}
