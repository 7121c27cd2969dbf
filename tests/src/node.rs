//! A node: its disk, the machine that runs it, and what the control plane knows of it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use regex::Regex;
use tempfile::TempDir;

use crate::site::Site;
use crate::vm::VmBuilder;
use crate::{Disk, Vm, Writes};

/// A node under emulation, beside others, on a slow host: from a trial's start to its
/// health deadline, and then once more to the good release.
pub const BOOT: Duration = Duration::from_secs(480);
/// What a running node does at once.
pub const SOON: Duration = Duration::from_secs(120);

/// A node.
pub struct Node {
    name: String,
    disk: Disk,
    vm: Option<Vm>,
    /// Ports for datagrams: of this machine, and of the node.
    ports: Vec<(u16, u16)>,
    _dir: TempDir,
}

impl Node {
    /// A node that is off: a disk of these releases, the first one good, which enrols at
    /// the site when it starts. Its name is its tag there, and that of its log.
    ///
    /// # Errors
    /// If the token or the disk can't be made.
    pub fn flash(site: &Site, name: &str, releases: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("cairn-node-").tempdir()?;
        let enrol = site.enrol_file(name)?;
        let path = dir.path().join("disk.img");
        let disk = site.fleet().flash(&path, releases, Some(&enrol))?;
        Ok(Self {
            name: name.to_owned(),
            disk,
            vm: None,
            ports: Vec::new(),
            _dir: dir,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its disk; to be changed only while it is off.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// From its next start on a port of this machine leads to one of the node's, for datagrams.
    pub fn forward(&mut self, from: u16, to: u16) {
        self.ports.push((from, to));
    }

    /// Switches it on.
    ///
    /// # Errors
    /// If the machine doesn't start.
    pub fn start(&mut self) -> Result<()> {
        self.start_with(|machine| machine)
    }

    /// Switches it on, with a machine that is different in something.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_with(&mut self, change: impl FnOnce(VmBuilder) -> VmBuilder) -> Result<()> {
        let ports = self
            .ports
            .iter()
            .map(|(from, to)| format!(",hostfwd=udp:127.0.0.1:{from}-:{to}"));
        let machine = Vm::builder(&self.name)
            .disk(self.disk.path(), Writes::Kept)
            .watchdog()
            // romfile: it shall not look for an operating system in the network.
            .arg("-netdev")
            .arg(format!("user,id=net0{}", ports.collect::<String>()))
            .arg("-device")
            .arg("virtio-net-pci,netdev=net0,romfile=");
        self.vm = Some(change(machine).start()?);
        Ok(())
    }

    /// The machine.
    ///
    /// # Errors
    /// If it is off.
    pub fn vm(&self) -> Result<&Vm> {
        self.vm
            .as_ref()
            .with_context(|| format!("{} is off", self.name))
    }

    /// Waits for the console line that a node prints once it is up, and for its shell.
    ///
    /// # Errors
    /// If it doesn't come.
    pub fn is_up(&self, release: &str, slot: &str) -> Result<()> {
        let line = format!("cairn-up: release {release}, slot {slot}, root erofs");
        let serial = self.vm()?.serial();
        serial.expect(&line, BOOT)?;
        serial.expect("bash-5.2# ", BOOT).map(drop)
    }

    /// Waits for something on the console.
    ///
    /// # Errors
    /// If it doesn't come.
    pub fn says(&self, text: &str) -> Result<()> {
        self.vm()?.serial().expect(text, BOOT).map(drop)
    }

    /// Runs a command on the console and gives what it printed, with what else came in
    /// between.
    ///
    /// # Errors
    /// If there is no shell, or no end.
    pub fn asks(&self, command: &str) -> Result<String> {
        Ok(self.runs(command)?.0)
    }

    /// What a command printed, and how it ended.
    fn runs(&self, command: &str) -> Result<(String, String)> {
        let serial = self.vm()?.serial();
        // The markers are typed in two halves, so that their echo isn't taken for them.
        serial.send_line(&format!("echo as''ked; {command}; echo ans''wered=$?"))?;
        serial.expect("asked\n", SOON)?;
        let end = Regex::new(r"answered=(\d+)")?;
        let matched = serial.expect(end, SOON)?;
        let status = matched.groups.into_iter().next_back().unwrap_or_default();
        Ok((matched.before, status))
    }

    /// Runs a command on the console and says whether it ended with 0.
    ///
    /// # Errors
    /// As [`Node::asks`].
    pub fn does(&self, command: &str) -> Result<bool> {
        Ok(self.runs(command)?.1 == "0")
    }

    /// Gives it settings beside the image's, which count from the agent's next start; that is now.
    ///
    /// # Errors
    /// If they can't be written.
    pub fn set(&self, name: &str, text: &str) -> Result<()> {
        let file = format!("/data/agent/agent.d/{name}.toml");
        let lines = text.lines().map(|line| format!("'{line}'"));
        let lines = lines.collect::<Vec<_>>().join(" ");
        let command = format!("mkdir -p /data/agent/agent.d && printf '%s\\n' {lines} >{file}");
        ensure!(self.does(&command)?, "cannot write {file}");
        ensure!(self.does("systemctl restart cairn-agent")?);
        Ok(())
    }

    /// Asks the agent at the console until it holds a release for good.
    ///
    /// # Errors
    /// If it doesn't within [`BOOT`].
    pub fn holds_for_good(&self, release: &str) -> Result<()> {
        let version = regex::escape(release);
        let ask = format!(r#"cairn-agent status --json | grep -Eq '"good": *"{version}"'"#);
        let deadline = Instant::now() + BOOT;
        while !self.does(&ask)? {
            if Instant::now() > deadline {
                let status = self.asks("cairn-agent status")?;
                bail!("{release} did not become good: {status}");
            }
            thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    }

    /// How often it has started a release since it was switched on.
    ///
    /// # Errors
    /// If it is off.
    pub fn boots(&self, release: &str) -> Result<usize> {
        let line = format!("cairn: {release}: root verified");
        Ok(self.vm()?.serial().transcript().matches(&line).count())
    }

    /// Switches it off in order.
    ///
    /// # Errors
    /// If it doesn't go off.
    pub fn power_off(&mut self) -> Result<()> {
        self.vm()?.serial().send_line("systemctl poweroff")?;
        if let Some(vm) = &mut self.vm {
            vm.wait_for_end(BOOT)?;
        }
        self.vm = None;
        Ok(())
    }

    /// Pulls the plug.
    pub fn cut_power(&mut self) {
        self.vm = None;
    }
}
