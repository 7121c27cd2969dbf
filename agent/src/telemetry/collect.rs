//! One measurement of the node: files of `/proc` and `/sys`, file systems, temperatures.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use cairn_wire::Object;
use serde_json::Value;
use sysinfo::Components;

use super::disks;
use super::procfs::{self, Cpu, Memory, float, round};
use crate::outbox;

/// Of one file, in bytes.
const LIMIT: u64 = 256 * 1024;
/// So many disks, file systems or interfaces, each.
const MANY: usize = 32;
/// File systems that are on a disk of this machine and change.
const KINDS: [&str; 6] = ["ext4", "btrfs", "xfs", "f2fs", "vfat", "ext2"];
/// Ticks of a second in `/proc/self/stat`.
const TICKS: u64 = 100;

/// Where the node's own files are.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Before `/proc`, `/sys` and `/etc`; empty but in tests.
    pub root: PathBuf,
    /// Where DATA is mounted.
    pub data: PathBuf,
}

impl Sources {
    /// Of the running system.
    pub fn system(data: &Path) -> Self {
        Self {
            root: PathBuf::from("/"),
            data: data.to_owned(),
        }
    }

    /// The text of a file, or what can be read of it; bounded.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        let mut bytes = Vec::new();
        File::open(self.root.join(path))
            .ok()?
            .take(LIMIT)
            .read_to_end(&mut bytes)
            .ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// What the agent itself takes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Process {
    /// Memory in RAM, in bytes.
    pub resident_bytes: u64,
    /// Processor time in seconds.
    pub cpu_seconds: f64,
}

impl Process {
    /// Of this process.
    pub fn read(sources: &Sources) -> Self {
        let resident_bytes = sources
            .text("proc/self/status")
            .and_then(|text| procfs::resident(&text))
            .unwrap_or(0);
        let ticks = sources
            .text("proc/self/stat")
            .and_then(|text| ticks(&text))
            .unwrap_or(0);
        Self {
            resident_bytes,
            cpu_seconds: float(ticks) / float(TICKS),
        }
    }
}

/// User and system time from `/proc/self/stat`; the program's name may hold anything, so it is read from its end.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut words = rest
        .split_ascii_whitespace()
        .skip(11)
        .map(|word| word.parse::<u64>().ok());
    words.next()??.checked_add(words.next()??)
}

/// Measures, and remembers what the next measurement is compared with.
pub struct Collector {
    sources: Sources,
    cpu: Option<Cpu>,
    temperatures: Option<Components>,
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collector")
            .field("sources", &self.sources)
            .finish_non_exhaustive()
    }
}

impl Collector {
    /// For these files.
    pub fn new(sources: Sources) -> Self {
        let temperatures = if sources.root == Path::new("/") {
            Components::new_with_refreshed_list().ok()
        } else {
            None
        };
        Self {
            sources,
            cpu: None,
            temperatures,
        }
    }

    /// Everything at this moment, flat. What can't be read is left out.
    pub fn collect(&mut self, outbox: &outbox::Stats) -> Object {
        let mut values = Object::new();
        self.system(&mut values);
        self.disks(&mut values);
        self.network(&mut values);
        let agent = Process::read(&self.sources);
        put(&mut values, "agent.resident_bytes", agent.resident_bytes);
        put(&mut values, "agent.cpu_seconds", agent.cpu_seconds);
        put(&mut values, "outbox.records", outbox.records);
        put(&mut values, "outbox.bytes", outbox.bytes);
        put(&mut values, "outbox.set_aside", outbox.set_aside);
        put(&mut values, "outbox.damaged", outbox.damaged);
        values
    }

    fn system(&mut self, values: &mut Object) {
        if let Some(cpu) = self
            .sources
            .text("proc/stat")
            .and_then(|text| Cpu::parse(&text))
            && let Some(percent) = self
                .cpu
                .replace(cpu)
                .and_then(|before| cpu.percent_since(before))
        {
            put(values, "cpu_percent", percent);
        }
        if let Some(loads) = self
            .sources
            .text("proc/loadavg")
            .and_then(|text| procfs::load(&text))
        {
            for (name, load) in ["load_1m", "load_5m", "load_15m"].into_iter().zip(loads) {
                put(values, name, load);
            }
        }
        if let Some(memory) = self
            .sources
            .text("proc/meminfo")
            .and_then(|text| Memory::parse(&text))
        {
            put(values, "memory.total_bytes", memory.total);
            put(values, "memory.available_bytes", memory.available);
            put(values, "swap.total_bytes", memory.swap_total);
            put(values, "swap.used_bytes", memory.swap_used);
        }
        if let Some(seconds) = self
            .sources
            .text("proc/uptime")
            .and_then(|text| procfs::uptime(&text))
        {
            put(values, "uptime_seconds", seconds.floor());
        }
        if let Some(components) = &mut self.temperatures {
            components.refresh(true);
            let hottest = components
                .iter()
                .filter_map(sysinfo::Component::temperature)
                .filter(|degrees| degrees.is_finite());
            if let Some(degrees) = hottest.max_by(f32::total_cmp) {
                put(values, "temperature_celsius", round(f64::from(degrees)));
            }
        }
    }

    fn disks(&self, values: &mut Object) {
        let mounts = self
            .sources
            .text("proc/self/mountinfo")
            .map(|text| procfs::mounts(&text))
            .unwrap_or_default();
        let mut seen = BTreeSet::new();
        for mount in mounts
            .iter()
            .filter(|mount| KINDS.contains(&mount.kind.as_str()))
        {
            // A bind mount is the same file system once more.
            if seen.len() >= MANY || !seen.insert(mount.device.as_str()) {
                continue;
            }
            let Ok(fs) =
                rustix::fs::statvfs(self.sources.root.join(mount.point.trim_start_matches('/')))
            else {
                continue;
            };
            let mut one = |name: &str, value: Value| {
                put(values, &format!("disk.{}.{name}", mount.point), value)
            };
            one(
                "total_bytes",
                fs.f_blocks.saturating_mul(fs.f_frsize).into(),
            );
            one(
                "available_bytes",
                fs.f_bavail.saturating_mul(fs.f_frsize).into(),
            );
            let used = fs.f_blocks.saturating_sub(fs.f_bfree);
            if let Some(percent) = percent(used, used.saturating_add(fs.f_bavail)) {
                one("used_percent", percent.into());
            }
            if let Some(percent) = percent(fs.f_files.saturating_sub(fs.f_ffree), fs.f_files) {
                one("inodes_used_percent", percent.into());
            }
        }
        let disks = self
            .sources
            .text("proc/diskstats")
            .map(|text| procfs::disk_io(&text))
            .unwrap_or_default();
        let whole = |name: &str| {
            !["loop", "ram", "zram", "sr", "fd"]
                .iter()
                .any(|kind| disks::is_numbered(name, kind))
                && disks::folder(&self.sources.root, name).exists()
        };
        for disk in disks.iter().filter(|disk| whole(&disk.name)).take(MANY) {
            let mut one =
                |name: &str, value: u64| put(values, &format!("io.{}.{name}", disk.name), value);
            one("reads", disk.reads);
            one("read_bytes", disk.read_bytes);
            one("writes", disk.writes);
            one("written_bytes", disk.written_bytes);
            one("busy_ms", disk.busy_ms);
        }
        disks::wear(&self.sources, values);
    }

    fn network(&self, values: &mut Object) {
        let interfaces = self
            .sources
            .text("proc/net/dev")
            .map(|text| procfs::interfaces(&text))
            .unwrap_or_default();
        // One end of each container's link comes and goes with it, and is counted there.
        let counts = |name: &str| name != "lo" && !name.starts_with("veth");
        for interface in interfaces
            .iter()
            .filter(|interface| counts(&interface.name))
            .take(MANY)
        {
            let mut one = |name: &str, value: Value| {
                put(values, &format!("net.{}.{name}", interface.name), value)
            };
            for (way, counters) in [("rx", interface.received), ("tx", interface.sent)] {
                for (what, count) in ["bytes", "packets", "errors", "dropped"]
                    .into_iter()
                    .zip(counters)
                {
                    one(&format!("{way}_{what}"), count.into());
                }
            }
            let state = |file: &str| {
                self.sources
                    .text(&format!("sys/class/net/{}/{file}", interface.name))
                    .map(|text| text.trim().to_owned())
            };
            if let Some(up) = state("operstate") {
                one("up", matches!(up.as_str(), "up" | "unknown").into());
            }
            if let Some(speed) = state("speed").and_then(|speed| speed.parse::<u64>().ok()) {
                one("speed_mbit", speed.into());
            }
        }
    }
}

fn put(values: &mut Object, name: &str, value: impl Into<Value>) {
    values.insert(name.to_owned(), value.into());
}

fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| round(100.0 * float(part) / float(whole)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn node() -> (tempfile::TempDir, Sources) {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/stat", "cpu  100 0 100 700 100 0 0 0\n");
        write("proc/meminfo", "MemTotal: 2048 kB\nMemAvailable: 1024 kB\n");
        write("proc/uptime", "12.9 1\n");
        write(
            "proc/self/mountinfo",
            "1 1 8:3 / / rw - ext4 /dev/sda3 rw\n2 1 8:3 /x /var rw - ext4 /dev/sda3 rw\n3 1 0:3 / /proc rw - proc p rw\n",
        );
        write(
            "proc/diskstats",
            "8 0 sda 1 0 2 0 3 0 4 0 0 5 0\n8 1 sda1 1 0 2 0 3 0 4 0 0 5 0\n7 0 loop0 1 0 2 0 3 0 4 0 0 5 0\n",
        );
        write("sys/block/sda/size", "1");
        write("sys/block/loop0/size", "1");
        write(
            "proc/net/dev",
            "lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\neth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\nveth1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n",
        );
        write("sys/class/net/eth0/operstate", "down\n");
        write("sys/class/net/eth0/speed", "-1\n");
        write(
            "proc/self/stat",
            "1 (a ) b) S 1 1 1 0 -1 4 1 0 0 0 150 50 0 0 20 0 1 0\n",
        );
        let sources = Sources {
            root: root.path().to_owned(),
            data: root.path().join("data"),
        };
        (root, sources)
    }

    #[test]
    fn a_node_is_measured() {
        let (root, sources) = node();
        let mut collector = Collector::new(sources);
        let first = collector.collect(&outbox::Stats {
            records: 7,
            ..outbox::Stats::default()
        });
        assert_eq!(
            first.get("cpu_percent"),
            None,
            "there is nothing to compare with"
        );
        fs::write(
            root.path().join("proc/stat"),
            "cpu  150 0 100 750 100 0 0 0\n",
        )
        .unwrap();
        let values = collector.collect(&outbox::Stats::default());
        assert_eq!(values["cpu_percent"], 50.0);
        assert_eq!(values["uptime_seconds"], 12.0);
        assert_eq!(values["agent.cpu_seconds"], 2.0);
        assert_eq!(first["outbox.records"], 7);
        assert_eq!(
            (
                &values["net.eth0.rx_bytes"],
                &values["net.eth0.tx_dropped"],
                &values["net.eth0.up"]
            ),
            (&1.into(), &12.into(), &false.into())
        );
        assert!(values.contains_key("disk./.used_percent"));
        let odd = [
            "disk./var",
            "disk./proc",
            "io.loop0",
            "io.sda1",
            "net.lo",
            "net.veth1",
            "net.eth0.speed",
        ];
        assert!(
            !values.keys().any(|key| odd.iter().any(
                |odd| key.starts_with(&format!("{odd}.")) || key.starts_with("net.eth0.speed")
            )),
            "{values:?}"
        );
        assert_eq!(values["io.sda.written_bytes"], 2048);
    }

    #[test]
    fn an_empty_machine_gives_what_there_is() {
        let root = tempfile::tempdir().unwrap();
        let values = Collector::new(Sources {
            root: root.path().to_owned(),
            data: root.path().to_owned(),
        })
        .collect(&outbox::Stats::default());
        assert!(
            values
                .keys()
                .all(|key| key.starts_with("agent.") || key.starts_with("outbox.")),
            "{values:?}"
        );
    }

    #[test]
    fn this_machine_is_measured_in_a_bounded_record() {
        let mut collector = Collector::new(Sources::system(Path::new("/data")));
        let values = collector.collect(&outbox::Stats::default());
        assert!(
            values.contains_key("load_1m") && values.contains_key("memory.total_bytes"),
            "{values:?}"
        );
        assert!(values["agent.resident_bytes"].as_u64().unwrap() > 100_000);
        assert!(serde_json::to_vec(&values).unwrap().len() < 32 * 1024);
    }
}
