//! Every state of a log: after each flush, and a number of power cuts between one flush
//! and the next.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cairn_release::{TrustRoot, Version};
use tempfile::TempDir;

use super::crash::{Crash, Random};
use super::log::Op;
use super::replay::Replay;
use super::verdict::{Boots, judge};
use super::view::Onlooker;
use crate::Disk;

/// Space that a disk and its log take.
const ROOM: u64 = 8 << 30;
/// Every so many states the file system is checked from end to end.
const WHOLE_CHECK: usize = 50;
/// A report shows so many bad states.
const SHOWN: usize = 5;

/// What to go through.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where the random choices begin.
    pub seed: u64,
    /// How many power cuts between one flush and the next.
    pub cuts: usize,
    /// The releases that may be started.
    pub expected: Vec<Version>,
    /// The trust root of the builder.
    pub trust: TrustRoot,
}

/// A state that would not boot as it must.
#[derive(Debug, Clone)]
pub struct Bad {
    /// The power cut.
    pub crash: Crash,
    /// The broken rules.
    pub reasons: Vec<String>,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Sweep {
    /// The seed.
    pub seed: u64,
    /// How many flushes there are.
    pub flushes: usize,
    /// How many states were judged, those after a flush included.
    pub states: usize,
    /// How many of these needed no look, since nothing had changed.
    pub skipped: usize,
    /// How often the file system was checked from end to end.
    pub whole_checks: usize,
    /// What would boot, and in how many states: "1.1.0 as trial".
    pub boots: BTreeMap<String, usize>,
    /// All sound states, with what they boot.
    pub sound: Vec<(Crash, Boots)>,
    /// The others.
    pub bad: Vec<Bad>,
    /// How long it took.
    pub took: Duration,
}

impl Sweep {
    /// Goes through the log of a disk that was `base` before it.
    ///
    /// # Errors
    /// If a tool fails; a bad state is no error.
    pub fn run(base: &Disk, log: &Path, plan: &Plan) -> Result<Self> {
        let start = Instant::now();
        let scratch = scratch()?;
        let mut replay = Replay::open(base, log, &scratch.path().join("disk.img"))?;
        let mut onlooker = Onlooker::new(replay.image(), plan.trust.clone(), scratch.path())?;
        let mut sweep = Self {
            seed: plan.seed,
            ..Self::default()
        };
        let sector = replay.history.sector;
        let end = replay.history.ops.len();
        while replay.position() < end {
            let from = replay.position();
            let mut random = Random::new(plan.seed ^ (from as u64) << 20);
            for _ in 0..plan.cuts {
                let crash = Crash::random(&replay.history.ops, from, sector, &mut random);
                if crash.fates.is_empty() {
                    break;
                }
                replay.cut_power(&crash)?;
                sweep.judge(&mut replay, &mut onlooker, crash, plan)?;
                replay.take_back()?;
            }
            let flush = replay.history.ops[from..]
                .iter()
                .position(|op| *op == Op::Flush);
            replay.advance(flush.map_or(end, |flush| from + flush + 1))?;
            sweep.flushes += usize::from(flush.is_some());
            let crash = Crash::after(replay.position());
            sweep.judge(&mut replay, &mut onlooker, crash, plan)?;
        }
        sweep.skipped = onlooker.skipped;
        sweep.took = start.elapsed();
        Ok(sweep)
    }

    fn judge(
        &mut self,
        replay: &mut Replay,
        onlooker: &mut Onlooker,
        crash: Crash,
        plan: &Plan,
    ) -> Result<()> {
        let view = onlooker
            .look(&replay.take_touched())
            .with_context(|| format!("after operation {}", crash.position))?;
        self.states += 1;
        let mut judged = judge(&view, &plan.expected);
        if self.states % WHOLE_CHECK == 1 {
            self.whole_checks += 1;
            if let Err(error) = onlooker.check_data() {
                let reasons = judged.err().into_iter().flatten();
                judged = Err(reasons.chain([format!("{error:#}")]).collect());
            }
        }
        match judged {
            Ok(boots) => {
                let what = format!("{} as {}", boots.version, boots.slot);
                *self.boots.entry(what).or_default() += 1;
                self.sound.push((crash, boots));
            }
            Err(reasons) => self.bad.push(Bad { crash, reasons }),
        }
        Ok(())
    }

    /// A sample of the sound states, in the order of the log: half of them from all
    /// states, half from those around the moments at which something else would boot.
    pub fn sample(&self, count: usize) -> Vec<(Crash, Boots)> {
        const AROUND: usize = 12;
        let mut random = Random::new(self.seed);
        let turns: Vec<usize> = (1..self.sound.len())
            .filter(|at| self.sound[*at].1 != self.sound[at - 1].1)
            .collect();
        let mut chosen = std::collections::BTreeSet::new();
        for number in 0..20 * count {
            if chosen.len() >= count.min(self.sound.len()) {
                break;
            }
            let at = match number % 2 {
                1 if !turns.is_empty() => {
                    let turn = turns[random.below(turns.len())];
                    (turn + random.below(2 * AROUND)).saturating_sub(AROUND)
                }
                _ => random.below(self.sound.len()),
            };
            chosen.insert(at.min(self.sound.len() - 1));
        }
        chosen
            .into_iter()
            .map(|at| self.sound[at].clone())
            .collect()
    }
}

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} states of {} flushes judged in {:.1} s (seed {}, {} unchanged, {} checks by e2fsck): {} bad",
            self.states,
            self.flushes,
            self.took.as_secs_f32(),
            self.seed,
            self.skipped,
            self.whole_checks,
            self.bad.len()
        )?;
        for (what, count) in &self.boots {
            writeln!(f, "  {count} would boot {what}")?;
        }
        for bad in self.bad.iter().take(SHOWN) {
            let (after, ahead) = (bad.crash.position, bad.crash.fates.len());
            writeln!(
                f,
                "  bad: {after} operations, and of the next {ahead} a part:"
            )?;
            for reason in &bad.reasons {
                writeln!(f, "    {reason}")?;
            }
        }
        Ok(())
    }
}

/// The states of a sample as disks, one after the other.
pub struct Disks {
    replay: Replay,
    scratch: TempDir,
}

impl Disks {
    /// From the log of a disk that was `base` before it.
    ///
    /// # Errors
    /// If the log isn't one of that disk, or there is no space.
    pub fn open(base: &Disk, log: &Path) -> Result<Self> {
        let scratch = scratch()?;
        let replay = Replay::open(base, log, &scratch.path().join("disk.img"))?;
        Ok(Self { replay, scratch })
    }

    /// The disk that this power cut leaves; the next one mustn't lie before it.
    ///
    /// # Errors
    /// If it does, or there is no space.
    pub fn make(&mut self, crash: &Crash, name: &str) -> Result<Disk> {
        self.replay.advance(crash.position)?;
        self.replay.cut_power(crash)?;
        let disk = Disk::open(self.replay.image())?.copy_to(self.scratch.path().join(name));
        self.replay.take_back()?;
        disk
    }
}

/// A folder in memory if there is room, since e2fsprogs wait for a disk each time.
///
/// # Errors
/// If there is no room anywhere.
pub fn scratch() -> Result<TempDir> {
    let memory = PathBuf::from("/dev/shm");
    let room = rustix::fs::statvfs(&memory).map_or(0, |fs| fs.f_bavail * fs.f_frsize);
    if room > ROOM
        && let Ok(dir) = tempfile::Builder::new()
            .prefix("cairn-")
            .tempdir_in(&memory)
    {
        return Ok(dir);
    }
    Ok(TempDir::new()?)
}
