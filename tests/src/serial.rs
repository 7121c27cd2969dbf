//! A machine's serial console: everything it printed, as plain text without
//! terminal escapes, and waiting for what it will print, with a deadline.

use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use regex::Regex;

/// What to wait for.
#[derive(Debug, Clone)]
pub enum Pattern {
    /// These very characters.
    Text(String),
    /// Anything that matches.
    Regex(Regex),
}

impl From<&str> for Pattern {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&String> for Pattern {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

impl From<Regex> for Pattern {
    fn from(regex: Regex) -> Self {
        Self::Regex(regex)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Regex(regex) => write!(f, "/{regex}/"),
        }
    }
}

impl Pattern {
    /// Where the first match lies, and its groups.
    fn find(&self, text: &str) -> Option<(usize, usize, Vec<String>)> {
        match self {
            Self::Text(wanted) => text
                .find(wanted.as_str())
                .map(|at| (at, at + wanted.len(), vec![wanted.clone()])),
            Self::Regex(regex) => regex.captures(text).map(|captures| {
                let groups = captures
                    .iter()
                    .map(|group| group.map_or_else(String::new, |group| group.as_str().to_owned()));
                let whole = captures.get_match();
                (whole.start(), whole.end(), groups.collect())
            }),
        }
    }
}

/// What was waited for, when it came.
#[derive(Debug, Clone)]
pub struct Matched {
    /// Which of the patterns it was.
    pub index: usize,
    /// The match, and after it a regex's groups.
    pub groups: Vec<String>,
    /// What was printed before it since the last match.
    pub before: String,
    /// How long after the console was opened it was seen.
    pub at: Duration,
}

impl Matched {
    /// The text that matched.
    pub fn text(&self) -> &str {
        self.groups.first().map_or("", String::as_str)
    }
}

#[derive(Default)]
struct Transcript {
    text: String,
    /// Everything before was matched already.
    seen: usize,
    closed: bool,
}

struct Shared {
    transcript: Mutex<Transcript>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Transcript> {
        // A panic of another holder leaves a transcript that is still true.
        self.transcript
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The console. Whoever clones it shares one transcript and one place in it.
#[derive(Clone)]
pub struct Serial {
    shared: Arc<Shared>,
    input: Arc<Mutex<Box<dyn Write + Send>>>,
    log: PathBuf,
    opened: Instant,
}

impl Serial {
    /// A console that is typed on through `input` and logged to `log`, with the
    /// part that must be fed by [`Feed::run`].
    ///
    /// # Errors
    /// If the log can't be made.
    pub fn new(input: Box<dyn Write + Send>, log: &Path) -> Result<(Self, Feed)> {
        if let Some(dir) = log.parent() {
            fs::create_dir_all(dir)?;
        }
        let file = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        let shared = Arc::new(Shared {
            transcript: Mutex::default(),
            changed: Condvar::new(),
        });
        let serial = Self {
            shared: Arc::clone(&shared),
            input: Arc::new(Mutex::new(input)),
            log: log.to_owned(),
            opened: Instant::now(),
        };
        Ok((serial, Feed { shared, log: file }))
    }

    /// Waits until the pattern is printed after what was matched last.
    ///
    /// # Errors
    /// If it isn't there after `within`, or the console was closed without it;
    /// the whole transcript is in the error.
    pub fn expect(&self, pattern: impl Into<Pattern>, within: Duration) -> Result<Matched> {
        self.expect_any(&[pattern.into()], within)
    }

    /// As [`Serial::expect`], for the pattern that is printed first.
    ///
    /// # Errors
    /// As there.
    pub fn expect_any(&self, patterns: &[Pattern], within: Duration) -> Result<Matched> {
        let deadline = Instant::now() + within;
        let mut transcript = self.shared.lock();
        loop {
            if let Some(matched) = self.find(&mut transcript, patterns) {
                return Ok(matched);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if transcript.closed || left.is_zero() {
                return Err(self.missing(&transcript, patterns, within));
            }
            transcript = self
                .shared
                .changed
                .wait_timeout(transcript, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn find(&self, transcript: &mut Transcript, patterns: &[Pattern]) -> Option<Matched> {
        let new = &transcript.text[transcript.seen..];
        let found = patterns
            .iter()
            .enumerate()
            .filter_map(|(index, pattern)| Some((pattern.find(new)?, index)));
        let ((start, end, groups), index) = found.min_by_key(|((start, ..), _)| *start)?;
        let before = new[..start].to_owned();
        transcript.seen += end;
        Some(Matched {
            index,
            groups,
            before,
            at: self.opened.elapsed(),
        })
    }

    fn missing(
        &self,
        transcript: &Transcript,
        patterns: &[Pattern],
        within: Duration,
    ) -> anyhow::Error {
        let patterns: Vec<_> = patterns.iter().map(Pattern::to_string).collect();
        let why = if transcript.closed {
            "the console was closed"
        } else {
            "time is up"
        };
        anyhow::anyhow!(
            "expected {} on the console within {} s, but {why}; it is logged in {}\n\
             ---- matched before ----\n{}\n---- since then ----\n{}\n---- end of console ----",
            patterns.join(" or "),
            within.as_secs_f32(),
            self.log.display(),
            &transcript.text[..transcript.seen],
            &transcript.text[transcript.seen..],
        )
    }

    /// Types a line.
    ///
    /// # Errors
    /// If the console is gone.
    pub fn send_line(&self, line: &str) -> Result<()> {
        self.send(&format!("{line}\n"))
    }

    /// Types these characters as they are: `"\x1b[B"` is the key for down.
    ///
    /// # Errors
    /// If the console is gone.
    pub fn send(&self, keys: &str) -> Result<()> {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        input
            .write_all(keys.as_bytes())
            .and_then(|()| input.flush())
            .context("cannot type on the console")
    }

    /// Everything printed so far.
    pub fn transcript(&self) -> String {
        self.shared.lock().text.clone()
    }

    /// Where it is logged.
    pub fn log(&self) -> &Path {
        &self.log
    }
}

/// The other end of a console: what the machine prints goes in here.
pub struct Feed {
    shared: Arc<Shared>,
    log: File,
}

impl Feed {
    /// Takes in all of `output` until it ends.
    pub fn run(mut self, mut output: impl Read) {
        let mut plain = PlainText::default();
        let mut buffer = [0; 4096];
        loop {
            let count = match output.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            let text = plain.take(&buffer[..count]);
            // A full disk shall not end the test: the transcript is in memory too.
            let _ = self.log.write_all(text.as_bytes());
            self.shared.lock().text.push_str(&text);
            self.shared.changed.notify_all();
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

/// Takes terminal escapes (ECMA-48) and carriage returns out of a byte stream
/// that comes in pieces.
#[derive(Default)]
struct PlainText {
    state: Escape,
    /// A character of several bytes whose end hasn't come yet.
    partial: Vec<u8>,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum Escape {
    #[default]
    No,
    Begun,
    /// `ESC [ … letter`
    Control,
    /// `ESC ] … BEL` or `ESC ] … ESC \`
    Command,
    /// `ESC ( x` and its like: one more byte.
    One,
}

impl PlainText {
    fn take(&mut self, bytes: &[u8]) -> String {
        for &byte in bytes {
            self.state = match (self.state, byte) {
                (Escape::No | Escape::Begun | Escape::Command, 0x1b) => Escape::Begun,
                (Escape::No, b'\n' | b'\t' | b' '..=0x7e | 0x80..) => {
                    self.partial.push(byte);
                    Escape::No
                }
                (Escape::No, _) => Escape::No,
                (Escape::Begun, b'[') => Escape::Control,
                (Escape::Begun, b']') => Escape::Command,
                (Escape::Begun, b'(' | b')' | b'#' | b'%') => Escape::One,
                (Escape::Control, 0x20..=0x3f) => Escape::Control,
                (Escape::Command, 0x07) => Escape::No,
                (Escape::Command, _) => Escape::Command,
                (Escape::Begun | Escape::Control | Escape::One, _) => Escape::No,
            };
        }
        let whole = match str::from_utf8(&self.partial) {
            // The last character may only have begun; three bytes is the most of that.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => self.partial.len(),
        };
        let text = String::from_utf8_lossy(&self.partial[..whole]).into_owned();
        self.partial.drain(..whole);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn console(output: &str) -> (Serial, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let (serial, feed) =
            Serial::new(Box::new(std::io::sink()), &dir.path().join("log")).unwrap();
        feed.run(output.as_bytes());
        (serial, dir)
    }

    #[test]
    fn escapes_are_taken_out_even_if_cut() {
        let input = "\x1b[2J\x1b[01;01Ha\x1b]0;title\x07b\x1b(Bc\r\n\x1b[1;31mdé\x1b[m".as_bytes();
        for size in 1..input.len() {
            let mut plain = PlainText::default();
            let text: String = input.chunks(size).map(|piece| plain.take(piece)).collect();
            assert_eq!(text, "abc\ndé", "in pieces of {size}");
        }
    }

    #[test]
    fn each_match_begins_after_the_last() {
        let (serial, _dir) = console("login: x\nlogin: y\n");
        let name = Regex::new(r"login: (\w)").unwrap();
        assert_eq!(serial.expect(name.clone(), SOON).unwrap().groups[1], "x");
        let second = serial.expect(name.clone(), SOON).unwrap();
        assert_eq!(
            (second.groups[1].as_str(), second.before.as_str()),
            ("y", "\n")
        );
        assert!(serial.expect(name, SOON).is_err());
    }

    #[test]
    fn of_several_patterns_the_first_printed_wins() {
        let (serial, _dir) = console("up\nKernel panic\n");
        let matched = serial
            .expect_any(&["panic".into(), "up".into()], SOON)
            .unwrap();
        assert_eq!((matched.index, matched.text()), (1, "up"));
    }

    #[test]
    fn a_pattern_that_never_comes_shows_the_transcript() {
        let (serial, _dir) = console("all that was said");
        let error = serial.expect("more", SOON).unwrap_err().to_string();
        assert!(
            error.contains("\"more\"") && error.contains("all that was said"),
            "{error}"
        );
        assert_eq!(
            fs::read_to_string(serial.log()).unwrap(),
            "all that was said"
        );
    }

    #[test]
    fn a_deadline_ends_the_wait_while_the_console_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let (serial, _feed) =
            Serial::new(Box::new(std::io::sink()), &dir.path().join("log")).unwrap();
        let error = serial.expect("x", Duration::from_millis(20)).unwrap_err();
        assert!(error.to_string().contains("time is up"));
    }
}
