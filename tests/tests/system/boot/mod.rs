//! Whole nodes: disks that imgtool flashed, booted by real firmware and GRUB.

mod chain;
mod state;
mod tamper;
mod trial;

use anyhow::{Context, Result};
use cairn_tests::workshop::{GOOD, NEXT};
use cairn_tests::{Disk, Vm, Workshop, Writes};
use regex::Regex;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// A machine under emulation, beside others, on a slow host.
const BOOT: Duration = Duration::from_secs(240);
const SOON: Duration = Duration::from_secs(60);

/// A disk with [`GOOD`] and, on trial, a second release.
struct Bench {
    workshop: Workshop,
    disk: Disk,
    dir: TempDir,
}

impl Bench {
    /// A disk on which `trial` is tried first, `tries` times.
    fn new(trial: &str, tries: u8) -> Result<Self> {
        let workshop = Workshop::ensure()?;
        let dir = TempDir::new()?;
        let disk = workshop.flash(&dir.path().join("disk.img"), &[GOOD, trial], &[])?;
        workshop
            .imgtool(["disk", "boot"])
            .arg(disk.path())
            .args(["--trial", trial, "--tries", &tries.to_string()])
            .run()?;
        Ok(Self {
            workshop,
            disk,
            dir,
        })
    }

    fn on_trial() -> Result<Self> {
        Self::new(NEXT, 3)
    }

    fn start(&self, name: &str) -> Result<Vm> {
        Vm::builder(name)
            .disk(self.disk.path(), Writes::Kept)
            .watchdog()
            .start()
    }

    /// What `imgtool disk show` says.
    fn shown(&self) -> Result<serde_json::Value> {
        let output = self
            .workshop
            .imgtool(["--json", "disk", "show"])
            .arg(self.disk.path())
            .run()?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// The kernel container of a release with one thing changed in it, and closed
    /// again with a verity tree of its own. All that it lacks is a right to boot.
    fn repacked(&self, release: &str, change: impl FnOnce(&Path) -> Result<()>) -> Result<Vec<u8>> {
        let (tree, image) = (
            self.dir.path().join("tree"),
            self.dir.path().join("kernel.squashfs"),
        );
        cairn_system::Command::new("unsquashfs")
            .args(["-quiet", "-no-progress", "-d"])
            .arg(&tree)
            .arg(self.workshop.release(release).join("kernel.squashfs"))
            .run()?;
        change(&tree)?;
        cairn_system::Command::new("mksquashfs")
            .args([&tree, &image])
            .args([
                "-quiet",
                "-no-progress",
                "-comp",
                "gzip",
                "-Xcompression-level",
                "1",
            ])
            .run()?;
        Ok(std::fs::read(&image)?)
    }

    fn data(file: &str) -> String {
        format!("/releases/{NEXT}/{file}")
    }
}

fn flip(path: &Path, at: usize) -> Result<()> {
    let mut bytes = std::fs::read(path)?;
    *bytes.get_mut(at).context("the file is shorter")? ^= 0x10;
    Ok(std::fs::write(path, bytes)?)
}

/// Waits for the console line that a node prints once it is up, and for its shell.
fn is_up(vm: &Vm, release: &str, slot: &str) -> Result<()> {
    let line = format!("cairn-up: release {release}, slot {slot}, root erofs");
    vm.serial().expect(&line, BOOT)?;
    vm.serial().expect("bash-5.2# ", SOON).map(drop)
}

/// Waits for a reason that GRUB or the hook gives.
fn says(vm: &Vm, reason: &str) -> Result<()> {
    vm.serial().expect(Regex::new(reason)?, BOOT).map(drop)
}

/// Runs a command on the console and gives what it printed.
fn asks(vm: &Vm, command: &str) -> Result<String> {
    // The marker is typed in two halves, so that its echo isn't taken for it.
    vm.serial()
        .send_line(&format!("{command}; echo ans''wered=$?"))?;
    let end = Regex::new(r"answered=(\d+)")?;
    let matched = vm.serial().expect(end, SOON)?;
    Ok(matched.before)
}

/// Switches the node off in order, and checks that nothing is left to repair.
fn goes_off(mut vm: Vm, disk: &Disk) -> Result<()> {
    vm.serial().send_line("systemctl poweroff")?;
    vm.serial().expect("all file systems are unmounted", BOOT)?;
    vm.wait_for_end(SOON)?;
    assert!(disk.is_clean()?, "the data partition is not clean");
    disk.fsck()
}
