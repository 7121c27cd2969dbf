//! Waiting for devices: the kernel tells of each one on a netlink socket.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use crate::error::{IoError, cannot};

/// The group of messages that come from the kernel itself.
const FROM_KERNEL: u32 = 1;

/// Hears of devices from the moment it is opened.
pub struct Uevents {
    socket: OwnedFd,
}

impl Uevents {
    /// Begins to listen.
    ///
    /// # Errors
    /// If the kernel has no such socket.
    pub fn open() -> Result<Self, IoError> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(KOBJECT_UEVENT),
        )
        .map_err(cannot("open", "the socket for device events"))?;
        bind(&socket, &SocketAddrNetlink::new(0, FROM_KERNEL))
            .map_err(cannot("bind", "the socket for device events"))?;
        Ok(Self { socket })
    }

    /// Waits until a device came or went, or `limit` is over. What exactly happened
    /// is thrown away: the caller looks at sysfs again, which can't be forged or lost.
    pub fn wait(&self, limit: Duration) {
        let timeout = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        // An interrupted wait is a short one; the caller's loop goes on.
        let _ = poll(&mut fds, Some(&timeout));
        let mut message = [0; 4096];
        while recv(&self.socket, &mut message, RecvFlags::DONTWAIT).is_ok() {}
    }

    /// Waits until `ready`, looking again at each event, but no longer than `limit`.
    pub fn wait_until(&self, limit: Duration, mut ready: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            if ready() {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.wait(left);
        }
    }
}
