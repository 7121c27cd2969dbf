//! What is seen of the disks: sysfs, the devices themselves, and what is mounted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cairn_release::digest::Hasher;
use cairn_topology::seen::is_zero;
use cairn_topology::shape::MARGIN;
use cairn_topology::{Disk, Part, Shape, Surface};
use cairn_wire::disk::Serial;
use rustix::fs::OFlags;

use super::mountinfo::{self, Mounted};
use super::tools;

/// Block devices that are no disks.
const OTHERS: [&str; 13] = [
    "bcache", "dm-", "drbd", "fd", "loop", "md", "mtd", "nbd", "ram", "rbd", "sr", "zd", "zram",
];
/// Between the margins of a disk so many places are looked at before it counts as empty.
const PLACES: u64 = 64;
/// Bytes of each place.
const PLACE: usize = 4096;
/// What the system runs from.
const SYSTEM: [&str; 6] = ["/", "/boot", "/efi", "/etc", "/usr", "/var"];

/// Which block devices are disks, and which is which.
pub trait Catalogue: Send + Sync + 'static {
    /// Whether it may be laid out at all.
    fn is_disk(&self, node: &str) -> bool;
    /// The serial number of the one with this folder in sysfs.
    fn serial(&self, folder: &Path) -> Option<String>;
}

/// What the kernel says.
#[derive(Debug, Clone, Copy)]
pub struct Hardware;

impl Catalogue for Hardware {
    fn is_disk(&self, node: &str) -> bool {
        !OTHERS.iter().any(|other| node.starts_with(other))
    }

    fn serial(&self, folder: &Path) -> Option<String> {
        // virtio; NVMe and MMC; SCSI and ATA, as page 0x80 of the vital product data (SPC-5): four bytes, then the number.
        let plain = ["serial", "device/serial"]
            .iter()
            .filter_map(|name| fs::read(folder.join(name)).ok());
        let page = fs::read(folder.join("device/vpd_pg80")).ok();
        let page = page.and_then(|page| page.get(4..).map(<[u8]>::to_vec));
        plain.chain(page).find_map(|bytes| {
            let text = String::from_utf8(bytes).ok()?;
            let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
            text.parse::<Serial>().ok().map(|serial| serial.to_string())
        })
    }
}

/// Looks at disks.
#[derive(Debug, Clone)]
pub struct Look<C> {
    /// Which there are.
    pub catalogue: C,
    /// Where DATA is mounted.
    pub data: PathBuf,
}

/// All disks.
#[derive(Debug, Default)]
pub struct Sight {
    /// Those that could be looked at.
    pub disks: Vec<Disk>,
    /// The others by their names, and where they are mounted.
    pub unseen: BTreeMap<String, Vec<String>>,
}

/// What is the same for all disks.
struct Around {
    mounted: Vec<Mounted>,
    swap: BTreeSet<u64>,
    /// The kernel's names of the disks that the system runs from.
    system: BTreeSet<String>,
    links: BTreeMap<String, Vec<String>>,
}

impl Around {
    /// Where a disk is mounted, through whatever layers.
    fn mounts(&self, node: &str) -> Vec<String> {
        let is_on = |mount: &&Mounted| disks_below(mount.device, 0).iter().any(|disk| disk == node);
        let mounts = self.mounted.iter().filter(is_on);
        mounts.map(|mount| mount.at.display().to_string()).collect()
    }
}

impl<C: Catalogue> Look<C> {
    /// All disks; why one can't be looked at is logged. `erasures` counts by serial number.
    ///
    /// # Errors
    /// If not even their names are known.
    pub fn all(&self, erasures: &BTreeMap<String, u32>) -> io::Result<Sight> {
        let around = self.around()?;
        let mut sight = Sight::default();
        for entry in fs::read_dir("/sys/block")? {
            let name = entry?.file_name();
            let Some(node) = name.to_str().filter(|node| self.catalogue.is_disk(node)) else {
                continue;
            };
            match self.disk(node, &around, erasures, false) {
                Ok(disk) => sight.disks.extend(disk),
                Err(reason) => {
                    tracing::warn!(disk = node, reason, "cannot be looked at");
                    sight.unseen.insert(node.to_owned(), around.mounts(node));
                }
            }
        }
        Ok(sight)
    }

    /// One of them; with `held` we are those who have it to themselves.
    ///
    /// # Errors
    /// If it can't be looked at.
    pub fn one(
        &self,
        node: &str,
        erasures: &BTreeMap<String, u32>,
        held: bool,
    ) -> Result<Disk, String> {
        let around = self.around().map_err(|error| error.to_string())?;
        let disk = self.disk(node, &around, erasures, held)?;
        disk.ok_or_else(|| format!("{node} is gone"))
    }

    fn around(&self) -> io::Result<Around> {
        let mounted = mountinfo::read()?;
        let swap = fs::read_to_string("/proc/swaps").unwrap_or_default();
        let swap = swap.lines().skip(1).filter_map(|line| {
            let node = line.split_whitespace().next()?;
            mountinfo::number(Path::new(node))
        });
        let data = fs::canonicalize(&self.data).unwrap_or_else(|_| self.data.clone());
        let system = SYSTEM.iter().map(Path::new).chain([data.as_path()]);
        let devices = system.filter_map(|path| device_of(path, &mounted));
        Ok(Around {
            system: devices.flat_map(|device| disks_below(device, 0)).collect(),
            swap: swap.collect(),
            links: links(),
            mounted,
        })
    }

    fn disk(
        &self,
        node: &str,
        around: &Around,
        erasures: &BTreeMap<String, u32>,
        held: bool,
    ) -> Result<Option<Disk>, String> {
        let folder = Path::new("/sys/block").join(node);
        let sectors: u64 = value(&folder, "size").unwrap_or(0);
        let shape = value(&folder, "queue/logical_block_size")
            .and_then(|sector| Shape::new(sectors.saturating_mul(512), sector));
        let hidden = value(&folder, "hidden") == Some(1);
        let Some(shape) = shape.filter(|_| !hidden) else {
            return Ok(None);
        };
        let device = device_node(&folder, node)?;
        let wrong = |error: io::Error| format!("{}: {error}", device.display());
        let file = File::open(&device).map_err(wrong)?;
        let mut print = Hasher::default();
        let head = piece(&file, 0, MARGIN, &mut print).map_err(wrong)?;
        let tail = piece(&file, shape.tail(), MARGIN, &mut print).map_err(wrong)?;
        let mut surface = Surface::read(shape, &head, &tail, true);
        if surface.claim.is_none() && surface.table.is_none() {
            let mut blank = true;
            for n in 1..=PLACES {
                let at = shape.tail() / (PLACES + 1) * n / 4096 * 4096;
                let bytes = piece(&file, at, PLACE as u64, &mut print).map_err(wrong)?;
                blank &= is_zero(&bytes);
            }
            surface.is_blank &= blank;
        }
        let serial = self.catalogue.serial(&folder);
        let mut parts = Vec::new();
        for entry in fs::read_dir(&folder).map_err(wrong)? {
            let folder = entry.map_err(wrong)?.path();
            if folder.join("partition").exists() {
                parts.push(part(&folder, around, &mut print)?);
            }
        }
        parts.sort_by_key(|part| part.number);
        let (mounts, holders) = users(&folder, around);
        Ok(Some(Disk {
            node: node.to_owned(),
            links: around.links.get(node).cloned().unwrap_or_default(),
            shape,
            signatures: tools::signatures(&device)?,
            surface,
            parts,
            mounts,
            holders,
            is_system: around.system.contains(node),
            is_busy: !held && is_busy(&device),
            is_read_only: value(&folder, "ro") == Some(1),
            print: print.finish(),
            erasures: serial
                .as_ref()
                .and_then(|serial| erasures.get(serial))
                .copied()
                .unwrap_or(0),
            serial,
        }))
    }
}

fn part(folder: &Path, around: &Around, print: &mut Hasher) -> Result<Part, String> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let device = device_node(folder, &name)?;
    let wrong = |error: io::Error| format!("{}: {error}", device.display());
    let number = |key: &str| value::<u64>(folder, key).unwrap_or(0);
    let (start, size) = (number("start"), number("size"));
    let size = size.saturating_mul(512);
    let file = File::open(&device).map_err(wrong)?;
    piece(&file, 0, size.min(MARGIN), print).map_err(wrong)?;
    let (mounts, holders) = users(folder, around);
    Ok(Part {
        number: value(folder, "partition").unwrap_or(0),
        start: start.saturating_mul(512),
        size,
        signatures: tools::signatures(&device)?,
        mounts,
        holders,
    })
}

/// Where it is mounted, and who else has it.
fn users(folder: &Path, around: &Around) -> (Vec<String>, Vec<String>) {
    let device = device_number(folder);
    let of_it = || {
        around
            .mounted
            .iter()
            .filter(|mount| Some(mount.device) == device)
    };
    let mut mounts: Vec<String> = of_it()
        .filter(|mount| mount.is_whole)
        .map(|mount| mount.at.display().to_string())
        .collect();
    if mounts.is_empty() {
        mounts.extend(of_it().map(|mount| mount.at.display().to_string()));
    }
    let mut holders: Vec<String> = fs::read_dir(folder.join("holders"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    if device.is_some_and(|device| around.swap.contains(&device)) {
        holders.push("swap".to_owned());
    }
    (mounts, holders)
}

/// A device's node, if it has the number that the kernel gives to the device of this name now.
///
/// # Errors
/// If it is gone, or is another's.
pub fn device_node(folder: &Path, name: &str) -> Result<PathBuf, String> {
    // Of `cciss!c0d0` the node is cciss/c0d0.
    let node = Path::new("/dev").join(name.replace('!', "/"));
    let number = device_number(folder);
    if number.is_some() && mountinfo::number(&node) == number {
        Ok(node)
    } else {
        Err(format!("{} isn't the device {name}", node.display()))
    }
}

fn device_number(folder: &Path) -> Option<u64> {
    let text: String = value(folder, "dev")?;
    let (major, minor) = text.split_once(':')?;
    Some(rustix::fs::makedev(
        major.parse().ok()?,
        minor.parse().ok()?,
    ))
}

fn value<T: std::str::FromStr>(folder: &Path, key: &str) -> Option<T> {
    let text = fs::read_to_string(folder.join(key)).ok()?;
    text.trim().parse().ok()
}

fn piece(file: &File, at: u64, length: u64, print: &mut Hasher) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut bytes, at)?;
    print.update(&bytes);
    Ok(bytes)
}

/// Whether somebody has it: a file system, an array, a program that wants it to itself.
fn is_busy(device: &Path) -> bool {
    let flags = i32::try_from(OFlags::EXCL.bits()).unwrap_or(0);
    OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(device)
        .is_err()
}

/// The device that the file system at `path` is on.
fn device_of(path: &Path, mounted: &[Mounted]) -> Option<u64> {
    let above = mounted.iter().filter(|mount| path.starts_with(&mount.at));
    let nearest = above.max_by_key(|mount| mount.at.as_os_str().len())?;
    Some(nearest.device)
}

/// The kernel's names of the disks that a device lies on, through whatever layers.
fn disks_below(device: u64, depth: u32) -> Vec<String> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let folder = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}"));
    let Some(mut folder) = folder.ok().filter(|_| depth < 8) else {
        return Vec::new();
    };
    if folder.join("partition").exists() {
        folder.pop();
    }
    let mut names: Vec<String> = folder
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .into_iter()
        .collect();
    for below in fs::read_dir(folder.join("slaves"))
        .into_iter()
        .flatten()
        .flatten()
    {
        if let Some(number) = device_number(&below.path()) {
            names.extend(disks_below(number, depth + 1));
        }
    }
    names
}

/// udev's links by the kernel's names.
fn links() -> BTreeMap<String, Vec<String>> {
    let mut links: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for folder in ["/dev/disk/by-path", "/dev/disk/by-id"] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (link, target) = (entry.path(), fs::canonicalize(entry.path()));
            let node = target.ok().and_then(|node| {
                let node = node.strip_prefix("/dev").ok()?;
                Some(node.to_string_lossy().replace('/', "!"))
            });
            if let Some(node) = node {
                links
                    .entry(node)
                    .or_default()
                    .push(link.display().to_string());
            }
        }
    }
    links
}
