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

/// The files of a recording.
const BASE: &str = "base.img";
const LOG: &str = "writes.log";
const TRUST: &str = "trust.dsse.json";

/// Names the folder of a recording that a failed run kept.
const KEPT: &str = "CAIRN_RECORDING";

/// A disk before an update, and what was written to it until the new release was good.
struct Recording {
    dir: PathBuf,
    base: Disk,
    log: PathBuf,
    trust: TrustRoot,
    made: Option<TempDir>,
}

impl Recording {
    /// The one of an earlier run if [`KEPT`] names it, or a new one.
    fn get() -> Result<Self> {
        match std::env::var_os(KEPT) {
            Some(dir) => Self::open(dir.into()),
            None => Self::make(),
        }
    }

    fn open(dir: PathBuf) -> Result<Self> {
        Ok(Self {
            base: Disk::open(dir.join(BASE))?,
            log: dir.join(LOG),
            trust: TrustRoot::parse(&std::fs::read(dir.join(TRUST))?)?,
            dir,
            made: None,
        })
    }

    fn make() -> Result<Self> {
        let fleet = Fleet::ensure()?;
        let site = Site::start(&fleet, "power-cut-states")?;
        let mut node = Node::flash(&site, "power-cut-recorded", &[FIRST])?;
        let dir = scratch()?;
        node.disk().copy_to(dir.path().join(BASE))?;
        std::fs::copy(fleet.workshop.trust(1), dir.path().join(TRUST))?;
        let log = dir.path().join(LOG);
        node.start_with(|machine| machine.log_writes(&log))?;
        site.upload(&[SECOND])?;
        node.is_up(FIRST, "good")?;
        let device = site.online(&node)?;
        let rollout = site.roll_out(SECOND, &device, &[])?;
        node.is_up(SECOND, "trial")?;
        site.succeeds(&rollout, &device)?;
        ensure!(node.does("sync")?);
        node.cut_power();
        let path = dir.path().to_owned();
        Ok(Self {
            made: Some(dir),
            ..Self::open(path)?
        })
    }

    /// Keeps it, and says how to go through it again.
    fn keep(self, seed: u64) -> String {
        self.made.map(TempDir::keep);
        format!("again: CAIRN_SEED={seed} {KEPT}={}", self.dir.display())
    }
}

#[test]
fn every_state_of_an_update_boots_the_old_release_or_the_new_one() -> Result<()> {
    let recording = Recording::get()?;
    let plan = Plan {
        seed: seed()?,
        cuts: number(CUTS),
        expected: vec![FIRST.parse()?, SECOND.parse()?],
        trust: recording.trust.clone(),
    };
    let sweep = Sweep::run(&recording.base, &recording.log, &plan)?;
    println!("{sweep}");
    if !sweep.bad.is_empty() {
        bail!("{sweep}{}", recording.keep(plan.seed));
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
    bail!("{}\n{}", failed.join("\n"), recording.keep(plan.seed));
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
                println!("state {number}, {crash:?}: {error:#}");
                let error = error.to_string();
                let first = error.lines().next().unwrap_or_default();
                failed.push(format!("state {number}: {first}"));
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
