//! The project's own programs, as the tests use them: built here, or those of a folder that
//! `CAIRN_TEST_PROGRAMS` names.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use cairn_system::Command;

use crate::tools::target_dir;

/// The folder of the programs that run on this machine. They are built first, which takes
/// no time if nothing has changed: for `release`, or as `cargo test` builds them.
///
/// # Errors
/// If they don't build.
pub fn of_this_machine(release: bool) -> Result<PathBuf> {
    if let Some(given) = given() {
        return Ok(given);
    }
    if release {
        return make("programs", "release");
    }
    // All at once, as `cargo test` takes them: for one alone cargo would compile the
    // libraries once more, with fewer of their features.
    run(Command::new(env!("CARGO")).args(["build", "--quiet", "--workspace", "--bins"]))?;
    Ok(target_dir().canonicalize()?.join("debug"))
}

/// The folder of a node's program, which the Makefile's target of that name builds.
///
/// # Errors
/// If it doesn't build.
pub fn of_a_node(target: &str) -> Result<PathBuf> {
    match given() {
        Some(given) => Ok(given),
        None => make(target, "x86_64-unknown-linux-gnu/node"),
    }
}

fn given() -> Option<PathBuf> {
    env::var_os("CAIRN_TEST_PROGRAMS").map(PathBuf::from)
}

fn make(target: &str, into: &str) -> Result<PathBuf> {
    run(Command::new("make").args(["--no-print-directory", target]))?;
    Ok(target_dir().canonicalize()?.join(into))
}

fn run(command: Command) -> Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let within = Duration::from_secs(1800);
    command.dir(workspace).timeout(within).run()?;
    Ok(())
}
