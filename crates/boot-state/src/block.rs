//! The boot state and its block.
//!
//! ```text
//!    0  # GRUB Environment Block\n            25 bytes, GRUB's own mark
//!       cairn_gen=7\n                         1 to 9 digits; the higher copy rules     ┐
//!       cairn_good=1.4.0\n                    a version, or empty                      │ in the sum
//!       cairn_good_tries=xxx\n                "-", or one x for each try left          ·
//!       cairn_trial=1.5.0\n                   a version, or empty                      │ in the sum
//!       cairn_trial_tries=xx\n                one x for each try left                  ·
//!       cairn_failed=1.3.9 1.3.8\n            at most 4 versions, newest first         ┘ in the sum
//!       cairn_sum=1b2c3d4e\n                  CRC-32 of the first line and of those marked
//!       ##########…                           up to the end
//!  512  ##########…                           nothing of meaning in the second sector
//! 1024
//! ```
//!
//! All seven lines are there, in this order. The sum leaves out the tries
//! because GRUB shortens them and can't compute: any number of them is a state
//! that was true once. All that means something lies in one sector, so that a
//! power cut leaves either the old state or the new one.

use cairn_release::Version;
use std::str::FromStr;

/// Bytes in a block.
pub const BLOCK_SIZE: usize = 1024;
/// Bytes within which everything of meaning lies: one sector.
pub const SECTOR: usize = 512;
/// The most tries that a block can carry.
pub const MAX_TRIES: u8 = 9;
/// The most failed versions that a block remembers; long names make it fewer.
pub const MAX_FAILED: usize = 4;
/// The highest generation. GRUB's numbers have 32 bits on a BIOS machine.
pub const MAX_GENERATION: u32 = 999_999_999;
/// The first line.
pub const HEADER: &str = "# GRUB Environment Block\n";
/// The variables, in their order.
pub const NAMES: [&str; 7] = [
    "cairn_gen",
    "cairn_good",
    "cairn_good_tries",
    "cairn_trial",
    "cairn_trial_tries",
    "cairn_failed",
    "cairn_sum",
];

/// How often a release may still be started before it counts as failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tries {
    /// Not counted, because nobody would arm the counter again.
    Unlimited,
    /// This many, [`MAX_TRIES`] at most.
    Left(u8),
}

impl Tries {
    /// Whether one more start is allowed.
    pub fn any_left(self) -> bool {
        self != Self::Left(0)
    }
}

/// What boots next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootState {
    /// Grows with each change, except when GRUB spends a try.
    pub generation: u32,
    /// The release that is known to work.
    pub good: Option<Version>,
    /// How often it may still be started.
    pub good_tries: Tries,
    /// The release that is being tried out.
    pub trial: Option<Version>,
    /// How often it may still be started.
    pub trial_tries: u8,
    /// Releases that did not work, newest failure first.
    pub failed: Vec<Version>,
}

impl Default for BootState {
    /// Nothing is known: the newest installed release is started.
    fn default() -> Self {
        Self {
            generation: 0,
            good: None,
            good_tries: Tries::Left(0),
            trial: None,
            trial_tries: 0,
            failed: Vec::new(),
        }
    }
}

/// Why a block can't be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Not the size of a block; 0 if the file is missing.
    #[error("expected {BLOCK_SIZE} bytes, got {0}")]
    Size(usize),
    /// The first line is another.
    #[error("not a GRUB environment block")]
    NotABlock,
    /// A variable that doesn't belong there.
    #[error("unknown variable {0:?}")]
    Unknown(String),
    /// A variable that is known, but not at this place.
    #[error("expected {expected}, got {got}")]
    Order {
        /// The variable whose place it is.
        expected: &'static str,
        /// The variable that is there.
        got: &'static str,
    },
    /// A variable isn't there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A value that no writer of ours would write.
    #[error("{name} can't be {value:?}")]
    Value {
        /// The variable.
        name: &'static str,
        /// The beginning of its value.
        value: String,
    },
    /// Something follows the last line.
    #[error("expected only # after the last line, got something else at byte {0}")]
    Padding(usize),
    /// Lines beyond the first sector.
    #[error("expected all lines in the first {SECTOR} bytes, got {0}")]
    TooLong(usize),
    /// The sum is another.
    #[error("expected a checksum of {expected:08x}, got {got:08x}")]
    Checksum {
        /// The sum of the lines.
        expected: u32,
        /// The sum in the block.
        got: u32,
    },
}

impl BootState {
    /// Reads a block.
    ///
    /// # Errors
    /// If anything in it is not as [`to_block`](Self::to_block) or GRUB would
    /// have written it.
    pub fn parse(block: &[u8]) -> Result<Self, Damage> {
        if block.len() != BLOCK_SIZE {
            return Err(Damage::Size(block.len()));
        }
        let body = block
            .strip_prefix(HEADER.as_bytes())
            .ok_or(Damage::NotABlock)?;
        let end = body
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |at| at + 1);
        let (lines, padding) = body.split_at(end);
        let used = HEADER.len() + end;
        if let Some(at) = padding.iter().position(|b| *b != b'#') {
            return Err(Damage::Padding(used + at));
        }
        let values = values(lines)?;
        if used > SECTOR {
            return Err(Damage::TooLong(used));
        }

        let [
            generation,
            good,
            good_tries,
            trial,
            trial_tries,
            failed,
            sum,
        ] = values;
        let state = Self {
            generation: digits(generation).ok_or_else(|| hostile(0, generation))?,
            good: version_or_none(good).ok_or_else(|| hostile(1, good))?,
            good_tries: match good_tries {
                b"-" => Tries::Unlimited,
                _ => Tries::Left(unary(good_tries).ok_or_else(|| hostile(2, good_tries))?),
            },
            trial: version_or_none(trial).ok_or_else(|| hostile(3, trial))?,
            trial_tries: unary(trial_tries).ok_or_else(|| hostile(4, trial_tries))?,
            failed: versions(failed).ok_or_else(|| hostile(5, failed))?,
        };
        let got = hex8(sum).ok_or_else(|| hostile(6, sum))?;
        let expected = checksum([generation, good, trial, failed]);
        if got != expected {
            return Err(Damage::Checksum { expected, got });
        }
        Ok(state)
    }

    /// Writes a block.
    ///
    /// What a block can't hold is left out: a generation above
    /// [`MAX_GENERATION`], tries above [`MAX_TRIES`], and the oldest failures
    /// that don't fit.
    pub fn to_block(&self) -> [u8; BLOCK_SIZE] {
        let mut fitting = self.clone();
        fitting.fit();
        let text = fitting.to_text();
        let mut block = [b'#'; BLOCK_SIZE];
        for (to, from) in block.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        block
    }

    /// Whether `version` is remembered as failed.
    pub fn has_failed(&self, version: &Version) -> bool {
        self.failed.contains(version)
    }

    /// Forgets the oldest failures until the lines fit into a sector.
    pub(crate) fn fit(&mut self) {
        self.failed.truncate(MAX_FAILED);
        while self.to_text().len() > SECTOR && self.failed.pop().is_some() {}
    }

    fn to_text(&self) -> String {
        let generation = self.generation.min(MAX_GENERATION).to_string();
        let good = self.good.as_ref().map_or("", Version::as_str);
        let good_tries = match self.good_tries {
            Tries::Unlimited => "-".to_owned(),
            Tries::Left(n) => tries_text(n),
        };
        let trial = self.trial.as_ref().map_or("", Version::as_str);
        let trial_tries = tries_text(self.trial_tries);
        let failed: Vec<_> = self.failed.iter().map(Version::as_str).collect();
        let failed = failed.join(" ");
        let sum = checksum([&generation, good, trial, &failed].map(str::as_bytes));
        let sum = format!("{sum:08x}");
        let values = [
            &generation,
            good,
            &good_tries,
            trial,
            &trial_tries,
            &failed,
            &sum,
        ];
        let mut text = HEADER.to_owned();
        for (name, value) in NAMES.iter().zip(values) {
            text.extend([name, "=", value, "\n"]);
        }
        text
    }
}

/// The values of the seven lines, if these are the lines.
fn values(lines: &[u8]) -> Result<[&[u8]; 7], Damage> {
    let mut values = [b"".as_slice(); 7];
    let mut rest = lines;
    for (expected, value) in NAMES.iter().zip(&mut values) {
        let Some(end) = rest.iter().position(|b| *b == b'\n') else {
            return Err(Damage::Missing(expected));
        };
        let (name, text) = split(&rest[..end]);
        if name != expected.as_bytes() {
            return Err(match known(name) {
                Some(got) => Damage::Order { expected, got },
                None => Damage::Unknown(shown(name)),
            });
        }
        *value = text;
        rest = &rest[end + 1..];
    }
    if rest.is_empty() {
        return Ok(values);
    }
    let line = rest.split(|b| *b == b'\n').next().unwrap_or_default();
    Err(Damage::Unknown(shown(split(line).0)))
}

fn split(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|b| *b == b'=') {
        Some(at) => (&line[..at], &line[at + 1..]),
        None => (line, b""),
    }
}

fn known(name: &[u8]) -> Option<&'static str> {
    NAMES.into_iter().find(|n| n.as_bytes() == name)
}

/// The sum over the first line and the lines of these values.
fn checksum([generation, good, trial, failed]: [&[u8]; 4]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(HEADER.as_bytes());
    let lines = [
        (NAMES[0], generation),
        (NAMES[1], good),
        (NAMES[3], trial),
        (NAMES[5], failed),
    ];
    for (name, value) in lines {
        hasher.update(name.as_bytes());
        hasher.update(b"=");
        hasher.update(value);
        hasher.update(b"\n");
    }
    hasher.finalize()
}

fn tries_text(tries: u8) -> String {
    "x".repeat(usize::from(tries.min(MAX_TRIES)))
}

fn digits(value: &[u8]) -> Option<u32> {
    let plain = value.iter().all(u8::is_ascii_digit) && value.len() <= 9;
    parsed(value).filter(|_| plain)
}

fn unary(value: &[u8]) -> Option<u8> {
    let tries = u8::try_from(value.len()).ok()?;
    (tries <= MAX_TRIES && value.iter().all(|b| *b == b'x')).then_some(tries)
}

fn hex8(value: &[u8]) -> Option<u32> {
    let plain = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if value.len() != 8 || !value.iter().all(plain) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(value).ok()?, 16).ok()
}

/// `Some(None)` for an empty value, `None` for one that is no version.
fn version_or_none(value: &[u8]) -> Option<Option<Version>> {
    match value {
        [] => Some(None),
        _ => parsed(value).map(Some),
    }
}

fn versions(value: &[u8]) -> Option<Vec<Version>> {
    if value.is_empty() {
        return Some(Vec::new());
    }
    let versions: Vec<_> = value
        .split(|b| *b == b' ')
        .map(parsed)
        .collect::<Option<_>>()?;
    (versions.len() <= MAX_FAILED).then_some(versions)
}

fn parsed<T: FromStr>(value: &[u8]) -> Option<T> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn hostile(name: usize, value: &[u8]) -> Damage {
    Damage::Value {
        name: NAMES[name],
        value: shown(value),
    }
}

/// As much of a hostile text as a message needs.
fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().take(80).collect()
}
