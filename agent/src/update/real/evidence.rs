//! Why a release failed: collected once, kept in `evidence/`, uploaded until the control plane has it.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use cairn_release::Version;

use super::host;
use crate::files;
use crate::link::{Http, LinkError};

/// No evidence is larger.
const LIMIT: usize = 512 << 10;
/// How many are kept, uploaded ones included.
const KEPT: usize = 8;
/// How long a program may take that is asked.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often an upload is tried.
const PAUSE: Duration = Duration::from_secs(20);
/// What an uploaded one's name ends with.
const SENT: &str = ".sent";
/// Where panics are found: before and after systemd has moved them.
const PSTORE: [&str; 2] = ["/sys/fs/pstore", "/var/lib/systemd/pstore"];

/// What programs are asked, and the title of their answer.
const PROGRAMS: [(&str, &[&str]); 4] = [
    (
        "failed units",
        &[
            "systemctl",
            "--failed",
            "--no-legend",
            "--plain",
            "--no-pager",
        ],
    ),
    (
        "journal of this boot",
        &[
            "journalctl",
            "-b",
            "0",
            "-n",
            "300",
            "--no-pager",
            "-o",
            "short-monotonic",
        ],
    ),
    (
        "journal of the boot before",
        &[
            "journalctl",
            "-b",
            "-1",
            "-n",
            "300",
            "--no-pager",
            "-o",
            "short-monotonic",
        ],
    ),
    ("disk space", &["df", "-h"]),
];

/// Collects what there is, as one text.
pub async fn collect(agent: &Path, version: &Version, reason: &str) -> Vec<u8> {
    let mut text = Vec::new();
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    section(
        &mut text,
        "failure",
        format!("{version}: {reason}\nrunning with: {}", cmdline.trim()).as_bytes(),
    );
    section(
        &mut text,
        "boot failures that the initramfs recorded",
        &host::boot_failures(agent),
    );
    for folder in PSTORE {
        for (name, bytes) in panics(Path::new(folder)) {
            section(&mut text, &name, &bytes);
        }
    }
    for (title, argv) in PROGRAMS {
        let [program, args @ ..] = argv else { continue };
        let answer = match host::run(program, args, PATIENCE, 128 << 10).await {
            Ok((_, output)) => output,
            Err(error) => error.to_string().into_bytes(),
        };
        section(&mut text, title, &answer);
    }
    text.truncate(LIMIT);
    text
}

fn section(text: &mut Vec<u8>, title: &str, bytes: &[u8]) {
    let room = LIMIT.saturating_sub(text.len()).min(128 << 10);
    text.extend_from_slice(format!("==== {title}\n").as_bytes());
    // The end says more than the beginning.
    text.extend_from_slice(&bytes[bytes.len().saturating_sub(room)..]);
    text.extend_from_slice(b"\n\n");
}

fn panics(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && folders.len() < 8 => folders.push(path),
                Ok(kind) if kind.is_file() && found.len() < 8 => {
                    let bytes = files::read(&path, 64 << 10)
                        .ok()
                        .flatten()
                        .unwrap_or_default();
                    found.push((path.display().to_string(), bytes));
                }
                _ => {}
            }
        }
    }
    found
}

/// Keeps evidence; the oldest goes.
///
/// # Errors
/// If it can't be written.
pub fn keep(folder: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    files::remove(&folder.join(format!("{name}{SENT}")))?;
    files::replace(&folder.join(name), text)?;
    let mut all: Vec<_> = fs::read_dir(folder)?
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    all.sort();
    let excess = all.len().saturating_sub(KEPT);
    for (_, path) in all.into_iter().take(excess) {
        files::remove(&path)?;
    }
    Ok(())
}

/// Uploads what isn't yet, for ever.
pub async fn upload(folder: &Path, http: &Http) {
    loop {
        if http.has_control_plane() {
            for name in unsent(folder) {
                if let Err(error) = send(folder, http, &name).await {
                    tracing::info!(name, %error, "evidence isn't uploaded yet");
                    break;
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn unsent(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.retain(|name| !name.ends_with(SENT) && !name.ends_with(".new"));
    names.sort();
    names
}

async fn send(folder: &Path, http: &Http, name: &str) -> Result<(), LinkError> {
    let path = folder.join(name);
    let Ok(Some(bytes)) = files::read(&path, LIMIT as u64 * 2) else {
        return Ok(());
    };
    match http.put(&format!("/v1/me/evidence/{name}"), bytes).await {
        Ok(_) => {}
        // Never to be taken; it stays here for whoever comes.
        Err(LinkError::Status {
            status: status @ (400 | 413 | 415 | 422),
            ..
        }) => {
            tracing::warn!(name, status, "the control plane doesn't take the evidence");
        }
        Err(error) => return Err(error),
    }
    if let Err(error) = fs::rename(&path, folder.join(format!("{name}{SENT}"))) {
        tracing::warn!(name, %error, "evidence will be uploaded again");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_is_bounded_in_number_and_size() {
        let folder = tempfile::tempdir().unwrap();
        for n in 0..20 {
            keep(folder.path(), &format!("e{n}.txt"), b"text").unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), KEPT);
        assert_eq!(unsent(folder.path()).len(), KEPT);
        let mut text = Vec::new();
        (0..20).for_each(|_| section(&mut text, "t", &vec![b'x'; 1 << 20]));
        assert!(text.len() < LIMIT + 1000);
    }
}
