//! Ctrl-C and SIGTERM: a command that writes something ends in order, so that its
//! half-made output is removed, instead of being cut off.

use crate::error::{Error, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::BTreeSet;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, Once};
use std::time::Duration;

struct State {
    signal: Option<i32>,
    children: BTreeSet<i32>,
}

static STATE: Mutex<State> = Mutex::new(State {
    signal: None,
    children: BTreeSet::new(),
});
static WATCH: Once = Once::new();

/// From now on a signal doesn't end this process; [`check`] tells of it instead.
///
/// # Errors
/// If the handler can't be set.
pub fn watch() -> Result<()> {
    let mut outcome = Ok(());
    WATCH.call_once(|| {
        outcome = Signals::new([SIGINT, SIGTERM, SIGHUP]).map(|mut signals| {
            std::thread::spawn(move || {
                for signal in signals.forever() {
                    let mut state = lock();
                    state.signal.get_or_insert(signal);
                    state.children.iter().copied().for_each(kill);
                }
            });
        });
    });
    outcome.map_err(|e| Error::failed("cannot watch for signals").because(e))
}

/// Fails if a signal has come.
///
/// # Errors
/// The interruption, whose exit code is the shell's for that signal.
pub fn check() -> Result<()> {
    match lock().signal {
        Some(signal) => Err(Error::interrupted(signal)),
        None => Ok(()),
    }
}

/// Does long work that doesn't ask for signals itself. If one comes the work is left
/// behind, to end with the process.
///
/// # Errors
/// The interruption, or what the work met.
pub fn during<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let (tell, told) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        // Nobody hears it if a signal came.
        let _ = tell.send(work());
    });
    loop {
        check()?;
        match told.recv_timeout(Duration::from_millis(100)) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                if let Err(panic) = thread.join() {
                    std::panic::resume_unwind(panic);
                }
                return Err(Error::failed("a thread ended without a word"));
            }
        }
    }
}

/// A child whose process group, which must be its own, is killed when a signal comes.
pub struct Killed(i32);

impl Killed {
    /// Takes charge of a running child.
    pub fn new(child: &std::process::Child) -> Self {
        let pid = child.id().cast_signed();
        let mut state = lock();
        state.children.insert(pid);
        // The signal may have come while the child was being started.
        if state.signal.is_some() {
            kill(pid);
        }
        Self(pid)
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        lock().children.remove(&self.0);
    }
}

fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may have ended by itself.
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

fn lock() -> std::sync::MutexGuard<'static, State> {
    STATE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
