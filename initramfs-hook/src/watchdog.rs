//! The watchdog: a machine that hangs resets itself.
//!
//! The timer is started before anything else and is never stopped. Before the
//! hook hands over it closes the device *without* the magic `V` that would stop
//! the timer; systemd opens it again (`RuntimeWatchdogSec=`).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::ioctl::{Updater, ioctl, opcode};

use crate::log;
use crate::modules::Loader;

const DEVICE: &str = "/dev/watchdog";

/// Buses on which a watchdog only appears once they are driven.
const BUSES: [&str; 2] = ["lpc_ich", "i2c_i801"];

/// In the order of preference: real hardware before the kernel's own timer, which
/// is of no help when the kernel itself stands still.
const DRIVERS: [&str; 5] = ["i6300esb", "wdat_wdt", "iTCO_wdt", "sp5100_tco", "softdog"];

/// `WDIOC_SETTIMEOUT`: takes the wanted seconds, gives those that were set.
const SET_TIMEOUT: u32 = opcode::read_write::<i32>(b'W', 6);

/// A running timer.
pub struct Watchdog {
    device: File,
}

impl Watchdog {
    /// Starts the timer, loading drivers until there is one. A machine without any
    /// still boots: that it can't be rescued from a hang is told on the console.
    pub fn arm(seconds: u32, loader: &mut Loader) -> Option<Self> {
        if seconds == 0 {
            return None;
        }
        if !Path::new(DEVICE).exists() {
            BUSES.iter().for_each(|bus| loader.load(bus));
        }
        for driver in DRIVERS {
            if Path::new(DEVICE).exists() {
                break;
            }
            loader.load(driver);
        }
        match OpenOptions::new().write(true).open(DEVICE) {
            Ok(device) => {
                let mut watchdog = Self { device };
                watchdog.set_timeout(seconds);
                watchdog.keep_alive();
                Some(watchdog)
            }
            Err(error) => {
                log::warn(format_args!(
                    "no watchdog: cannot open {DEVICE}: {error}; a hang will not end by itself"
                ));
                None
            }
        }
    }

    /// A sign of life.
    pub fn keep_alive(&mut self) {
        // Any byte but `V` is one; a failure shows itself as a reset.
        let _ = self.device.write_all(b"\0");
    }

    fn set_timeout(&self, seconds: u32) {
        match set_timeout(&self.device, seconds) {
            Ok(set) => log::notice(format_args!("watchdog armed, {set} s")),
            Err(error) => log::warn(format_args!(
                "the watchdog keeps its own time: it refuses {seconds} s: {error}"
            )),
        }
    }
}

#[allow(unsafe_code, reason = "the watchdog's time is set by an ioctl")]
fn set_timeout(device: impl AsFd, seconds: u32) -> rustix::io::Result<i32> {
    let mut value = i32::try_from(seconds).unwrap_or(i32::MAX);
    // SAFETY: linux/watchdog.h: one int, read and written.
    unsafe { ioctl(device, Updater::<SET_TIMEOUT, i32>::new(&mut value)) }?;
    Ok(value)
}
