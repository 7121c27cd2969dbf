//! Which disks there are, and what their drivers say of their health.

use std::fs;
use std::path::{Path, PathBuf};

use cairn_wire::Object;

use super::Sources;

/// So many disks: with twelve keys each, a sample stays below the 1024 values that the control plane takes.
pub const MANY: usize = 32;
/// What is no disk, or lies on one that is here anyway.
const NONE: [&str; 8] = ["loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd"];
/// `life_time` of an eMMC is in steps of ten percent, up to this: more than it was made for (JESD84-B51, `DEVICE_LIFE_TIME_EST`).
const WORN_OUT: u64 = 11;

/// The folder that stands for a disk.
pub fn folder(root: &Path, disk: &str) -> PathBuf {
    root.join("sys/block").join(disk)
}

/// The machine's disks, as `sda` or `nvme0n1`.
pub fn names(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root.join("sys/block")).into_iter().flatten();
    let named = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let none = NONE.iter().any(|kind| is_numbered(&name, kind));
        // What an eMMC boots from, and its protected part, are no disks of their own.
        (!none && !name.contains("boot") && !name.contains("rpmb")).then_some(name)
    });
    let mut names: Vec<_> = named.take(MANY).collect();
    names.sort();
    names
}

/// Whether a disk's name is this kind and a number.
pub fn is_numbered(name: &str, kind: &str) -> bool {
    name.strip_prefix(kind)
        .is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// `disk.<disk>.ioerr_count` (SCSI: commands that ended in an error, also those that a disk doesn't know) and, of an eMMC, `wear_percent`
/// (an upper bound) and `healthy`. What a driver doesn't say is left out.
pub fn wear(sources: &Sources, values: &mut Object) {
    for disk in names(&sources.root) {
        let read = |file: &str| sources.text(&format!("sys/block/{disk}/device/{file}"));
        if let Some(count) = read("ioerr_cnt").and_then(|text| hex(text.trim())) {
            values.insert(format!("disk.{disk}.ioerr_count"), count.into());
        }
        if let Some(percent) = read("life_time").and_then(|text| life_time(&text)) {
            values.insert(format!("disk.{disk}.wear_percent"), percent.into());
        }
        // 1 is normal; 2 has used up 80 % of its spare blocks, 3 is urgent; 0 isn't defined.
        let spare = read("pre_eol_info").and_then(|text| hex(text.trim()));
        if let Some(spare) = spare.filter(|spare| *spare > 0) {
            values.insert(format!("disk.{disk}.healthy"), (spare == 1).into());
        }
    }
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// `0x02 0x01`: of its two kinds of memory the worse one. 0 isn't defined.
fn life_time(text: &str) -> Option<u64> {
    let steps = text.split_ascii_whitespace().map(hex);
    let worst = steps.collect::<Option<Vec<_>>>()?.into_iter().max()?;
    (1..=WORN_OUT).contains(&worst).then_some(worst * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_asked_and_what_they_do_not_say_is_left_out() {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("sda/device/ioerr_cnt", "0x1f\n"),
            ("mmcblk0/device/life_time", "0x02 0x03\n"),
            ("mmcblk0/device/pre_eol_info", "0x02\n"),
            ("mmcblk1/device/life_time", "0x00 0x00\n"),
            ("mmcblk1/device/pre_eol_info", "0x00\n"),
            ("mmcblk0boot0/device/life_time", "0x01\n"),
            ("loop0/device/ioerr_cnt", "0x1\n"),
            ("dm-0/size", "1\n"),
            ("vda/size", "1\n"),
        ] {
            let path = root.path().join("sys/block").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let sources = Sources {
            root: root.path().to_owned(),
            data: root.path().to_owned(),
        };
        assert_eq!(names(root.path()), ["mmcblk0", "mmcblk1", "sda", "vda"]);
        let mut values = Object::new();
        wear(&sources, &mut values);
        let expected = serde_json::json!({
            "disk.sda.ioerr_count": 31, "disk.mmcblk0.wear_percent": 30, "disk.mmcblk0.healthy": false,
        });
        assert_eq!(serde_json::Value::from(values), expected);
    }

    #[test]
    fn rubbish_is_no_wear() {
        for text in ["", "0x02 x", "2 1", "0x0c 0x01", "0xffffffffffffffffff 0x1"] {
            assert_eq!(life_time(text), None, "{text}");
        }
        assert_eq!(life_time("0x0b 0x01"), Some(110));
    }
}
