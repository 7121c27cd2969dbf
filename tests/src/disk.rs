//! A disk image: what lies on it, as independent tools see it (gdisk, mtools,
//! e2fsprogs), and the faults that a test makes on it. Nothing is mounted, so
//! no root is needed; the machine that uses the image must be off.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use cairn_system::{Command, CommandError};

const SECTOR: u64 = 512;
/// The partitions' names, as the project's disks have them.
const ESP: &str = "cairn-esp";
const DATA: &str = "cairn-data";

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// Its own id in lower case, what Linux calls PARTUUID.
    pub uuid: String,
    /// Where it begins, in bytes.
    pub start: u64,
    /// How long it is, in bytes.
    pub size: u64,
}

/// A raw image file of a disk.
#[derive(Debug, Clone)]
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// An image that is there.
    ///
    /// # Errors
    /// If it isn't.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let path = path
            .canonicalize()
            .with_context(|| format!("there is no disk {}", path.display()))?;
        Ok(Self { path })
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A copy that takes only the space of what is written, if not less.
    ///
    /// # Errors
    /// If there is no space.
    pub fn copy_to(&self, path: impl AsRef<Path>) -> Result<Self> {
        Command::new("cp")
            .args(["--sparse=always", "--reflink=auto"])
            .args([self.path(), path.as_ref()])
            .run()?;
        Self::open(path)
    }

    /// What the partition table says.
    ///
    /// # Errors
    /// If there is none.
    pub fn partitions(&self) -> Result<Vec<Partition>> {
        let mut file = File::open(&self.path)?;
        let table = gptman::GPT::read_from(&mut file, SECTOR)
            .with_context(|| format!("{} has no partition table", self.path.display()))?;
        let used = table.iter().filter(|(_, entry)| entry.is_used());
        used.map(|(number, entry)| {
            Ok(Partition {
                number,
                name: entry.partition_name.to_string(),
                uuid: guid(&entry.unique_partition_guid),
                start: entry.starting_lba * SECTOR,
                size: entry.size()? * SECTOR,
            })
        })
        .collect()
    }

    /// The partition of that name.
    ///
    /// # Errors
    /// If there is none.
    pub fn partition(&self, name: &str) -> Result<Partition> {
        let partitions = self.partitions()?;
        let found = partitions.into_iter().find(|one| one.name == name);
        found.with_context(|| format!("{} has no partition {name}", self.path.display()))
    }

    /// Reads a file of the DATA partition.
    ///
    /// # Errors
    /// If there is none.
    pub fn read_data_file(&self, path: &str) -> Result<Vec<u8>> {
        let scratch = tempfile::tempdir()?;
        let to = scratch.path().join("file");
        self.debugfs(&[], &format!("dump {} {}", quoted(path), to.display()))?;
        Ok(fs::read(to)?)
    }

    /// The permissions of a file of the DATA partition.
    ///
    /// # Errors
    /// If there is none.
    pub fn data_file_mode(&self, path: &str) -> Result<u32> {
        let stat = self.debugfs(&[], &format!("stat {}", quoted(path)))?;
        let mode = stat.split_once("Mode:").map(|(_, rest)| rest.trim_start());
        let mode = mode.and_then(|rest| rest.split_whitespace().next());
        let mode = mode.context("debugfs says no mode")?;
        Ok(u32::from_str_radix(mode, 8)?)
    }

    /// The names in a folder of the DATA partition, sorted.
    ///
    /// # Errors
    /// If there is none.
    pub fn list_data_folder(&self, path: &str) -> Result<Vec<String>> {
        // Lines of /inode/mode/uid/gid/name/size/
        let listing = self.debugfs(&[], &format!("ls -p {}", quoted(path)))?;
        let names = listing.lines().filter_map(|line| line.split('/').nth(5));
        let mut names: Vec<_> = names
            .filter(|name| !matches!(*name, "" | "." | ".."))
            .map(str::to_owned)
            .collect();
        names.sort();
        Ok(names)
    }

    /// Writes a file of the DATA partition, and the folders above it.
    ///
    /// # Errors
    /// If there is no space.
    pub fn write_data_file(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let scratch = tempfile::tempdir()?;
        let from = scratch.path().join("file");
        fs::write(&from, bytes)?;
        self.replay_journal()?;
        let folders: Vec<_> = Path::new(path).ancestors().skip(1).collect();
        for folder in folders.iter().rev().filter_map(|folder| folder.to_str()) {
            if !folder.trim_matches('/').is_empty() && !self.data_has(folder)? {
                self.debugfs(&["-w"], &format!("mkdir {}", quoted(folder)))?;
            }
        }
        if self.data_has(path)? {
            self.debugfs(&["-w"], &format!("rm {}", quoted(path)))?;
        }
        let request = format!("write {} {}", from.display(), quoted(path));
        self.debugfs(&["-w"], &request)?;
        Ok(())
    }

    /// Removes a file of the DATA partition.
    ///
    /// # Errors
    /// If there is none.
    pub fn remove_data_file(&self, path: &str) -> Result<()> {
        self.replay_journal()?;
        ensure!(self.data_has(path)?, "DATA has no {path}");
        self.debugfs(&["-w"], &format!("rm {}", quoted(path)))?;
        Ok(())
    }

    /// Turns all bits of one byte of a file of the DATA partition, where it lies
    /// on the disk, as a failing disk would; nothing else changes.
    ///
    /// # Errors
    /// If the file has no such byte.
    pub fn flip_byte_in_data_file(&self, path: &str, offset: u64) -> Result<()> {
        self.replay_journal()?;
        let stats = self.debugfs(&[], "stats -h")?;
        let block_size: u64 = field(&stats, "Block size:")?.parse()?;
        let request = format!("bmap {} {}", quoted(path), offset / block_size);
        let block: u64 = self.debugfs(&[], &request)?.trim().parse()?;
        ensure!(block != 0, "DATA's {path} has no data at byte {offset}");
        let data = self.partition(DATA)?;
        self.flip_byte(data.start + block * block_size + offset % block_size)
    }

    /// Turns all bits of one byte of the disk.
    ///
    /// # Errors
    /// If the disk has no such byte.
    pub fn flip_byte(&self, offset: u64) -> Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset)?;
        file.write_all_at(&[!byte[0]], offset)?;
        Ok(())
    }

    /// Reads a file of the ESP.
    ///
    /// # Errors
    /// If there is none.
    pub fn esp_read(&self, path: &str) -> Result<Vec<u8>> {
        let scratch = tempfile::tempdir()?;
        let to = scratch.path().join("file");
        self.mtool("mcopy")?
            .args(["-n", &format!("::{path}")])
            .arg(&to)
            .run()?;
        Ok(fs::read(to)?)
    }

    /// Writes a file of the ESP, whose folder must be there.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn esp_write(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let scratch = tempfile::tempdir()?;
        let from = scratch.path().join("file");
        fs::write(&from, bytes)?;
        self.mtool("mcopy")?
            .arg("-o")
            .arg(from)
            .arg(format!("::{path}"))
            .run()?;
        Ok(())
    }

    /// Removes a file of the ESP.
    ///
    /// # Errors
    /// If there is none.
    pub fn esp_remove(&self, path: &str) -> Result<()> {
        self.mtool("mdel")?.arg(format!("::{path}")).run()?;
        Ok(())
    }

    /// Checks the partition table, the ESP and DATA with the tools made for it.
    ///
    /// # Errors
    /// With what the first tool found wrong.
    pub fn fsck(&self) -> Result<()> {
        let said = Command::new("sgdisk").arg("-v").arg(&self.path).run()?;
        let said = said.text();
        ensure!(said.contains("No problems found"), "sgdisk -v: {said}");

        let esp = self.partition(ESP)?;
        let mut copy = tempfile::NamedTempFile::new()?;
        let mut disk = File::open(&self.path)?;
        disk.seek(SeekFrom::Start(esp.start))?;
        std::io::copy(&mut disk.take(esp.size), copy.as_file_mut())?;
        copy.flush()?;
        Command::new("fsck.vfat").arg("-n").arg(copy.path()).run()?;
        Command::new("e2fsck").arg("-fn").arg(self.data()?).run()?;
        Ok(())
    }

    /// Whether DATA was unmounted in order: no journal is left to replay.
    ///
    /// # Errors
    /// If there is no DATA.
    pub fn is_clean(&self) -> Result<bool> {
        let stats = self.debugfs(&[], "stats -h")?;
        let state = field(&stats, "Filesystem state:")?;
        Ok(state == "clean" && !field(&stats, "Filesystem features:")?.contains("needs_recovery"))
    }

    /// A journal that is replayed later would undo what is written now.
    fn replay_journal(&self) -> Result<()> {
        if self.is_clean()? {
            return Ok(());
        }
        match Command::new("e2fsck").arg("-p").arg(self.data()?).run() {
            // 1: errors were corrected.
            Err(CommandError::Failed { status, .. }) if status.code() == Some(1) => Ok(()),
            other => Ok(other.map(|_| ())?),
        }
    }

    fn data(&self) -> Result<String> {
        let offset = self.partition(DATA)?.start;
        Ok(format!("{}?offset={offset}", self.path.display()))
    }

    fn data_has(&self, path: &str) -> Result<bool> {
        let data = self.data()?;
        let request = format!("stat {}", quoted(path));
        let output = Command::new("debugfs")
            .args(["-R", &request, &data])
            .run()?;
        Ok(!output.stderr.contains("File not found"))
    }

    /// debugfs ends with 0 whatever happens; only what it says tells.
    fn debugfs(&self, options: &[&str], request: &str) -> Result<String> {
        let data = self.data()?;
        let output = Command::new("debugfs")
            .args(options)
            .args(["-R", request, &data])
            .run()?;
        let mut said = output.stderr.lines();
        // The first line is the version.
        if let Some(complaint) = said.find(|line| !line.starts_with("debugfs ")) {
            bail!("debugfs cannot `{request}`: {complaint}");
        }
        Ok(output.text())
    }

    fn mtool(&self, program: &str) -> Result<Command> {
        let offset = self.partition(ESP)?.start;
        let image = format!("{}@@{offset}", self.path.display());
        // mtools would object to a geometry that isn't a floppy's.
        Ok(Command::new(program)
            .env("MTOOLS_SKIP_CHECK", "1")
            .args(["-i", &image]))
    }
}

fn quoted(path: &str) -> String {
    format!("\"/{}\"", path.trim_start_matches('/'))
}

fn field<'a>(text: &'a str, name: &str) -> Result<&'a str> {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    Ok(value
        .with_context(|| format!("debugfs says no {name}"))?
        .trim())
}

/// The first three parts are little-endian (UEFI specification, appendix A).
fn guid(bytes: &[u8; 16]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let text: String = order.iter().map(|i| format!("{:02x}", bytes[*i])).collect();
    [
        &text[..8],
        &text[8..12],
        &text[12..16],
        &text[16..20],
        &text[20..],
    ]
    .join("-")
}
