//! What a program costs: GNU time tells.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cairn_system::Command;
use cairn_tests::tools;

/// Long enough for zstd's level 19 over an image.
const LIMIT: Duration = Duration::from_secs(3600);

/// What a run took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Seconds on the clock.
    pub seconds: f64,
    /// The most memory that it had resident, in bytes.
    pub memory: u64,
    /// Bytes that it wrote to files.
    pub written: u64,
}

/// Runs a program with its arguments and measures it; `notes` is a file for GNU time.
///
/// # Errors
/// If it fails, or GNU time isn't there.
pub fn run<A: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = A>,
    notes: &Path,
) -> Result<Cost> {
    let command = Command::new(tools::require("time")?)
        .args(["--format", "%M %O", "--output"])
        .arg(notes)
        .arg(program)
        .args(args)
        .timeout(LIMIT);
    let began = Instant::now();
    command.run()?;
    let seconds = began.elapsed().as_secs_f64();
    let text = fs::read_to_string(notes)?;
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    let mut number = || numbers.next().context("GNU time told too little");
    // It counts in KiB, and in sectors of 512 bytes.
    let (memory, sectors) = (number()??, number()??);
    Ok(Cost {
        seconds,
        memory: memory * 1024,
        written: sectors * 512,
    })
}
