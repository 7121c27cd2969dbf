//! What time it is, on a machine that may not know.
//!
//! A node without a battery starts in 1970. Known is then only a *floor*: it can't be earlier than the running release was made,
//! nor than the last time that a server told. A wall clock below the floor is wrong, and counts as unset.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::files;

/// How much the floor must have grown before it is written again, in seconds: so that a flash isn't worn.
const WORTH_WRITING: i64 = 3600;
/// How far behind the system's clock must be before it is set, in seconds.
const WORTH_SETTING: i64 = 60;
/// There is this file when the network's time is known to systemd.
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";

/// A moment, as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// The kernel's id of this boot.
    pub boot: String,
    /// Milliseconds since the boot, time asleep included.
    pub mono_ms: u64,
    /// Milliseconds since 1970 UTC; `None` if the clock is known to be wrong.
    pub wall_ms: Option<i64>,
}

/// Both clocks as they are, for who watches them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raw {
    /// Milliseconds since the boot.
    pub mono_ms: u64,
    /// Milliseconds since 1970, as the system believes.
    pub wall_ms: i64,
    /// Whether the system's clock isn't known to be wrong.
    pub known: bool,
    /// How often the agent has set it.
    pub set: u64,
}

/// The clock. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    boot: String,
    file: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Seconds since 1970, and when since boot that was known.
    floor: (i64, u64),
    /// What the file says.
    written: i64,
    /// The time as it was told, for when the system's clock can't be set.
    told: Option<(i64, u64)>,
    /// How often the system's clock was set here.
    set: u64,
    manual: Option<Manual>,
}

#[derive(Debug)]
struct Manual {
    mono_ms: u64,
    wall_ms: i64,
}

impl State {
    fn mono_ms(&self) -> u64 {
        match &self.manual {
            Some(manual) => manual.mono_ms,
            None => {
                let time = clock_gettime(ClockId::Boottime);
                u64::try_from(time.tv_sec).unwrap_or(0) * 1000
                    + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
            }
        }
    }

    fn system_ms(&self) -> i64 {
        match &self.manual {
            Some(manual) => manual.wall_ms,
            None => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| {
                    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
                }),
        }
    }

    fn floor(&self) -> i64 {
        let (floor, since) = self.floor;
        floor
            .saturating_add(i64::try_from(self.mono_ms().saturating_sub(since) / 1000).unwrap_or(0))
    }

    fn wall_ms(&self) -> Option<i64> {
        let wall = self.system_ms();
        if wall / 1000 >= self.floor() {
            return Some(wall);
        }
        let (told, since) = self.told?;
        Some(
            told.saturating_mul(1000)
                .saturating_add(i64::try_from(self.mono_ms().saturating_sub(since)).ok()?),
        )
    }
}

impl Clock {
    /// The system's clock. `folder` is where the last known time is kept; `built` is when the running release was made, in seconds
    /// since 1970, or 0.
    pub fn open(folder: &Path, built: i64) -> Self {
        let file = folder.join("clock");
        let kept = files::read(&file, 64)
            .ok()
            .flatten()
            .and_then(|bytes| std::str::from_utf8(&bytes).ok()?.trim().parse::<i64>().ok())
            .filter(|kept| *kept > 0)
            .unwrap_or(0);
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_or_else(|_| "unknown".to_owned(), |id| id.trim().to_owned());
        Self::new(boot, Some(file), kept.max(built), kept, None)
    }

    /// A clock that stands still until [`Clock::advance`], for tests: `wall` and `floor` in seconds since 1970.
    pub fn manual(boot: &str, wall: i64, floor: i64) -> Self {
        let manual = Manual {
            mono_ms: 1000,
            wall_ms: wall.saturating_mul(1000),
        };
        Self::new(boot.to_owned(), None, floor, floor, Some(manual))
    }

    fn new(
        boot: String,
        file: Option<PathBuf>,
        floor: i64,
        written: i64,
        manual: Option<Manual>,
    ) -> Self {
        let mut state = State {
            floor: (floor, 0),
            written,
            told: None,
            set: 0,
            manual,
        };
        state.floor.1 = state.mono_ms();
        Self(Arc::new(Inner {
            boot,
            file,
            state: Mutex::new(state),
        }))
    }

    /// Nothing panics while it holds the lock, so what a poisoned one guards is right.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now.
    pub fn now(&self) -> Stamp {
        let state = self.state();
        Stamp {
            boot: self.0.boot.clone(),
            mono_ms: state.mono_ms(),
            wall_ms: state.wall_ms(),
        }
    }

    /// Both clocks as they are.
    pub fn raw(&self) -> Raw {
        let state = self.state();
        let wall_ms = state.system_ms();
        Raw {
            mono_ms: state.mono_ms(),
            wall_ms,
            known: wall_ms / 1000 >= state.floor(),
            set: state.set,
        }
    }

    /// When systemd last set the clock by the network, as its file tells.
    pub fn synchronised() -> Option<SystemTime> {
        std::fs::metadata(SYNCHRONISED).ok()?.modified().ok()
    }

    /// Seconds since 1970 that have passed for certain.
    pub fn floor(&self) -> i64 {
        self.state().floor()
    }

    /// The latest time that is known for certain: the wall clock's if the network has set it, else the floor.
    pub fn certain(&self) -> i64 {
        let state = self.state();
        let set = state.manual.is_none() && Path::new(SYNCHRONISED).exists();
        state
            .wall_ms()
            .filter(|_| set)
            .map_or(0, |wall| wall / 1000)
            .max(state.floor())
    }

    /// A server that proved who it is says that it is `now`, in seconds since 1970. Raises the floor, and sets the system's clock if
    /// that was below it; never turns it back.
    pub fn learned(&self, now: i64) {
        let mut state = self.state();
        if now <= state.floor() {
            return;
        }
        let mono = state.mono_ms();
        state.floor = (now, mono);
        state.told = Some((now, mono));
        if state.system_ms() / 1000 < now - WORTH_SETTING
            && (state.manual.is_some() || !Path::new(SYNCHRONISED).exists())
        {
            set_clock(&mut state, now);
        }
        if now - state.written < WORTH_WRITING {
            return;
        }
        if let Some(file) = &self.0.file {
            match files::replace(file, now.to_string().as_bytes()) {
                Ok(()) => state.written = now,
                Err(error) => {
                    tracing::warn!(file = %file.display(), %error, "cannot keep the time")
                }
            }
        }
    }

    /// Lets time pass on a clock made by [`Clock::manual`]; others don't listen.
    pub fn advance(&self, by: Duration) {
        if let Some(manual) = &mut self.state().manual {
            manual.mono_ms = manual
                .mono_ms
                .saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX));
            manual.wall_ms = manual
                .wall_ms
                .saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX));
        }
    }
}

/// A clock behind the truth is put right; the kernel refuses those who may not, and then what was told counts.
fn set_clock(state: &mut State, now: i64) {
    if let Some(manual) = &mut state.manual {
        manual.wall_ms = now.saturating_mul(1000);
        state.set += 1;
        return;
    }
    match clock_settime(
        ClockId::Realtime,
        Timespec {
            tv_sec: now,
            tv_nsec: 0,
        },
    ) {
        Ok(()) => {
            state.set += 1;
            tracing::info!(now, "the clock was behind, and is set to the server's time");
        }
        Err(error) => tracing::debug!(%error, "the clock is behind and cannot be set"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_clock_below_the_floor_is_unset_until_a_server_tells_the_time() {
        let clock = Clock::manual("b", 100, 1_700_000_000);
        assert_eq!(clock.now().wall_ms, None);
        clock.advance(Duration::from_secs(10));
        assert_eq!(
            clock.floor(),
            1_700_000_010,
            "the floor moves on with the machine"
        );
        clock.learned(1_800_000_000);
        assert_eq!(clock.now().wall_ms, Some(1_800_000_000_000));
        clock.advance(Duration::from_secs(5));
        assert_eq!(clock.now().wall_ms, Some(1_800_000_005_000));
    }

    #[test]
    fn the_last_known_time_outlives_the_program() {
        let folder = tempfile::tempdir().unwrap();
        let far = 4_000_000_000;
        // The system's clock is behind `far` and these tests may not set it, or may: either way the time is what was told.
        std::fs::write(folder.path().join("clock"), far.to_string()).unwrap();
        let clock = Clock::open(folder.path(), 1_700_000_000);
        assert!(clock.floor() >= far);
        assert_eq!(clock.now().wall_ms, None);
    }

    #[test]
    fn rubbish_on_the_disk_is_no_floor() {
        let folder = tempfile::tempdir().unwrap();
        for rubbish in ["", "-5", "99999999999999999999999", "\0\0\0"] {
            std::fs::write(folder.path().join("clock"), rubbish).unwrap();
            assert_eq!(Clock::open(folder.path(), 0).floor(), 0, "{rubbish:?}");
        }
    }

    proptest! {
        #[test]
        fn neither_floor_nor_known_time_ever_goes_back(wall in 0i64..4_000_000_000, floor in 0i64..4_000_000_000, told in prop::collection::vec((0i64..5_000_000_000, 0u64..100_000), 0..20)) {
            let clock = Clock::manual("b", wall, floor);
            let (mut last_floor, mut last_wall) = (clock.floor(), clock.now().wall_ms);
            for (time, pass) in told {
                clock.learned(time);
                clock.advance(Duration::from_millis(pass));
                let (floor, wall) = (clock.floor(), clock.now().wall_ms);
                prop_assert!(floor >= last_floor);
                prop_assert!(wall >= last_wall, "{wall:?} after {last_wall:?}");
                if let Some(wall) = wall {
                    prop_assert!(wall / 1000 >= floor);
                }
                (last_floor, last_wall) = (floor, wall);
            }
        }
    }
}
