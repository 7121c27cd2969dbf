//! Network namespaces of a test's own. They need root and iproute2.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, anyhow};
use cairn_system::Command;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A namespace whose interfaces say nothing by themselves; it goes when this is dropped.
pub struct Space(String);

impl Space {
    /// A new one, with its loopback up.
    pub fn new(name: &str) -> Result<Self> {
        let name = format!("cairn{}-{name}", std::process::id());
        run(&format!("ip netns add {name}"))?;
        let space = Self(name);
        space.ip("link set lo up")?;
        // Without IPv6 no report of multicast groups is sent. A kernel without it hasn't the setting.
        let setting = Path::new("/proc/sys/net/ipv6/conf/default/disable_ipv6");
        if setting.exists() {
            space.within(|| Ok(fs::write(setting, "1")?))?;
        }
        Ok(space)
    }

    /// As `ip` takes it.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Runs `ip` for this namespace.
    pub fn ip(&self, line: &str) -> Result<()> {
        run(&format!("ip -n {} {line}", self.0))
    }

    /// Does something on a thread of its own, which is in this namespace with all that it starts.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let there = scope.spawn(|| {
                self.enter()?;
                work()
            });
            there.join().map_err(|_| anyhow!("a thread died"))?
        })
    }

    /// This thread, with all that it starts from now on, is in this namespace.
    pub fn enter(&self) -> Result<()> {
        let file = File::open(Path::new("/run/netns").join(&self.0))?;
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(file.as_fd(), kind).context("cannot enter a namespace")
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = run(&format!("ip netns del {}", self.0));
    }
}

fn run(line: &str) -> Result<()> {
    let mut words = line.split_ascii_whitespace();
    let program = words.next().context("no command")?;
    Command::new(program).args(words).run()?;
    Ok(())
}
