//! Disks for tests: loop devices over sparse files, with serial numbers that their files' names give them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cairn_wire::Disks;
use cairn_wire::disk::{DiskState, Status};
use rustix::fs::IFlags;
use rustix::mount::UnmountFlags;
use serde_json::{Value, json};

use crate::disks::look::{Catalogue, Look};
use crate::disks::mounter::Mounter;
use crate::disks::runner::Runner;
use crate::disks::{Input, Settings};

/// Loop devices of a test; others' are none of its business.
#[derive(Debug, Clone)]
pub struct Loops(BTreeMap<String, String>);

impl Catalogue for Loops {
    fn is_disk(&self, node: &str) -> bool {
        self.0.contains_key(node)
    }

    fn serial(&self, folder: &Path) -> Option<String> {
        let node = folder.file_name()?.to_str()?;
        self.0.get(node).cloned()
    }
}

pub struct Bench {
    /// Loop devices by serial number.
    pub loops: BTreeMap<String, String>,
    pub folder: tempfile::TempDir,
}

/// In a test's own process: a folder for programs that are found before all others.
const MARK: &str = "CAIRN_DISKS_PROGRAMS";

/// From now on the program is killed at its write of this number.
pub fn kill_at_write(program: &str, number: u32) {
    let script = format!(
        "exec strace -qq -f -o /dev/null -e trace=write,pwrite64 -e inject=write,pwrite64:signal=KILL:when={number} /usr/sbin/{program} \"$@\"\n"
    );
    replace(program, &script);
}

/// From now on this is done in the program's place.
pub fn replace(program: &str, script: &str) {
    let file = replaced(program);
    fs::write(&file, format!("#!/bin/sh\n{script}")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The file that takes a program's place.
pub fn replaced(program: &str) -> PathBuf {
    Path::new(&std::env::var_os(MARK).unwrap()).join(program)
}

/// Runs a test of this file in a process and a mount namespace of its own; gives whether this is that process. Otherwise whoever makes a
/// namespace meanwhile, as Docker does, takes the test's mounts along, and its disks stay busy; and so do they while another test's child
/// has yet to become its program.
pub fn alone(module: &str, test: &str) -> bool {
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let (_, module) = module.split_once("::").unwrap();
    // One at a time, whoever runs them: mkfs.btrfs opens every block device to see whose ids are taken, and one that is open can't
    // be laid out.
    let turn = File::create("/var/tmp/cairn-disks.lock").unwrap();
    turn.lock().unwrap();
    let programs = tempfile::tempdir().unwrap();
    let path = std::env::var("PATH").unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args([&format!("{module}::{test}"), "--exact", "--nocapture"])
        .env(MARK, programs.path())
        .env("PATH", format!("{}:{path}", programs.path().display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{wrong}");
    assert!(said.contains("1 passed"), "no such test: {said}");
    false
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

impl Bench {
    pub fn new() -> Self {
        // Not in /tmp, where nothing may be mounted.
        let folder = tempfile::Builder::new()
            .prefix("cairn-disks-")
            .tempdir_in("/var/tmp")
            .unwrap();
        Self {
            loops: BTreeMap::new(),
            folder,
        }
    }

    /// With one disk of so many MiB and the serial number `S1`.
    pub fn with_disk(mebibytes: u64) -> Self {
        let mut bench = Self::new();
        bench.add("S1", mebibytes, 512);
        bench
    }

    pub fn add(&mut self, serial: &str, mebibytes: u64, sector: u32) {
        let image = self.image(serial);
        let file = File::create(&image).unwrap();
        // Not a whole number of MiB.
        file.set_len((mebibytes << 20) + 3 * 4096).unwrap();
        let sector = sector.to_string();
        let device = run(
            "losetup",
            &[
                "--find",
                "--show",
                "--sector-size",
                &sector,
                image.to_str().unwrap(),
            ],
        );
        let node = device.strip_prefix("/dev/").unwrap().to_owned();
        self.loops.insert(serial.to_owned(), node);
    }

    pub fn image(&self, serial: &str) -> PathBuf {
        self.folder.path().join(serial)
    }

    /// The whole serial number. Those of different tests differ, or else the kernel takes their btrfs for one.
    pub fn serial(&self, short: &str) -> String {
        let folder = self.folder.path().to_str().unwrap();
        format!("{short}-{}", folder.rsplit('-').next().unwrap())
    }

    /// The disk's node.
    pub fn device(&self, serial: &str) -> String {
        format!("/dev/{}", self.loops[serial])
    }

    pub fn part(&self, number: u32) -> String {
        format!("{}p{number}", self.device("S1"))
    }

    pub fn mount_folder(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.mount_folder().join(name)
    }

    pub fn look(&self) -> Look<Loops> {
        let nodes = self
            .loops
            .iter()
            .map(|(serial, node)| (node.clone(), self.serial(serial)));
        Look {
            catalogue: Loops(nodes.collect()),
            data: self.folder.path().to_owned(),
        }
    }

    pub fn settings(&self) -> Settings {
        let folder = self.mount_folder().display().to_string();
        Settings::check(&Input {
            enabled: None,
            mount_folders: Some(vec![folder]),
        })
        .unwrap()
    }

    /// As after a start of the agent.
    pub fn runner(&self) -> Runner<Loops> {
        let memory = self.folder.path().join("memory.json");
        Runner::new(self.settings(), self.look(), Mounter::Direct, memory)
    }

    /// A disk `d` with partitions written as `name size file-system [label [options]]`.
    pub fn layout(&self, partitions: &[&str]) -> Value {
        let partition = |text: &&str| {
            let mut words = text.split(' ');
            let mut word = || words.next().filter(|word| *word != "-");
            let name = word().unwrap();
            let mut partition = json!({ "name": name, "size": word().unwrap(), "file_system": word().unwrap(), "mount": self.at(name) });
            if let Some(label) = word() {
                partition["label"] = json!(label);
            }
            if let Some(options) = word() {
                partition["options"] = options.split(',').collect();
            }
            partition
        };
        let partitions: Vec<Value> = partitions.iter().map(partition).collect();
        json!({ "name": "d", "find": { "serial": self.serial("S1") }, "partitions": partitions })
    }

    pub fn declare(&self, disk: &Value) -> Disks {
        let disks: Disks = serde_json::from_value(json!([disk])).unwrap();
        assert_eq!(disks.usable().count(), 1, "{disks:?}");
        disks
    }

    /// One round; how `d` is.
    pub fn round(&self, runner: &mut Runner<Loops>, disk: &Value) -> Status {
        let mut round = runner.round(&self.declare(disk), &BTreeSet::new());
        round.status.remove(&"d".parse().unwrap()).unwrap()
    }

    /// Rounds until there is nothing more to do.
    pub fn settle(&self, runner: &mut Runner<Loops>, disk: &Value) -> Status {
        for _ in 0..30 {
            let status = self.round(runner, disk);
            if status.state != DiskState::Working {
                return status;
            }
        }
        panic!("no rest: {:?}", self.round(runner, disk));
    }

    /// Lays it out to the end.
    pub fn apply(&self, disk: &Value) {
        let status = self.settle(&mut self.runner(), disk);
        assert_eq!(status.state, DiskState::Applied, "{status:?}");
    }

    /// What the order to erase has to say now.
    pub fn erase(&self) -> Value {
        let seen = self.look().all(&BTreeMap::new()).unwrap().disks;
        let serial = self.serial("S1");
        let disk = seen
            .iter()
            .find(|disk| disk.serial.as_ref() == Some(&serial));
        json!({ "serial": serial, "word": disk.unwrap().word() })
    }

    /// Digest of all the disk's bytes.
    pub fn hash(&self) -> String {
        run("sync", &[]);
        run("sha256sum", &[self.image("S1").to_str().unwrap()])
    }

    pub fn write(&self, at: u64, bytes: &[u8]) {
        let file = OpenOptions::new()
            .write(true)
            .open(self.device("S1"))
            .unwrap();
        file.write_all_at(bytes, at).unwrap();
        file.sync_all().unwrap();
    }

    /// The options with which a folder is mounted.
    pub fn options(&self, name: &str) -> Option<String> {
        let at = self.at(name).display().to_string();
        let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
        let line = mounts
            .lines()
            .find(|line| line.split(' ').nth(1) == Some(&at))?;
        let words: Vec<&str> = line.split(' ').collect();
        Some(format!("{} {}", words[2], words[3]))
    }

    /// Everything that a power cut ends: mounts, and what the kernel knows of partitions. What was written stays.
    pub fn reboot(&self) {
        for mount in crate::disks::mountinfo::read().unwrap().iter().rev() {
            if mount.at.starts_with(self.folder.path()) {
                rustix::mount::unmount(&mount.at, UnmountFlags::empty()).unwrap();
            }
        }
        for node in self.loops.values() {
            if fs::read_dir(format!("/sys/block/{node}"))
                .unwrap()
                .any(|entry| entry.unwrap().path().join("partition").exists())
            {
                forget(&format!("/dev/{node}"));
            }
            // With a table that the kernel can read, it does.
            let _ = Command::new("partx")
                .args(["--add", &format!("/dev/{node}")])
                .output();
        }
    }
}

/// Has the kernel forget all partitions. Somebody who looks at every device may have one open for a moment.
fn forget(device: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let output = Command::new("partx")
            .args(["--delete", device])
            .output()
            .unwrap();
        if output.status.success() {
            return;
        }
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(Instant::now() < deadline, "{said}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.reboot();
        for node in self.loops.values() {
            let device = format!("/dev/{node}");
            let _ = Command::new("partx").args(["--delete", &device]).output();
            run("losetup", &["--detach", &device]);
        }
        for entry in fs::read_dir(self.mount_folder())
            .into_iter()
            .flatten()
            .flatten()
        {
            let folder = File::open(entry.path()).unwrap();
            let flags = rustix::fs::ioctl_getflags(&folder).unwrap();
            rustix::fs::ioctl_setflags(&folder, flags & !IFlags::IMMUTABLE).unwrap();
        }
    }
}
