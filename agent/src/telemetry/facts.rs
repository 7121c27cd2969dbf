//! What a node is, as client attributes: it changes with a boot, if at all.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use cairn_release::{Envelope, Manifest, Version};
use cairn_wire::Object;
use serde_json::{Value, json};

use super::collect::Sources;
use super::procfs::argument;

/// The hook's record of boots that failed, in DATA's folder `agent`.
pub(crate) const BOOT_FAILURES: &str = "boot-failures.jsonl";
/// Of a manifest, in bytes.
const MANIFEST_LIMIT: u64 = 1 << 20;
/// Of the end of the record, in bytes.
const TAIL: u64 = 16 * 1024;
/// Of any text, in characters.
const TEXT: usize = 256;

/// `agent_version`, `architecture`, `boot_id`, `hardware`, `kernel`, `hostname`, `memory_bytes`, `processors`; on a node of Cairn also `release`, `sequence`, `slot`, and
/// `last_boot_failure` if there was one.
pub fn facts(sources: &Sources) -> Object {
    let mut facts = Object::new();
    let mut put = |name: &str, text: Option<String>| {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            facts.insert(name.to_owned(), Value::String(text));
        }
    };
    let line = |path: &str| sources.text(path).map(|text| short(text.trim()));
    put("agent_version", Some(env!("CARGO_PKG_VERSION").to_owned()));
    put("architecture", Some(std::env::consts::ARCH.to_owned()));
    put("boot_id", line("proc/sys/kernel/random/boot_id"));
    put("kernel", line("proc/sys/kernel/osrelease"));
    put("hostname", line("proc/sys/kernel/hostname"));
    put("hardware", hardware(sources));
    let cmdline = sources.text("proc/cmdline").unwrap_or_default();
    put("slot", argument(&cmdline, "cairn.slot").map(short));
    let release = argument(&cmdline, "cairn.release").and_then(|text| text.parse::<Version>().ok());
    put("release", release.as_ref().map(ToString::to_string));
    if let Some(sequence) = release
        .as_ref()
        .and_then(|release| sequence(sources, release))
    {
        facts.insert("sequence".to_owned(), sequence.into());
    }
    for (name, number) in [
        ("memory_bytes", memory(sources)),
        ("processors", processors(sources)),
    ] {
        if let Some(number) = number {
            facts.insert(name.to_owned(), number.into());
        }
    }
    if let Some(failure) = last_boot_failure(sources) {
        facts.insert("last_boot_failure".to_owned(), failure);
    }
    facts
}

fn short(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(TEXT)
        .collect()
}

/// Maker and product, as the firmware or the device tree names them.
fn hardware(sources: &Sources) -> Option<String> {
    if let Some(model) = sources.text("proc/device-tree/model") {
        return Some(short(model.trim_end_matches('\0').trim()));
    }
    let dmi = |name: &str| sources.text(&format!("sys/class/dmi/id/{name}"));
    let words: Vec<String> = ["sys_vendor", "product_name"]
        .into_iter()
        .filter_map(dmi)
        .map(|text| short(text.trim()))
        .collect();
    Some(words.join(" ").trim().to_owned())
}

/// All memory that the kernel has.
fn memory(sources: &Sources) -> Option<u64> {
    let text = sources.text("proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// All processors that the kernel has, whatever part of them this program may use.
fn processors(sources: &Sources) -> Option<u64> {
    let text = sources.text("proc/stat")?;
    let one = |line: &&str| {
        let number = line.strip_prefix("cpu");
        number.is_some_and(|number| number.starts_with(|c: char| c.is_ascii_digit()))
    };
    u64::try_from(text.lines().filter(one).count()).ok()
}

/// The running release's, from its manifest: the boot has verified it.
fn sequence(sources: &Sources, release: &Version) -> Option<u64> {
    let path = sources
        .data
        .join("releases")
        .join(release.as_str())
        .join(cairn_release::name::MANIFEST);
    let mut bytes = Vec::new();
    File::open(path)
        .ok()?
        .take(MANIFEST_LIMIT)
        .read_to_end(&mut bytes)
        .ok()?;
    let envelope = Envelope::parse(&bytes, cairn_release::manifest::PAYLOAD_TYPE).ok()?;
    Some(Manifest::from_payload(&envelope.payload).ok()?.sequence.0)
}

/// The newest line of the hook's record: which release, and why it didn't boot.
fn last_boot_failure(sources: &Sources) -> Option<Value> {
    let mut file = File::open(sources.data.join("agent").join(BOOT_FAILURES)).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))
        .ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let entry: Value = text
        .lines()
        .rev()
        .find_map(|line| serde_json::from_str(line).ok())?;
    let word = |name: &str| entry.get(name).and_then(Value::as_str).map(short);
    Some(
        json!({ "release": word("release")?, "slot": word("slot"), "reason": word("reason")?, "boot_id": word("boot_id") }),
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_node_says_what_it_is() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let sources = Sources {
            root: root.path().to_owned(),
            data: root.path().join("data"),
        };
        let bare = facts(&sources);
        assert_eq!(
            bare.keys().collect::<Vec<_>>(),
            ["agent_version", "architecture"]
        );

        write(
            "proc/cmdline",
            "cairn.release=1.2.0 cairn.slot=trial cairn.data=PARTUUID=x\n",
        );
        write("proc/sys/kernel/random/boot_id", "8c3b\n");
        write(
            "proc/meminfo",
            "MemTotal:         2036544 kB\nMemFree: 1 kB\n",
        );
        write("proc/stat", "cpu  1 2\ncpu0 1 2\ncpu1 0 0\nintr 7\n");
        write("sys/class/dmi/id/sys_vendor", "Maker\n");
        write("sys/class/dmi/id/product_name", "Box\u{7} 3\n");
        write("data/releases/1.2.0/manifest.dsse.json", "{broken");
        write(
            "data/agent/boot-failures.jsonl",
            "{\"release\":\"1.3.0\",\"slot\":\"trial\",\"reason\":\"old\"}\n{\"release\":\"1.4.0\",\"slot\":\"trial\",\"reason\":\"no root\"}\n{\"rel",
        );
        let facts = facts(&sources);
        assert_eq!(
            (&facts["release"], &facts["slot"], &facts["hardware"]),
            (&"1.2.0".into(), &"trial".into(), &"Maker Box 3".into())
        );
        assert_eq!(facts["last_boot_failure"]["release"], "1.4.0");
        assert_eq!(
            (&facts["memory_bytes"], &facts["processors"]),
            (&2_085_421_056_u64.into(), &2.into())
        );
        assert!(!facts.contains_key("sequence"));
        write("proc/cmdline", "cairn.release=../../etc cairn.slot=good");
        assert!(!super::facts(&sources).contains_key("release"));
    }
}
