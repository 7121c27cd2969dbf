//! What is acknowledged, on the disk: a file of sealed lists of ranges, added to at each commit and written anew when it has grown.
//!
//! If its end is lost, records are sent twice, which a server knows by their ids; never is one lost by it.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::frame::{self, Found};
use super::ranges::Ranges;

/// The file's name.
pub(super) const FILE: &str = "acks";
/// It is written anew at this size in bytes, or at twice the size it had then.
pub(super) const COMPACT: u64 = 32 * 1024;
/// Larger is damaged, in bytes.
const LIMIT: u64 = 64 << 20;
/// Ranges in one list.
const LIST: usize = 512;
const RANGE: usize = 17;

/// Ranges of a stream, by its index.
pub(super) type Acked = (usize, u64, u64);

/// The bytes of some ranges. Each list carries the highest time given so far in this log.
pub(super) fn encode(acked: &[Acked], log: u64, last_ts: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for list in acked.chunks(LIST) {
        let mut body = [log.to_le_bytes(), last_ts.to_le_bytes()].concat();
        for (stream, after, to) in list {
            body.push(u8::try_from(*stream).unwrap_or(u8::MAX));
            body.extend(after.to_le_bytes());
            body.extend(to.to_le_bytes());
        }
        bytes.extend(frame::seal(&body));
    }
    bytes
}

/// Reads the file: ranges of each stream, and the highest time of this log. What is damaged is left out.
///
/// # Errors
/// If it is there and can't be read.
pub(super) fn read(path: &Path, log: u64) -> io::Result<([Ranges; 3], i64)> {
    let bytes = crate::files::read(path, LIMIT)?.unwrap_or_default();
    let mut rest = bytes.as_slice();
    let (mut streams, mut last_ts) = (<[Ranges; 3]>::default(), 0);
    while !rest.is_empty() {
        let Found::Body(body, size) = frame::open(rest) else {
            rest = rest.get(1..).unwrap_or_default();
            continue;
        };
        rest = rest.get(size..).unwrap_or_default();
        let Some((of_log, (ts, list))) = body
            .split_first_chunk::<8>()
            .and_then(|(log, rest)| Some((log, rest.split_first_chunk::<8>()?)))
        else {
            continue;
        };
        if u64::from_le_bytes(*of_log) == log {
            last_ts = last_ts.max(i64::from_le_bytes(*ts));
        }
        for range in list.as_chunks::<RANGE>().0 {
            let [stream, numbers @ ..] = range;
            if let ([after, to], Some(stream)) = (
                numbers.as_chunks::<8>().0,
                streams.get_mut(usize::from(*stream)),
            ) {
                stream.insert(u64::from_le_bytes(*after), u64::from_le_bytes(*to));
            }
        }
    }
    Ok((streams, last_ts))
}

/// Adds to the file; gives its size.
///
/// # Errors
/// If the disk is full or fails.
pub(super) fn append(path: &Path, bytes: &[u8]) -> io::Result<u64> {
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    Ok(file.metadata()?.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_only_forgets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let all: Vec<Acked> = (0..2000)
            .map(|n| (usize::try_from(n % 3).unwrap(), n * 10, n * 10 + 5))
            .collect();
        append(&path, &encode(&all[..700], 7, 40)).unwrap();
        append(&path, &encode(&all[700..], 7, 41)).unwrap();
        let (streams, last_ts) = read(&path, 7).unwrap();
        assert_eq!(last_ts, 41);
        assert_eq!(read(&path, 8).unwrap().1, 0);
        for (stream, after, to) in &all {
            assert!(streams[*stream].contains(*to) && !streams[*stream].contains(*after));
        }
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[5000] ^= 1;
        bytes.truncate(bytes.len() - 3);
        std::fs::write(&path, bytes).unwrap();
        let (streams, _) = read(&path, 7).unwrap();
        let known = all
            .iter()
            .filter(|(stream, _, to)| streams[*stream].contains(*to))
            .count();
        assert!((500..2000).contains(&known), "{known}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(FILE);
            std::fs::write(&path, [encode(&[(7, 9, 3)], 7, 1), bytes].concat()).unwrap();
            let _ = read(&path, 7).unwrap();
        }
    }
}
