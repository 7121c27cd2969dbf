//! All there is to say about the node, for a program as JSON and for a person at the console.

use std::fmt::Write as _;
use std::path::Path;

use cairn_release::Envelope;
use cairn_release::manifest::{Manifest, PAYLOAD_TYPE};
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::files;
use crate::identity::keeper::Standing;

/// The longest manifest, in bytes.
const MANIFEST: u64 = 256 * 1024;
/// How many releases are looked at.
const RELEASES: usize = 64;
/// The longest record of failed boots, in bytes.
const FAILURES: u64 = 1024 * 1024;

/// The manifest of the release that runs, if Cairn's bootloader started it. It was verified at boot, and isn't again here.
pub fn running(data: &Path) -> Option<Manifest> {
    let cmdline = std::fs::read_to_string("/proc/cmdline").ok()?;
    manifest(&data.join("releases").join(word(&cmdline, "cairn.release")?))
}

fn word<'c>(cmdline: &'c str, name: &str) -> Option<&'c str> {
    cmdline
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        .filter(|value| !value.contains('/'))
}

fn manifest(folder: &Path) -> Option<Manifest> {
    let bytes = files::read(&folder.join("manifest.dsse.json"), MANIFEST).ok()??;
    Manifest::from_payload(&Envelope::parse(&bytes, PAYLOAD_TYPE).ok()?.payload).ok()
}

/// What booted, by the kernel's command line.
pub fn boot(cmdline: &str) -> Value {
    json!({ "release": word(cmdline, "cairn.release"), "slot": word(cmdline, "cairn.slot") })
}

/// The releases on the disk, those that aren't whole yet too.
pub fn releases(data: &Path) -> Value {
    let mut names: Vec<String> = std::fs::read_dir(data.join("releases"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .take(RELEASES)
        .collect();
    names.sort();
    let show = |name: String| {
        let whole = !name.ends_with(".partial");
        let manifest = manifest(&data.join("releases").join(&name));
        json!({
            "version": name,
            "complete": whole && manifest.is_some(),
            "sequence": manifest.as_ref().map(|manifest| manifest.sequence.0),
            "created": manifest.map(|manifest| manifest.created),
        })
    };
    names.into_iter().map(show).collect()
}

/// The last boot that the initramfs gave up, as it recorded it.
pub fn last_boot_failure(data: &Path) -> Value {
    let bytes = files::read(&data.join("agent/boot-failures.jsonl"), FAILURES)
        .ok()
        .flatten()
        .unwrap_or_default();
    bytes
        .split(|byte| *byte == b'\n')
        .rev()
        .find_map(|line| serde_json::from_slice(line).ok())
        .unwrap_or(Value::Null)
}

/// How the node stands with the control plane.
pub fn identity(standing: &Standing, clock: &Clock) -> Value {
    let shown = standing.identity.as_ref().map(|identity| {
        json!({
            "device": identity.device,
            "server": identity.server,
            "certificate_until": identity.not_after,
            "renews_at": identity.renew_at(),
            "certificate_expired": clock.certain() > identity.not_after,
        })
    });
    json!({ "enrolled": shown.is_some(), "identity": shown, "problem": standing.problem })
}

/// The time, as far as it is known.
pub fn time(clock: &Clock) -> Value {
    let now = clock.now();
    json!({ "boot": now.boot, "up_ms": now.mono_ms, "now": now.wall_ms.map(|ms| ms / 1000), "not_before": clock.floor() })
}

/// For a person.
pub fn for_people(status: &Value) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<12}{value}");
    };
    let at = |path: &str| status.pointer(path).filter(|value| !value.is_null());
    let word = |path: &str| at(path).map(plain);
    let date = |path: &str| {
        at(path)
            .and_then(Value::as_i64)
            .map_or_else(|| "unknown".to_owned(), when)
    };

    line(
        "Agent",
        format!(
            "{}, {}",
            word("/agent").unwrap_or_default(),
            if at("/running") == Some(&json!(true)) {
                "running"
            } else {
                "not running"
            }
        ),
    );
    match word("/standing/identity/device") {
        Some(device) => {
            line(
                "Device",
                format!(
                    "{device}, of {}",
                    word("/standing/identity/server").unwrap_or_default()
                ),
            );
            let expired = at("/standing/identity/certificate_expired") == Some(&json!(true));
            let until = date("/standing/identity/certificate_until");
            line(
                "Certificate",
                if expired {
                    format!("expired {until}")
                } else {
                    format!(
                        "until {until}, renews {}",
                        date("/standing/identity/renews_at")
                    )
                },
            );
        }
        None => line("Device", "not enrolled".to_owned()),
    }
    if let Some(problem) = word("/standing/problem") {
        line("", format!("! {problem}"));
    }
    if let Some(state) = word("/link/state") {
        line(
            "Link",
            format!(
                "{state}{}",
                word("/link/reason")
                    .map(|reason| format!(": {reason}"))
                    .unwrap_or_default()
            ),
        );
    }
    line(
        "Time",
        at("/time/now").and_then(Value::as_i64).map_or_else(
            || format!("unknown, not before {}", date("/time/not_before")),
            when,
        ),
    );
    match word("/boot/release") {
        Some(release) => line(
            "Booted",
            format!("{release}, {}", why(word("/boot/slot").as_deref())),
        ),
        None => line("Booted", "not by Cairn's bootloader".to_owned()),
    }
    if let Some(good) = word("/update/good") {
        line("Good", good);
    }
    if let Some(order) = word("/order/version") {
        line(
            "Ordered",
            format!("{order} ({})", word("/order/id").unwrap_or_default()),
        );
    }
    if let Some(state) = word("/update/update/state") {
        let note = word("/update/update/note")
            .map(|note| format!(", {note}"))
            .unwrap_or_default();
        line(
            "Update",
            format!(
                "{}: {state}{note}",
                word("/update/update/version").unwrap_or_default()
            ),
        );
    }
    if let Some(version) = word("/update/last/version") {
        let end = word("/update/last/failure/reason")
            .map_or_else(|| "good".to_owned(), |reason| format!("failed: {reason}"));
        line("Last update", format!("{version}: {end}"));
    }
    if let Some(failure) = at("/last_boot_failure") {
        line("Last failure", failure.to_string());
    }
    for (index, release) in at("/releases")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
    {
        let state = if release["complete"] == json!(true) {
            format!("sequence {}", plain(&release["sequence"]))
        } else {
            "incomplete".to_owned()
        };
        line(
            if index == 0 { "Releases" } else { "" },
            format!("{} ({state})", plain(&release["version"])),
        );
    }
    let workloads = at("/workloads").and_then(Value::as_object);
    for (index, (name, status)) in workloads.into_iter().flatten().enumerate() {
        let reason = Some(plain(&status["reason"])).filter(|reason| !reason.is_empty());
        let reason = reason
            .map(|reason| format!(": {reason}"))
            .unwrap_or_default();
        line(
            if index == 0 { "Workloads" } else { "" },
            format!("{name} is {}{reason}", plain(&status["state"])),
        );
    }
    let lines = at("/lines").and_then(Value::as_object);
    for (index, (name, shown)) in lines.into_iter().flatten().enumerate() {
        let title = if index == 0 { "Lines" } else { "" };
        line(
            title,
            format!("{}: {}", plain(&json!(name)), of_line(shown)),
        );
    }
    for (index, finding) in at("/tamper/findings")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
    {
        let text = format!("{} {}", plain(&finding["subject"]), plain(&finding["what"]));
        line(
            if index == 0 { "Tampering" } else { "" },
            format!("! {text}"),
        );
    }
    if let Some(records) = word("/outbox/records") {
        let count = |name: &str| word(&format!("/outbox/{name}")).unwrap_or_else(|| "0".to_owned());
        line(
            "Outbox",
            format!(
                "{records} records, {} bytes; dropped {}, set aside {}",
                count("bytes"),
                count("dropped"),
                count("set_aside")
            ),
        );
    }
    text
}

/// What is known of a line.
fn of_line(shown: &Value) -> String {
    let number = |key: &str| shown.get(key).and_then(Value::as_f64);
    let rate = |key: &str| number(key).map(|rate| format!("{:.1} Mbit/s", rate / 1e6));
    let word = |key: &str| shown.get(key).map(plain);
    let known = [
        number("latency_ms").map(|ms| format!("{ms} ms")),
        number("jitter_ms").map(|ms| format!("jitter {ms} ms")),
        number("loss_percent").map(|loss| format!("loss {loss} %")),
        word("method").map(|method| format!("by {method}")),
        rate("up_bps").map(|rate| format!("up {rate}")),
        word("up_problem").map(|problem| format!("up ! {problem}")),
        rate("down_bps").map(|rate| format!("down {rate}")),
        word("down_problem").map(|problem| format!("down ! {problem}")),
    ];
    known.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn why(slot: Option<&str>) -> &'static str {
    match slot {
        Some("trial") => "on trial",
        Some("good") => "the good release",
        Some("other") => "because neither the trial nor the good release could be started",
        _ => "nobody knows why",
    }
}

/// Without quotes, and without anything that a terminal would take for a command.
fn plain(value: &Value) -> String {
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn when(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(
        |_| seconds.to_string(),
        |time| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_sees_it_all() {
        let status = json!({
            "agent": "0.1.0", "running": true,
            "standing": { "identity": { "device": "node-1", "server": "https://cp", "certificate_until": 1_800_000_000, "renews_at": 1_700_000_000, "certificate_expired": false }, "problem": "unknown-device" },
            "link": { "state": "down", "reason": "no route" },
            "time": { "now": null, "not_before": 1_750_000_000 },
            "boot": { "release": "2.0", "slot": "trial" },
            "order": { "version": "3.0", "id": "r-1" },
            "update": { "good": "1.0", "update": { "version": "3.0", "state": "fetching", "note": "12 %\u{1b}[31m" }, "last": { "version": "2.5", "failure": { "reason": "it hung" } } },
            "releases": [{ "version": "2.0", "complete": true, "sequence": 2 }, { "version": "3.0.partial", "complete": false }],
            "lines": {
                "lte": { "loss_percent": 100.0, "method": "tcp", "up_problem": "the budget is used up" },
                "wan": { "latency_ms": 12.25, "jitter_ms": 0.5, "loss_percent": 0.0, "method": "icmp", "up_bps": 8_123_456, "down_bps": 99_900_000 },
            },
            "tamper": { "findings": [{ "kind": "etc", "subject": "/etc/motd", "what": "changed" }] },
            "outbox": { "records": 5, "bytes": 1000, "dropped": 1, "set_aside": 0 },
        });
        let expected = "\
Agent       0.1.0, running
Device      node-1, of https://cp
Certificate until 2027-01-15 08:00:00 UTC, renews 2023-11-14 22:13:20 UTC
            ! unknown-device
Link        down: no route
Time        unknown, not before 2025-06-15 15:06:40 UTC
Booted      2.0, on trial
Good        1.0
Ordered     3.0 (r-1)
Update      3.0: fetching, 12 % [31m
Last update 2.5: failed: it hung
Releases    2.0 (sequence 2)
            3.0.partial (incomplete)
Lines       lte: loss 100 %, by tcp, up ! the budget is used up
            wan: 12.25 ms, jitter 0.5 ms, loss 0 %, by icmp, up 8.1 Mbit/s, down 99.9 Mbit/s
Tampering   ! /etc/motd changed
Outbox      5 records, 1000 bytes; dropped 1, set aside 0
";
        assert_eq!(for_people(&status), expected);
    }

    #[test]
    fn a_new_node_has_little_to_show() {
        let text = for_people(&json!({ "agent": "0.1.0" }));
        assert_eq!(
            text,
            "Agent       0.1.0, not running\nDevice      not enrolled\nTime        unknown, not before unknown\nBooted      not by Cairn's bootloader\n"
        );
    }

    #[test]
    fn the_command_line_names_no_path() {
        assert_eq!(
            boot("quiet cairn.release=2.0 cairn.slot=good"),
            json!({ "release": "2.0", "slot": "good" })
        );
        assert_eq!(
            boot("cairn.release=../../etc"),
            json!({ "release": null, "slot": null })
        );
    }

    #[test]
    fn the_last_failed_boot_is_the_last_line_that_can_be_read() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(last_boot_failure(data.path()), Value::Null);
        std::fs::create_dir(data.path().join("agent")).unwrap();
        std::fs::write(
            data.path().join("agent/boot-failures.jsonl"),
            "{\"n\":1}\n{\"n\":2}\n{\"n\":",
        )
        .unwrap();
        assert_eq!(last_boot_failure(data.path()), json!({ "n": 2 }));
    }
}
