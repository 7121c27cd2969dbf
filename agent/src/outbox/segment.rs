//! Reading segments: files of frames, of one stream each, named by the number of their first record.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Priority;
use super::frame::{self, Frame, Step};

/// Read at a time, in bytes.
const CHUNK: usize = 16 * 1024;

/// What is known about one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// What its file is named by.
    pub name: u64,
    /// Its first record.
    pub first: u64,
    /// Its last record.
    pub last: u64,
    /// Bytes that count; the file may be longer after a failed write.
    pub bytes: u64,
    /// Records that aren't done with.
    pub left: u64,
    /// Nothing may be added.
    pub sealed: bool,
}

impl Segment {
    /// Whether `seq` would be in it.
    pub fn holds(&self, seq: u64) -> bool {
        (self.first..=self.last).contains(&seq)
    }
}

/// The file of a segment.
pub(super) fn path(folder: &Path, priority: Priority, name: u64) -> PathBuf {
    folder.join(format!("{}-{name:016x}.log", priority.as_str()))
}

/// What a file's name says, if it is a segment.
pub(super) fn parse_name(name: &str) -> Option<(Priority, u64)> {
    let (priority, number) = name.strip_suffix(".log")?.split_once('-')?;
    let priority = Priority::ALL
        .into_iter()
        .find(|known| known.as_str() == priority)?;
    if number.len() != 16
        || !number
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    {
        return None;
    }
    Some((priority, u64::from_str_radix(number, 16).ok()?))
}

/// How a scan ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scanned {
    /// Stretches of damage before the last whole record that was read.
    pub damaged: u64,
    /// Where that record ends.
    pub end: u64,
    /// Whether the whole segment was read.
    pub whole: bool,
}

/// Reads the records between `from` and `upto`, and hands over each with the offset behind it.
///
/// # Errors
/// If the file can't be read.
pub(super) fn scan(
    path: &Path,
    from: u64,
    upto: u64,
    mut on_record: impl FnMut(Frame, u64) -> ControlFlow<()>,
) -> io::Result<Scanned> {
    let file = File::open(path)?;
    // `buffer` holds the bytes from `at` on.
    let (mut buffer, mut at) = (Vec::new(), from);
    let mut scanned = Scanned {
        damaged: 0,
        end: from,
        whole: false,
    };
    // A stretch of damage may be met in several pieces.
    let mut in_damage = false;
    loop {
        let read_to = at + buffer.len() as u64;
        let want = usize::try_from(upto.saturating_sub(read_to))
            .unwrap_or(CHUNK)
            .min(CHUNK);
        let filled = buffer.len();
        buffer.resize(filled + want, 0);
        let got = read_at(&file, buffer.get_mut(filled..).unwrap_or_default(), read_to)?;
        buffer.truncate(filled + got);
        let last = got == 0;
        let mut used = 0;
        loop {
            match frame::next(buffer.get(used..).unwrap_or_default()) {
                Step::Record {
                    frame,
                    skipped,
                    end,
                } => {
                    scanned.damaged += u64::from(skipped > 0 || in_damage);
                    in_damage = false;
                    used += end;
                    scanned.end = at + used as u64;
                    if on_record(frame, scanned.end).is_break() {
                        return Ok(scanned);
                    }
                }
                Step::End { rest } => {
                    in_damage |= rest > 0;
                    used += rest;
                    break;
                }
            }
        }
        if last {
            scanned.whole = true;
            return Ok(scanned);
        }
        buffer.drain(..used);
        at += used as u64;
    }
}

fn read_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while !buffer.is_empty() {
        match file.read_at(buffer, offset) {
            Ok(0) => break,
            Ok(n) => {
                got += n;
                offset += n as u64;
                buffer = buffer.get_mut(n..).unwrap_or_default();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::super::frame::When;
    use super::*;

    #[test]
    fn names_are_read_back_and_others_left_alone() {
        let path = path(Path::new("d"), Priority::Fact, 0x1f);
        assert_eq!(path, Path::new("d/fact-000000000000001f.log"));
        assert_eq!(
            parse_name("fact-000000000000001f.log"),
            Some((Priority::Fact, 0x1f))
        );
        for odd in [
            "fact-1f.log",
            "other-000000000000001f.log",
            "fact-000000000000001f",
            "ledger",
            "fact-00000000000000zz.log",
            "fact-+00000000000001f.log",
        ] {
            assert_eq!(parse_name(odd), None, "{odd}");
        }
    }

    #[test]
    fn records_across_chunks_and_damage_between_them_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for seq in 1..=200u64 {
            let values = format!(
                "{{\"a\":\"{}\"}}",
                "x".repeat(usize::try_from(seq).unwrap() * 7)
            );
            bytes.extend(
                Frame {
                    log: 1,
                    seq,
                    when: When::Wall(0),
                    values: values.into(),
                }
                .encode(),
            );
            ends.push(bytes.len());
        }
        // Records 51 to 59 are gone in one piece.
        bytes[ends[49] + 3..ends[58] - 1].fill(0xCA);
        std::fs::write(&path, &bytes).unwrap();
        let mut seqs = Vec::new();
        let upto = bytes.len() as u64;
        let scanned = scan(&path, 0, upto, |frame, end| {
            assert_eq!(end, ends[usize::try_from(frame.seq).unwrap() - 1] as u64);
            seqs.push(frame.seq);
            ControlFlow::Continue(())
        });
        assert_eq!(seqs, (1..=50).chain(60..=200).collect::<Vec<_>>());
        assert_eq!(
            scanned.unwrap(),
            Scanned {
                damaged: 1,
                end: upto,
                whole: true
            }
        );
    }
}
