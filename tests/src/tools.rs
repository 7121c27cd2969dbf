//! What the harness takes from the machine that it runs on: programs, and the
//! folder in which it keeps what is dear to make. A test that lacks a program
//! fails and says how to get it; none is ever skipped.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{FlockOperation, flock};

/// Finds a program in `PATH` or in the folders of the administrator's programs.
///
/// # Errors
/// If there is none, with what to do about it.
pub fn require(program: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir: PathBuf| dir.join(program))
        .find(|file| file.is_file())
        .ok_or_else(|| anyhow!("{program} is not installed: run .ci/setup as root"))
}

/// `virt-fw-vars`, which .ci/setup puts into a Python environment under `target`.
///
/// # Errors
/// If it isn't there.
pub fn virt_fw_vars() -> Result<PathBuf> {
    let program = target_dir().join("venv/bin/virt-fw-vars");
    if program.is_file() {
        return Ok(program);
    }
    require("virt-fw-vars")
}

/// Cargo's target folder of this workspace.
pub fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    )
}

/// Where packages, logs and locks are kept: `$CAIRN_TEST_CACHE`, or a folder
/// under `target`.
///
/// # Errors
/// If it can't be made.
pub fn cache_dir() -> Result<PathBuf> {
    let dir = env::var_os("CAIRN_TEST_CACHE")
        .map_or_else(|| target_dir().join("cairn-tests"), PathBuf::from);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    dir.canonicalize()
        .with_context(|| format!("cannot find {}", dir.display()))
}

/// Does some work for each of these, two at once.
///
/// # Errors
/// The first one's that fails; what has begun is brought to its end.
pub fn two_at_once<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let queue = Mutex::new(items.iter());
    let next = || queue.lock().ok()?.next();
    let worker = || -> Result<()> {
        while let Some(item) = next() {
            work(item)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads = [scope.spawn(worker), scope.spawn(worker)];
        let results = threads.map(|thread| thread.join());
        results.into_iter().try_for_each(|result| match result {
            Ok(result) => result,
            Err(_) => bail!("a thread died"),
        })
    })
}

/// Gives the folder `home/key`, which `make` makes in a folder beside it if nobody has.
/// The caller holds a lock on `home`. Of older ones the newest few are kept: each takes a
/// gigabyte, and each change of a program makes one.
///
/// # Errors
/// If it can't be made.
pub fn made_once(
    home: &Path,
    key: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let dir = home.join(key);
    if !dir.is_dir() {
        forget_old(home)?;
        let partial = tempfile::Builder::new().prefix(PARTIAL).tempdir_in(home)?;
        make(partial.path())?;
        fs::rename(partial.keep(), &dir)?;
    }
    Ok(dir)
}

/// What is not whole yet.
const PARTIAL: &str = ".partial-";

fn forget_old(home: &Path) -> Result<()> {
    const KEPT: usize = 2;
    let mut whole = Vec::new();
    for entry in fs::read_dir(home)? {
        let entry = entry?;
        let about = entry.metadata()?;
        if !about.is_dir() {
            continue;
        }
        // Nobody else makes one now, so its maker was killed.
        if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
            fs::remove_dir_all(entry.path())?;
        } else {
            whole.push((about.modified()?, entry.path()));
        }
    }
    whole.sort();
    whole.reverse();
    for (_, path) in whole.iter().skip(KEPT) {
        fs::remove_dir_all(path)?;
    }
    Ok(())
}

/// A lock that other processes respect too, held until it is dropped.
#[derive(Debug)]
pub struct FileLock(#[allow(dead_code, reason = "closing the file is what unlocks")] File);

impl FileLock {
    /// Waits for the lock at `path`.
    ///
    /// # Errors
    /// If the file can't be made or locked.
    pub fn wait(path: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("cannot open the lock {}", path.display()))?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(Self(file)),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
    }
}
