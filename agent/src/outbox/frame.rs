//! How a record lies in a segment: a *frame* that stands on its own.
//!
//! ```text
//! magic   4  "\xCA\x1FOb"
//! length  4  of what follows the sum, little endian, as all numbers here
//! sum     4  CRC-32 of length and body
//! body       log 8 · seq 8 · when · the values as JSON
//!            when: 0 · ms since 1970 (8), or 1 · ms since boot (8) · length of the boot's id (1) · the boot's id
//! ```
//!
//! A reader that meets damage looks for the next magic whose sum is right, so that one bad sector costs the records in it and no others.

use cairn_wire::Object;

const MAGIC: [u8; 4] = [0xCA, 0x1F, b'O', b'b'];
/// Bytes before the body.
pub(super) const HEADER: usize = 12;
/// No body is longer, in bytes.
pub(super) const MAX_BODY: usize = cairn_wire::MAX_PAYLOAD + 256;
/// No boot id is longer, in bytes.
const MAX_BOOT: usize = 64;

/// When a record was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum When {
    /// Milliseconds since 1970.
    Wall(i64),
    /// The wall clock was unset: milliseconds since the boot of this id.
    Boot {
        /// The boot's id.
        boot: String,
        /// Milliseconds.
        mono_ms: u64,
    },
}

/// A record as it is stored. The values stay JSON until they are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    /// The log.
    pub log: u64,
    /// Its number there.
    pub seq: u64,
    /// When it was made.
    pub when: When,
    /// A JSON object.
    pub values: Vec<u8>,
}

impl Frame {
    /// The bytes on the disk.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.values.len() + 96);
        body.extend(self.log.to_le_bytes());
        body.extend(self.seq.to_le_bytes());
        match &self.when {
            When::Wall(ms) => {
                body.push(0);
                body.extend(ms.to_le_bytes());
            }
            When::Boot { boot, mono_ms } => {
                let boot: Vec<u8> = boot.bytes().take(MAX_BOOT).collect();
                body.push(1);
                body.extend(mono_ms.to_le_bytes());
                body.push(u8::try_from(boot.len()).unwrap_or(0));
                body.extend(boot);
            }
        }
        body.extend(&self.values);
        seal(&body)
    }

    /// The values, if they are what was written.
    pub fn object(&self) -> Option<Object> {
        serde_json::from_slice(&self.values).ok()
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let mut rest = body;
        let log = u64::from_le_bytes(take(&mut rest)?);
        let seq = u64::from_le_bytes(take(&mut rest)?);
        let when = match take::<1>(&mut rest)? {
            [0] => When::Wall(i64::from_le_bytes(take(&mut rest)?)),
            [1] => {
                let mono_ms = u64::from_le_bytes(take(&mut rest)?);
                let [length] = take::<1>(&mut rest)?;
                let (boot, values) = rest.split_at_checked(usize::from(length))?;
                rest = values;
                When::Boot {
                    boot: std::str::from_utf8(boot).ok()?.to_owned(),
                    mono_ms,
                }
            }
            _ => return None,
        };
        Some(Self {
            log,
            seq,
            when,
            values: rest.to_vec(),
        })
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

/// Puts magic, length and sum before a body.
pub(super) fn seal(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(MAGIC);
    bytes.extend(length);
    bytes.extend(sum(length, body).to_le_bytes());
    bytes.extend(body);
    bytes
}

fn sum(length: [u8; 4], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(body);
    hasher.finalize()
}

/// What lies at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// A body whose sum is right, and how many bytes it takes in all.
    Body(&'a [u8], usize),
    /// It may become one with more bytes.
    Short,
    /// Nothing of ours.
    Damaged,
}

/// Looks at the beginning of `bytes`.
pub(super) fn open(bytes: &[u8]) -> Found<'_> {
    let known = bytes.len().min(MAGIC.len());
    if bytes.get(..known) != MAGIC.get(..known) {
        return Found::Damaged;
    }
    let mut rest = bytes;
    let (Some(_), Some(length), Some(expected)) = (
        take::<4>(&mut rest),
        take::<4>(&mut rest),
        take::<4>(&mut rest),
    ) else {
        return Found::Short;
    };
    let size = u32::from_le_bytes(length) as usize;
    if size > MAX_BODY {
        return Found::Damaged;
    }
    match rest.get(..size) {
        None => Found::Short,
        Some(body) if sum(length, body) == u32::from_le_bytes(expected) => {
            Found::Body(body, HEADER + size)
        }
        Some(_) => Found::Damaged,
    }
}

/// What [`next`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A record, `skipped` damaged bytes before it, and where the bytes after it begin.
    Record {
        /// The record.
        frame: Frame,
        /// Damaged bytes before it.
        skipped: usize,
        /// Where the next begins.
        end: usize,
    },
    /// No whole record is left. What begins at `rest` may become one with more bytes; what lies before is damaged.
    End {
        /// Where it begins.
        rest: usize,
    },
}

/// The first record of `bytes`, past whatever is damaged.
pub(super) fn next(bytes: &[u8]) -> Step {
    let mut at = 0;
    // A damaged length makes the rest look short: a whole record behind it counts first.
    let mut short = None;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        match open(rest) {
            Found::Body(body, size) => {
                if let Some(frame) = Frame::decode(body) {
                    return Step::Record {
                        frame,
                        skipped: at,
                        end: at + size,
                    };
                }
                at += size;
            }
            found => {
                if found == Found::Short && short.is_none() {
                    short = Some(at);
                }
                at += 1 + rest
                    .get(1..)
                    .unwrap_or_default()
                    .iter()
                    .position(|byte| *byte == MAGIC[0])
                    .unwrap_or(rest.len() - 1);
            }
        }
    }
    Step::End {
        rest: short.unwrap_or(bytes.len()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(seq: u64, values: &str) -> Frame {
        Frame {
            log: 7,
            seq,
            when: When::Wall(5),
            values: values.into(),
        }
    }

    fn read_all(mut bytes: &[u8]) -> (Vec<u64>, usize) {
        let (mut seqs, mut damage) = (Vec::new(), 0);
        loop {
            match next(bytes) {
                Step::Record {
                    frame,
                    skipped,
                    end,
                } => {
                    seqs.push(frame.seq);
                    damage += skipped;
                    bytes = &bytes[end..];
                }
                Step::End { .. } => return (seqs, damage + bytes.len()),
            }
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let unset = When::Boot {
            boot: "6f1a".into(),
            mono_ms: 9,
        };
        for frame in [
            frame(1, "{}"),
            Frame {
                when: unset,
                ..frame(2, "{\"a\":1}")
            },
        ] {
            let bytes = frame.encode();
            assert_eq!(
                next(&bytes),
                Step::Record {
                    frame,
                    skipped: 0,
                    end: bytes.len()
                }
            );
        }
    }

    #[test]
    fn damage_costs_only_the_records_that_it_touches() {
        let frames: Vec<Vec<u8>> = (1..=5)
            .map(|seq| frame(seq, "{\"key\":1}").encode())
            .collect();
        let size = frames[0].len();
        let whole = frames.concat();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            let (seqs, damage) = read_all(&bytes);
            let hit = u64::try_from(at / size + 1).unwrap();
            assert_eq!(
                seqs,
                (1..=5).filter(|seq| *seq != hit).collect::<Vec<_>>(),
                "byte {at}"
            );
            assert_eq!(damage, size);
        }
    }

    #[test]
    fn a_torn_end_is_told_from_damage() {
        let one = frame(1, "{}").encode();
        for cut in 1..one.len() {
            let bytes = [one.clone(), one[..cut].to_vec()].concat();
            let Step::Record { end, .. } = next(&bytes) else {
                panic!("no record")
            };
            assert_eq!(next(&bytes[end..]), Step::End { rest: 0 });
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_run_on(bytes in prop::collection::vec(any::<u8>(), 0..4000), cut in 0usize..200) {
            let mut mixed = frame(1, "{\"key\":\"value\"}").encode();
            mixed.truncate(cut);
            mixed.extend(&bytes);
            read_all(&mixed);
            read_all(&bytes);
        }
    }
}
