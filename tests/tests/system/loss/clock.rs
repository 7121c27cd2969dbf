//! A wall clock that runs faster, for programs under libfaketime: a file says how far ahead it is. Only the wall clock: what
//! waits for a second waits for a second, and an hour of five-minute slots takes 40 seconds.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use cairn_tests::tools;
use tempfile::TempDir;

/// Seconds of this clock in a second.
const SPEED: f64 = 90.0;
/// How often it is moved on.
const TICK: Duration = Duration::from_millis(100);
/// Where Debian and Arch have the library.
const LIBRARIES: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

/// The clock; it goes as this machine's until it is started, and stops when it is dropped.
pub struct Clock {
    dir: TempDir,
    library: &'static str,
    run: Option<Run>,
}

struct Run {
    begun: Instant,
    stop: Option<Sender<()>>,
    ticking: Option<JoinHandle<()>>,
}

impl Clock {
    /// One that goes as this machine's.
    pub fn new() -> Result<Self> {
        tools::require("faketime")?;
        let library = LIBRARIES.into_iter().find(|path| Path::new(path).exists());
        let library = library.context("libfaketimeMT.so.1 is in none of its folders")?;
        let dir = tempfile::Builder::new().prefix("cairn-clock-").tempdir()?;
        set(&dir.path().join("ahead"), 0.0)?;
        Ok(Self {
            dir,
            library,
            run: None,
        })
    }

    /// From now on it runs.
    pub fn start(&mut self) {
        let (begun, file) = (Instant::now(), self.dir.path().join("ahead"));
        let (stop, stopped) = mpsc::channel();
        let ticking = thread::spawn(move || {
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                // A full disk stops it, and the test says that time doesn't pass.
                let _ = set(&file, ahead(begun));
            }
        });
        self.run = Some(Run {
            begun,
            stop: Some(stop),
            ticking: Some(ticking),
        });
    }

    /// What a program's environment must have so that it goes by this clock.
    pub fn environment(&self) -> Vec<(String, OsString)> {
        let file = self.dir.path().join("ahead").into_os_string();
        let one = || OsString::from("1");
        vec![
            ("LD_PRELOAD".to_owned(), self.library.into()),
            ("FAKETIME_TIMESTAMP_FILE".to_owned(), file),
            ("FAKETIME_NO_CACHE".to_owned(), one()),
            ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), one()),
            ("NO_FAKE_STAT".to_owned(), one()),
        ]
    }

    /// How much time has passed by it since it was started.
    pub fn passed(&self) -> Duration {
        let since = self.run.as_ref().map(|run| run.begun.elapsed());
        since.unwrap_or_default().mul_f64(SPEED)
    }

    /// What it shows, in seconds since 1970; programs may be a tick behind.
    pub fn now(&self) -> Result<i64> {
        let ahead = self.run.as_ref().map_or(0.0, |run| ahead(run.begun));
        let now = SystemTime::now() + Duration::from_secs_f64(ahead);
        Ok(i64::try_from(now.duration_since(UNIX_EPOCH)?.as_secs())?)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(ticking) = self.ticking.take() {
            let _ = ticking.join();
        }
    }
}

/// How far it is ahead of this machine's clock, in seconds.
fn ahead(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * (SPEED - 1.0)
}

/// Whole at every moment: programs read it whenever they ask for the time.
fn set(file: &Path, ahead: f64) -> Result<()> {
    let next = file.with_extension("next");
    fs::write(&next, format!("+{ahead:.3}"))?;
    fs::rename(next, file)?;
    Ok(())
}
