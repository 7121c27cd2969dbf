//! The kernel's messages, as `/dev/kmsg` gives them: each read is one, and each reader gets all that are still kept.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use cairn_tamper::kernel::Message;
use rustix::fs::OFlags;

/// The longest record, in bytes (`CONSOLE_EXT_LOG_MAX` in Linux).
const RECORD: usize = 8192;
/// So many records are read at a time; the rest waits.
const MANY: usize = 100_000;

/// A reader.
#[derive(Debug)]
pub struct Kmsg {
    file: File,
    record: Vec<u8>,
}

impl Kmsg {
    /// Reads from the oldest message that is kept.
    ///
    /// # Errors
    /// If there is no such file, or the caller may not read it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)?;
        Ok(Self {
            file,
            record: vec![0; RECORD],
        })
    }

    /// Gives all messages that have come since the last call; how many of them the kernel had thrown away before is not known, only
    /// whether it had.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn drain(&mut self, each: impl FnMut(Message<'_>)) -> io::Result<bool> {
        let Self { file, record } = self;
        drain(|bytes| file.read(bytes), record, each)
    }
}

fn drain(
    mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
    record: &mut [u8],
    mut each: impl FnMut(Message<'_>),
) -> io::Result<bool> {
    let mut lost = false;
    for _ in 0..MANY {
        let bytes = match read(record) {
            Ok(0) => break,
            Ok(length) => record.get(..length).unwrap_or_default(),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => break,
                // Messages came faster than they were read; the next read gives the oldest that is left.
                io::ErrorKind::BrokenPipe => {
                    lost = true;
                    continue;
                }
                io::ErrorKind::Interrupted => continue,
                _ => return Err(error),
            },
        };
        if let Some(message) = Message::parse(&String::from_utf8_lossy(bytes)) {
            each(message);
        }
    }
    Ok(lost)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn messages_that_are_lost_or_odd_do_not_end_it() {
        let mut answers = vec![
            Ok(&b"3,5,1,-;first\n"[..]),
            Err(io::ErrorKind::BrokenPipe),
            Ok(&b"3,9,1,-;n\xffth\n KEY=x\n"[..]),
            Err(io::ErrorKind::Interrupted),
            Ok(&b"rubbish"[..]),
            Ok(&b"3,10,1,-;last\n"[..]),
            Err(io::ErrorKind::WouldBlock),
            Ok(&b"3,11,1,-;later\n"[..]),
        ]
        .into_iter();
        let read = |bytes: &mut [u8]| {
            let answer = answers.next().unwrap().map_err(io::Error::from)?;
            bytes[..answer.len()].copy_from_slice(answer);
            Ok(answer.len())
        };
        let mut heard = Vec::new();
        let lost = drain(read, &mut [0; 64], |message| {
            heard.push((message.sequence, message.text.to_owned()))
        });
        assert!(lost.unwrap());
        let heard: Vec<_> = heard.iter().map(|(n, text)| (*n, text.as_str())).collect();
        assert_eq!(heard, [(5, "first"), (9, "n\u{fffd}th"), (10, "last")]);
    }

    #[test]
    fn a_disk_that_fails_ends_it() {
        let read = |_: &mut [u8]| Err(io::ErrorKind::PermissionDenied.into());
        assert!(drain(read, &mut [0; 64], |_| {}).is_err());
    }

    /// The real one, as root: all that is kept is read, and a program's own words are no message of the kernel's.
    #[test]
    fn the_kernels_own_file_is_read() {
        let path = Path::new("/dev/kmsg");
        let mut kmsg = Kmsg::open(path).unwrap();
        let mut sequences = Vec::new();
        kmsg.drain(|message| sequences.push(message.sequence))
            .unwrap();
        assert!(sequences.is_sorted());
        let mut file = OpenOptions::new().write(true).open(path).unwrap();
        let forged = "<3>device-mapper: verity: 7:1: data block 77 is corrupted";
        file.write_all(forged.as_bytes()).unwrap();
        let mut heard = Vec::new();
        kmsg.drain(|message| heard.push(message.text.to_owned()))
            .unwrap();
        assert!(!heard.iter().any(|text| text.contains("data block 77")));
    }
}
