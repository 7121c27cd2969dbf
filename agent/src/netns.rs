//! Network namespaces of a test's own. They need root and iproute2.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A namespace; it goes when this is dropped.
pub struct Space(pub String);

impl Space {
    /// A new one of this name, with its loopback up.
    pub fn new(name: String) -> Self {
        run(&format!("ip netns add {name}"));
        let space = Self(name);
        run(&format!("ip -n {} link set lo up", space.0));
        space
    }

    /// One whose interfaces say nothing by themselves: without IPv6 no report of multicast groups is sent.
    pub fn quiet(name: String) -> Self {
        let space = Self::new(name);
        let setting = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
        within(&space.0, || {
            // A kernel without IPv6 hasn't the setting.
            if std::path::Path::new(setting).exists() {
                std::fs::write(setting, "1").unwrap();
            }
        });
        space
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        path(&self.0)
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // What isn't there needn't go.
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

fn path(space: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(space)
}

/// Runs a command, as `ip` or `tc`, which must succeed; gives what it says.
pub fn run(line: &str) -> String {
    let mut words = line.split_ascii_whitespace();
    let ran = Command::new(words.next().unwrap()).args(words).output();
    let ran = ran.unwrap_or_else(|error| panic!("{line}: {error}; is it installed?"));
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{line}: {said} (it needs root)");
    String::from_utf8(ran.stdout).unwrap()
}

/// Does something on a thread in a namespace.
pub fn within<T: Send>(space: &str, work: impl FnOnce() -> T + Send) -> T {
    let space = File::open(path(space)).unwrap();
    std::thread::scope(|scope| {
        let there = scope.spawn(|| {
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        there.join().unwrap()
    })
}
