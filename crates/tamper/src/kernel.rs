//! The kernel's messages about images, disks and file systems.
//!
//! A record of `/dev/kmsg` is `<priority>,<sequence>,<microseconds>,<flags>[,…];<text>`, and lines that begin with a blank
//! (Documentation/ABI/testing/dev-kmsg). What a program writes there never has the kernel's facility 0, so nobody can forge one of these.

use crate::finding::{Finding, Kind};

/// A message of the kernel itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'t> {
    /// 0 is an emergency, 3 an error, 7 for debugging.
    pub level: u8,
    /// Counts messages since the boot.
    pub sequence: u64,
    /// What it says.
    pub text: &'t str,
}

impl<'t> Message<'t> {
    /// Reads a record; none if it isn't one, or a program wrote it.
    pub fn parse(record: &'t str) -> Option<Self> {
        let (head, body) = record.split_once(';')?;
        let mut fields = head.split(',');
        let priority: u32 = fields.next()?.parse().ok()?;
        let sequence = fields.next()?.parse().ok()?;
        let level = u8::try_from(priority).ok().filter(|level| *level < 8)?;
        let text = body.split('\n').next()?;
        Some(Self {
            level,
            sequence,
            text,
        })
    }
}

/// Something that went wrong with what lies on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// A block isn't what was signed.
    Verity {
        /// The device below dm-verity, as `7:1`.
        device: String,
        /// `data block` or `metadata block`.
        block: &'static str,
        /// Which one.
        number: u64,
    },
    /// A disk couldn't read or write.
    Disk {
        /// Its name, as `sda`.
        device: String,
    },
    /// A file system isn't as it should be.
    FileSystem {
        /// What it lies on, as `sda3`.
        device: String,
    },
}

/// How a disk's failures begin in the block layer's messages; old kernels have a function's name before.
const FAILURES: [&str; 4] = [
    "I/O error, dev ",
    "critical medium error, dev ",
    "timeout error, dev ",
    "protection error, dev ",
];

/// What a message is about, if that is of interest here.
pub fn trouble(message: Message<'_>) -> Option<Trouble> {
    if message.level > 4 {
        return None;
    }
    let text = message.text;
    verity(text)
        .or_else(|| disk(text))
        .or_else(|| file_system(message))
}

/// `device-mapper: verity: 7:1: data block 1704 is corrupted`
fn verity(text: &str) -> Option<Trouble> {
    let rest = text.strip_prefix("device-mapper: verity: ")?;
    let (device, rest) = rest.split_once(": ")?;
    let (block, rest) = ["data block", "metadata block"]
        .into_iter()
        .find_map(|block| Some((block, rest.strip_prefix(block)?.strip_prefix(' ')?)))?;
    let number = rest.strip_suffix(" is corrupted")?.parse().ok()?;
    Some(Trouble::Verity {
        device: name(device)?,
        block,
        number,
    })
}

/// `blk_update_request: I/O error, dev sda, sector 2048 op 0x0:(READ) …`, since Linux 5.16 without the function's name. What dm and loop
/// devices report is another's failure once more.
fn disk(text: &str) -> Option<Trouble> {
    let text = text
        .strip_prefix("blk_update_request: ")
        .or_else(|| text.strip_prefix("print_req_error: "))
        .unwrap_or(text);
    let rest = FAILURES
        .into_iter()
        .find_map(|failure| text.strip_prefix(failure))?;
    let device = name(rest.split(',').next()?)?;
    let virtual_ones = ["dm-", "loop", "zram", "ram"];
    let real = !virtual_ones.iter().any(|kind| device.starts_with(kind));
    real.then_some(Trouble::Disk { device })
}

fn file_system(message: Message<'_>) -> Option<Trouble> {
    let text = message.text;
    // These say `error` themselves; those two speak of all kinds of things.
    let said = [
        "EXT4-fs error (device ",
        "BTRFS error (device ",
        "BTRFS critical (device ",
    ];
    let bad = message.level <= 3;
    let device = said
        .into_iter()
        .find_map(|said| text.strip_prefix(said))
        .or_else(|| text.strip_prefix("erofs: (device ").filter(|_| bad))
        .or_else(|| {
            let rest = text.strip_prefix("XFS (")?;
            (rest.contains("orruption") || rest.contains("I/O error")).then_some(rest)
        })?
        .split_once(')')?
        .0;
    // btrfs says `sda3: state E` of one that is failing already, or without the colon.
    let device = device.split([':', ' ']).next()?;
    Some(Trouble::FileSystem {
        device: name(device)?,
    })
}

/// A device's name, which becomes part of a key.
fn name(text: &str) -> Option<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_:!".contains(c);
    (!text.is_empty() && text.len() <= 32 && text.chars().all(good)).then(|| text.to_owned())
}

impl Trouble {
    /// As a finding, if somebody may have changed an image.
    pub fn finding(&self) -> Option<Finding> {
        let Self::Verity {
            device,
            block,
            number,
        } = self
        else {
            return None;
        };
        let subject = format!("{device} {block} {number}");
        Some(
            Finding::new(Kind::Verity, &subject, "is not what was signed")
                .with("device", device)
                .with("block", number),
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(level: u8, text: &str) -> Option<Trouble> {
        trouble(Message {
            level,
            sequence: 1,
            text,
        })
    }

    #[test]
    fn a_record_is_read_and_a_programs_is_not() {
        let record = "3,798,57677049941,-;n0: text; with more\n SUBSYSTEM=net\n DEVICE=n1\n";
        let message = Message::parse(record).unwrap();
        assert_eq!(
            (message.level, message.sequence, message.text),
            (3, 798, "n0: text; with more")
        );
        assert!(Message::parse("6,1,2,-,caller=T1;later kernels").is_some());
        for odd in [
            "12,799,1,-;a program wrote this",
            "",
            ";",
            "x,1,2,-;t",
            "3,-1,2,-;t",
            "3;t",
        ] {
            assert_eq!(Message::parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn what_kernels_say_is_understood() {
        let disk = |name: &str| {
            Some(Trouble::Disk {
                device: name.into(),
            })
        };
        let fs = |name: &str| {
            Some(Trouble::FileSystem {
                device: name.into(),
            })
        };
        let verity = |device: &str, block, number| {
            Some(Trouble::Verity {
                device: device.into(),
                block,
                number,
            })
        };
        for (text, expected) in [
            (
                "device-mapper: verity: 7:1: data block 1704 is corrupted",
                verity("7:1", "data block", 1704),
            ),
            (
                "device-mapper: verity: 179:5: metadata block 2 is corrupted",
                verity("179:5", "metadata block", 2),
            ),
            (
                "blk_update_request: I/O error, dev sda, sector 2048 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 0",
                disk("sda"),
            ),
            (
                "I/O error, dev nvme0n1, sector 123 op 0x1:(WRITE) flags 0x8800 phys_seg 1 prio class 2",
                disk("nvme0n1"),
            ),
            (
                "critical medium error, dev sdb, sector 976754944 op 0x0:(READ) flags 0x0",
                disk("sdb"),
            ),
            (
                "print_req_error: I/O error, dev mmcblk0, sector 0",
                disk("mmcblk0"),
            ),
            ("I/O error, dev loop1, sector 9 op 0x0:(READ)", None),
            (
                "critical target error, dev sda, sector 9 op 0x3:(DISCARD)",
                None,
            ),
            (
                "Buffer I/O error on dev sda1, logical block 0, async page read",
                None,
            ),
            (
                "EXT4-fs error (device sda3): ext4_lookup:1785: inode #2: comm ls: deleted inode referenced: 12",
                fs("sda3"),
            ),
            (
                "XFS (sdb1): Metadata corruption detected at xfs_agi_verify+0x4d/0x110 [xfs], xfs_agi block 0x2",
                fs("sdb1"),
            ),
            ("XFS (sdb1): Mounting V5 Filesystem", None),
            (
                "BTRFS critical (device sdc2): corrupt leaf: root=2 block=1029783552 slot=1",
                fs("sdc2"),
            ),
            (
                "BTRFS error (device sdc2: state EA): bdev errors",
                fs("sdc2"),
            ),
            (
                "erofs: (device dm-1): erofs_read_inode: bogus i_mode (0) @ nid 1472",
                fs("dm-1"),
            ),
            ("EXT4-fs (vda3): unmounting filesystem.", None),
        ] {
            assert_eq!(of(3, text), expected, "{text}");
        }
        assert_eq!(
            of(6, "erofs: (device dm-1): mounted with root inode @ nid 37."),
            None
        );
        assert_eq!(of(3, "I/O error, dev ../x, sector 1"), None);
    }

    #[test]
    fn only_a_signed_blocks_damage_is_a_sign_of_tampering() {
        let finding = of(3, "device-mapper: verity: 7:1: data block 5 is corrupted")
            .unwrap()
            .finding()
            .unwrap();
        assert_eq!(finding.subject, "7:1 data block 5");
        assert_eq!(
            of(3, "I/O error, dev sda, sector 1").unwrap().finding(),
            None
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>(), start in prop::sample::select(vec!["", "3,1,2,-;", "3,1,2,-;device-mapper: verity: ", "3,1,2,-;I/O error, dev ", "3,1,2,-;XFS (", "3,1,2,-;EXT4-fs error (device "])) {
            let record = format!("{start}{text}");
            if let Some(found) = Message::parse(&record).and_then(trouble) {
                let device = match &found {
                    Trouble::Verity { device, .. } | Trouble::Disk { device } | Trouble::FileSystem { device } => device,
                };
                prop_assert!(device.len() <= 32);
            }
        }
    }
}
