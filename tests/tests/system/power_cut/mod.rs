//! Power cuts at every moment of an update: a node whose disk is judged in all the states
//! that it could have been left in, and nodes that are really cut off.
//!
//! What is random begins with `CAIRN_SEED`, which each test prints. `CAIRN_SOAK` makes it
//! all ten times as much and more; `make soak` sets it.

mod by_hand;
mod damage;
mod kills;
mod states;

use anyhow::{Context, Result, bail, ensure};
use cairn_release::TrustRoot;
use cairn_tests::fleet::{FIRST, SECOND, THIRD};
use cairn_tests::power_cut::{Plan, Sweep};
use cairn_tests::{Fleet, Site, Vm, Workshop};
use regex::Regex;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

/// A machine under emulation, beside others, on a slow host.
const BOOT: Duration = Duration::from_secs(240);
const SOON: Duration = Duration::from_secs(60);
/// What a node prints once it is up.
const UP: &str = r"cairn-up: release (\S+), slot (\S+), root erofs";

/// Of two numbers the one for this run: for `make test`, or for `make soak`.
fn number((test, soak): (usize, usize)) -> usize {
    match std::env::var_os("CAIRN_SOAK") {
        Some(_) => soak,
        None => test,
    }
}

/// Where the random choices begin: `CAIRN_SEED`, or another one each time.
fn seed() -> Result<u64> {
    let seed = match std::env::var("CAIRN_SEED") {
        Ok(seed) => seed.parse().context("CAIRN_SEED is no number")?,
        Err(_) => std::time::UNIX_EPOCH.elapsed()?.as_secs(),
    };
    println!("CAIRN_SEED={seed}");
    Ok(seed)
}

fn trust(workshop: &Workshop) -> Result<TrustRoot> {
    Ok(TrustRoot::parse(&std::fs::read(workshop.trust(1))?)?)
}
