//! The EFI system partition: the loader's files and the boot state, by a FAT
//! driver of our own process, so that nothing needs to be mounted.

use super::fat::{LOADERS, STATE, mend};
use super::layout::Range;
use crate::error::{Error, Result};
use cairn_boot_state::{BootState, Copy, Picked, pick};
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use fscommon::{BufStream, StreamSlice};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// The loader's place: where firmware looks when nobody told it anything.
pub const LOADER: &str = "EFI/BOOT/BOOTX64.EFI";
/// The loader before, in the same folder, ready to be exchanged with it.
pub const OLD_LOADER: &str = "EFI/BOOT/BOOTX64.OLD";

type Fat = FileSystem<BufStream<StreamSlice<File>>>;

/// An open ESP.
pub struct Esp {
    fat: Fat,
    disk: PathBuf,
}

impl Esp {
    /// Makes the file system and its folders.
    ///
    /// # Errors
    /// If the disk doesn't take it.
    pub fn format(disk: &File, path: &Path, range: Range, sector: u64, volume: u32) -> Result<()> {
        let io = |e: io::Error| {
            Error::failed(format!("cannot make the ESP of {}", path.display())).because(e)
        };
        let sector = u16::try_from(sector).map_err(|e| io(io::Error::other(e)))?;
        let sectors =
            u32::try_from(range.size / u64::from(sector)).map_err(|e| io(io::Error::other(e)))?;
        let mut part = slice(disk, range).map_err(io)?;
        let options = FormatVolumeOptions::new()
            .fat_type(FatType::Fat32)
            .bytes_per_sector(sector)
            // Small clusters: FAT32 has to have 65,525 of them.
            .bytes_per_cluster(if sector == 512 { 1024 } else { 4096 })
            .total_sectors(sectors)
            .volume_id(volume)
            .volume_label(*b"CAIRN-ESP  ");
        fatfs::format_volume(&mut part, options)
            .and_then(|()| part.flush())
            .map_err(io)?;
        let esp = Self::open(disk, path, range)?;
        for folder in ["EFI", "EFI/BOOT", "cairn"] {
            esp.fat.root_dir().create_dir(folder).map_err(io)?;
        }
        esp.close()?;
        for folder in [&LOADERS[..1], &LOADERS, &STATE] {
            mend(disk, range.start, folder).map_err(io)?;
        }
        Ok(())
    }

    /// Opens it.
    ///
    /// # Errors
    /// If there is no FAT there.
    pub fn open(disk: &File, path: &Path, range: Range) -> Result<Self> {
        slice(disk, range)
            .and_then(|part| FileSystem::new(part, FsOptions::new()))
            .map(|fat| Self {
                fat,
                disk: path.to_owned(),
            })
            .map_err(|e| {
                Error::input(format!("{}: the ESP can't be read", path.display())).because(e)
            })
    }

    /// Reads a file; `None` if it isn't there.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        match self
            .fat
            .root_dir()
            .open_file(name)
            .and_then(|mut file| file.read_to_end(&mut bytes))
        {
            Ok(_) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.cannot("read", name, error)),
        }
    }

    /// Writes a file's content in place.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let write = || -> io::Result<()> {
            let mut file = self.fat.root_dir().create_file(name)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(bytes)?;
            file.truncate()?;
            file.flush()
        };
        write().map_err(|e| self.cannot("write", name, e))
    }

    /// Both copies of the boot state, judged.
    ///
    /// # Errors
    /// If they can't be read; a damaged one is no error.
    pub fn boot_state(&self) -> Result<Picked> {
        let read = |copy: Copy| Ok(self.read(copy.path())?.unwrap_or_default());
        Ok(pick(&read(Copy::A)?, &read(Copy::B)?))
    }

    /// Writes both copies of the boot state, one after the other, and reads them back.
    ///
    /// # Errors
    /// If they didn't arrive.
    pub fn set_boot_state(&self, state: &BootState, order: [Copy; 2]) -> Result<()> {
        let block = state.to_block();
        for copy in order {
            self.write(copy.path(), &block)?;
            if self.read(copy.path())?.as_deref() != Some(&block[..]) {
                return Err(self.cannot(
                    "write",
                    copy.path(),
                    io::Error::other("it read back differently"),
                ));
            }
        }
        Ok(())
    }

    /// Writes out what is still held back, and closes it.
    ///
    /// # Errors
    /// If the disk doesn't take it.
    pub fn close(self) -> Result<()> {
        let disk = self.disk;
        self.fat.unmount().map_err(|e| {
            Error::failed(format!("cannot write the ESP of {}", disk.display())).because(e)
        })
    }

    fn cannot(&self, what: &str, name: &str, error: io::Error) -> Error {
        Error::failed(format!(
            "{}: cannot {what} {name} on the ESP",
            self.disk.display()
        ))
        .because(error)
    }
}

fn slice(disk: &File, range: Range) -> io::Result<BufStream<StreamSlice<File>>> {
    let slice = StreamSlice::new(disk.try_clone()?, range.start, range.start + range.size)?;
    Ok(BufStream::new(slice))
}
