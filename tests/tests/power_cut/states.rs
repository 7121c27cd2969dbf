//! One update, recorded, and every state that a power cut could have left of it.

use std::sync::{Mutex, mpsc};
use std::thread;

use super::*;
use cairn_tests::power_cut::sweep::{Disks, scratch};
use cairn_tests::power_cut::{Boots, Crash};
use cairn_tests::{Disk, Node, Writes};

/// Power cuts between one flush and the next.
const CUTS: (usize, usize) = (10, 100);
/// States that are really booted.
const BOOTED: (usize, usize) = (20, 200);
/// What the agent says once it has read its own state.
const AGENT: &str = "the agent runs";
/// Machines at once.
const WORKERS: usize = 2;

/// A disk before an update, and what was written to it until the new release was good.
struct Recording {
    fleet: Fleet,
    dir: TempDir,
    base: Disk,
    log: PathBuf,
}

impl Recording {
    fn make() -> Result<Self> {
        let fleet = Fleet::ensure()?;
        let site = Site::start(&fleet, "power-cut-states")?;
        let mut node = Node::flash(&site, "power-cut-recorded", &[FIRST])?;
        let dir = scratch()?;
        let base = node.disk().copy_to(dir.path().join("base.img"))?;
        let log = dir.path().join("writes.log");
        node.start_with(|machine| machine.log_writes(&log))?;
        site.upload(&[SECOND])?;
        node.is_up(FIRST, "good")?;
        let device = site.online(&node)?;
        let rollout = site.roll_out(SECOND, &device, &[])?;
        node.is_up(SECOND, "trial")?;
        site.succeeds(&rollout, &device)?;
        ensure!(node.does("sync")?);
        node.cut_power();
        Ok(Self {
            fleet,
            dir,
            base,
            log,
        })
    }
}

#[test]
fn every_state_of_an_update_boots_the_old_release_or_the_new_one() -> Result<()> {
    let recording = Recording::make()?;
    let plan = Plan {
        seed: seed()?,
        cuts: number(CUTS),
        expected: vec![FIRST.parse()?, SECOND.parse()?],
        trust: trust(&recording.fleet.workshop)?,
    };
    let sweep = Sweep::run(&recording.base, &recording.log, &plan)?;
    println!("{sweep}");
    if !sweep.bad.is_empty() {
        let kept = keep(recording.dir)?;
        bail!("{sweep}\nthe disk before and its log are kept in {kept}");
    }
    for phase in [
        format!("{FIRST} as good"),
        format!("{SECOND} as trial"),
        format!("{SECOND} as good"),
    ] {
        ensure!(sweep.boots.contains_key(&phase), "no state boots {phase}");
    }

    let sample = sweep.sample(number(BOOTED));
    ensure!(sample.len() == number(BOOTED), "too few states to boot");
    let failed = boot_all(&recording, &sample)?;
    println!("{} of them booted in QEMU", sample.len());
    if failed.is_empty() {
        return Ok(());
    }
    let kept = keep(recording.dir)?;
    bail!(
        "seed {}; the disk before and its log are kept in {kept}; {}",
        plan.seed,
        failed.join("\n")
    );
}

/// Boots each of these states, and gives what went wrong.
fn boot_all(recording: &Recording, sample: &[(Crash, Boots)]) -> Result<Vec<String>> {
    let mut disks = Disks::open(&recording.base, &recording.log)?;
    let failed = Mutex::new(Vec::new());
    // One disk is made while others boot.
    let (made, disk) = mpsc::sync_channel::<(usize, Disk)>(0);
    let disk = Mutex::new(disk);
    let work = || {
        loop {
            let next = disk.lock().map(|disk| disk.recv());
            let Ok(Ok((number, disk))) = next else { return };
            let (crash, boots) = &sample[number];
            if let Err(error) = boots_as_judged(number, &disk, boots)
                && let Ok(mut failed) = failed.lock()
            {
                failed.push(format!("{crash:?}: {error:#}"));
            }
            let _ = std::fs::remove_file(disk.path());
        }
    };
    thread::scope(|scope| -> Result<()> {
        for _ in 0..WORKERS {
            scope.spawn(work);
        }
        for (number, (crash, _)) in sample.iter().enumerate() {
            let disk = disks.make(crash, &format!("state-{number}.img"))?;
            made.send((number, disk)).context("nobody boots")?;
        }
        drop(made);
        Ok(())
    })?;
    Ok(failed.into_inner().unwrap_or_default())
}

fn boots_as_judged(number: usize, disk: &Disk, boots: &Boots) -> Result<()> {
    let vm = Vm::builder(&format!("power-cut-state-{number}"))
        .disk(disk.path(), Writes::Kept)
        .watchdog()
        .start()?;
    let up = vm.serial().expect(Regex::new(UP)?, BOOT)?;
    let (release, slot) = (&up.groups[1], &up.groups[2]);
    ensure!(
        (release.as_str(), slot.as_str()) == (boots.version.as_str(), boots.slot.as_str()),
        "expected {} as {}, got {release} as {slot}",
        boots.version,
        boots.slot
    );
    // Its own files went through the same power cut. It may have been quicker.
    if !vm.serial().transcript().contains(AGENT) {
        vm.serial().expect(AGENT, BOOT)?;
    }
    Ok(())
}

/// Keeps the disk and its log, to be looked at.
fn keep(dir: TempDir) -> Result<String> {
    Ok(dir.keep().display().to_string())
}
