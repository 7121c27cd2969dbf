//! Which partition is DATA, and which ESP goes with it.
//!
//! Partitions are told apart by the unique id in the partition table, never by a
//! file system's label, which any USB stick can carry.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::ioctl::{Setter, ioctl};

use crate::gpt::{self, BlockDevice, Guid, Partition, Table};
use crate::log;

/// Block devices that never hold a partition table of ours.
const NOT_DISKS: [&str; 6] = ["loop", "ram", "zram", "dm-", "sr", "fd"];

/// Where DATA and its ESP are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// DATA's device.
    pub data: PathBuf,
    /// The ESP's device, if the disk has one.
    pub esp: Option<PathBuf>,
}

/// Looks once at every disk for the partition `data`.
///
/// The kernel doesn't look at a disk's backup table. With `from_backup` it is told
/// of the partitions there; not at first, since it may just not be done
/// with a disk that is whole.
pub fn find(data: Guid, from_backup: bool) -> Option<Found> {
    let mut found: Option<Found> = None;
    for name in names() {
        let Some(here) = look(&name, data, from_backup) else {
            continue;
        };
        match &found {
            None => found = Some(here),
            Some(first) => log::warn(format_args!(
                "{} and {} have the same partition id {data}; the first is used",
                first.data.display(),
                here.data.display()
            )),
        }
    }
    found
}

/// What disks there are, for an error.
pub fn names() -> Vec<String> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !NOT_DISKS.iter().any(|kind| name.starts_with(kind)))
        .collect();
    names.sort();
    names
}

fn look(name: &str, data: Guid, from_backup: bool) -> Option<Found> {
    let sys = Path::new("/sys/block").join(name);
    let device = BlockDevice {
        file: File::open(Path::new("/dev").join(name)).ok()?,
        // sysfs counts in 512 bytes whatever the disk does.
        size: number(&sys.join("size"))?.checked_mul(512)?,
    };
    let table = gpt::read(&device, number(&sys.join("queue/logical_block_size"))?)?;
    let data = table.partitions.iter().find(|p| p.id == data)?;
    let esp_type: Guid = gpt::ESP.parse().ok()?;
    let esp = table.partitions.iter().find(|p| p.kind == esp_type);

    let node = |partition: &Partition| {
        partition_node(&sys, partition).or_else(|| {
            (from_backup && table.from_backup).then(|| tell_kernel(name, &device.file, &table));
            partition_node(&sys, partition)
        })
    };
    Some(Found {
        data: node(data)?,
        esp: esp.and_then(node),
    })
}

/// The kernel's device for a partition, if it knows one at that place.
fn partition_node(disk: &Path, partition: &Partition) -> Option<PathBuf> {
    let entries = fs::read_dir(disk).ok()?.flatten();
    let here = entries
        .map(|entry| entry.path())
        .find(|path| number(&path.join("partition")) == Some(partition.number.into()))?;
    let start = number(&here.join("start"))?.checked_mul(512)?;
    let node = Path::new("/dev").join(here.file_name()?);
    (start == partition.start && node.exists()).then_some(node)
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// `struct blkpg_partition` of linux/blkpg.h.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: i32,
    names: [u8; 128],
}

/// `struct blkpg_ioctl_arg` of linux/blkpg.h.
#[repr(C)]
struct BlkpgArg {
    operation: i32,
    flags: i32,
    length: i32,
    data: *const BlkpgPartition,
}

const BLKPG: u32 = 0x1269;
const ADD_PARTITION: i32 = 1;

fn tell_kernel(name: &str, disk: &File, table: &Table) {
    log::warn(format_args!(
        "the partition table of {name} is damaged; its backup at the end of the disk is used"
    ));
    for partition in &table.partitions {
        if let Err(error) = add(disk.as_fd(), partition) {
            log::warn(format_args!(
                "the kernel refuses partition {} of {name}: {error}",
                partition.number
            ));
        }
    }
}

#[allow(
    unsafe_code,
    reason = "BLKPG takes a pointer to a structure that holds a pointer; both live until the call returns"
)]
fn add(disk: impl AsFd, partition: &Partition) -> rustix::io::Result<()> {
    let invalid = |_| rustix::io::Errno::INVAL;
    let data = BlkpgPartition {
        start: partition.start.try_into().map_err(invalid)?,
        length: partition.size.try_into().map_err(invalid)?,
        number: partition.number.try_into().map_err(invalid)?,
        names: [0; 128],
    };
    let argument = BlkpgArg {
        operation: ADD_PARTITION,
        flags: 0,
        length: size_of::<BlkpgPartition>() as i32,
        data: &raw const data,
    };
    // SAFETY: the layouts are those of linux/blkpg.h and the kernel only reads.
    unsafe { ioctl(disk, Setter::<BLKPG, BlkpgArg>::new(argument)) }
}
