//! One step, done with the disk in the hand. While a device is open its number and its name are nobody else's, so what is looked
//! at then is what is written to.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cairn_topology::Write;
use cairn_topology::seen::is_zero;
use cairn_topology::shape::MARGIN;
use cairn_topology::step::Place;
use cairn_topology::{Disk, Step, plan};
use cairn_wire::Disk as Wanted;
use cairn_wire::disk::FileSystem;
use rustix::fs::{FlockOperation, OFlags};

use super::look::{Catalogue, Look, device_node};
use super::mounter::Mounter;
use super::{mountinfo, tools};

/// How long somebody may have a disk locked: udev looks at it whenever it was written to.
const LOCK: Duration = Duration::from_secs(10);

/// Does steps.
pub struct Hands<C> {
    /// Looks once more.
    pub look: Look<C>,
    /// Mounts.
    pub mounter: Mounter,
}

/// What a step needs and the node lacks.
///
/// # Errors
/// Names the program.
pub fn needs(steps: &[Step]) -> Result<(), String> {
    for step in steps {
        match step {
            Step::Format { file_system, .. } => drop(tools::find(tools::mkfs(*file_system))?),
            Step::Refresh => drop(tools::find("partx")?),
            _ => {}
        }
    }
    Ok(())
}

impl<C: Catalogue> Hands<C> {
    /// Does the first of the steps that were planned for the disk which the kernel calls `node`, if that is still the first one.
    ///
    /// # Errors
    /// If it has changed, or can't be done.
    pub fn perform(
        &self,
        wanted: &Wanted,
        node: &str,
        planned: &Step,
        erasures: &BTreeMap<String, u32>,
    ) -> Result<(), String> {
        let exclusive = planned.is_exclusive();
        let device = Path::new("/dev").join(node.replace('!', "/"));
        let held = open(&device, exclusive)?;
        let disk = self.look.one(node, erasures, exclusive)?;
        let number = held.metadata().map_err(|error| error.to_string())?.rdev();
        if mountinfo::number(&device) != Some(number)
            || plan(wanted, &disk).steps.first() != Some(planned)
        {
            return Err("it has changed since it was looked at".to_owned());
        }
        match planned {
            Step::Refresh => tools::refresh(&device),
            Step::Mount {
                partition,
                file_system,
                at,
                options,
            } => {
                let node = partition_node(&disk, partition)?;
                self.mounter.mount(&node, *file_system, at, options)
            }
            Step::Format {
                partition,
                file_system,
                label,
                ..
            } => {
                format(&disk, partition, *file_system, label.as_ref())?;
                write(&held, &planned.writes(disk.shape))
            }
            Step::Claim(_) | Step::Clear | Step::Table { .. } => {
                write(&held, &planned.writes(disk.shape))
            }
        }
    }
}

fn open(device: &Path, exclusive: bool) -> Result<File, String> {
    let flags = if exclusive {
        OFlags::EXCL
    } else {
        OFlags::empty()
    };
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
        .open(device)
        .map_err(|error| format!("{}: {error}", device.display()))
}

/// Each group is on the disk before the next begins. udev keeps off meanwhile
/// (<https://systemd.io/BLOCK_DEVICE_LOCKING>).
fn write(file: &File, groups: &[Vec<Write>]) -> Result<(), String> {
    let deadline = Instant::now() + LOCK;
    while let Err(error) = rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        if Instant::now() >= deadline {
            return Err(format!("somebody has it locked: {error}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let write = || {
        for group in groups {
            for write in group {
                file.write_all_at(&write.bytes, write.at)?;
            }
            file.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|error: io::Error| error.to_string())
}

/// The node of a partition of ours.
fn partition_node(disk: &Disk, place: &Place) -> Result<PathBuf, String> {
    let folder = Path::new("/sys/block").join(&disk.node);
    let read = |folder: &Path, key: &str| -> Option<u64> {
        let text = std::fs::read_to_string(folder.join(key)).ok()?;
        text.trim().parse().ok()
    };
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let found = entries.map(|entry| entry.path()).find(|folder| {
        read(folder, "partition") == Some(place.number.into())
            && read(folder, "start") == Some(place.start / 512)
            && read(folder, "size") == Some(place.size / 512)
    });
    let found = found.ok_or_else(|| format!("partition {} isn't there yet", place.name))?;
    let name = found.file_name().unwrap_or_default().to_string_lossy();
    device_node(&found, &name)
}

/// Makes a file system where nothing of an old one is left that might be taken for a newer one.
fn format(
    disk: &Disk,
    place: &Place,
    file_system: FileSystem,
    label: Option<&cairn_wire::disk::FsLabel>,
) -> Result<(), String> {
    let node = partition_node(disk, place)?;
    let wrong = |error: io::Error| format!("{}: {error}", node.display());
    let partition = open(&node, true)?;
    for at in [0, place.size.saturating_sub(MARGIN)] {
        let mut bytes = vec![0; usize::try_from(MARGIN).unwrap_or(0)];
        partition.read_exact_at(&mut bytes, at).map_err(wrong)?;
        if !is_zero(&bytes) {
            bytes.fill(0);
            partition.write_all_at(&bytes, at).map_err(wrong)?;
        }
    }
    partition.sync_all().map_err(wrong)?;
    // mkfs wants it to itself.
    drop(partition);
    let id = place.id.file_system();
    tools::make(&node, file_system, id, label)?;
    File::open(&node)
        .and_then(|node| node.sync_all())
        .map_err(wrong)?;
    let made = tools::signatures(&node)?;
    let right = matches!(made.as_slice(), [one] if one.kind == file_system.as_str() && one.uuid == Some(id.to_string()));
    if right {
        Ok(())
    } else {
        Err(format!(
            "{} made something else: {made:?}",
            tools::mkfs(file_system)
        ))
    }
}
