//! What is left behind when a boot fails: a line on the console, a record on DATA,
//! and, if the release can't ever boot, a word to the bootloader.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use cairn_boot_state::Slot;
use cairn_release::Version;
use cairn_release::trust::TrustError;
use serde::Serialize;

use crate::cmdline::CmdlineError;
use crate::config::ConfigError;
use crate::error::{IoError, cannot};
use crate::images::ReleaseError;

/// The record's name in DATA's folder `agent`.
pub const RECORD: &str = "boot-failures.jsonl";

/// How much of the record is kept.
const KEPT: usize = 64 << 10;

/// The release didn't boot.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The operating system said no.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The initramfs isn't whole.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The bootloader didn't say what to boot.
    #[error(transparent)]
    Cmdline(#[from] CmdlineError),
    /// DATA isn't there.
    #[error("no disk has the partition {data} after {seconds} s; disks: {}", list(.disks))]
    NoData {
        /// The partition's id.
        data: String,
        /// How long it was waited for.
        seconds: u32,
        /// The disks that are there.
        disks: Vec<String>,
    },
    /// The built-in trust root can't be used.
    #[error("the built-in trust root is not usable")]
    Trust(#[source] TrustError),
    /// The release can't be used.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// An image is damaged, or holds something else than a root or a kernel.
    #[error("{image} cannot be used")]
    Image {
        /// Which file.
        image: &'static str,
        /// Why.
        #[source]
        source: IoError,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".into()
    } else {
        names.join(", ")
    }
}

impl BootError {
    /// Whether it would be the same at the next try, so that the bootloader need not
    /// try again. A disk that isn't there may be back after a reset.
    pub fn is_definitive(&self) -> bool {
        match self {
            Self::Release(error) => error.is_definitive(),
            Self::Image { .. } | Self::Trust(_) => true,
            Self::Io(_) | Self::Config(_) | Self::Cmdline(_) | Self::NoData { .. } => false,
        }
    }
}

/// One line of the record.
#[derive(Debug, Serialize)]
pub struct Entry<'e> {
    /// Which release.
    pub release: &'e Version,
    /// Why the bootloader chose it.
    pub slot: String,
    /// The chain of reasons.
    pub reason: &'e str,
    /// Which boot it was.
    pub boot_id: String,
    /// How long after the kernel's start.
    pub uptime_ms: u64,
}

impl<'e> Entry<'e> {
    /// A failure of now.
    pub fn now(release: &'e Version, slot: Slot, reason: &'e str) -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            release,
            slot: slot.to_string(),
            reason,
            boot_id: text("/proc/sys/kernel/random/boot_id").trim().to_owned(),
            uptime_ms: uptime_ms(&text("/proc/uptime")),
        }
    }

    /// The entry as one line of JSON.
    pub fn to_line(&self) -> Vec<u8> {
        // Strings and numbers always have a JSON form.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// Milliseconds since the kernel's start, from the text of `/proc/uptime`: seconds
/// with two decimals, then something else.
pub fn uptime_ms(text: &str) -> u64 {
    let first = text.split_ascii_whitespace().next().unwrap_or_default();
    let (seconds, hundredths) = first.split_once('.').unwrap_or((first, "0"));
    let number = |text: &str| text.parse::<u64>().unwrap_or(0);
    number(seconds) * 1000 + number(hundredths) * 10
}

/// Adds a line to the record in `folder`. The file is replaced as a whole, so that a
/// power cut leaves the old or the new one.
///
/// # Errors
/// If it can't be written.
pub fn record(folder: &Path, line: &[u8]) -> Result<(), IoError> {
    let path = folder.join(RECORD);
    let fresh = folder.join(format!("{RECORD}.new"));
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut file = File::create(&fresh)?;
        file.write_all(&newest(&tail(&path), line, KEPT))?;
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(cannot("write", path.display()))
}

/// The last bytes of the record; a missing or unreadable one is as good as empty.
fn tail(path: &Path) -> Vec<u8> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(KEPT as u64)))?;
        let mut bytes = Vec::new();
        file.take(KEPT as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().unwrap_or_default()
}

/// The newest whole lines of `old` and then `line`, in at most `limit` bytes.
fn newest(old: &[u8], line: &[u8], limit: usize) -> Vec<u8> {
    let mut bytes = old.to_vec();
    // A line that was cut short must not swallow the next one.
    if bytes.last().is_some_and(|byte| *byte != b'\n') {
        bytes.push(b'\n');
    }
    bytes.extend_from_slice(line);
    if let Some(excess) = bytes.len().checked_sub(limit + 1) {
        let whole = bytes[excess..].iter().position(|byte| *byte == b'\n');
        let cut = whole.map_or(bytes.len(), |at| excess + at + 1);
        bytes.drain(..cut);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest_whole_lines() {
        let cases: [(&str, &str, &str); 7] = [
            ("", "a\n", "a\n"),
            ("a\n", "b\n", "a\nb\n"),
            ("cut", "b\n", "cut\nb\n"),
            ("aaa\nbbb\n", "ccc\n", "bbb\nccc\n"),
            ("aaaa\nbb\n", "ccc\n", "bb\nccc\n"),
            ("aa\nbbbb\n", "c\n", "bbbb\nc\n"),
            ("a\n", "much too long\n", ""),
        ];
        for (old, line, expected) in cases {
            let bytes = newest(old.as_bytes(), line.as_bytes(), 8);
            assert_eq!(
                String::from_utf8_lossy(&bytes),
                expected,
                "{old:?} {line:?}"
            );
        }
    }

    #[test]
    fn the_record_is_bounded_and_survives_rubbish() {
        let folder = tempfile::tempdir().unwrap();
        let agent = folder.path().join("agent");
        let version = "1.0.0".parse().unwrap();
        let entry = Entry::now(&version, Slot::Trial, "because of \"this\"\nand that");
        let line = entry.to_line();
        fs::create_dir(&agent).unwrap();
        fs::write(agent.join(RECORD), line.repeat(1000)).unwrap();
        record(&agent, &line).unwrap();
        let path = agent.join(RECORD);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.len() <= KEPT && text.len() > KEPT - 1000);
        for line in text.lines() {
            let entry: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(entry["slot"], "trial");
        }
        fs::write(&path, vec![0xff; 2 * KEPT]).unwrap();
        record(&agent, b"{}\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"{}\n");
    }

    #[test]
    fn uptime_is_read_in_milliseconds() {
        for (text, expected) in [("12.34 5.6\n", 12_340), ("0.05 0.1", 50), ("", 0), ("x", 0)] {
            assert_eq!(uptime_ms(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_missing_disk_may_come_back() {
        let error = BootError::NoData {
            data: "x".into(),
            seconds: 30,
            disks: vec![],
        };
        assert_eq!(
            error.to_string(),
            "no disk has the partition x after 30 s; disks: none"
        );
        assert!(!error.is_definitive());
    }
}
