//! Telling the bootloader that a release can't boot: the boot state on the ESP.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use cairn_boot_state::transition::{Event, Illegal, step};
use cairn_boot_state::{Copy, pick};
use cairn_release::Version;
use rustix::fs::{Advice, fadvise};
use rustix::mount::{MountFlags, UnmountFlags, unmount};

use crate::error::{IoError, cannot};
use crate::{log, mounts};

/// Where the ESP is mounted for the moment.
const ESP: &str = "/run/cairn/esp";

/// The bootloader could not be told.
#[derive(Debug, thiserror::Error)]
pub enum EspError {
    /// The ESP can't be mounted, or a copy can't be written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The state doesn't allow it.
    #[error(transparent)]
    Illegal(#[from] Box<Illegal>),
}

/// Writes into both copies on `device` that `version` has failed.
///
/// # Errors
/// If the ESP can't be mounted or a copy doesn't hold what was written.
pub fn release_failed(device: &Path, version: &Version) -> Result<(), EspError> {
    let esp = Path::new(ESP);
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mounts::file_system(device, esp, "vfat", flags, "")?;
    let result = mark_failed(esp, version);
    unmount(esp, UnmountFlags::empty()).map_err(cannot("unmount", ESP))?;
    result
}

fn mark_failed(esp: &Path, version: &Version) -> Result<(), EspError> {
    let read = |copy: Copy| fs::read(esp.join(copy.path())).unwrap_or_default();
    let picked = pick(&read(Copy::A), &read(Copy::B));
    for (copy, damage) in &picked.damaged {
        log::warn(format_args!("{} is damaged: {damage}", copy.path()));
    }
    let version = version.clone();
    let next = step(&picked.state, Event::BootFailed { version }).map_err(Box::new)?;
    let block = next.to_block();
    for copy in picked.write_order() {
        let path = esp.join(copy.path());
        write(&path, &block).map_err(cannot("write", path.display()))?;
    }
    Ok(())
}

/// Writes a copy in place and reads it back from the disk.
fn write(path: &Path, block: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // Not cut first: the old content stays until the one write that replaces it.
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    file.write_all(block)?;
    file.set_len(block.len() as u64)?;
    file.sync_all()?;
    // Else the answer would come from memory.
    fadvise(&file, 0, None, Advice::DontNeed)?;
    let mut held = Vec::new();
    File::open(path)?.read_to_end(&mut held)?;
    if held == block {
        Ok(())
    } else {
        Err(io::Error::other("reads back as something else"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_boot_state::BootState;
    use cairn_boot_state::block::Tries;

    fn state(esp: &Path, copy: Copy) -> BootState {
        BootState::parse(&fs::read(esp.join(copy.path())).unwrap()).unwrap()
    }

    #[test]
    fn a_failed_trial_is_left_and_remembered_in_both_copies() {
        let esp = tempfile::tempdir().unwrap();
        let (one, two): (Version, Version) = ("1.0.0".parse().unwrap(), "2.0.0".parse().unwrap());
        let mut before = BootState {
            generation: 6,
            ..BootState::default()
        };
        for event in [
            Event::GoodChosen {
                version: one.clone(),
                tries: Tries::Unlimited,
            },
            Event::TrialChosen {
                version: two.clone(),
                tries: 3,
            },
        ] {
            before = step(&before, event).unwrap();
        }
        fs::create_dir(esp.path().join("cairn")).unwrap();
        fs::write(esp.path().join(Copy::A.path()), before.to_block()).unwrap();
        fs::write(esp.path().join(Copy::B.path()), b"rubbish").unwrap();

        mark_failed(esp.path(), &two).unwrap();
        let after = state(esp.path(), Copy::A);
        assert_eq!(after, state(esp.path(), Copy::B));
        assert_eq!(after.generation, 9);
        assert_eq!(after.good, Some(one));
        assert!(after.has_failed(&two));
    }

    #[test]
    fn an_empty_esp_gets_a_state() {
        let esp = tempfile::tempdir().unwrap();
        let version = "1.0.0".parse().unwrap();
        mark_failed(esp.path(), &version).unwrap();
        assert!(state(esp.path(), Copy::B).has_failed(&version));
    }
}
