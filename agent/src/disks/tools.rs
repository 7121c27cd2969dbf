//! Programs that others keep. Which signatures there are in the world, libblkid knows best; how a file system is made, its own mkfs.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cairn_system::Command;
use cairn_topology::{Guid, Signature};
use cairn_wire::disk::{FileSystem, FsLabel};
use serde::Deserialize;

/// Where a program may lie, beside `PATH`.
const FOLDERS: [&str; 4] = ["/usr/bin", "/usr/sbin", "/sbin", "/bin"];
/// How long a slow disk may take to be looked at.
const LOOK: Duration = Duration::from_secs(60);
/// How long a large and slow disk may take to get a file system.
const MAKE: Duration = Duration::from_secs(1800);

/// A program's whole path.
///
/// # Errors
/// If it isn't installed.
pub fn find(program: &str) -> Result<PathBuf, String> {
    let path: OsString = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
        .ok_or_else(|| format!("{program} is not installed"))
}

fn command(program: &str) -> Result<Command, String> {
    // What they say is read by programs.
    find(program).map(|program| Command::new(program).env("LC_ALL", "C").timeout(LOOK))
}

/// The program that makes a file system.
pub fn mkfs(file_system: FileSystem) -> &'static str {
    match file_system {
        FileSystem::Ext4 => "mkfs.ext4",
        FileSystem::Xfs => "mkfs.xfs",
        FileSystem::Btrfs => "mkfs.btrfs",
    }
}

#[derive(Default, Deserialize)]
struct Found {
    #[serde(default)]
    signatures: Vec<One>,
}

#[derive(Deserialize)]
struct One {
    #[serde(rename = "type")]
    kind: String,
    uuid: Option<String>,
    label: Option<String>,
}

/// All that anybody would know again on a device. Nothing is changed, and nobody is kept from it.
///
/// # Errors
/// If it can't be looked at.
pub fn signatures(device: &Path) -> Result<Vec<Signature>, String> {
    let output = command("wipefs")?
        .args(["--no-act", "--json"])
        .arg(device)
        .run()
        .map_err(|error| error.to_string())?;
    let text = output.text();
    let found: Found = match text.as_str() {
        "" => Found::default(),
        text => serde_json::from_str(text).map_err(|error| format!("wipefs: {error}"))?,
    };
    // A GPT is there twice.
    let all: BTreeSet<Signature> = found
        .signatures
        .into_iter()
        .map(|one| Signature {
            kind: one.kind,
            uuid: one.uuid,
            label: one.label,
        })
        .collect();
    Ok(all.into_iter().collect())
}

/// Has the kernel take the partitions from the table.
///
/// # Errors
/// If it doesn't.
pub fn refresh(device: &Path) -> Result<(), String> {
    let command = command("partx")?.arg("--update").arg(device);
    command.run().map(drop).map_err(|error| error.to_string())
}

/// Waits until udev has seen to what was done: meanwhile it takes partitions away and brings them back.
pub fn settle() {
    // Without udev there is nothing to wait for; an error is the same as a timeout.
    if let Ok(command) = command("udevadm") {
        let _ = command.args(["settle", "--timeout=10"]).run();
    }
}

/// Makes a file system. The program has to have the device to itself.
///
/// # Errors
/// If it can't.
pub fn make(
    device: &Path,
    file_system: FileSystem,
    id: Guid,
    label: Option<&FsLabel>,
) -> Result<(), String> {
    let id = id.to_string();
    let command = command(mkfs(file_system))?.timeout(MAKE);
    // Each is forced only past what lies there; none works on what somebody has open. What was on a thin or flash disk is left to
    // `fstrim`: discarding all of it can take hours.
    let command = match file_system {
        FileSystem::Ext4 => command.args(["-q", "-F", "-E", "nodiscard", "-U", &id]),
        FileSystem::Xfs => command.args(["-q", "-f", "-K", "-m", &format!("uuid={id}")]),
        FileSystem::Btrfs => command.args(["-q", "-f", "--nodiscard", "-U", &id]),
    };
    let command = match label {
        Some(label) => command.args(["-L", label.as_str()]),
        None => command,
    };
    command
        .arg(device)
        .run()
        .map(drop)
        .map_err(|error| error.to_string())
}
