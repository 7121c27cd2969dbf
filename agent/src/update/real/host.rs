//! The running system: what was booted, checks, the restart.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use cairn_boot_state::Slot;
use cairn_release::Version;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use crate::files;
use crate::update::effects::Booted;
use crate::update::settings::Check;

/// What the initramfs records when a boot fails.
const BOOT_FAILURES: &str = "boot-failures.jsonl";
const BOOT_FAILURES_LIMIT: u64 = 256 << 10;

/// What the bootloader wrote on the kernel's command line; `None` if it wasn't ours.
///
/// # Errors
/// If it can't be read or contradicts itself.
pub fn booted() -> io::Result<Option<Booted>> {
    let cmdline = fs::read_to_string("/proc/cmdline")?;
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned();
    parse(&cmdline, boot_id)
}

fn parse(cmdline: &str, boot_id: String) -> io::Result<Option<Booted>> {
    let word = |name: &str| {
        let mut values = cmdline
            .split_ascii_whitespace()
            .filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(invalid(format!(
                "the kernel command line has more than one {name}="
            ))),
        }
    };
    let (Some(release), Some(slot)) = (word("cairn.release")?, word("cairn.slot")?) else {
        return Ok(None);
    };
    let release: Version = release
        .parse()
        .map_err(|error| invalid(format!("cairn.release=: {error}")))?;
    let slot: Slot = slot
        .parse()
        .map_err(|error| invalid(format!("cairn.slot=: {error}")))?;
    Ok(Some(Booted {
        boot_id,
        release,
        slot,
    }))
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// The last reason that the initramfs recorded for `version`.
pub fn boot_failure(agent: &Path, version: &Version) -> Option<String> {
    #[derive(Deserialize)]
    struct Entry {
        release: Version,
        reason: String,
    }
    let bytes = files::read(&agent.join(BOOT_FAILURES), BOOT_FAILURES_LIMIT).ok()??;
    let text = String::from_utf8_lossy(&bytes);
    let mut entries = text
        .lines()
        .rev()
        .filter_map(|line| serde_json::from_str::<Entry>(line).ok());
    let entry = entries.find(|entry| entry.release == *version)?;
    Some(entry.reason.chars().take(1000).collect())
}

/// All lines of the record, for evidence.
pub fn boot_failures(agent: &Path) -> Vec<u8> {
    files::read(&agent.join(BOOT_FAILURES), BOOT_FAILURES_LIMIT)
        .ok()
        .flatten()
        .unwrap_or_default()
}

/// Runs a check; what is wrong, if anything.
pub async fn check(check: &Check) -> Option<String> {
    let (program, args) = check.command.split_first()?;
    match run(program, args, check.timeout, 1024).await {
        Ok((true, _)) => None,
        Ok((false, output)) => {
            let text = String::from_utf8_lossy(&output);
            let last = text
                .lines()
                .rev()
                .find(|line| !line.trim().is_empty())
                .unwrap_or("it failed");
            Some(last.trim().chars().take(200).collect())
        }
        Err(error) => Some(error.to_string()),
    }
}

/// Runs a program: whether it succeeded, and at most `limit` bytes of what it wrote.
///
/// # Errors
/// If it can't be run or takes too long; then it is killed.
pub async fn run(
    program: &str,
    args: &[impl AsRef<std::ffi::OsStr>],
    limit: Duration,
    bytes: u64,
) -> io::Result<(bool, Vec<u8>)> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let read_out = async {
            if let Some(stdout) = stdout {
                read(stdout, bytes, &mut out).await;
            }
        };
        let read_err = async {
            if let Some(stderr) = stderr {
                read(stderr, 4096, &mut err).await;
            }
        };
        tokio::join!(read_out, read_err);
        let status = child.wait().await?;
        if out.is_empty() {
            out = err;
        }
        Ok((status.success(), out))
    };
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{program} didn't end in {} s", limit.as_secs()),
        )),
    }
}

/// Keeps the beginning, and goes on reading so that the program isn't stopped by a full pipe.
async fn read(mut from: impl tokio::io::AsyncRead + Unpin, limit: u64, into: &mut Vec<u8>) {
    let _ = (&mut from).take(limit).read_to_end(into).await;
    let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
}

/// Restarts through the firmware: without it nothing says that the bootloader starts the release.
///
/// # Errors
/// If systemd refuses.
pub async fn restart(attempt: u32) -> io::Result<()> {
    // First in good order; then without asking units, or systemd itself, that may be stuck.
    let force: &[&str] = match attempt {
        0..=2 => &[],
        3 | 4 => &["--force"],
        _ => &["--force", "--force"],
    };
    let status = Command::new("systemctl")
        .args(["--no-wall", "reboot"])
        .args(force)
        .env("SYSTEMCTL_SKIP_AUTO_KEXEC", "1")
        .env("SYSTEMCTL_SKIP_AUTO_SOFT_REBOOT", "1")
        .stdin(Stdio::null())
        .status()
        .await?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("systemctl reboot: {status}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_says_what_was_booted() {
        let booted = parse("ro cairn.release=2.0 panic=5 cairn.slot=trial", "b".into())
            .unwrap()
            .unwrap();
        assert_eq!((booted.release.as_str(), booted.slot), ("2.0", Slot::Trial));
        assert!(parse("root=/dev/sda1 quiet", "b".into()).unwrap().is_none());
        assert!(
            parse(
                "cairn.release=2.0 cairn.slot=trial cairn.slot=good",
                "b".into()
            )
            .is_err()
        );
        assert!(parse("cairn.release=../x cairn.slot=good", "b".into()).is_err());
    }

    #[test]
    fn the_last_failure_of_a_release_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let line = |release: &str, reason: &str| {
            format!("{{\"release\":\"{release}\",\"slot\":\"trial\",\"reason\":\"{reason}\"}}\n")
        };
        let text = line("2.0", "first") + &line("2.0", "second") + &line("3.0", "other") + "{\"cut";
        fs::write(folder.path().join(BOOT_FAILURES), text).unwrap();
        assert_eq!(
            boot_failure(folder.path(), &"2.0".parse().unwrap()).as_deref(),
            Some("second")
        );
        assert_eq!(boot_failure(folder.path(), &"4.0".parse().unwrap()), None);
    }

    #[tokio::test]
    async fn a_check_says_what_is_wrong() {
        let shell = |script: &str, timeout: u64| Check {
            name: "c".into(),
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            timeout: Duration::from_millis(timeout),
        };
        assert_eq!(check(&shell("true", 10_000)).await, None);
        assert_eq!(
            check(&shell("echo inactive; exit 3", 10_000))
                .await
                .as_deref(),
            Some("inactive")
        );
        assert_eq!(
            check(&shell("echo broken >&2; exit 1", 10_000))
                .await
                .as_deref(),
            Some("broken")
        );
        assert!(
            check(&shell("exec sleep 1000", 50))
                .await
                .unwrap()
                .contains("didn't end")
        );
        assert_eq!(check(&shell("yes | head -c 1000000", 10_000)).await, None);
        let absent = Check {
            command: vec!["/nowhere/program".into()],
            ..shell("", 1000)
        };
        assert!(check(&absent).await.is_some());
    }
}
