//! What `/proc` says, read from its texts. A line or number that isn't as the kernel writes it is left out.

/// Time that the processors spent, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu {
    /// At work.
    pub busy: u64,
    /// In all.
    pub total: u64,
}

impl Cpu {
    /// Reads the first line of `/proc/stat`.
    pub fn parse(stat: &str) -> Option<Self> {
        let mut words = stat.lines().next()?.split_ascii_whitespace();
        if words.next() != Some("cpu") {
            return None;
        }
        // user nice system idle iowait irq softirq steal; guest times are in user already.
        let ticks: Vec<u64> = words
            .take(8)
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        let idle = ticks
            .get(3)?
            .saturating_add(ticks.get(4).copied().unwrap_or(0));
        let total = ticks
            .iter()
            .fold(0u64, |sum, ticks| sum.saturating_add(*ticks));
        Some(Self {
            busy: total.saturating_sub(idle),
            total,
        })
    }

    /// How busy they were since `before`, in percent.
    pub fn percent_since(self, before: Self) -> Option<f64> {
        let total = self
            .total
            .checked_sub(before.total)
            .filter(|total| *total > 0)?;
        let busy = self.busy.saturating_sub(before.busy).min(total);
        Some(round(100.0 * float(busy) / float(total)))
    }
}

/// With two decimals.
pub(super) fn round(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// Exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "nobody counts so far")]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

/// The load over 1, 5 and 15 minutes, from `/proc/loadavg`.
pub fn load(loadavg: &str) -> Option<[f64; 3]> {
    let mut words = loadavg.split_ascii_whitespace().map(|word| {
        word.parse::<f64>()
            .ok()
            .filter(|load| load.is_finite() && *load >= 0.0)
    });
    Some([words.next()??, words.next()??, words.next()??])
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What programs could have.
    pub available: u64,
    /// All swap.
    pub swap_total: u64,
    /// Swap in use.
    pub swap_used: u64,
}

impl Memory {
    /// Reads `/proc/meminfo`.
    pub fn parse(meminfo: &str) -> Option<Self> {
        let swap_total = kilobytes(meminfo, "SwapTotal").unwrap_or(0);
        Some(Self {
            total: kilobytes(meminfo, "MemTotal")?,
            available: kilobytes(meminfo, "MemAvailable")?,
            swap_total,
            swap_used: swap_total
                .saturating_sub(kilobytes(meminfo, "SwapFree").unwrap_or(swap_total)),
        })
    }
}

/// The value of `name:  123 kB` in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let mut words = value.split_ascii_whitespace();
    let number: u64 = words.next()?.parse().ok()?;
    (words.next() == Some("kB"))
        .then(|| number.checked_mul(1024))
        .flatten()
}

/// Memory of a process that is in RAM, in bytes, from its `status`.
pub fn resident(status: &str) -> Option<u64> {
    kilobytes(status, "VmRSS")
}

/// Seconds since the kernel's start, from `/proc/uptime`.
pub fn uptime(text: &str) -> Option<f64> {
    text.split_ascii_whitespace()
        .next()?
        .parse()
        .ok()
        .filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0)
}

/// An interface's counters since it appeared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Bytes, packets, errors and drops, received.
    pub received: [u64; 4],
    /// Bytes, packets, errors and drops, sent.
    pub sent: [u64; 4],
}

/// Reads `/proc/net/dev`.
pub fn interfaces(text: &str) -> Vec<Interface> {
    let read = |line: &str| {
        // The name ends at the last colon: an alias has one inside.
        let (name, counters) = line.rsplit_once(':')?;
        let numbers: Vec<u64> = counters
            .split_ascii_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        Some(Interface {
            name: name.trim().to_owned(),
            received: *numbers.first_chunk()?,
            sent: *numbers.get(8..)?.first_chunk()?,
        })
    };
    text.lines()
        .filter_map(read)
        .filter(|interface| !interface.name.is_empty())
        .collect()
}

/// What a disk did since the machine's start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskIo {
    /// Its name.
    pub name: String,
    /// Reads that are done.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes that are done.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Milliseconds with anything under way.
    pub busy_ms: u64,
}

/// Reads `/proc/diskstats`.
pub fn disk_io(text: &str) -> Vec<DiskIo> {
    let read = |line: &str| {
        let mut words = line.split_ascii_whitespace().skip(2);
        let name = words.next()?.to_owned();
        let numbers: Vec<u64> = words.map(str::parse).collect::<Result<_, _>>().ok()?;
        let [
            reads,
            _,
            read_sectors,
            _,
            writes,
            _,
            written_sectors,
            _,
            _,
            busy_ms,
        ] = *numbers.first_chunk()?;
        // A sector has 512 bytes here, whatever the disk says.
        Some(DiskIo {
            name,
            reads,
            read_bytes: read_sectors.checked_mul(512)?,
            writes,
            written_bytes: written_sectors.checked_mul(512)?,
            busy_ms,
        })
    };
    text.lines().filter_map(read).collect()
}

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `major:minor`.
    pub device: String,
    /// Where.
    pub point: String,
    /// Its type.
    pub kind: String,
}

/// Reads `/proc/self/mountinfo`.
pub fn mounts(text: &str) -> Vec<Mount> {
    let read = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let mut words = before.split(' ').skip(2);
        let device = words.next()?.to_owned();
        let point = unescape(words.nth(1)?);
        let kind = after.split(' ').next()?.to_owned();
        Some(Mount {
            device,
            point,
            kind,
        })
    };
    text.lines().filter_map(read).collect()
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let byte = after
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok())
            .filter(u8::is_ascii);
        match (byte, after.get(3..)) {
            (Some(byte), Some(behind)) => {
                out.push(char::from(byte));
                rest = behind;
            }
            _ => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out + rest
}

/// The value of `name=` on the kernel's command line; none if it isn't there just once.
pub fn argument<'t>(cmdline: &'t str, name: &str) -> Option<&'t str> {
    let mut values = cmdline
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    values.next().filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cpu_time_is_a_share_of_what_passed() {
        let cpu = |text| Cpu::parse(text);
        let before = cpu("cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2 3").unwrap();
        assert_eq!(
            before,
            Cpu {
                busy: 200,
                total: 1000
            }
        );
        assert_eq!(
            Cpu {
                busy: 225,
                total: 1100
            }
            .percent_since(before),
            Some(25.0)
        );
        assert_eq!(before.percent_since(before), None, "no time has passed");
        assert_eq!(
            Cpu {
                busy: 100,
                total: 1001
            }
            .percent_since(before),
            Some(0.0),
            "counters may go back a little"
        );
        assert_eq!(
            cpu("cpu 1 2 3 4"),
            Some(Cpu { busy: 6, total: 10 }),
            "an old kernel"
        );
        for odd in [
            "",
            "cpu",
            "cpu 1 2 3",
            "cpu0 1 2 3 4",
            "cpu 1 2 x 4",
            "cpu -1 2 3 4",
        ] {
            assert_eq!(cpu(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn memory_needs_total_and_available() {
        let text = "MemTotal:        2048 kB\nMemFree: 1 kB\nMemAvailable:    1024 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\n";
        assert_eq!(
            Memory::parse(text),
            Some(Memory {
                total: 2 << 20,
                available: 1 << 20,
                swap_total: 10_240,
                swap_used: 6144
            })
        );
        assert_eq!(
            Memory::parse("MemTotal: 1 kB\nMemAvailable: 1 kB")
                .unwrap()
                .swap_used,
            0
        );
        for odd in [
            "",
            "MemTotal: 1 kB",
            "MemTotal: 1 MB\nMemAvailable: 1 kB",
            "MemTotal: 99999999999999999999 kB\nMemAvailable: 1 kB",
        ] {
            assert_eq!(Memory::parse(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn interfaces_with_odd_names_and_short_lines() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets|bytes\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n\
                    eth0:1 2: 100 2 3 4 0 0 0 0 9 10 11 12 0 0 0 0\nbad: 1 2 3\nworse: x\n: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        let all = interfaces(text);
        assert_eq!(
            all.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(),
            ["lo", "eth0:1 2"]
        );
        assert_eq!(
            (all[0].received, all[0].sent),
            ([1, 2, 3, 4], [9, 10, 11, 12])
        );
    }

    #[test]
    fn disks_of_old_and_new_kernels() {
        let text = "   8  0 sda 10 1 200 3 20 2 400 5 0 77 8\n 259 0 nvme0n1 1 0 2 0 3 0 4 0 0 5 0 0 0 0 0 0 0\n 8 1 sda1 1 2\n";
        let all = disk_io(text);
        assert_eq!(all.len(), 2);
        assert_eq!(
            all[0],
            DiskIo {
                name: "sda".into(),
                reads: 10,
                read_bytes: 102_400,
                writes: 20,
                written_bytes: 204_800,
                busy_ms: 77
            }
        );
    }

    #[test]
    fn mount_points_with_blanks() {
        let text = "36 35 98:0 /mnt1 /my\\040disk\\134x rw,noatime master:1 - ext4 /dev/root rw\n22 27 0:21 / /proc rw - proc proc rw\nshort - x\n";
        let all = mounts(text);
        assert_eq!(
            all[0],
            Mount {
                device: "98:0".into(),
                point: "/my disk\\x".into(),
                kind: "ext4".into()
            }
        );
        assert_eq!((all.len(), all[1].kind.as_str()), (2, "proc"));
    }

    #[test]
    fn small_files() {
        assert_eq!(
            load("0.52 0.58 0.59 1/389 1234\n"),
            Some([0.52, 0.58, 0.59])
        );
        assert_eq!(
            (load("0.5 0.5"), load("NaN 1 1"), load("")),
            (None, None, None)
        );
        assert_eq!(
            (
                uptime("12.34 1.0"),
                uptime("x"),
                uptime("-1"),
                uptime("inf")
            ),
            (Some(12.34), None, None, None)
        );
        assert_eq!(resident("Name:\tx\nVmRSS:\t    8192 kB\n"), Some(8 << 20));
        let cmdline =
            "quiet cairn.release=1.2.0 xcairn.slot=a cairn.slot=good cairn.data=x cairn.data=y\n";
        assert_eq!(
            (
                argument(cmdline, "cairn.release"),
                argument(cmdline, "cairn.slot"),
                argument(cmdline, "cairn.data")
            ),
            (Some("1.2.0"), Some("good"), None)
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ a-z0-9:\\\\\\-\n.]{0,200}") {
            for text in [text.clone(), format!("cpu {text}"), format!("MemTotal: {text}"), format!("1 2 sda {text}")] {
                let _ = (Cpu::parse(&text), load(&text), Memory::parse(&text), uptime(&text), resident(&text));
                let _ = (interfaces(&text), disk_io(&text), mounts(&text), argument(&text, "a"), unescape(&text));
            }
        }
    }
}
